"""Save a slim model as safetensors and JSON, and load it into a fresh one. Nothing is pickled."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from graphprune.errors import LoadError, PlanError
from graphprune.pruning.plan import Plan, plans_of
from graphprune.utils.files import check_path, replace_file
from graphprune.utils.typed_json import read_json

WEIGHTS = "model.safetensors"


PLANS = "plan-{number}.json"


_ADVICE = "pass the directory that graphprune.save wrote"


def save(slim: nn.Module, directory: str | os.PathLike[str]) -> None:
    """Write ``model.safetensors`` and one ``plan-N.json`` for every round of pruning.

    Args:
        slim: a model made by ``prune_model`` or ``Plan.apply``, trained further or not.
        directory: created where missing. Each file is replaced atomically, the weights last.

    Raises:
        PlanError: the model was not made by graphprune, so there is no plan to save.
    """
    plans = plans_of(slim)
    if not plans:
        raise PlanError(
            f"slim: this {type(slim).__name__} carries no plan; pass the module that prune_model(...) or "
            "plan.apply(...) returned"
        )
    folder = check_path("directory", directory)
    folder.mkdir(parents=True, exist_ok=True)
    for number, plan in enumerate(plans):
        text = plan.to_json()
        replace_file(folder / PLANS.format(number=number), partial(Path.write_text, data=text))
    for stale in set(folder.glob(PLANS.format(number="*"))) - {
        folder / PLANS.format(number=i) for i in range(len(plans))
    }:
        stale.unlink()
    replace_file(folder / WEIGHTS, lambda path: save_model(slim, str(path)))


def load(directory: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """The saved slim model, rebuilt from a fresh dense one of the original architecture, which is not changed.

    Raises:
        LoadError: files are missing or damaged, or describe another architecture.
    """
    folder = check_path("directory", directory)
    paths = [folder / PLANS.format(number=i) for i in range(len(list(folder.glob(PLANS.format(number="*")))))]
    if not paths or not (folder / WEIGHTS).is_file():
        raise LoadError(f"directory: {folder} holds no saved model ({PLANS.format(number=0)} and {WEIGHTS}); {_ADVICE}")
    slim = model
    for path in paths:
        plan = Plan.from_data(read_json(path, f"directory: {path}", _ADVICE), f"directory: {path}")
        try:
            slim = plan.apply(slim)
        except PlanError as error:
            raise LoadError(f"model: {path} does not apply to this {type(model).__name__}: {error}") from error
    try:
        load_model(slim, str(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise LoadError(f"directory: {folder / WEIGHTS} does not hold the weights of this model: {error}") from error
    return slim
