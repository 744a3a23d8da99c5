"""``graphprune prune-checkpoint IN OUT --ratio 0.5``: a smaller checkpoint, without the model in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import graphprune
from graphprune.cli.calibration_options import CalibrationOptions
from graphprune.cli.option_groups import OptionGroup, flag, usage_error
from graphprune.cli.output import Output
from graphprune.cli.plan_options import PlanOptions


@dataclass(kw_only=True)
class StreamingOptions(OptionGroup):
    """How a checkpoint is written."""

    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", metavar="SIZE", help="bytes of a file of weights at most, such as 2GB")
    ] = "5GB"
    mapped: Annotated[
        str,
        typer.Option("--mapped", metavar="SIZE", help="how much of the files stays in memory at most (Linux)"),
    ] = "1GB"
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="what repair holds beside the weights at most, such as 4GB"),
    ] = None
    no_repair: Annotated[
        bool, flag("--no-repair", help="with --calibration: do not let what is left make up for what is removed")
    ] = False
    no_remote_code: Annotated[
        bool, flag("--no-remote-code", help="write nothing that needs trust_remote_code=True to be loaded")
    ] = False
    anew: Annotated[bool, flag("--anew", help="begin anew, not where an earlier call was interrupted")] = False


def prune_checkpoint_command(
    out: Output,
    source: Annotated[Path, typer.Argument(metavar="IN", help="a folder of Transformers", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="a new folder", show_default=False)],
    asked: PlanOptions,
    data: CalibrationOptions,
    options: StreamingOptions,
) -> int:
    """Prune a checkpoint of Transformers that need not fit into memory, from folder to folder.

    OUT appears when it is complete. A call that was interrupted goes on where it was when it is made again.

    Examples:
        graphprune prune-checkpoint llama-70b slim --params 0.7 --layers equal
        graphprune prune-checkpoint llama-70b slim --mlp 0.3 --calibration texts.jsonl
    """
    asked.check(data.calibration is not None)
    with _progress(out) as show:
        plan = graphprune.prune_checkpoint(
            source,
            target,
            **asked.arguments() | _batches(out, data, source),
            repair=not options.no_repair,
            max_shard_size=options.max_shard_size,
            remote_code=not options.no_remote_code,
            resume=not options.anew,
            memory=options.memory,
            mapped=options.mapped,
            progress=show,
        )
    out.result(lambda: (plan, f"saved in {target}"), lambda: {"written": str(target), "plan": plan.to_data()}, target)
    return 0


def _batches(out: Output, data: CalibrationOptions, source: Path) -> dict[str, Any]:
    """The calibration data, if there is any."""
    if data.calibration is None:
        return {}
    if Path(data.calibration).is_dir():
        raise usage_error("--calibration: is a folder; give a file of JSON lines, or module:function")
    batches, found = data.read("--calibration", data.calibration, None, f"hf:{source}", ())
    out.note(f"calibration: {found}")
    return {"calibration": batches}


@contextmanager
def _progress(out: Output) -> Iterator[Callable[[graphprune.Progress], None] | None]:
    """A bar for each stage, with the time that is left, on a terminal."""
    if out.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(now: graphprune.Progress) -> None:
            if now.stage not in tasks:
                tasks[now.stage] = bars.add_task(now.stage, total=now.total)
            bars.update(tasks[now.stage], completed=now.done)

        yield show
