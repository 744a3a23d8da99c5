"""Models that torchvision, timm and Transformers build by a name or a configuration, and what may be asked of them.

A bundle names a model and arguments. Whoever wrote it, building that model downloads nothing and runs no code but that
of the library.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from graphprune.errors import LoadError
from graphprune.export.plain_data import is_plain_data
from graphprune.pruning.plan import Plan

MOST = 1 << 24
"""Numbers in arguments are at most this: there are classes of so many images or words, but not of more."""

_DEEPEST = 12

_LOADED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable")
"""Arguments of timm that read weights or files."""

_LOADS_MORE = ("auto_map", "quantization_config", "_attn_implementation", "attn_implementation")
"""Entries of configurations that name code or other files."""

_NOTES = ("model_type", "transformers_version", "architectures", "_name_or_path")
"""Entries that the class says, or that are of no use without the weights that they are about."""


def is_data(value: Any, levels: int = _DEEPEST) -> bool:
    """Is a value JSON data, without numbers that are none, and not too deep?"""
    if value is None or isinstance(value, bool | int | str):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list) and levels:
        return all(is_data(item, levels - 1) for item in value)
    if isinstance(value, dict) and levels:
        return all(isinstance(key, str) and is_data(item, levels - 1) for key, item in value.items())
    return False


def packed(value: Any) -> Any:
    """Data without the floats that JSON does not have: infinity is ``{"float": "inf"}``."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, dict):
        return {key: packed(item) for key, item in value.items()}
    return [packed(item) for item in value] if isinstance(value, list) else value


def unpacked(value: Any) -> Any:
    """The inverse of :func:`packed`."""
    if isinstance(value, dict):
        if value.keys() == {"float"} and value["float"] in ("inf", "-inf", "nan"):
            return float(value["float"])
        return {key: unpacked(item) for key, item in value.items()}
    return [unpacked(item) for item in value] if isinstance(value, list) else value


# ---------------------------------------------------------------- torchvision


