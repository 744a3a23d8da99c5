"""Where results go: never over what the user has. Everything is checked before any work."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from graphprune.cli.option_groups import flag, usage_error
from graphprune.errors import InputError
from graphprune.utils.files import replace_file
from graphprune.utils.folders import check_own_folder

OutputFolder = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="where to save it", show_default=False)
]
Force = Annotated[
    bool,
    flag("--force", help="write to DIR even if it holds other files, which stay, or a slim model, which is replaced"),
]


def check_folder(output: Path, spec: str, weights: Path | None, force: bool) -> None:
    """Usage is wrong if writing to a folder would mix with, or destroy, what somebody else put there, or cannot be.

    Args:
        output: the folder that is to be written.
        spec: what the model is read from.
        weights: the file or folder that its weights are read from.
        force: write there all the same, unless it is a file.
    """
    if output.exists() and not output.is_dir():
        raise usage_error(f"-o {output}: is a file; give a folder")
    check_writable("-o", output)
    if force:
        return
    source = next((path for path in _sources(spec, weights) if path.resolve() == output.resolve()), None)
    if source is not None:
        raise usage_error(f"-o {output}: is where the model comes from; give another folder, or --force")
    from graphprune.export.bundle import bundle_versions

    versions = bundle_versions(output)
    try:
        versions.check_own()
    except InputError as error:
        raise usage_error(f"-o {output}: {error.what.removeprefix('directory: ')}; {error.do}, or --force") from error
    if versions.latest() is not None:
        raise usage_error(f"-o {output}: holds a slim model; give another folder, or --force to replace it")


def check_apart(outputs: Mapping[str, Path | None]) -> None:
    """Usage is wrong if two outputs go to one place.

    Args:
        outputs: by the options that name them.
    """
    places: dict[Path, str] = {}
    for name, path in outputs.items():
        if path is not None and (other := places.setdefault(path.resolve(), name)) != name:
            raise usage_error(f"{name} {path}: is where {other} goes, too; give another path")


def check_new_file(name: str, path: Path, force: bool | None = None) -> None:
    """Usage is wrong if a file cannot be written, or would replace one that is there.

    Args:
        force: replace it; None: the command has no ``--force``.
    """
    other = "delete it first" if force is None else "--force"
    if path.is_dir():
        raise usage_error(f"{name} {path}: is a folder; give the path of a file")
    if not path.parent.is_dir():
        raise usage_error(f"{name} {path}: {path.parent} is no folder; make it, or give a path in another")
    if path.exists() and not force:
        raise usage_error(f"{name} {path}: exists; give another path, or {other}")
    check_writable(name, path)


def check_own(name: str, folder: Path) -> None:
    """Usage is wrong if a folder cannot be written, or holds what graphprune did not write."""
    check_writable(name, folder)
    try:
        check_own_folder(folder)
    except InputError as error:
        raise usage_error(f"{name}: {error.what.removeprefix('directory: ')}; {error.do}") from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def check_writable(name: str, path: Path) -> None:
    """Usage is wrong if there is no right to write at a path, or to make what is missing of it."""
    if str(path) == "-":
        raise usage_error(f"{name} -: nothing is written to standard output but the result; give a path, or ./-")
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if there.is_file() and there != path:
        raise usage_error(f"{name} {path}: {there} is a file, and no folder; give another path")
    folder = there if there.is_dir() else there.parent
    try:
        with tempfile.TemporaryFile(dir=folder):  # os.access says yes to root, whatever the file system does
            pass
    except OSError as error:
        raise usage_error(
            f"{name} {path}: nothing can be written in {folder} ({error.strerror}); give a path in a folder of yours"
        ) from error


def _sources(spec: str, weights: Path | None) -> list[Path]:
    """The folders that a model is read from."""
    kind, _, name = spec.rpartition(":") if ".py:" in spec else spec.partition(":")
    found = [Path(kind).parent] if kind.endswith(".py") else [Path(name)] if kind == "hf" else [Path(spec)]
    if weights is not None:
        found.append(weights if weights.is_dir() else weights.parent)
    return found
