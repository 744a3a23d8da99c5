"""What torch and Python lack.

In no order: ``modules``, ``tree`` and ``operators`` (walks over modules, nested data and calls), ``deepcopy`` with
``copier`` (values) and ``held`` (what objects hold), ``contexts`` and ``random_state`` (what is restored), ``files``,
``direct_file`` and ``typed_json``, ``checks`` and ``model_checks`` (of arguments), ``arrays`` (names of types),
``timing``, ``tables`` with ``repeated_names`` (how results print).

Words: docs/glossary.md.
"""
