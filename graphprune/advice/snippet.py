"""The advice as a Python program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphprune.advice.facts import ModelFacts
from graphprune.advice.recommendations import Recommendation
from graphprune.advice.targets import AdviceTarget
from graphprune.planning.limits import Override

_GIVEN = {"calibration": "data", "loss_fn": "loss_fn"}
"""Arguments that are the user's own objects, and what the program calls them."""


def snippet(
    facts: ModelFacts, target: AdviceTarget, advice: Mapping[str, Recommendation], arguments: Mapping[str, Any]
) -> str:
    """A program that does what is advised with ``model``, ``example_inputs`` and what else was given to ``advise``.

    Args:
        facts: what the advice follows from.
        target: what is wanted.
        advice: by topic.
        arguments: those of the plan.
    """
    lines = ["import graphprune", ""]
    if not arguments:
        shown = "cost())  # within the target as it is" if facts.met else "frozen)  # why nothing can go"
        return "\n".join([*lines, f"print(graphprune.trace(model, example_inputs).{shown}", ""])
    if advice["structure"].choice.startswith("compact"):
        lines.append("model = graphprune.compact(model, example_inputs)  # equal outputs, without the zero channels")
    rounds = advice["schedule"].choice.partition(" rounds")
    if rounds[1]:
        lines += _in_rounds(int(rounds[0]), arguments)
    else:
        lines += _at_once(facts, advice, arguments)
    export = target.runtime.export if target.runtime is not None else ""
    if export and not advice["runtime"].choice.startswith("not ") and not facts.on_meta:
        comment = "# " if "tokenizer" in export else ""
        lines.append(f"{comment}{export}  # {target.runtime.name if target.runtime else ''}")
    return "\n".join([*lines, ""])


def _at_once(facts: ModelFacts, advice: Mapping[str, Recommendation], arguments: Mapping[str, Any]) -> list[str]:
    """Plan, apply, repair, train."""
    lines = ["graph = graphprune.trace(model, example_inputs)"]
    lines += [f"plan = graph.plan({written(arguments)})", "print(plan)", "slim = plan.apply(model)"]
    if facts.on_meta:
        return lines
    if facts.data.batches:
        inputs = "[inputs for inputs, _ in data]" if "loss_fn" in arguments else "data"
        lines.append(f"graphprune.repair(slim, model, plan, {inputs})")
    elif "synthesized" in advice["recovery"].choice:
        lines.append("graphprune.repair(slim, model, plan, graphprune.synthesize(model, example_inputs))")
    if facts.can_train and facts.data.batches:
        lines += [_RATE, f"graphprune.finetune(slim, data, epochs=3, lr=lr, teacher=model{_loss(arguments)})"]
    return lines


_RATE = "lr = 0.01  # about a tenth of the highest rate that the model was trained with"


def _loss(arguments: Mapping[str, Any]) -> str:
    return ", loss_fn=loss_fn" if "loss_fn" in arguments else ""


def _in_rounds(rounds: int, arguments: Mapping[str, Any]) -> list[str]:
    """The same number of rounds of pruning, repair and training."""
    loss = ', "loss_fn": loss_fn' if "loss_fn" in arguments else ""
    return [
        _RATE,
        f'tune = {{"batches": data, "epochs": 3, "lr": lr, "distill": graphprune.Distillation(){loss}}}',
        "found = graphprune.prune_iteratively(",
        f"    model, example_inputs, rounds={rounds}, tune=tune, {written(arguments)}",
        ")",
        "print(found)",
        "slim = found.model",
    ]


def written(arguments: Mapping[str, Any]) -> str:
    """Arguments as Python source."""
    return ", ".join(f"{name}={_value(name, value)}" for name, value in arguments.items())


def _value(name: str, value: Any) -> str:
    if name in _GIVEN:
        return _GIVEN[name]
    if name == "overrides":
        (override,) = value.values()
        return f'{{(lambda group: group.role in ("mlp", "width")): {_override(override)}}}'
    return repr(value)


def _override(override: Override) -> str:
    return f"graphprune.Override(multiple={override.multiple})"
