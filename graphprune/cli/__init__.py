"""The command line.

In reading order: ``program``, ``commands`` (the table of all), ``option_groups``, ``output``, ``presets``,
``model_options`` (with ``models``, by name, and ``weights``), ``plan_options`` (those of a plan follow from its
options), then a file for each command, with ``output_paths``, ``tables``, ``json_data`` and ``page``.

Words: docs/glossary.md.
"""

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit code: 0, it worked; 1, it failed, or the slim model differs from the masked original; 2, wrong usage;
        130, interrupted.
    """
    try:
        from graphprune.cli.program import run_program  # here, so that an interruption of the import is one, too

        return run_program(argv)
    except KeyboardInterrupt:
        return 130
