"""What distinguishes a slim module from a dense one of its class: data that can be applied without graphprune.

The two are compared, so that whatever changed is in the record: by pruning once or several times, or by hand
afterwards. Attributes that a fresh module does not have are notes and caches of a run, which the next run makes again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from graphprune.errors import ExportError
from graphprune.pruning.attention import PrunedMultiheadAttention
from graphprune.pruning.skip import Skip, Zeros
from graphprune.tracing.size_places import attributes_held, is_container, is_plain_object, steps_into
from graphprune.utils.evaluation import preserve_modes
from graphprune.utils.modules import named_modules, within

Attributes = dict[str, dict[str, Any]]
"""By the path of a module and the place within it (``"shape[0]"``, ``"config.sizes['heads']"``), a value."""


@dataclass(frozen=True)
class SlimRecord:
    """What a dense module of the same class must be given to become the slim one, but for its weights.

    ``graphprune.export.resizing`` has functions that apply it, which need torch alone.

    Attributes:
        attributes: numbers, strings and lists of these that differ, by module and place; ``training`` where a module
            has another mode than ``train(training)`` puts it in.
        shapes: the slim shapes of parameters and buffers whose dense ones differ.
        skipped: blocks that are left out, with the number of results in their tuple, 0 of those that return a tensor
            alone (:class:`graphprune.pruning.skip.Skip` stands there).
        zeroed: modules of residual branches that are left out, with the number of their results
            (:class:`graphprune.pruning.skip.Zeros` stands there).
        identities: modules that are ``nn.Identity`` instead of another one.
        attention: modules that are :class:`graphprune.pruning.attention.PrunedMultiheadAttention` instead of torch's.
        tied: names of tensors that are the same as another one, with the name of that one.
        absent: tensors of the dense module in whose places the slim one has None.
        frozen: parameters that take no gradients, and modules that have only such (``""``: the whole model).
        training: is the model in training mode?
        unsaved: tensors that ``state_dict`` does not hold (tables of positions, relative indices, masks), by name or
            place. A class built on ``meta`` does not have their values.
    """

    attributes: Attributes
    shapes: dict[str, list[int]]
    skipped: dict[str, int]
    zeroed: dict[str, int]
    identities: tuple[str, ...]
    attention: tuple[str, ...]
    tied: dict[str, str]
    absent: tuple[str, ...]
    frozen: tuple[str, ...]
    training: bool
    unsaved: dict[str, Tensor] = field(repr=False)

    def __bool__(self) -> bool:
        """Is there any difference in sizes?"""
        left_out = self.skipped or self.zeroed or self.identities
        return bool(self.attributes or self.shapes or left_out or self.attention)

    def to_data(self) -> dict[str, Any]:
        """The record as JSON data, but for the tensors in ``unsaved``."""
        fields = {name: value for name, value in vars(self).items() if name != "unsaved"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def slim_record(slim: nn.Module, dense: nn.Module) -> SlimRecord:
    """What distinguishes ``slim`` from a module of its class with other sizes, on any device (``meta`` too).

    Raises:
        ExportError: the slim module has parts of another kind than the dense one, or parameters and buffers that it
            does not have, or the other way round.
    """
    emptied = _check_modules(slim, dense)
    known, others = _saved(slim), _saved(dense)
    there = others | dict(_held_tensors(dense))
    absent = tuple(name for name in sorted(there.keys() & _empty_places(slim)) if not within(name, emptied))
    _check_saved(known, others.keys() - set(absent), emptied)
    held = _lasting(dict(_held_tensors(slim)), dense)
    first = {id(tensor): name for name, tensor in reversed((known | held).items())}
    return SlimRecord(
        attributes=_differing_attributes(slim, dense),
        shapes={n: list(t.shape) for n, t in known.items() if n in others and t.shape != others[n].shape},
        skipped={path: _results(slim, path) for path in emptied if _name(slim.get_submodule(path)) == "Skip"},
        zeroed={path: _results(slim, path) for path in emptied if _name(slim.get_submodule(path)) == "Zeros"},
        identities=tuple(path for path in emptied if isinstance(slim.get_submodule(path), nn.Identity)),
        attention=tuple(
            path for path, module in named_modules(slim) if _is_replaced(module, dense.get_submodule(path))
        ),
        tied={n: first[id(t)] for n, t in (known | held).items() if first[id(t)] != n},
        absent=absent,
        frozen=_frozen(slim),
        training=slim.training,
        unsaved={n: t for n, t in held.items() if first[id(t)] == n},
    )


_OTHER_WAY = (
    "export before modules or parameters are added, taken away or exchanged, or give a function that makes the whole "
    "architecture as factory="
)


# ---------------------------------------------------------------- modules


def _check_modules(slim: nn.Module, dense: nn.Module) -> tuple[str, ...]:
    """The paths of modules in whose place is one that does nothing.

    Raises:
        ExportError: there is a module of another kind somewhere.
    """
    new, old = (dict(model.named_modules(remove_duplicate=False)) for model in (slim, dense))
    emptied = tuple(path for path, module in new.items() if path in old and _is_emptied(module, old[path]))
    for path in [*new, *(path for path in old if path not in new and not within(path, emptied))]:
        found, wanted = new.get(path), old.get(path)
        alike = _name(found) == _name(wanted) or _is_replaced(found, wanted)
        if found is None or wanted is None or not (alike or path in emptied):
            raise ExportError(
                f"slim: {path or 'the model'} is {_name(found)}, and the architecture that it is rebuilt from has "
                f"{_name(wanted)} there",
                where=path or type(slim).__name__,
                found=_name(found),
                needed=_name(wanted),
                do=_OTHER_WAY,
            )
    return emptied


def _is_emptied(new: nn.Module, old: nn.Module) -> bool:
    empty = (Skip.__name__, Zeros.__name__, f"{nn.Identity.__module__}.{nn.Identity.__qualname__}")
    return _name(new) in empty and _name(old) != _name(new)


def _results(slim: nn.Module, path: str) -> int:
    """How many results what stands in the place of a module has; files of earlier versions say nothing of blocks'."""
    found: int = getattr(slim.get_submodule(path), "results", 0)
    return found


