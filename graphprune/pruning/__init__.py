"""From a plan to a smaller module, and the proof that it is right.

In reading order: ``plan`` (what is kept), with ``plan_json`` and ``runs`` (as text); ``rewrite`` (tensors and size
attributes), ``skip`` (blocks), ``attention``; ``optimizer`` and ``optimizer_state`` (amid training); ``resuming``
(saved plans); ``verification``, with ``masked`` and ``float64`` (the proof).

Words: docs/glossary.md.
"""
