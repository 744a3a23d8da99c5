"""How a model is named on a command line."""

from __future__ import annotations

import ast
from pathlib import Path

from graphprune.cli.option_groups import usage_error
from graphprune.utils.checks import did_you_mean

MODEL_PANEL = "The model"
"""The heading of options that go with a SPEC."""

SPEC_FORMS = "torchvision:NAME, timm:NAME, hf:MODEL_TYPE_OR_CLASS_OR_PATH or path/to/file.py:FACTORY"


def complete_spec(incomplete: str) -> list[str]:
    """What a shell may complete a beginning to: sources, and the names that torchvision and timm know."""
    source, colon, _ = incomplete.partition(":")
    if not colon:
        return ["torchvision:", "timm:", "hf:"]
    try:
        return [f"{source}:{name}" for name in _known_names(source)]
    except ImportError:
        return []


def _known_names(source: str) -> list[str]:
    if source == "torchvision":
        from torchvision.models import list_models

        return list(list_models())
    if source == "timm":
        from timm import list_models as timm_models

        return list(timm_models())
    if source == "hf":
        from transformers import CONFIG_MAPPING

        return list(CONFIG_MAPPING)
    return []


SOURCES = ("torchvision", "timm", "hf")
WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")
PUBLISHED = ("torchvision", "timm")
"""Libraries whose names come with published weights."""


def check_spec(spec: str, name: str = "SPEC") -> None:
    """Usage is wrong if a SPEC has another form, or the file that it names is not there.

    Args:
        name: what the SPEC is on the command line.
    """
    if ".py:" in spec and not spec.startswith(":") and not spec.endswith(":"):
        _check_file(Path(spec.rpartition(":")[0]), spec, name)
        return
    source, _, model = spec.partition(":")
    if source not in SOURCES or not model:
        raise usage_error(f"{name}: {spec!r} names no model{_meant(spec, source, model)}; needed is {SPEC_FORMS}")


def _check_file(path: Path, spec: str, name: str) -> None:
    if path.is_dir():
        raise usage_error(f"{name}: {spec!r}: {path} is a folder; give a Python file in it")
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else [])
        raise usage_error(f"{name}: {spec!r}: the file {str(path)!r} does not exist{near}")


def _meant(spec: str, source: str, name: str) -> str:
    """What may be meant by a SPEC of another form."""
    if name:
        return _meant_source(source, name)
    first, _, last = spec.replace("/", ".").partition(".")
    if first in SOURCES and last:
        return f"; did you mean {first}:{last.rpartition('.')[2]}?"
    path = Path(spec)
    if spec and path.is_dir():
        return _meant_folder(path)
    if path.suffix == ".py" and path.is_file():
        return f"; say which function of it makes the model: {_factories(path)}"
    if path.suffix in WEIGHTS and path.is_file():
        return f": it is a file of weights; give the SPEC of their model, and --weights {spec}"
    if Path(f"{first}.py").is_file() and last.isidentifier():
        return f"; did you mean {first}.py:{last}?"
    return f"; did you mean torchvision:{spec}, timm:{spec} or hf:{spec}?" if spec.isidentifier() else ""


def _meant_source(source: str, name: str) -> str:
    """What may be meant by a source that is none."""
    if Path(f"{source}.py").is_file():
        return f"; did you mean {source}.py:{name}?"
    if Path(source).is_file():
        return f": {source!r} is a file that does not end with .py"
    return f": {source!r} is no source of models{did_you_mean(source, SOURCES)}"


def _meant_folder(path: Path) -> str:
    if any(path.glob("version-*")):
        return ": it is the folder of a slim model; a SPEC of the dense model is needed here"
    if (path / "config.json").is_file():
        return f"; did you mean hf:{path}?"
    return ": it is a folder without a config.json"


def _factories(path: Path) -> str:
    """The functions and classes of a file, which is not run, as SPECs."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return f"{path}:FACTORY"
    found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return " or ".join(f"{path}:{name}" for name in found[:4]) or f"{path}:FACTORY"
