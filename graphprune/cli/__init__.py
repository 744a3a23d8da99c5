"""The command line.

In reading order: ``program``, ``commands`` (the table of all), ``option_groups``, ``output``, ``presets``,
``model_options`` (with ``models``, by name, and ``weights``), ``plan_options`` (those of a plan follow from its
options), then a file for each command, with ``output_paths``, ``tables``, ``json_data`` and ``page``.

Words: docs/glossary.md.
"""

from graphprune.cli.program import main

__all__ = ["main"]
