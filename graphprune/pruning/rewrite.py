"""Make the slim module: slice its tensors, then let every size attribute follow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from graphprune.pruning.attention import PrunedMultiheadAttention
from graphprune.tracing.kept_tables import forget_tables
from graphprune.tracing.meta import is_float
from graphprune.tracing.module_sizes import module_sizes
from graphprune.tracing.size_places import SizePlace
from graphprune.tracing.torch_attention import is_torchs_attention
from graphprune.tracing.uncopied import stand_in
from graphprune.utils.arrays import Ids
from graphprune.utils.collector import gc_paused
from graphprune.utils.deepcopy import copy_with_tables
from graphprune.utils.evaluation import eagerly
from graphprune.utils.exchange import exchange_tensors
from graphprune.utils.modules import Modules, Tables, copied_as, copy_marks, is_parameter, parameter_as, tables
from graphprune.utils.prune_masks import ORIGINAL, prune_masks
from graphprune.utils.storages import storage_of

KeptEntries = Mapping[int, Ids]
"""By dimension of one tensor, the entries that survive, in their new order."""

Kept = Mapping[str, KeptEntries]
"""The same by the name of the parameter or buffer."""

MergedEntries = Mapping[int, Sequence[Ids]]
"""By dimension of one tensor, what is merged into the entries that survive: of each index as many as these."""

Merged = Mapping[str, MergedEntries]
"""The same by the name of the parameter or buffer."""


def slim_tensor(
    tensor: Tensor, kept: KeptEntries, merged: MergedEntries | None = None, *, numbered: bool = True
) -> Tensor:
    """The surviving entries of a tensor, as an independent one of the same type, device and memory format.

    Integers in a line of which entries go are numbers of channels: those that are left are numbered anew. Those of
    several dimensions, and truth values, say something of what stays, and so do all where ``numbered`` is False (what
    is noted of the entries of a parameter). Into floating-point entries others are merged where ``merged`` says so:
    the mean of all of them survives.
    """
    small = tensor.detach()
    if len(kept) == 2 and 0 in kept and not merged and _is_plain(small):
        small = _selected_of_rows(small, kept)
    else:
        for dim, index in kept.items():
            others = merged.get(dim, ()) if merged and is_float(tensor) else ()
            small = _mean([_selected(small, dim, np.ascontiguousarray(one)) for one in (index, *others)])
    if numbered and kept and small.ndim == 1 and not (is_float(small) or small.is_meta or small.dtype is torch.bool):
        small = small.unique(return_inverse=True)[1].to(small.dtype)
    small = _laid_out_as(tensor, small) if kept else small.clone()
    if type(tensor) is not Tensor and is_parameter(tensor):
        return parameter_as(tensor, small)
    return small.requires_grad_(tensor.requires_grad and tensor.is_leaf)  # an activation kept by a run is none


def _selected(tensor: Tensor, dim: int, index: Ids) -> Tensor:
    """Some entries along a dimension; of inner dimensions numpy copies them several times as fast as torch."""
    if dim == 0 or not _is_plain(tensor):
        places = torch.from_numpy(index)
        return tensor.index_select(dim, places.to(tensor.device) if tensor.device.type != "cpu" else places)
    _check_range(tensor, dim, index)
    whole, made = _whole_and_empty(tensor, {dim: index})
    np.take(whole.numpy(), index, axis=dim, out=made.numpy(), mode="clip")
    return made.view(tensor.dtype)


_BLOCK = 1 << 16
"""Entries of rows that are copied at a time, so that they stay in the cache."""


def _selected_of_rows(tensor: Tensor, kept: KeptEntries) -> Tensor:
    """Some rows and, of these, some entries along another dimension; the rows alone are never in memory as a whole."""
    (dim,) = kept.keys() - {0}
    rows, index = kept[0], np.ascontiguousarray(kept[dim])
    _check_range(tensor, 0, rows)
    _check_range(tensor, dim, index)
    whole, made = _whole_and_empty(tensor, kept)
    source, target = whole.numpy(), made.numpy()
    step = max(1, _BLOCK * len(source) // max(source.size, 1))
    for first in range(0, len(rows), step):
        block = source.take(rows[first : first + step], axis=0)
        np.take(block, index, axis=dim, out=target[first : first + step], mode="clip")
    return made.view(tensor.dtype)


def _check_range(tensor: Tensor, dim: int, index: Ids) -> None:
    if len(index) and not (index.min() >= 0 and index.max() < tensor.shape[dim]):
        raise IndexError(f"dimension {dim} of size {tensor.shape[dim]} has no entry {index.min()} or {index.max()}")


def _whole_and_empty(tensor: Tensor, kept: KeptEntries) -> tuple[Tensor, Tensor]:
    """A tensor as whole numbers, and an empty one for the entries that are kept: torch aligns it, numpy would not."""
    whole = tensor.view(_WHOLE[tensor.dtype.itemsize])
    return whole, whole.new_empty([len(kept.get(dim, range(n))) for dim, n in enumerate(tensor.shape)])


def _is_plain(tensor: Tensor) -> bool:
    """Can numpy read its entries where they are?"""
    whole = tensor.device.type == "cpu" and tensor.dtype.itemsize in _WHOLE and tensor.is_contiguous()
    return whole and not tensor.is_conj() and not tensor.is_neg()


_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Types of numpy by the bytes of an entry, of which torch has more."""


