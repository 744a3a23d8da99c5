"""The command line.

In reading order: ``program`` and ``commands`` (the table of all commands); what commands share: ``option_groups``,
``option_values``, ``output``, ``consoles``, ``output_failure``, ``argument_names``, ``output_paths``, ``files_read``,
``presets``, ``tables``, ``json_data`` and ``page``; which model is meant: ``spec_forms``, ``user_files``, ``models``,
``weights`` with ``weight_names``, ``model_options``, ``device_option``, ``given_inputs``, ``bundles``, ``prunable``,
``found_model``; which data: ``calibration_options``, ``data_files``, ``references``; which plan: ``plan_options`` (they
follow from :class:`graphprune.PruningOptions`) and ``planned``.

Then a file for each command: ``inspecting``, ``explaining``, ``planning``, ``pruning``, ``repairing``, ``verifying``,
``finetuning``, ``compacting``, ``sparsifying``, ``checkpoint_pruning``, ``exporting``, ``measuring``, ``benching``,
``reporting`` and ``advising``.

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
