"""What must hold of a random network, whatever its seed."""

from __future__ import annotations

import linecache
import math
import re
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import ismodule
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_flatten

import graphprune
from graphprune import ChannelGraph, GraphpruneError, InputError, NothingRemovedWarning, Plan, PlanError, Verification
from graphprune.utils.mode_flags import mode_flags
from tests.networks import randomize
from tests.random_networks.counts import wrong_counts
from tests.random_networks.generator import Program
from tests.random_networks.independent import difference

ALLOWED = ("pruned", "nothing", "refused", "vacuous", "overflows")
"""Outcomes that are right: a network that is dead after pruning (``vacuous``) shows nothing, and verify says so; one
whose own numbers are infinite shows nothing either."""
EXACT = 1e-8
ROUNDED = 1e-3


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    Attributes:
        kind: ``pruned``; ``nothing`` (nothing is removed: all is frozen, or the budget is out of reach); ``refused``
            (an error of graphprune with a reason); ``invalid`` (the program itself does not run); else what went wrong.
        detail: the message.
        compared: was it compared with the second opinion?
        kept: the fraction of the entries of all tensors that is left.
        frozen: the reasons, without numbers, of axes that are frozen; and how many axes there are.
    """

    kind: str
    detail: str = ""
    compared: bool = False
    kept: float = 1.0
    frozen: tuple[str, ...] = ()
    axes: int = 0

    @property
    def right(self) -> bool:
        return self.kind in ALLOWED


class Wrong(Exception):
    """A check failed; the arguments are the kind and the message."""


def fail(kind: str, detail: object = "") -> None:
    raise Wrong(kind, str(detail))


# ---------------------------------------------------------------- the program


def load(program: Program) -> dict[str, Any]:
    """What the source defines; tracebacks and reasons show its lines."""
    name = f"random_network_{program.seed}.py"
    linecache.cache[name] = (len(program.source), None, program.source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": f"random_network_{program.seed}"}
    exec(compile(program.source, name, "exec"), namespace)
    return namespace


def made(namespace: Mapping[str, Any], seed: int) -> nn.Module:
    """The network with random weights, always the same."""
    torch.manual_seed(seed)
    model: nn.Module = randomize(namespace["Network"](), seed)
    return model.eval()


def tensors(value: Any) -> list[Tensor]:
    return [t for t in tree_flatten(value)[0] if isinstance(t, Tensor)]


def first_run(program: Program) -> dict[str, Any]:
    """Load a program and run it once; it must make finite numbers."""
    try:
        namespace = load(program)
        with torch.no_grad():
            results = tensors(made(namespace, program.seed)(*namespace["example"](2)))
    except Exception as error:
        raise Wrong("invalid", f"{type(error).__name__}: {error}") from error
    if not results:
        fail("invalid", "there are no outputs")
    if not all(bool(t.isfinite().all()) for t in results):
        fail("overflows", "an output is not finite")
    return namespace


# ---------------------------------------------------------------- nothing of the user's changes


def same(one: Any, other: Any) -> bool:
    """Are two attributes equal, tensors bit for bit?"""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other or (type(one) is type(other) and (not isinstance(one, int | float | str) or one == other))


def snapshot(model: nn.Module) -> list[dict[str, Any]]:
    """All attributes of all modules, with copies of tensors."""
    return [{k: _copied(v) for k, v in vars(m).items()} for m in model.modules()]


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def unchanged(before: list[dict[str, Any]], model: nn.Module) -> None:
    after = snapshot(model)
    for one, other in zip(before, after, strict=True):
        for name in one.keys() | other.keys():
            if name not in one or name not in other or not same(one[name], other[name]):
                fail("changed the model", f"{name}: {one.get(name)} became {other.get(name)}"[:400])


GLOBALS = (torch, functional, torch.Tensor, math, np, nn.Module)


def of_torch() -> dict[str, Any]:
    """The state of torch that everybody shares. (Importing ``torch._dynamo`` wraps ``torch.manual_seed``.)"""
    return {
        "attributes": [
            {k: id(v) for k, v in vars(o).items() if k != "manual_seed" and not ismodule(v)} for o in GLOBALS
        ],
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "number type": torch.get_default_dtype(),
        "modes": (torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack(), mode_flags()),
        "random numbers": torch.get_rng_state().tolist(),
    }


def globals_unchanged(before: dict[str, Any]) -> None:
    after = of_torch()
    changed = [name for name in before if before[name] != after[name]]
    for one, other in zip(before["attributes"], after["attributes"], strict=True):
        changed += [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    if changed:
        fail("changed torch", changed)


# ---------------------------------------------------------------- the slim model


@dataclass(frozen=True)
class Case:
    """A program that runs, and how to make its network again and again, always the same."""

    program: Program
    namespace: dict[str, Any]

    def dense(self) -> nn.Module:
        return made(self.namespace, self.program.seed)

    def slim(self, plan: Plan) -> nn.Module:
        return plan.apply(self.dense())

    def inputs(self, batch: int = 2) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self.namespace["example"](batch)
        return found


def gradients(model: nn.Module, inputs: tuple[Any, ...]) -> set[str]:
    """The parameters that get a gradient in training."""
    torch.manual_seed(0)
    results = [t for t in tensors(model.train()(*inputs)) if t.is_floating_point() and t.requires_grad]
    if results:
        sum(t.square().sum() for t in results).backward()
    return {name for name, p in model.named_parameters() if p.grad is not None}


def trains(case: Case, plan: Plan) -> None:
    """The same parameters get gradients, if the dense model can be trained at all."""
    try:
        dense = gradients(case.dense(), case.inputs())
    except (RuntimeError, ValueError):
        return
    found = gradients(case.slim(plan), case.inputs())
    if found != dense:
        fail("does not train", f"{sorted(dense)} got gradients, {sorted(found)} do")


def runs_on_more(case: Case, plan: Plan) -> None:
    """Another batch size runs if it does in the dense model, with results of the same shapes."""
    with torch.no_grad():
        try:
            dense = tensors(case.dense()(*case.inputs(3)))
        except (RuntimeError, ValueError):
            return
        found = tensors(case.slim(plan)(*case.inputs(3)))
    if [t.shape for t in dense] != [t.shape for t in found]:
        fail("another batch", f"{[t.shape for t in dense]} became {[t.shape for t in found]}")


def equal_plans(one: Plan, other: Plan) -> bool:
    """Do two plans keep the same entries?"""

    def data(plan: Plan) -> dict[str, Any]:
        return {n: {d: np.asarray(i).tolist() for d, i in dims.items()} for n, dims in plan.kept.items()}

    return data(one) == data(other) and dict(one.sizes) == dict(other.sizes)


def comparable(program: Program, check: Verification) -> bool:
    """Is the second opinion exact for this program?

    Where verify names a sum over channels whose removed entries are not zero, the zeroed model adds these up.
    """
    facts = program.facts
    counts = any("adds up entries" in text for text in check.inexact)
    return not facts.mixes and not counts and not (facts.contracts and facts.offsets) and not check.perturbed


def second_opinion(case: Case, plan: Plan, rounding: float) -> None:
    """The zeroed model says the same, but for what rounding makes."""
    apart = difference(case.dense(), case.slim(plan), plan, case.inputs())
    if not apart <= max(rounding, ROUNDED if case.program.facts.rounds else EXACT):
        fail("wrong, says the zeroed model", f"relative difference {apart:.1e}\n{plan}")


# ---------------------------------------------------------------- all of it


def plain(reason: str) -> str:
    """A reason without what is particular to one network."""
    reason = re.sub(r"(, at )?\(?random_network_\d+\.py:\d+\)?(: .*)?", "", reason)
    return re.sub(r"\d+(\.\d+)?", "N", re.sub(r"\bb\d+\.[\w.]+", "NAME", reason)).strip()


def traced(case: Case, model: nn.Module) -> tuple[ChannelGraph, Plan]:
    """The graph and the plan of a model; every frozen axis has a reason."""
    graph = graphprune.trace(model, case.inputs())
    for frozen in graph.frozen:
        if not frozen.reason.strip():
            fail("frozen without a reason", frozen)
        if not 0 < frozen.count <= frozen.size:
            fail("more is frozen than there is", frozen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingRemovedWarning)
        return graph, graph.plan(**case.program.options)


def pruned(case: Case) -> Outcome:
    """Prune, compare, and see that nothing else has changed."""
    model, inputs = case.dense().train(case.program.seed % 5 == 0), case.inputs()
    before, world = snapshot(model), of_torch()
    graph, plan = traced(case, model)
    slim = plan.apply(model)
    check = graphprune.verify(model, slim, plan, inputs)
    unchanged(before, model)
    globals_unchanged(world)
    if not check.passed:
        fail("vacuous" if check.vacuous else "wrong, says verify", f"{check}\n{plan}")
    if not equal_plans(plan, Plan.from_json(plan.to_json())):
        fail("JSON changes the plan")
    counts = wrong_counts(graph, plan, case.program.options)
    if counts:
        fail("wrong counts", counts)
    exact = comparable(case.program, check)
    if exact:
        second_opinion(case, plan, check.rounding)
    trains(case, plan)
    runs_on_more(case, plan)
    one_of_many(case, graph, plan)
    return summary(graph, plan, exact)


def alike_when_hot(case: Case, plan: Plan) -> None:
    """A model that has run before is pruned alike."""
    model = case.dense()
    with torch.no_grad():
        model(*case.inputs())
    hot = traced(case, model)[1]
    if not equal_plans(plan, hot):
        fail("another plan after a run", f"{plan}\n{hot}")


def one_of_many(case: Case, graph: ChannelGraph, plan: Plan) -> None:
    """What is checked on some seeds only, because it costs as much as all the rest."""
    number = case.program.seed % 8
    counted_right(graph, plan, case.slim(plan))
    if number % 4 == 0 or "state_of_its_own" in case.program.blocks:
        alike_when_hot(case, plan)
    if number == 1:
        prunable_again(case, graph, plan)
    if number == 2:
        alike_in_place(case, plan)
    if number == 3:
        alike_after_saving(case, plan)
    if number == 5:
        scored_by_data(case, graph)


def counted_right(graph: ChannelGraph, plan: Plan, slim: nn.Module) -> None:
    """The parameters that the plan promises are there."""
    promised, found = graph.cost(plan).params, sum(p.numel() for p in slim.parameters())
    if promised != found:
        fail("wrong cost", f"the plan says {promised} parameters, there are {found}")


def prunable_again(case: Case, graph: ChannelGraph, plan: Plan) -> None:
    """The slim model can be pruned in turn, and costs what the plan says."""
    slim = case.slim(plan)
    again = graphprune.trace(slim, case.inputs())
    if again.cost().macs != graph.cost(plan).macs:
        fail("wrong cost", f"the plan says {graph.cost(plan).macs} MACs, the slim model has {again.cost().macs}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingRemovedWarning)
        second = again.plan(0.3, importance="random")
    check = graphprune.verify(slim, second.apply(slim), second, case.inputs())
    if not check.passed and not check.vacuous:
        fail("wrong, pruned again", f"{check}\n{second}")


CRITERIA = ("wanda", "schur", "obs", "kfac", "surgeon", "taylor", "fisher")


def scored_by_data(case: Case, graph: ChannelGraph) -> None:
    """Criteria that read data score every kind of layer, and their plans verify."""
    criterion = CRITERIA[case.program.seed // 8 % len(CRITERIA)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingRemovedWarning)
        plan = graph.plan(0.5, importance=criterion, calibration=[case.inputs(), case.inputs(3)])
    check = graphprune.verify(case.dense(), case.slim(plan), plan, case.inputs())
    if not check.passed and not check.vacuous:
        fail(f"wrong, scored by {criterion}", f"{check}\n{plan}")


def alike_in_place(case: Case, plan: Plan) -> None:
    """A model that is made smaller itself, in training mode, becomes the same."""
    model = case.dense().train()
    small = plan.apply(model, inplace=True)
    one, other = small.state_dict(), case.slim(plan).state_dict()
    if small is not model or not all(m.training for m in model.modules()) or not same(dict(one), dict(other)):
        fail("another model in place")


def alike_after_saving(case: Case, plan: Plan) -> None:
    """A saved model is the same when it is loaded."""
    slim = case.slim(plan)
    with TemporaryDirectory() as folder:
        graphprune.save(slim, folder)
        loaded = graphprune.load(folder, case.dense())
    if not same(dict(slim.state_dict()), dict(loaded.state_dict())):
        fail("another model after saving")


def summary(graph: ChannelGraph, plan: Plan, compared: bool) -> Outcome:
    dense, left = plan.entries
    reasons = tuple(plain(f.reason) for f in graph.frozen)
    axes = sum(len(shape) for shape in plan.shapes.values())
    kind = "pruned" if left < dense else "nothing"
    return Outcome(kind, compared=compared, kept=left / dense, frozen=reasons, axes=axes)


NOTHING = ("nothing to prune", "nothing that can be", "nothing can be removed", "out of reach", "smallest")
"""What is said when a request cannot be met, which is no failure."""


def check(program: Program) -> Outcome:
    """Prune a program and look at it from all sides."""
    try:
        return pruned(Case(program, first_run(program)))
    except Wrong as wrong:
        return Outcome(*wrong.args)
    except (InputError, PlanError) as error:
        text = str(error)
        kind = "nothing" if any(words in text for words in NOTHING) else "refused"
        return Outcome(kind if text.strip() else "refused without a reason", text)
    except GraphpruneError as error:
        return Outcome("refused", f"{type(error).__name__}: {error}")
    except Exception as error:
        return Outcome("crash", f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


Check = Callable[[Program], Outcome]