def _mean(parts: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one type; what is narrower than float32 is added up in that."""
    if len(parts) == 1:
        return parts[0]
    kind = parts[0].dtype
    narrow = kind.itemsize < torch.float32.itemsize and not kind.is_complex
    wide = [part.to(torch.float32) if narrow else part for part in parts]
    return (sum(wide[1:], wide[0]) / len(wide)).to(kind)


def _laid_out_as(tensor: Tensor, small: Tensor) -> Tensor:
    """The same entries in the order in memory of another tensor, such as ``channels_last``."""
    strides = list(tensor.stride()) if tensor.layout is torch.strided else []
    if 0 in strides or strides == sorted(strides, reverse=True):
        return small
    order = sorted(range(len(strides)), key=lambda dim: -strides[dim])
    made = torch.empty_permuted(small.shape, order, dtype=small.dtype, device=small.device)
    return made.copy_(small)


def slim_meta_tensor(tensor: Tensor, kept: KeptEntries, merged: MergedEntries | None = None) -> Tensor:
    """As :func:`slim_tensor`, but a floating-point tensor is a shape on ``meta``."""
    if not is_float(tensor):
        return slim_tensor(tensor, kept, merged)
    shape = [len(kept[d]) if d in kept else n for d, n in enumerate(tensor.shape)]
    if not tensor.is_contiguous():
        return _empty_as(tensor, shape)
    small = torch.empty(shape, dtype=tensor.dtype, device="meta")  # at once: this is called for every tensor
    return copied_as(tensor, small)


@gc_paused()
@eagerly()
def rewrite(
    model: nn.Module,
    kept: Kept,
    sizes: Mapping[str, int],
    inplace: bool = False,
    on_meta: bool = False,
    own: Tables | None = None,
    merged: Merged | None = None,
) -> nn.Module:
    """A module with only the ``kept`` entries of each tensor and the attributes in ``sizes`` changed.

    ``on_meta``: its floating-point tensors are shapes only. Not with ``inplace``. ``own``: its tensors, if known.
    ``merged``: what is merged into the entries that survive.
    """
    own = own or tables(model)
    merged_of = {id(t): merged[name] for name, t in own.unique() if name in merged} if merged else {}
    kept_of = {id(t): kept.get(name, {}) for name, t in own.unique()}
    changed = {_owner(name) for name, tensor in own.named() if kept_of.get(id(tensor))}
    slimmed = slim_meta_tensor if on_meta else slim_tensor
    replaced = {
        key: slimmed(t, kept_of.get(key, {}), merged_of.get(key))
        for key, t in own.everything().items()
        if not inplace or kept_of.get(key)
    }
    if not on_meta:
        if not inplace:
            replaced.update(_in_one_memory(own, kept_of))
        _carry_notes(own, replaced, kept_of, merged_of, inplace)
    slim, found = (model, own) if inplace else _copied(model, own, replaced, on_meta)
    if inplace:
        exchange_tensors(model, replaced)
    for path, value in sizes.items():
        SizePlace.of(slim, path).change(value)
    _resize_modules(slim, found.modules, changed, sizes)
    if not on_meta:
        forget_tables(found.holders)
    return slim


def _in_one_memory(own: Tables, kept_of: Mapping[int, KeptEntries]) -> dict[int, Tensor]:
    """Copies of tensors that are views of one memory (``self.low = self.stats[0]``) and lose no entries: such again.

    As in any copy of a module. Parameters have memory of their own in a slim model, and what is a view of one has too.
    """
    found: defaultdict[int, list[Tensor]] = defaultdict(list)
    for tensor in (*own.buffers.values(), *own.plain.values(), *own.listed):
        if type(tensor) is Tensor and tensor.layout is torch.strided and not (tensor.requires_grad or tensor.is_nested):
            found[tensor.untyped_storage()._cdata].append(tensor)
    several = [group for group in found.values() if len({id(t): t for t in group}) > 1 and not group[0].is_meta]
    if not several:
        return {}
    trained = set(map(storage_of, own.parameters.values()))
    copies: dict[int, Tensor] = {}
    for group in several:
        memory = group[0].untyped_storage()
        if memory._cdata not in trained and not any(kept_of.get(id(tensor)) for tensor in group):
            memory = memory.clone()
            copies.update((id(t), t.new_empty(0).set_(memory, t.storage_offset(), t.shape, t.stride())) for t in group)
    return copies


def _carry_notes(
    own: Tables,
    replaced: Mapping[int, Tensor],
    kept_of: Mapping[int, KeptEntries],
    merged_of: Mapping[int, MergedEntries],
    inplace: bool,
) -> None:
    """Give new parameters the tensors that programs note on the old ones; those of their shape are cut as they are.

    A note may be a tensor of the model: then it is what takes its place. In place, notes of other shapes stay.
    """

    def carried(note: Tensor, parameter: nn.Parameter, key: int) -> Tensor:
        if id(note) in kept_of:
            return replaced.get(id(note), note)
        if note.shape == parameter.shape:
            return slim_tensor(note, kept_of[key], merged_of.get(key), numbered=False)
        return note if inplace else slim_tensor(note, {})

    for parameter in own.parameters.values():
        if parameter.__dict__ and (key := id(parameter)) in replaced:
            copy_marks(parameter, replaced[key], partial(carried, parameter=parameter, key=key))


def _copied(model: nn.Module, own: Tables, replaced: dict[int, Tensor], on_meta: bool) -> tuple[nn.Module, Tables]:
    """A copy with other tensors; one that is only run on shapes shares nothing that its run could write to."""
    if on_meta:
        return copy_with_tables(model, replaced, stand_in, everything=True, own=own)
    return copy_with_tables(model, replaced, own=own)


@lru_cache(maxsize=1 << 14)
def _owner(name: str) -> str:
    """The path of the module that a parameter makes a weight of."""
    path, parametrized, _ = f".{name}".partition(".parametrizations.")
    return path[1:] if parametrized else name.rpartition(".")[0]


def reshape_tensors(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give the tensors of a model on ``meta`` other sizes, and the modules that have them the same.

    Args:
        model: is changed.
        shapes: by the name of a tensor, that which it gets if it has as many dimensions.
    """
    own = tables(model)
    others = [(name, tensor) for name, tensor in own.unique() if shapes.get(name, tensor.shape) != tensor.shape]
    replaced = {id(t): _empty_as(t, shapes[name]) for name, t in others if len(shapes[name]) == t.ndim}
    if replaced:
        exchange_tensors(model, replaced)
        changed = {_owner(name) for name, tensor in own.named() if id(tensor) in replaced}
        _resize_modules(model, own.modules, changed, {})


def _empty_as(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A shape on ``meta``, laid out as a tensor is."""
    made = _laid_out_as(tensor, torch.empty(shape, dtype=tensor.dtype, device="meta"))
    return copied_as(tensor, made)


def _resize_modules(model: nn.Module, modules: Modules, changed: set[str], sizes: Mapping[str, int]) -> None:
    """Let the size attributes of torch's modules follow their tensors.

    Args:
        model: what holds the modules.
        modules: its submodules.
        changed: the paths of those whose tensors have other sizes.
        sizes: what was set otherwise, by path.
    """
    for path, module in modules:
        if isinstance(module, nn.MultiheadAttention) and is_torchs_attention(module):
            _resize_attention(model, path, module, sizes)
        elif path in changed:
            _renew_weights(module)
            own = vars(module)
            for attribute, value in module_sizes(module).items():
                if attribute in own:
                    own[attribute] = value  # several times as fast as nn.Module's way
                else:
                    setattr(module, attribute, value)


def is_computed(module: nn.Module) -> bool:
    """Does a hook, or a mask of ``torch.nn.utils.prune``, work out a weight of a module before every call?"""
    return bool(computed_names(module))


def computed_names(module: nn.Module) -> list[str]:
    """The weights of a module that a hook, or a mask of ``torch.nn.utils.prune``, works out before every call."""
    hooks = module._forward_pre_hooks.values()
    normalized = [hook.name for hook in hooks if isinstance(hook, WeightNorm | SpectralNorm)]
    return [*normalized, *(name for name, _ in prune_masks(module))]


def _renew_weights(module: nn.Module) -> None:
    """Weights that a hook works out before every call, and the list that recurrent layers keep of theirs."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            extra = {"do_power_iteration": False} if isinstance(hook, SpectralNorm) else {}
            with torch.no_grad():
                setattr(module, hook.name, hook.compute_weight(module, **extra))
    for name, mask in prune_masks(module) if module._buffers else ():
        with torch.no_grad():
            setattr(module, name, getattr(module, f"{name}{ORIGINAL}") * mask)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def _resize_attention(model: nn.Module, path: str, module: nn.MultiheadAttention, sizes: Mapping[str, int]) -> None:
    """Keep the torch class where its heads still add up to its width; else replace it."""
    heads = sizes.get(f"{path}.num_heads" if path else "num_heads", module.num_heads)
    width, inner = module.out_proj.weight.shape
    dense_width = module.head_dim
    if (module.out_proj.in_features, module.out_proj.out_features) != (inner, width):  # TorchScript's cannot be set
        module.out_proj.in_features, module.out_proj.out_features = inner, width
    if not module._qkv_same_embed_dim:
        module.kdim, module.vdim = module.k_proj_weight.shape[1], module.v_proj_weight.shape[1]
        same = inner == width == heads * dense_width and module.q_proj_weight.shape == (width, width)
    else:
        module.kdim = module.vdim = width
        same = inner == width == heads * dense_width and module.in_proj_weight.shape == (3 * width, width)
    if same:
        module.embed_dim, module.num_heads = width, heads
        return
    pruned = PrunedMultiheadAttention(module, heads, dense_width**-0.5)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, pruned)
