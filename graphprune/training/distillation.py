"""Knowledge distillation: a pruned network learns from what the dense one says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from graphprune.errors import InputError
from graphprune.nested import tensors_of


@dataclass(frozen=True)
class Distillation:
    """How much a student follows its teacher.

    The loss is ``alpha * T² * KL(teacher || student) + (1 - alpha) * loss of the targets``, with both distributions
    at temperature T: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015. To it the loss of
    every feature is added (see :class:`graphprune.training.features.FeatureLoss`).

    Args:
        temperature: T > 0.
        alpha: 0 (targets only) to 1 (teacher only: no targets are needed).
        features: names of modules whose outputs are compared too.
        feature_weight: the factor of each feature's loss, which is 1 when nothing of the teacher's is explained.
        dim: the dimension of the logits that holds the classes: -1, or 1 for maps of classes [b, classes, h, w].
    """

    temperature: float = 4.0
    alpha: float = 0.9
    features: tuple[str, ...] = ()
    feature_weight: float = 1.0
    dim: int = -1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"temperature: must be positive, but is {self.temperature!r}")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha: must be between 0 and 1, but is {self.alpha!r}")
        if isinstance(self.features, str):
            raise InputError(f"features: is the string {self.features!r}; pass a tuple of names of modules")
        if not self.feature_weight >= 0:
            raise InputError(f"feature_weight: must not be negative, but is {self.feature_weight!r}")


def logits_of(output: Any) -> Tensor:
    """The scores in a model's output: the output itself, what it calls ``logits``, or its first tensor.

    Raises:
        InputError: there is no tensor in it.
    """
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    found = named if isinstance(named, Tensor) else next(tensors_of(output), None)
    if found is None:
        raise InputError(f"model: its output, a {type(output).__name__}, holds no tensor of logits; pass loss_fn=")
    return found


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0, dim: int = -1) -> Tensor:
    """``T² * KL(teacher || student)``, the mean over everything but the classes in ``dim``. Logits of equal shape.

    The factor T² keeps the gradient's size the same at every temperature (Hinton et al., 2015, section 2).

    Raises:
        InputError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise InputError(
            f"teacher: gives logits {list(teacher.shape)}, but the student {list(student.shape)}; "
            "distil from a network with the same classes"
        )
    told = F.log_softmax(teacher.detach().float() / temperature, dim).movedim(dim, -1).flatten(0, -2)
    said = F.log_softmax(student.float() / temperature, dim).movedim(dim, -1).flatten(0, -2)
    return F.kl_div(said, told, reduction="batchmean", log_target=True) * temperature**2
