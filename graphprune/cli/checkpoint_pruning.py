"""``graphprune prune-checkpoint IN OUT --ratio 0.5``: a smaller checkpoint, without the model in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import graphprune
from graphprune.cli.calibration_options import CalibrationOptions
from graphprune.cli.option_groups import OptionGroup, flag, usage_error
from graphprune.cli.output import Output, bars_for_people
from graphprune.cli.output_paths import check_writable
from graphprune.cli.plan_options import PlanOptions
from graphprune.cli.planned import check_repair
from graphprune.errors import InputError
from graphprune.reconstruction.memory_bound import parse_memory
from graphprune.utils.byte_sizes import read_size


def _size(name: str, help: str, check: Callable[[str], object]) -> Any:
    """An option that takes a number of bytes with its unit, which a function of the library reads."""

    def read(given: Any) -> str:
        text = str(given)
        try:
            check(text)
        except InputError:
            raise typer.BadParameter(f"{text!r} is no number of bytes with its unit; give one such as 2GB") from None
        return text

    return typer.Option(name, metavar="SIZE", parser=read, help=help)


_file_size = partial(read_size, "size")


@dataclass(kw_only=True)
class StreamingOptions(OptionGroup):
    """How a checkpoint is written."""

    max_shard_size: Annotated[
        str, _size("--max-shard-size", "bytes of a file of weights at most, such as 2GB", _file_size)
    ] = "5GB"
    mapped: Annotated[str, _size("--mapped", "how much of the files stays in memory at most (Linux)", _file_size)] = (
        "1GB"
    )
    memory: Annotated[
        Any, _size("--memory", "what repair holds beside the weights at most, such as 4GB", parse_memory)
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
    --calibration takes a file of JSON lines, or module:function, and no folder.

    Examples:
        graphprune prune-checkpoint llama-70b slim --params 0.7 --layers equal
        graphprune prune-checkpoint llama-70b slim --mlp 0.3 --calibration texts.jsonl
    """
    asked.check(data.calibration is not None)
    _check(source, target, asked, data, options)
    with _progress(out) as show, bars_for_people():
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


def _check(source: Path, target: Path, asked: PlanOptions, data: CalibrationOptions, options: StreamingOptions) -> None:
    """Usage is wrong if a folder is none, or an option is about what is not asked for."""
    if not (source / "config.json").is_file():
        raise usage_error(f"IN: {source} holds no config.json; give a folder that Transformers saved a model in")
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise usage_error(f"OUT: {target} exists; give a new folder, or delete it first")
    check_writable("OUT", target)
    if "latency" in asked.given:
        raise usage_error("--latency: needs the model in memory; give --macs, --params or --bytes, or graphprune prune")
    if data.calibration is not None and Path(data.calibration).is_dir():
        raise usage_error("--calibration: is a folder; give a file of JSON lines, or module:function")
    check_repair(options.no_repair, data)
    if options.memory is not None and (data.calibration is None or options.no_repair):
        raise usage_error("--memory: is of repair, and nothing is repaired; give --calibration, too, or leave it out")


def _batches(out: Output, data: CalibrationOptions, source: Path) -> dict[str, Any]:
    """The calibration data, if there is any."""
    if data.calibration is None:
        return {}
    batches, found = data.reader().read(None, f"hf:{source}", ())
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
