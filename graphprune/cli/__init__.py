"""The command line.

In reading order: ``commands`` (with ``export`` and ``measuring``), ``arguments`` (those of a plan follow from its
options), ``models`` (by name), ``weights``, ``given_model``, ``output``, ``tables`` and ``json_output`` (results).

Words: docs/glossary.md.
"""

from graphprune.cli.commands import main

__all__ = ["main"]
