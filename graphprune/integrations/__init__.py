"""Pruning inside the training loops of other libraries, and for models that only their own trainers know.

One module for each library, which imports it: ``lightning``, ``transformers`` and ``ultralytics``; ``callback`` is what
they share.

Words: docs/glossary.md.
"""
