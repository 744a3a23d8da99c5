"""``--calibration``: data from a folder, a file of JSON lines, or a function; what was found is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from graphprune.cli.data_files import ARRAYS, IMAGES, DataFolder, read_records
from graphprune.cli.option_groups import OptionGroup, usage_error
from graphprune.cli.option_values import read_whole_number
from graphprune.cli.references import check_reference, load_reference
from graphprune.errors import InputError
from graphprune.utils.checks import found_value, with_article

DATA_PANEL = "Data"
DATA_FORMS = (
    "a folder of images or of arrays (.npy, .pt, .safetensors), a file of JSON lines (texts, or records of arguments), "
    "or module:function, which returns batches"
)
Samples = Annotated[
    int,
    typer.Option(
        "--samples",
        metavar="N",
        parser=read_whole_number,
        help="so many of a folder or file",
        rich_help_panel=DATA_PANEL,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size", metavar="N", parser=read_whole_number, help="images in a batch", rich_help_panel=DATA_PANEL
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="DIR",
        help="the folder of the tokenizer that makes tokens of texts; without, that of hf:DIR",
        rich_help_panel=DATA_PANEL,
    ),
]
Length = Annotated[
    int,
    typer.Option(
        "--length",
        metavar="N",
        parser=read_whole_number,
        help="tokens of a text, at most",
        rich_help_panel=DATA_PANEL,
    ),
]


def data_option(name: str, what: str) -> Any:
    """The option that names data."""
    return typer.Option(
        name, metavar="DIR|FILE.jsonl|module:function", help=f"{what}: {DATA_FORMS}", rich_help_panel=DATA_PANEL
    )


@dataclass
class CalibrationOptions(OptionGroup):
    """Data without labels, for criteria that read data and for repair."""

    calibration: Annotated[str | None, data_option("--calibration", "data without labels")] = None
    samples: Samples = 128
    batch_size: BatchSize = 16
    tokenizer: Tokenizer = None
    length: Length = 512

    def __post_init__(self) -> None:
        for name, value in (("samples", self.samples), ("batch-size", self.batch_size), ("length", self.length)):
            if value < 1:
                raise usage_error(f"--{name}: must be 1 or more, but is {value}")
        if self.calibration is not None:
            check_data("--calibration", self.calibration)

    def batches(self, model: Any, spec: str, examples: Sequence[Any]) -> tuple[Any, str]:
        """The batches, and what was found, in words.

        Args:
            model: what the data is for.
            spec: how it is named; a tokenizer may be where it is.
            examples: the calls that it was traced with, whose tensors say what size images have.
        """
        return self.read("--calibration", str(self.calibration), model, spec, examples)

    def read(
        self, option: str, place: str, model: Any, spec: str, examples: Sequence[Any], labels: bool = False
    ) -> tuple[Any, str]:
        """The same for the data that another option names; with labels, those of texts are their tokens."""
        path = Path(place)
        if path.is_dir():
            folder = DataFolder(option, path, self.samples, self.batch_size, _folder_of(spec))
            return folder.batches(model, examples)
        if path.is_file() and path.suffix == ".jsonl":
            tokenizer = self.tokenizer or _folder_of(spec)
            return read_records(option, path, self.samples, tokenizer, self.length, labels)
        found = load_reference(option, place)
        batches: Any = _called(option, place, found) if callable(found) else found
        if not isinstance(batches, Iterable):
            raise InputError(
                f"{option}: {place} gave {with_article(type(batches).__name__)}",
                where=place,
                found=found_value(batches),
                needed="an iterable of batches",
                do="return a list or a DataLoader",
            )
        kept: Any = batches if hasattr(batches, "__len__") else list(batches)
        return kept, f"{len(kept)} batches from {place}"


def _called(option: str, place: str, function: Callable[[], Any]) -> Any:
    """What a function of the user returns."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{option}: {place}() failed with {type(error).__name__}",
            where=place,
            found=f"{type(error).__name__}: {error}",
            needed="a function without arguments that returns batches",
            do="give another function, or mend this one",
        ) from error


def check_data(option: str, place: str) -> None:
    """Usage is wrong if a text names no data."""
    path = Path(place)
    if path.is_dir():
        if not any(one.suffix.lower() in (*IMAGES, *ARRAYS) for one in path.rglob("*")):
            raise usage_error(
                f"{option}: {place} holds neither images ({', '.join(IMAGES)}) nor arrays ({', '.join(ARRAYS)})"
            )
    elif path.suffix == ".jsonl" or path.is_file():
        if not path.is_file():
            raise usage_error(f"{option}: the file {place} does not exist")
        if path.suffix != ".jsonl":
            raise usage_error(f"{option}: {place} is no file of JSON lines (.jsonl); needed is {DATA_FORMS}")
    elif ":" not in place:
        raise usage_error(f"{option}: {place} does not exist; needed is {DATA_FORMS}")
    else:
        check_reference(option, place)


def _folder_of(spec: str) -> Path | None:
    """Where the files of a model of Transformers are."""
    source, _, name = spec.partition(":")
    return Path(name) if source == "hf" and Path(name).is_dir() else None
