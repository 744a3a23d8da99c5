"""The sizes that the configuration of a slim model had before pruning.

A class of Transformers is built from its configuration, and many refuse sizes that pruning leaves (a width that is no
multiple of the number of heads). Plans record the new value of a field and all dense shapes, and the old value is the
one with which the class has these shapes.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import nn

from graphprune.errors import ExportError
from graphprune.export.huggingface.generated_module import base_class, is_generated
from graphprune.pruning.plan import plans_of
from graphprune.tracing.size_places import SizePlace
from graphprune.utils.modules import named_tensors

Fields = dict[str, int]
"""By the place of a field in the configuration (``"hidden_size"``, ``"text_config.hidden_size"``), its value."""

DenseShapes = Mapping[str, tuple[int, ...]]

MOST_TRIED = 200
"""Configurations that are tried at most."""

_CONFIG = "config."


@dataclass(frozen=True)
class DenseModel:
    """A model on ``meta`` as it was before pruning.

    Attributes:
        model: of a class of Transformers.
        fields: the sizes of its configuration that the slim model's has otherwise.
    """

    model: nn.Module
    fields: dict[str, Any]


def dense_model(slim: Any) -> DenseModel:
    """The model that ``slim`` was before pruning; one that was loaded from a generated folder was pruned before too.

    Raises:
        ExportError: no values of the fields that pruning changed make a model with the shapes that plans record.
    """
    kind, config = base_class(type(slim)), _stock_config(slim)
    known = _flat(getattr(slim.config, "dense_sizes", None) or {})
    shapes = {} if is_generated(type(slim)) or not plans_of(slim) else plans_of(slim)[0].shapes
    fields = _fields(slim, known)
    candidates = {f: [known[f]] if f in known else _old_values(slim, shapes, _read(slim, f)) for f in fields}
    failure: Exception | None = None
    for values in itertools.islice(itertools.product(*candidates.values()), MOST_TRIED):
        changed = dict(zip(candidates, values, strict=True))
        try:
            dense = _built_on_meta(kind, _with_fields(config, changed))
        except Exception as error:  # classes and configurations refuse sizes with errors of any kind
            failure = error
            continue
        if all(tuple(shapes.get(name, tensor.shape)) == tuple(tensor.shape) for name, tensor in named_tensors(dense)):
            return DenseModel(dense, _differing_fields(slim.config, dense.config, changed))
    fields_tried = ", ".join(candidates) or "its configuration"
    raise ExportError(
        f"slim: found no sizes for {fields_tried} from which {kind.__name__} is built as it was before pruning",
        where=fields_tried,
        found=str(failure or "the shapes differ"),
        needed=f"a configuration from which {kind.__name__} is built as it was before pruning",
        do="export before the configuration or layers are changed by hand, or save the model with graphprune.save",
    )


def _differing_fields(slim: Any, dense: Any, places: Iterable[str]) -> dict[str, Any]:
    """The fields of two configurations that differ, lists as a whole."""
    found: dict[str, Any] = {}
    for field in dict.fromkeys(place.partition("[")[0] for place in places):
        new, old = (reduce(getattr, field.split("."), config) for config in (slim, dense))
        if new != old:
            found[field] = old
    return found


def _stock_config(slim: Any) -> Any:
    """A copy of the model's configuration, of the class that Transformers has."""
    if not is_generated(type(slim)):
        return copy.deepcopy(slim.config)
    fields = slim.config.to_dict()
    dense = getattr(slim.config, "dense_sizes", None) or {}
    return base_class(type(slim.config)).from_dict(merged_fields(fields, dense))  # type: ignore[attr-defined]


def merged_fields(fields: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with others in their place, within nested ones too."""
    inner = {n: merged_fields(fields[n], value) if isinstance(value, Mapping) else value for n, value in other.items()}
    return {**fields, **inner}


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Fields:
    found: Fields = {}
    for name, value in fields.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def nested_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as they stand in ``config.json``.

    >>> nested_fields({"projection_dim": 32, "text_config.hidden_size": 64})
    {'projection_dim': 32, 'text_config': {'hidden_size': 64}}
    """
    found: dict[str, Any] = {}
    for place, value in fields.items():
        *owners, name = place.split(".")
        inner = found
        for owner in owners:
            inner = inner.setdefault(owner, {})
        inner[name] = value
    return found


def _built_on_meta(kind: type, config: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = kind(config)
    return model


def _with_fields(config: Any, fields: Fields) -> Any:
    """A copy of a configuration with other values; they are not validated one by one."""
    changed = copy.deepcopy(config)
    for place, value in fields.items():
        *owners, name = place.split(".")
        owner = changed
        for step in owners:
            owner = vars(owner)[step]
        name, _, index = name.partition("[")
        if index:
            vars(owner)[name] = [value if f"{i}]" == index else old for i, old in enumerate(vars(owner)[name])]
        else:
            vars(owner)[name] = value
    return changed


def _read(slim: nn.Module, field: str) -> int:
    value: int = SizePlace.of(slim, _CONFIG + field).value
    return value


def _fields(slim: nn.Module, known: Fields) -> list[str]:
    """The fields of the model's configuration that its plans changed, or a folder that it was loaded from says so."""
    places = [place for plan in plans_of(slim) for place in (*plan.sizes, *plan.unread)]
    changed = [place.removeprefix(_CONFIG) for place in places if place.startswith(_CONFIG)]
    return list(dict.fromkeys([*known, *changed]))


def _old_values(slim: nn.Module, shapes: DenseShapes, value: int) -> list[int]:
    """What a size may have been that is ``value`` now, the likeliest first.

    A dimension that went from ``n * k`` to ``value * k`` tells ``n``: the size itself, or a number of heads of width k.
    """
    votes: Counter[int] = Counter()
    for before, after in _changed_dimensions(slim, shapes):
        if after % value == 0 and before % (after // value) == 0:
            votes[before // (after // value)] += 1
    every = sorted({n for shape in shapes.values() for n in shape if n > value})
    return list(dict.fromkeys([*(n for n, _ in votes.most_common()), value, *every]))


def _changed_dimensions(slim: nn.Module, shapes: DenseShapes) -> Iterator[tuple[int, int]]:
    for name, tensor in named_tensors(slim):
        for before, after in zip(shapes.get(name, ()), tensor.shape, strict=False):
            if before != after:
                yield before, after
