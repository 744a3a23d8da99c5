"""What an optimizer would keep for a parameter of another size: some factor statistics of large matrices alone."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.optim import Optimizer

from graphprune.errors import InputError
from graphprune.utils.checks import with_article


def suits_size(
    optimizer: Optimizer, parameter: Tensor, shape: Sequence[int], state: Mapping[str, Any], where: str
) -> bool:
    """Would the optimizer keep the same for a parameter of this shape as what is left of its state?

    Statistics over some of the dimensions are compared (rows and columns, as Adafactor keeps them): some optimizers
    have them where a matrix is large enough, and others in their place where it is small. Which they are depends on
    the optimizer, so another one of its class takes a step for such a parameter.

    Args:
        optimizer: has the parameter.
        parameter: as it was.
        shape: the one that it is to have.
        state: what is left of its state.
        where: names the optimizer and the parameter in messages.

    Raises:
        InputError: this step fails.
    """
    size = Size(shape)
    factored = {n: v.shape for n, v in state.items() if isinstance(v, Tensor) and v.numel() > 1 and v.shape != size}
    if not factored:
        return True
    fresh = _fresh_state(optimizer, parameter, size, where)
    return all(getattr(fresh.get(name), "shape", None) == shape for name, shape in factored.items())


def _fresh_state(optimizer: Optimizer, parameter: Tensor, size: Size, where: str) -> dict[str, Any]:
    """The state after a first step, of an optimizer that is made of settings alone and holds nothing of this one.

    Of its attributes it has numbers and strings, through which it cannot change anything.
    """
    kind = type(optimizer)
    one = nn.Parameter(torch.ones(size, dtype=parameter.dtype, device=parameter.device))
    one.grad = torch.ones_like(one)
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    settings = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    groups = [{**copy.deepcopy(settings), "params": [one]}]
    plain = {name: value for name, value in vars(optimizer).items() if isinstance(value, bool | int | float | str)}
    other = kind.__new__(kind)
    try:
        own = {"defaults": optimizer.defaults, "state": defaultdict(dict), "param_groups": groups}
        other.__setstate__({**plain, **own})
        kind.step(other)  # as the class has it: a scheduler counts the steps of an instance
    except Exception as error:  # of any kind: it is the optimizer's own code
        raise InputError(
            f"optimizer: what {where} of shape {list(parameter.shape)} is to keep in shape {list(size)} cannot be "
            f"found out: {type(error).__name__}: {error}",
            where=where,
            found=f"{with_article(kind.__name__)} of one parameter whose first step fails",
            needed="an optimizer that takes a step with its settings alone, where it keeps statistics "
            "over some dimensions of a parameter",
            do="prune without the optimizer and make a new one",
        ) from error
    return dict(other.state[one])
