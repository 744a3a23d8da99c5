"""A slim model as a Python file that needs torch alone, and its weights.

In reading order: ``exporting`` (the function), ``program`` (the parts of the file): ``classes``, ``other_methods`` and
``collecting`` copy the author's methods and what they refer to, with ``source_files``, ``references`` and ``names``;
``initializers`` says what each module consists of, ``constructors`` with which arguments, ``values``, ``expressions``
and ``paths`` write these as code, and ``unify`` and ``variants`` make one constructor of many modules. ``templates``
and ``layout`` put the file together, ``state`` its weights, and ``proof`` runs it.

Words: docs/glossary.md.
"""
