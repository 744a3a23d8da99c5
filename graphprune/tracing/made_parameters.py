"""Layers that ``forward`` builds at its first call: they are not there to be pruned yet."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from graphprune.errors import InputError
from graphprune.tracing.recorder import Recorder
from graphprune.utils.checks import with_article
from graphprune.utils.modules import Modules


def parameters_by_path(modules: Modules) -> dict[str, nn.Parameter]:
    """By the first path of their module."""
    return {
        f"{path}.{name}" if path else name: parameter
        for path, module in modules
        for name, parameter in module._parameters.items()
        if parameter is not None
    }


def check_none_made(recorder: Recorder, modules: Modules, before: Collection[str]) -> None:
    """Raise an InputError where a run used parameters that it made.

    Args:
        recorder: recorded the run.
        modules: those of its copy of the model after the run.
        before: the names of the parameters that the copy had at first.
    """
    found = parameters_by_path(modules)
    made = {name: recorder.lookup(found[name]) for name in found.keys() - before}
    used = [name for name, node in made.items() if node is not None and node.users]
    if not used:
        return
    first, *more = sorted(used)
    others = f" and {len(more)} more" if more else ""
    kind = type(recorder.model_copy.module).__name__
    raise InputError(
        f"model: forward makes parameters at its first call, {first}{others}",
        where=first,
        found=f"{with_article(kind)} without {first}",
        needed="a model with all of its parameters",
        do="run the model once in eval mode before it is pruned, model.eval()(example)",
    )
