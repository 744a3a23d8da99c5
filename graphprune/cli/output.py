"""Where results go: never over what the user has."""

from __future__ import annotations

from pathlib import Path

from graphprune.errors import InputError
from graphprune.export.bundle import bundle_versions


def check_output(output: Path, spec: str, weights: Path | None, force: bool) -> None:
    """Raise an InputError if writing to a folder would mix with, or destroy, what somebody else put there.

    Args:
        output: the folder that is to be written.
        spec: what the model is read from.
        weights: the file or folder that its weights are read from.
        force: write there all the same, unless it is a file.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"-o {output}: is a file; give a folder")
    if force:
        return
    source = next((path for path in _sources(spec, weights) if path.resolve() == output.resolve()), None)
    if source is not None:
        raise InputError(f"-o {output}: is where the model comes from; give another folder, or --force")
    try:
        bundle_versions(output).check_own()
    except InputError as error:
        raise InputError(f"-o {output}: {error}, or --force") from error


def _sources(spec: str, weights: Path | None) -> list[Path]:
    """The folders that a model is read from."""
    kind, _, name = spec.rpartition(":") if ".py:" in spec else spec.partition(":")
    found = [Path(kind).parent] if kind.endswith(".py") else [Path(name)] if kind == "hf" else []
    if weights is not None:
        found.append(weights if weights.is_dir() else weights.parent)
    return found
