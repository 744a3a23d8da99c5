"""What to do with one model: facts measured on it, and a rule for each question that follows from them.

In reading order: ``targets`` (what is wanted), ``facts`` (what is known), ``model_facts`` (read off the graph),
``data_facts``, ``timing`` and ``trials`` (measured, within a ``time_limit``), ``recommendations`` and ``topics`` (the
rules), ``advice`` (the result) with ``snippet`` (as a program), and ``advising``.

Words: docs/glossary.md.
"""
