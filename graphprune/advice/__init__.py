"""What to do with one model: facts measured on it, and a rule for each question that follows from them.

In reading order: ``advising`` (the function); ``targets`` (what is wanted), ``facts`` (what is known), ``model_facts``
(read off the graph), ``timing`` and ``trials`` (measured, within a ``time_limit``) with ``questions`` (which plans are
tried) and ``judging`` (how they are compared); ``recommendations`` and ``topics`` (the rules); ``advice`` (the result)
with ``snippet`` (as a program).

Words: docs/glossary.md.
"""
