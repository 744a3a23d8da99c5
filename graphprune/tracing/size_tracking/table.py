"""Which function takes sizes how."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from graphprune.tracing.size_tracking import numbers, parts, reading, shapes
from graphprune.tracing.size_tracking.watcher import Handler, taking_whole_numbers


def handler_of_others(function: Any) -> Handler:
    """What to do when a function is called that is not known to take sizes: one that it is given is a number.

    Operators that are called as such (``torch.ops``) have rules that say what becomes of their arguments.
    """
    return numbers.untouched if isinstance(function, OpOverload | OpOverloadPacket) else numbers.other


def _either(names: str, handler: Handler) -> dict[Any, Handler]:
    """The functions of torch and the methods of tensors of these names, as far as there are such."""
    places = [(place, name) for name in names.split() for place in (torch, Tensor)]
    return {getattr(place, name): handler for place, name in places if hasattr(place, name)}


CONVOLUTIONS = "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"


READERS = (
    "tolist item numpy __array__ __float__ __int__ __bool__ __index__ __complex__ __format__ __repr__ __contains__ "
    "__reduce_ex__ __dlpack__"
)
"""Methods of tensors that give their entries to Python."""


HANDLERS: dict[Any, Handler] = {
    Tensor.shape.__get__: reading.shape,  # type: ignore[attr-defined]
    Tensor.size: reading.shape,
    Tensor.device.__get__: reading.device,
    Tensor.__len__: reading.length,
    Tensor.untyped_storage: reading.storage,
    Tensor.storage: reading.storage,
    torch._shape_as_tensor: reading.shape_tensor,
    **{getattr(Tensor, name): reading.values for name in READERS.split()},
    **_either("numel nelement", reading.numel),
    **_either("view reshape expand broadcast_to sum_to_size", taking_whole_numbers(shapes.view)),
    **_either("expand_as view_as reshape_as", shapes.like_another),
    **_either("broadcast_tensors meshgrid", shapes.broadcast),
    **_either("unflatten", taking_whole_numbers(shapes.unflatten)),
    **_either("repeat tile", taking_whole_numbers(shapes.repeat)),
    **_either("repeat_interleave", taking_whole_numbers(shapes.repeat_interleave)),
    **_either("new_zeros new_ones new_empty new_full", taking_whole_numbers(shapes.factory)),
    Tensor.new: taking_whole_numbers(shapes.new),
    **_either("zeros ones empty full randn rand", taking_whole_numbers(shapes.made, 0)),
    torch.normal: taking_whole_numbers(shapes.normal, 2),
    **_either("arange linspace eye", shapes.counted),
    **_either("histc", shapes.histogram),
    **_either("affine_grid_generator", shapes.affine_grid),
    **_either("layer_norm rms_norm", shapes.normalized_shape),
    F.layer_norm: shapes.normalized_shape,
    F.rms_norm: shapes.normalized_shape,
    F.one_hot: shapes.one_hot,
    torch.sparse.mm: shapes.sparse_product,
    torch._C._nn.pad: shapes.pad,
    torch._C._nn.pad_sequence: shapes.padded_sequences,
    **_either(CONVOLUTIONS, taking_whole_numbers(shapes.with_groups(6, "groups"))),
    **_either("group_norm", taking_whole_numbers(shapes.with_groups(1, "num_groups"))),
    **_either("channel_shuffle native_channel_shuffle", taking_whole_numbers(shapes.with_groups(1, "groups"))),
    **_either("lstm gru rnn_tanh rnn_relu", shapes.steps),
    **_either("_pad_packed_sequence", shapes.padded),
    **_either("rnn_tanh_cell rnn_relu_cell", shapes.cell),
    Tensor.__getitem__: parts.getitem,
    Tensor.__setitem__: parts.setitem,
    **_either("select", parts.select),
    **_either("narrow", taking_whole_numbers(parts.narrow)),
    **_either("take_along_dim", parts.take_along),
    **_either("split split_with_sizes unsafe_split unsafe_split_with_sizes", taking_whole_numbers(parts.split)),
    **_either("chunk unsafe_chunk", taking_whole_numbers(parts.chunk)),
    **_either("tensor_split hsplit vsplit dsplit", parts.tensor_split),
    **_either("tensor as_tensor scalar_tensor", numbers.literal),
    Tensor.new_tensor: numbers.new_tensor,
    F.scaled_dot_product_attention: numbers.attention,
}