def torchvision_arguments(dense: type, plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and arguments of torchvision's models that a plan may have been made for."""
    if not dense.__module__.startswith("torchvision.models."):
        return
    from torchvision import models

    names = [n for n in models.list_models() if models.get_model_builder(n).__module__ == dense.__module__]
    for arguments in _class_counts(plan):
        yield from ((name, arguments) for name in names)


def build_torchvision(name: str, arguments: dict[str, Any]) -> Any:
    """A model that torchvision registers, without weights.

    Raises:
        LoadError: there is no such model, or an argument that may not be given.
    """
    from torchvision import models

    _check_options("torchvision", name, arguments, name in models.list_models(), arguments.keys() <= {"num_classes"})
    builder: Callable[..., Any] = models.get_model_builder(name)
    extra = {"weights_backbone": None} if "weights_backbone" in builder.__annotations__ else {}
    return builder(weights=None, **extra, **arguments)


def _class_counts(plan: Plan) -> Iterator[dict[str, Any]]:
    """No argument; and the rows of the last weight, which is a classifier's, as the number of classes."""
    yield {}
    counts = [shape[0] for name, shape in plan.shapes.items() if len(shape) in (2, 4) and not name.startswith("aux")]
    if counts:
        yield {"num_classes": counts[-1]}


# ---------------------------------------------------------------- timm


def timm_arguments(slim: nn.Module, plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and arguments of timm's models that a plan may have been made for."""
    found = getattr(slim, "pretrained_cfg", None) or getattr(slim, "default_cfg", None)
    name = found.get("architecture") if isinstance(found, dict) else None
    if not isinstance(name, str) or not type(slim).__module__.startswith("timm."):
        return
    tag = found.get("tag") if isinstance(found, dict) else None
    first = next((shape for shape in plan.shapes.values() if len(shape) == 4), None)
    given: Any = getattr(slim, "_model_args", None)
    made = dict(given) if isinstance(given, dict) else {}
    if first is not None and first[1] != 3:
        made["in_chans"] = first[1]
    for full in (f"{name}.{tag}" if tag else name, name):
        for classes in _dense_classes(slim, plan):
            yield from ((full, made | classes | size) for size in ({}, *_image_sizes(plan)))


def _dense_classes(slim: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """How many classes the dense model may have had: as many as now, or others if its classifier was reset since."""
    now = getattr(slim, "num_classes", None)
    found: list[dict[str, Any]] = [{"num_classes": now}] if type(now) is int else []
    for counts in (*_class_counts(plan), {"num_classes": 0}):
        if counts not in found:
            found.append(counts)
    return found


def build_timm(name: str, arguments: dict[str, Any]) -> Any:
    """A model that timm registers, without weights.

    Raises:
        LoadError: there is no such model, or an argument that may not be given.
    """
    import timm

    known = ":" not in name and "/" not in name and timm.is_model(name)
    _check_options("timm", name, arguments, known, not arguments.keys() & set(_LOADED))
    return timm.create_model(name, pretrained=False, **arguments)


def _image_sizes(plan: Plan) -> list[dict[str, Any]]:
    shapes = [arg.get("shape", []) for call in plan.inputs for arg in call.get("args", []) if isinstance(arg, dict)]
    return [{"img_size": list(shape[2:])} for shape in shapes if len(shape) == 4][:1]


# ---------------------------------------------------------------- Transformers


def transformers_arguments(slim: nn.Module, config: Mapping[str, Any] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The class and the dense configuration of a model of Transformers."""
    if config is None or not type(slim).__module__.startswith("transformers."):
        return
    found: Any = slim
    implementation = getattr(found.config, "_attn_implementation", None)
    generation = getattr(found, "generation_config", None)
    given = {} if generation is None else packed(_given(generation.to_dict()))
    beside = [name for name, value in given.items() if not is_data(value) and is_plain_data(value)]  # restored later
    yield (
        type(slim).__name__,
        {
            "config": packed({key: value for key, value in config.items() if key not in (*_LOADS_MORE, *_NOTES)}),
            "attention": implementation if isinstance(implementation, str) else None,
            "generation": None if generation is None else {n: v for n, v in given.items() if n not in beside},
        },
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def build_transformers(name: str, arguments: dict[str, Any]) -> Any:
    """A model of Transformers, from its class and configuration.

    Raises:
        LoadError: there is no such class, or an entry that would load something else.
    """
    import transformers

    kind: Any = getattr(transformers, name, None) if name.isidentifier() else None
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel) or name == "PreTrainedModel":
        raise LoadError(
            f"directory: Transformers has no model class {name[:80]!r}",
            where="the manifest's architecture",
            found=f"the class {name[:80]!r} and transformers {transformers.__version__}",
            needed="a version of Transformers that has the class",
            do="install the version it was saved with, or pass model=",
        )
    config, attention, generation = (arguments.get(key) for key in ("config", "attention", "generation"))
    if not isinstance(config, dict) or arguments.keys() - {"config", "attention", "generation"}:
        raise LoadError(
            "directory: the configuration of the model is missing or damaged",
            where="the manifest's architecture",
            found=f"the entries {sorted(map(str, arguments))[:5]}",
            needed="config, attention and generation",
            do="pass model=",
        )
    _check_config(config)
    model = _with_attention(kind, unpacked(config), attention)
    if isinstance(generation, dict):
        _check_config(generation)
        model.generation_config = transformers.GenerationConfig.from_dict(unpacked(generation))
    return model


def _with_attention(kind: Any, config: dict[str, Any], attention: Any) -> Any:
    """The model, built anew if it computes attention in another way than it should by itself."""
    if attention is not None and not (isinstance(attention, str) and attention.isidentifier()):
        raise LoadError(
            f"directory: {str(attention)[:80]!r} is no way to compute attention",
            where="the manifest's architecture: attention",
            found=repr(attention)[:80],
            needed="a name such as 'sdpa'",
            do="pass model=",
        )
    model = kind(kind.config_class.from_dict(copy.deepcopy(config)))
    if attention in (None, model.config._attn_implementation):
        return model
    made = kind.config_class.from_dict(config)
    made._attn_implementation = attention
    return kind(made)


def _check_config(value: Any, name: str = "") -> None:
    """Raise a LoadError for entries that load code or files, and for numbers that are too large."""
    if name in _LOADS_MORE and value is not None:
        raise LoadError(
            f"directory: the configuration has an entry {name!r}, which would load something else",
            where=f"the manifest's configuration: {name}",
            found=repr(value)[:80],
            needed="a configuration that loads no code or files",
            do="pass model=, if you trust whoever saved it",
        )
    if name == "use_pretrained_backbone" and value:
        raise LoadError(
            "directory: the configuration asks for a pretrained backbone, which would be downloaded",
            where=f"the manifest's configuration: {name}",
            found=repr(value)[:80],
            needed="a configuration that downloads nothing",
            do="pass model=, if you trust whoever saved it",
        )
    if name == "backbone" and isinstance(value, str) and not value.replace(".", "_").isidentifier():
        raise LoadError(
            f"directory: the configuration names a backbone {value[:80]!r} that is not part of a library",
            where=f"the manifest's configuration: {name}",
            found=repr(value[:80]),
            needed="a backbone by the name that a library has for it",
            do="pass model=, if you trust whoever saved it",
        )
    if isinstance(value, int) and abs(value) > MOST:
        raise LoadError(
            f"directory: the configuration has {name!r} of {value}, more than {MOST}",
            where=f"the manifest's configuration: {name}",
            found=f"{value}",
            needed=f"at most {MOST}",
            do="pass model=, if you trust whoever saved it",
        )
    for key, item in value.items() if isinstance(value, dict) else ():
        _check_config(item, str(key))
    for item in value if isinstance(value, list) else ():
        _check_config(item, name)


# ---------------------------------------------------------------- arguments


def _check_options(library: str, name: str, arguments: Mapping[str, Any], known: bool, allowed: bool) -> None:
    if not known:
        raise LoadError(
            f"directory: {library} has no model {name[:80]!r}",
            where="the manifest's architecture",
            found=f"the model {name[:80]!r}",
            needed=f"a version of {library} that has it",
            do="install the version that the bundle was saved with, or pass model=",
        )
    if not allowed or not _is_modest(list(arguments.values())):
        raise LoadError(
            f"directory: {library}'s {name} may not be given {str(dict(arguments))[:200]}",
            where="the manifest's architecture: arguments",
            found=str(dict(arguments))[:200],
            needed="arguments of the model that are plain and small",
            do="pass model=, if you trust whoever saved it",
        )


def _is_modest(value: Any) -> bool:
    """Only numbers that are not too large, and names of parts of a library."""
    if isinstance(value, list):
        return all(map(_is_modest, value))
    if isinstance(value, str):
        return not value or value.isidentifier()
    return value is None or (isinstance(value, int | float) and abs(value) <= MOST)
