"""``--calibration``: data from a folder, a file of JSON lines, or a function; what was found is said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from graphprune.cli.data_files import ARRAYS, IMAGES, DataFolder, read_records
from graphprune.cli.option_groups import OptionGroup, usage_error
from graphprune.cli.option_values import at_least
from graphprune.cli.references import check_reference, value_of
from graphprune.errors import InputError
from graphprune.utils.checks import found_value, with_article

DATA_PANEL = "Data"
DATA_FORMS = (
    "a folder of images or of arrays (.npy, .pt, .safetensors), a file of JSON lines (texts, or records of arguments), "
    "or module:function, which returns batches"
)
MOST_READ, IMAGES_IN_A_BATCH, MOST_TOKENS = 128, 16, 512


def _count(name: str, help: str) -> Any:
    return typer.Option(name, metavar="N", parser=at_least(1), help=help, rich_help_panel=DATA_PANEL)


Samples = Annotated[Any, _count("--samples", f"so many of a folder or file; without, {MOST_READ}")]
BatchSize = Annotated[
    Any, _count("--batch-size", f"images, or arrays of single samples, in a batch; without, {IMAGES_IN_A_BATCH}")
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
Length = Annotated[Any, _count("--length", f"tokens of a text, at most; without, {MOST_TOKENS}")]


def data_option(name: str, what: str) -> Any:
    """The option that names data."""
    return typer.Option(
        name, metavar="DIR|FILE.jsonl|module:function", help=f"{what}: {DATA_FORMS}", rich_help_panel=DATA_PANEL
    )


@dataclass(frozen=True)
class DataReader:
    """Reads the data that an option names.

    Attributes:
        option: which option it is.
        place: what it names; None: there is no data.
        samples, batch_size, tokenizer, length: the options of the same names; None: not given.
    """

    option: str
    place: str | None
    samples: int | None = None
    batch_size: int | None = None
    tokenizer: Path | None = None
    length: int | None = None

    def check(self) -> None:
        """Usage is wrong if there is no such data, or an option is given that it does not take."""
        if self.place is not None:
            check_data(self.option, self.place)
        for name, use in _FOR.items():
            if getattr(self, name) is not None and name not in _taken_by(self.place):
                why = f"{self.option} is not given" if self.place is None else f"{self.place} is {_kind_of(self.place)}"
                raise usage_error(f"--{name.replace('_', '-')}: is for {use}, and {why}; leave it out")
        check_tokenizer(self.tokenizer)

    def read(self, model: Any, spec: str, examples: Sequence[Any], labels: bool = False) -> tuple[Any, str]:
        """The batches, and what was found, in words.

        Args:
            model: what the data is for.
            spec: how it is named; a tokenizer may be where it is.
            examples: the calls that it was traced with, whose tensors say what size images have.
            labels: texts get their tokens as labels, too.
        """
        path, most = Path(str(self.place)), self.samples or MOST_READ
        if path.is_dir():
            folder = DataFolder(self.option, path, most, self.batch_size or IMAGES_IN_A_BATCH, _folder_of(spec))
            return folder.batches(model, examples)
        if path.is_file() and path.suffix == ".jsonl":
            tokenizer = self.tokenizer or _folder_of(spec)
            return read_records(self.option, path, most, tokenizer, self.length or MOST_TOKENS, labels)
        return _batches_of(self.option, str(self.place))


@dataclass
class CalibrationOptions(OptionGroup):
    """Data without labels, for criteria that read data and for repair."""

    calibration: Annotated[str | None, data_option("--calibration", "data without labels")] = None
    samples: Samples = None
    batch_size: BatchSize = None
    tokenizer: Tokenizer = None
    length: Length = None

    def __post_init__(self) -> None:
        self.reader().check()

    def reader(self) -> DataReader:
        """What reads the data."""
        return DataReader("--calibration", self.calibration, self.samples, self.batch_size, self.tokenizer, self.length)


def _batches_of(option: str, place: str) -> tuple[Any, str]:
    """The batches that a function returns."""
    batches: Any = value_of(option, place, "batches")
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


_FOR = {
    "samples": "a folder or a file",
    "batch_size": "a folder of images or of arrays",
    "tokenizer": "a file of texts",
    "length": "a file of texts",
}
"""Which data an option is for."""


def _kind_of(place: str) -> str:
    """Which form of data it is, in words."""
    return "a folder" if Path(place).is_dir() else "a file" if Path(place).is_file() else "a function"


def _taken_by(place: str | None) -> tuple[str, ...]:
    """The options that the reader of this data takes."""
    forms = {"a folder": ("samples", "batch_size"), "a file": ("samples", "tokenizer", "length")}
    return () if place is None else forms.get(_kind_of(place), ())


def check_tokenizer(folder: Path | None) -> None:
    """Usage is wrong if a tokenizer is not in a folder."""
    if folder is not None and not folder.is_dir():
        raise usage_error(f"--tokenizer: {folder} is no folder; give the one that holds the tokenizer's files")


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
