"""Weight matrices with the zeros that masks make, and with what a plan removes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.measurement.layer_sizes import ordinary
from graphprune.plots.figures import GRAY, INK, new_figure, shortened
from graphprune.pruning.plan import Plan
from graphprune.utils.checks import check_optional, check_type, did_you_mean
from graphprune.utils.compiled import uncompiled
from graphprune.utils.model_checks import check_model
from graphprune.utils.model_tensors import require_values
from graphprune.utils.modules import named_modules
from graphprune.utils.prune_masks import ORIGINAL, prune_masks

MOST_MAPS = 12
"""Weights that are drawn if none are named."""


MOST_CELLS = 160
"""Rows and columns of a picture; of larger matrices, a cell is the mean over a block."""


def plot_weights(model: nn.Module, names: str | Iterable[str] | None = None, *, plan: Plan | None = None) -> Any:
    """Magnitudes of weight matrices, [outputs, inputs · kernel], with what is zero or removed in gray.

    Of a large matrix, each point is the mean over a block of entries, gray where all of them are zero.

    Args:
        model: a model with weights, with masks of ``torch.nn.utils.prune`` or zeros; unchanged.
        names: of parameters (``"conv1.weight"``); None: up to twelve, evenly spread over the model, those with masks
            before others.
        plan: what it removes of ``model`` counts as zero.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        InputError: a name is not that of a weight matrix, or there is none, or it is on ``meta``.
        ImportError: matplotlib is not installed.
    """
    check_model(model)
    check_type("plan", plan, Plan | None, "a graphprune.Plan")
    matrices = dict(_matrices(uncompiled(model)))
    wanted = [names] if isinstance(names, str) else names
    check_optional("names", wanted, Iterable, "names of parameters, in a list")
    for name in wanted if isinstance(wanted, list | tuple) else ():
        check_type("names", name, str, "names of parameters, in a list")
    chosen = _spread(matrices) if wanted is None else [_known(name, matrices) for name in wanted]
    if not chosen:
        raise InputError(
            "names: there is no weight matrix to draw",
            found="no parameter with two dimensions or more",
            needed="one weight matrix at least",
            do="pass a model with convolutions or linear layers",
        )
    columns = min(4, len(chosen))
    figure = new_figure(3.2 * columns, 3.0 * -(-len(chosen) // columns))
    grid = figure.subplots(-(-len(chosen) // columns), columns, squeeze=False).ravel()
    for axes, name in zip(grid, chosen, strict=False):
        weight = matrices[name][0]
        _draw(figure, axes, name, weight if plan is None else weight * _kept(plan, name, weight))
    for axes in grid[len(chosen) :]:
        axes.set_visible(False)
    return figure


def _matrices(model: nn.Module) -> Iterator[tuple[str, tuple[Tensor, bool]]]:
    """By name, the weights of two dimensions and more as they are used, and whether there is a mask."""
    for path, module in named_modules(model):
        masks = {f"{name}{ORIGINAL}": mask for name, mask in prune_masks(module)}
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1 and parameter.numel():
                mask = masks.get(name)
                full = f"{path}.{name}" if path else name
                value = ordinary(parameter) if mask is None else ordinary(parameter) * mask
                yield (full if mask is None else full.removesuffix(ORIGINAL)), (value, mask is not None)


def _spread(matrices: dict[str, tuple[Tensor, bool]]) -> list[str]:
    """At most so many as are drawn, in the order of the model."""
    masked = [name for name, (_, has_mask) in matrices.items() if has_mask]
    names = masked or [name for name in matrices if "weight" in name] or list(matrices)
    if len(names) <= MOST_MAPS:
        return names
    return [names[round(i)] for i in np.linspace(0, len(names) - 1, MOST_MAPS)]


def _known(name: str, matrices: dict[str, tuple[Tensor, bool]]) -> str:
    if name not in matrices:
        raise InputError(
            f"names: there is no weight matrix {name!r}{did_you_mean(name, matrices)}",
            found=f"the name {name!r}",
            needed=f"one of {', '.join(list(matrices)[:4])}, ...",
            do="name parameters as model.named_parameters() does",
        )
    return name


def _kept(plan: Plan, name: str, weight: Tensor) -> Tensor:
    """The mask of what a plan keeps of a weight."""
    own = next((one for one in (name, f"{name}{ORIGINAL}") if one in plan.shapes), None)
    if own is None:
        raise InputError(
            f"plan: is of another model, as it knows no {name!r}",
            where=name,
            found=f"a plan of {len(plan.shapes)} parameters and buffers, such as {next(iter(plan.shapes), None)!r}",
            needed="a plan for the model",
            do="pass the model that the plan was made for",
        )
    mask = plan.mask(own)
    if mask.shape != weight.shape:
        raise InputError(
            f"plan: {name} has shape {list(mask.shape)} there and {list(weight.shape)} in the model",
            where=name,
            found=f"shape {list(weight.shape)} in the model",
            needed=f"shape {list(mask.shape)}, as the plan has it",
            do="pass the model that the plan was made for",
        )
    return mask.to(weight.device)


def _draw(figure: Any, axes: Any, name: str, weight: Tensor) -> None:
    """One matrix with its scale and its share of zeros."""
    require_values("model", [(name, weight)], "draw")
    matrix = weight.abs().flatten(1).float().cpu()
    rows, columns = matrix.shape
    shown = np.ma.masked_equal(pooled(matrix).numpy(), 0.0)
    look = {"cmap": _colors(), "aspect": "auto", "interpolation": "nearest", "vmin": 0.0}
    image = axes.imshow(shown, extent=(0, columns, rows, 0), **look)
    axes.tick_params(labelsize="x-small", colors=INK)
    if shown.count():
        bar = figure.colorbar(image, ax=axes, shrink=0.8)
        bar.ax.tick_params(labelsize="x-small", colors=INK)
        bar.outline.set_visible(False)
    zeros = float((matrix == 0).float().mean())
    shape = " x ".join(map(str, weight.shape))
    axes.set_title(f"{shortened(name, 32)}\n{shape}, {zeros:.1%} zero", fontsize="small", loc="left", color=INK)
    inputs = "inputs" if weight.ndim == 2 else "inputs x kernel"
    means = "" if max(_steps(matrix)) == 1 else f" (means of {' x '.join(map(str, _steps(matrix)))})"
    axes.set_xlabel(f"{inputs}{means}", fontsize="x-small", color=INK)
    axes.set_ylabel("outputs", fontsize="x-small", color=INK)


def _colors() -> Any:
    """Dark is large; zeros are gray. Found here, since matplotlib is optional."""
    from matplotlib import colormaps

    return colormaps["viridis_r"].with_extremes(bad=GRAY)


def _steps(matrix: Tensor) -> list[int]:
    """The rows and columns of a block."""
    return [math.ceil(size / MOST_CELLS) for size in matrix.shape]


def pooled(matrix: Tensor) -> Tensor:
    """The means over blocks, so that at most ``MOST_CELLS`` are left in each dimension.

    >>> pooled(torch.ones(4, 400)).shape
    torch.Size([4, 134])
    """
    means = nn.functional.avg_pool2d(matrix[None], _steps(matrix), ceil_mode=True, count_include_pad=False)
    return means[0]
