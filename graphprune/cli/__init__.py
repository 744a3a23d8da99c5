"""The command line.

In reading order: ``commands`` (with ``advising``, ``compacting``, ``explaining``, ``export`` and ``measuring``),
``arguments`` (those of a plan follow from its options), ``models`` (by name), ``weights``, ``given_model``, ``output``,
``tables``, ``json_output`` and ``page`` (results).

Words: docs/glossary.md.
"""

from graphprune.cli.commands import main

__all__ = ["main"]
