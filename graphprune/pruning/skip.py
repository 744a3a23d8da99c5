"""Leave residual blocks out of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from graphprune.errors import PlanError


class Skip(nn.Module):
    """In the place of a block that was left out: returns its first argument.

    It has the plain attributes of the block, because programs ask their layers what kind they are.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        plain = {k: v for k, v in vars(block).items() if isinstance(v, bool | int | float | str) and k != "training"}
        vars(self).update(plain)
        self.train(block.training)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x


def check_blocks(model: nn.Module, paths: Iterable[str]) -> None:
    """Raise a PlanError unless the model has a submodule at each of these paths."""
    for path in paths:
        try:
            model.get_submodule(path)
        except AttributeError as error:
            raise PlanError(
                f"model: has no {path!r} for the plan to leave out ({error}); "
                "apply a plan to the architecture it was made for"
            ) from error


def skip_blocks(model: nn.Module, paths: Iterable[str]) -> None:
    """Put a :class:`Skip` in the place of each block."""
    for path in paths:
        parent, _, name = path.rpartition(".")
        owner = model.get_submodule(parent)
        owner._modules[name] = Skip(model.get_submodule(path))
