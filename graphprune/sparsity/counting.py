"""How many weights are zero, per parameter and over all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.sparsity.selection import Weight, all_weights
from graphprune.utils.checks import did_you_mean
from graphprune.utils.model_checks import check_model
from graphprune.utils.model_tensors import require_values
from graphprune.utils.tables import Printed, Table


@dataclass(frozen=True)
class ParameterZeros:
    """How many of the entries of a parameter are zero, its mask included.

    Attributes:
        name: as if it were not masked (``"fc.weight"``); the first one where it is tied.
        shape: of the parameter.
        masked: does a mask of ``torch.nn.utils.prune`` hold its zeros?
    """

    name: str
    shape: tuple[int, ...]
    zeros: int
    size: int
    masked: bool

    @property
    def sparsity(self) -> float:
        """The fraction of entries that are zero."""
        return self.zeros / self.size if self.size else 0.0


@dataclass(frozen=True, repr=False)
class Sparsity(Printed):
    """The zeros of a model; prints as a table.

    Attributes:
        parameters: every parameter, tied ones once.
    """

    parameters: tuple[ParameterZeros, ...]

    @property
    def zeros(self) -> int:
        """Of all parameters together."""
        return sum(p.zeros for p in self.parameters)

    @property
    def size(self) -> int:
        """The number of all parameters."""
        return sum(p.size for p in self.parameters)

    @property
    def overall(self) -> float:
        """The fraction of all parameters that are zero."""
        return self.zeros / self.size if self.size else 0.0

    @property
    def masked(self) -> float:
        """The fraction of zeros among the parameters that have masks; 0 where none has."""
        sizes = sum(p.size for p in self.parameters if p.masked)
        return sum(p.zeros for p in self.parameters if p.masked) / sizes if sizes else 0.0

    def __getitem__(self, name: str) -> ParameterZeros:
        found = next((p for p in self.parameters if p.name == name), None)
        if found is None:
            names = [p.name for p in self.parameters]
            raise InputError(
                f"name: there is no parameter {name!r}{did_you_mean(name, names)}",
                found=f"the name {name!r}",
                needed=f"one of {len(names)} names of parameters",
                do="name it as model.named_parameters() does",
            )
        return found

    def _summary(self) -> str:
        return f"Sparsity: {self.zeros:,} of {self.size:,} parameters are zero ({self.overall:.1%})"

    def _parts(self) -> Iterator[Table]:
        shown = [(p.name, p.zeros, p.size, p.sparsity) for p in self.parameters if p.masked or len(p.shape) > 1]
        both = (*shown, ("all parameters", self.zeros, self.size, self.overall))
        rows = tuple((name, f"{zeros:,}", f"{size:,}", f"{share:.1%}") for name, zeros, size, share in both)
        columns = ("", "zeros", "of", "sparsity")
        yield Table("", columns, rows, numbers=columns[1:])


def sparsity_of(model: nn.Module) -> Sparsity:
    """How many weights of a model are zero, by a mask of ``torch.nn.utils.prune`` or without one.

    Raises:
        InputError: the model has no values, because it is on ``meta``.
    """
    check_model(model)
    weights = all_weights(model)
    require_values("model", ((weight.name, weight.place.parameter) for weight in weights), "count")
    return Sparsity(tuple(map(_zeros_of, weights)))


def _zeros_of(weight: Weight) -> ParameterZeros:
    parameter, mask = weight.place.parameter, weight.place.mask
    left = int(_in_effect(parameter.detach(), mask).count_nonzero())
    size = parameter.numel()
    return ParameterZeros(weight.name, tuple(parameter.shape), size - left, size, mask is not None)


def _in_effect(parameter: Tensor, mask: Tensor | None) -> Tensor:
    return parameter if mask is None else parameter * mask
