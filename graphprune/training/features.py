"""How far the features of a pruned network are from those of its teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.utils.checks import did_you_mean, with_article
from graphprune.utils.tree import tensors_of

Mean = Callable[[Tensor], Tensor]


_DECAY = 0.95


_RIDGE = 1e-3


class FeatureHooks:
    """What named modules of a model gave when it was run last."""

    def __init__(self, model: nn.Module, names: Iterable[str], whose: str) -> None:
        self.outputs: dict[str, Tensor] = {}
        modules = dict(model.named_modules())
        missing = [name for name in names if name not in modules]
        if missing:
            raise InputError(
                f"features: the {whose} has no module {missing[0]!r}{did_you_mean(missing[0], modules)}",
                where=f"the {whose}, {with_article(type(model).__name__)}",
                found=f"the name {missing[0]!r}",
                needed=f"names of modules that both models have, such as {', '.join(list(modules)[1:6])}",
                do="name modules as model.named_modules() does",
            )
        self._handles = [modules[name].register_forward_hook(self._note(name)) for name in names]

    def _note(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.outputs[name] = next(tensors_of(output))

        return hook

    def close(self) -> None:
        """Take the hooks out again."""
        for handle in self._handles:
            handle.remove()


class FeatureLoss:
    """Mean squared error between a student's features and its teacher's, relative to the teacher's mean square.

    Features of equal shape are compared as they are (FitNets: Romero et al., "FitNets: Hints for Thin Deep Nets",
    ICLR 2015). Where pruning has made the student narrower, its channels are first mapped to the teacher's by the
    linear map that does it best: ridge regression on running second moments, instead of FitNets' trained regressor.
    At the best map the loss has no slope with regard to it, so the student's gradient is that of the joint problem
    (variable projection: Golub and Pereyra, 1973), and there are no weights to initialize, tune or carry along; a
    pruned network starts near its teacher, and a random regressor would first drag it away.

    Args:
        name: the module, for messages.
        mean: takes the mean of a tensor over all processes.
    """

    def __init__(self, name: str, mean: Mean) -> None:
        self.name = name
        self.moments: list[Tensor] = []
        self._mean = mean

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss, a number. Both tensors have the same shape but for one dimension, the channels."""
        student, teacher = student.float(), teacher.detach().float()
        with torch.autocast(student.device.type, enabled=False):
            if student.shape != teacher.shape:
                dim = self._channels(student, teacher)
                student, teacher = student.movedim(dim, -1).flatten(0, -2), teacher.movedim(dim, -1).flatten(0, -2)
                student = student @ self._projection(student.detach(), teacher)
            scale = teacher.square().mean().clamp_min(torch.finfo(teacher.dtype).tiny)
            return (student - teacher).square().mean() / scale

    def _channels(self, student: Tensor, teacher: Tensor) -> int:
        unequal = [d for d, (s, t) in enumerate(zip(student.shape, teacher.shape, strict=False)) if s != t]
        if student.ndim != teacher.ndim or len(unequal) != 1 or student.ndim < 2:
            raise InputError(
                f"features: {self.name!r} gives {list(student.shape)} in the student and {list(teacher.shape)} in "
                "the teacher",
                where=self.name,
                found=f"{list(student.shape)} and {list(teacher.shape)}",
                needed="the same shape but for one dimension, the channels",
                do="name another module",
            )
        return unequal[0]

    def _projection(self, student: Tensor, teacher: Tensor) -> Tensor:
        """[student's channels, teacher's channels], from the rows [n, channels] seen so far; late ones count most."""
        new = [self._mean(student.T @ student / len(student)), self._mean(student.T @ teacher / len(student))]
        if self.moments and self.moments[0].shape == new[0].shape:
            new = [torch.lerp(fresh, old, _DECAY) for old, fresh in zip(self.moments, new, strict=True)]
        self.moments = new
        gram, cross = new
        ridge = _RIDGE * gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
        found: Tensor = torch.linalg.solve(gram + ridge * torch.eye(len(gram), device=gram.device), cross)
        return found