def _name(module: nn.Module | None) -> str:
    """The class of a module; those that generated files contain are called as here."""
    kind = type(module)
    own = kind.__name__ in (Skip.__name__, Zeros.__name__, PrunedMultiheadAttention.__name__)
    return "nothing" if module is None else kind.__name__ if own else f"{kind.__module__}.{kind.__qualname__}"


def _is_replaced(new: nn.Module | None, old: nn.Module | None) -> bool:
    return _name(new) == PrunedMultiheadAttention.__name__ and isinstance(old, nn.MultiheadAttention)


def _frozen(slim: nn.Module) -> tuple[str, ...]:
    """The outermost modules of which no parameter takes gradients, and the other parameters that take none."""
    names = [name for name, p in slim.named_parameters(remove_duplicate=False) if not p.requires_grad]
    found: list[str] = []
    for path, module in named_modules(slim) if names else ():
        wholly = not any(p.requires_grad for p in module.parameters()) and any(True for _ in module.parameters())
        if wholly and not path:
            return ("",)
        if wholly and not within(path, found):
            found.append(path)
    return (*found, *(name for name in names if not within(name, found)))


# ---------------------------------------------------------------- tensors


def _saved(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name that they have, but for buffers that ``state_dict`` leaves out."""
    found = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    unsaved = _unsaved_buffers(model)
    return {name: tensor for name, tensor in found.items() if name not in unsaved}


def _unsaved_buffers(model: nn.Module) -> dict[str, Tensor]:
    modules = model.named_modules(remove_duplicate=False)
    pairs = (
        (f"{path}.{n}" if path else n, m._buffers[n]) for path, m in modules for n in m._non_persistent_buffers_set
    )
    return {name: buffer for name, buffer in pairs if buffer is not None}


def _held_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that ``state_dict`` does not hold: buffers, attributes, and those in containers and objects."""
    yield from _unsaved_buffers(model).items()
    seen: set[int] = set()
    for path, module in named_modules(model):
        for name, value in attributes_held(module).items():
            yield from _tensors_in(value, f"{path}.{name}" if path else name, seen)


def _tensors_in(value: Any, place: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif (is_container(value) or is_plain_object(value)) and id(value) not in seen:
        seen.add(id(value))
        for step, item in steps_into(value):
            yield from _tensors_in(item, place + step, seen)


def _lasting(held: dict[str, Tensor], dense: nn.Module) -> dict[str, Tensor]:
    """Those that a fresh module has too, or has an empty place for; there, what a run worked out is not meant."""
    there, empty = dict(_held_tensors(dense)), _empty_places(dense)
    return {name: t for name, t in held.items() if name in there or (name in empty and t.is_leaf)}


def _empty_places(model: nn.Module) -> set[str]:
    """The names of parameters, buffers and attributes that are None."""
    found: set[str] = set()
    for path, module in named_modules(model):
        own = {**attributes_held(module), **module._parameters, **module._buffers}
        found |= {f"{path}.{name}" if path else name for name, value in own.items() if value is None}
    return found


def _check_saved(new: Iterable[str], old: Iterable[str], emptied: tuple[str, ...]) -> None:
    """Raise an ExportError unless both have parameters and buffers of the same names."""
    for name in sorted({*new} ^ {name for name in old if not within(name, emptied)}):
        has, lacks = ("slim model", "architecture") if name in new else ("architecture", "slim model")
        raise ExportError(
            f"slim: the {has} has the parameter or buffer {name}, which the {lacks} lacks",
            where=name,
            found=f"{name} in the {has} alone",
            needed="the same parameters and buffers in both",
            do=_OTHER_WAY,
        )


# ---------------------------------------------------------------- attributes

_SCALARS = (bool, int, float, str, type(None))


def _differing_attributes(slim: nn.Module, dense: nn.Module) -> Attributes:
    found: Attributes = {}
    seen: set[int] = set()
    modes = _modes(dense, slim.training)
    for path, module in named_modules(slim):
        new, old = attributes_held(module), attributes_held(dense.get_submodule(path))
        if _is_replaced(module, dense.get_submodule(path)):
            old = dict.fromkeys(new)
        differing = {place: value for n in new if n in old for place, value in _differing(n, new[n], old[n], seen)}
        if module.training != modes[path]:
            differing["training"] = module.training
        if differing:
            found[path] = differing
    return found


def _modes(dense: nn.Module, training: bool) -> dict[str, bool]:
    """By path, the modes of modules when the whole model is put in one."""
    with preserve_modes(dense):
        dense.train(training)
        return {path: module.training for path, module in dense.named_modules(remove_duplicate=False)}


def _differing(place: str, new: Any, old: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Places in what a module holds, with the values that are to stand there."""
    if type(new) in _SCALARS:
        if type(old) is not type(new) or (new != old and new == new):  # NaN is no difference
            yield place, new
        return
    if not (is_container(new) or is_plain_object(new) or isinstance(new, slice)) or id(new) in seen:
        return
    seen.add(id(new))
    steps, there = steps_into(new), dict(steps_into(old))
    if is_container(new) and dict(steps).keys() != there.keys() and _is_data(new):
        yield place, _data(new)
        return
    for step, item in steps:
        if step in there:
            yield from _differing(place + step, item, there[step], seen)


def _is_data(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str for key in value) and all(_is_data(item) for item in value.values())
    return type(value) in _SCALARS or (isinstance(value, list | tuple) and all(_is_data(item) for item in value))


def _data(value: Any) -> Any:
    """As JSON has it: tuples are lists."""
    if isinstance(value, dict):
        return {key: _data(item) for key, item in value.items()}
    return [_data(item) for item in value] if isinstance(value, list | tuple) else value
