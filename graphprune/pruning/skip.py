"""Leave residual blocks and branches out of a model."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import PlanError
from graphprune.utils.checks import with_article


class Skip(nn.Module):
    """In the place of a block that was left out: returns its first argument.

    It has the plain attributes of the block, because programs ask their layers what kind they are, and as many results:
    the argument, and None for the others.
    """

    results: int = 0

    def __init__(self, block: nn.Module, results: int = 0) -> None:
        super().__init__()
        vars(self).update(plain_settings(block), results=results)
        self.train(block.training)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (x, *[None] * (self.results - 1)) if self.results else x


class Zeros(nn.Module):
    """In the place of a module of a residual branch that was left out: returns zeros shaped as its first argument.

    It has the plain attributes of the module, and as many results: the zeros, and None for the others.
    """

    results: int

    def __init__(self, module: nn.Module, results: int = 0) -> None:
        super().__init__()
        vars(self).update(plain_settings(module), results=results)
        self.train(module.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        zeros = torch.zeros_like(args[0] if args else next(iter(kwargs.values())))
        return (zeros, *[None] * (self.results - 1)) if self.results else zeros


def check_blocks(model: nn.Module, paths: Iterable[str]) -> None:
    """Raise a PlanError unless the model has a submodule at each of these paths."""
    for path in paths:
        try:
            model.get_submodule(path)
        except AttributeError as error:
            raise PlanError(
                f"model: has no {path!r} for the plan to leave out ({error})",
                where=path,
                found=f"{with_article(type(model).__name__)} without it",
                needed=f"a block at {path!r}",
                do="apply a plan to the architecture it was made for",
            ) from error


def skip_blocks(model: nn.Module, paths: Iterable[str], zeroed: Mapping[str, int], results: Mapping[str, int]) -> None:
    """Put something in the place of each module that is left out.

    Args:
        model: is changed.
        paths: the modules. What stands there returns its argument: ``nn.Identity`` where torch says how it is called.
        zeroed: those of them in whose places zeros stand, and how many results they have (0: a tensor alone).
        results: of the others how many results they have; those that are not named return a tensor alone.
    """
    for path in paths:
        parent, _, name = path.rpartition(".")
        owner, block = model.get_submodule(parent), model.get_submodule(path)
        if path in zeroed:
            owner._modules[name] = Zeros(block, zeroed[path])
        elif path not in results and _takes_one(owner, block):
            owner._modules[name] = identity_in_place(block)
        else:
            owner._modules[name] = Skip(block, results.get(path, 0))


def _takes_one(owner: nn.Module, block: nn.Module) -> bool:
    """Is a block called with one argument only? An ``nn.Sequential`` does, and its signature allows no other."""
    try:
        parameters = inspect.signature(block.forward).parameters.values()
    except (TypeError, ValueError):  # a TorchScript method has none
        return False
    one = len(parameters) == 1 and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    return one and type(owner).forward is nn.Sequential.forward


def identity_in_place(block: nn.Module) -> nn.Identity:
    """What returns its argument, with the plain attributes and the mode of a block."""
    made = nn.Identity()
    vars(made).update(plain_settings(block))
    made.train(block.training)
    return made


def plain_settings(block: nn.Module) -> dict[str, Any]:
    """Numbers and strings that are attributes of a block."""
    return {k: v for k, v in vars(block).items() if isinstance(v, bool | int | float | str) and k != "training"}
