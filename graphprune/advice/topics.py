"""The rules: one function for each question, from facts to a recommendation.

Where plans were tried on this model, the best of them is the answer. Where none were, the answer follows from what such
trials showed on other models: ``python -m benchmarks.advice`` makes them again, and docs/choosing.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from graphprune.advice.facts import ModelFacts, Trial
from graphprune.advice.questions import depth_of
from graphprune.advice.recommendations import Recommendation, TopicRule
from graphprune.advice.targets import AdviceTarget
from graphprune.advice.trials import best_trial
from graphprune.graph.groups import Group
from graphprune.graph.roles import CHANNELS
from graphprune.planning.latency import ALIGNMENT
from graphprune.planning.limits import Override

MANY_ZEROS = 0.05
"""From this part of zero channels on, they are worth a step of their own."""
FAST_ENOUGH = 1.05
"""The smallest multiple that is at most so much slower than the fastest one will do."""
STAYS_SLOW = 0.65
"""Where half of all channels leave more of the kernels' time than this, blocks are what makes a model faster."""
SENSITIVE = 2.0
"""First and last groups that suffer so many times as much as the others are protected."""
UTMOST = 0.99
"""The largest part of a group that is taken where a target is out of reach."""
ROUNDS_BELOW = 0.1
"""Where less than this part of the cost is left, rounds are advised."""
PER_ROUND = 0.45
"""The part of the cost that a round of pruning and training leaves, at least."""


# ---------------------------------------------------------------- what trials showed


def _from_trials(facts: ModelFacts, name: str) -> Recommendation | None:
    """The best answer of those that were tried, and what the others came to; None: nothing was tried."""
    dense = facts.data.dense
    chosen = None if dense is None else best_trial(facts.trials, name, dense)
    tried = [t for t in facts.trials if t.topic == name and t.loss is not None]
    if chosen is None or len(tried) < 2:
        return None
    others = tuple(f"{t.choice}: {_loss(facts, t)}" for t in tried if t is not chosen)
    reason = f"tried here at this cost, repaired: {_loss(facts, chosen)}, {_against(facts, chosen, tried)}"
    return Recommendation(chosen.choice, reason, chosen.arguments, others)


def _loss(facts: ModelFacts, trial: Trial) -> str:
    names = {"evaluate": "loss", "loss": "loss on held-out batches", "output": "relative error of the outputs"}
    return f"{names[facts.data.judged]} {trial.loss:.4g}"


def _against(facts: ModelFacts, chosen: Trial, tried: Sequence[Trial]) -> str:
    rest = [t for t in tried if t is not chosen]
    first = tried[0]
    best = min(rest, key=lambda t: t.loss or 0.0)
    dense = "" if facts.data.judged == "output" else f" (dense {facts.data.dense:.4g})"
    if chosen is first:
        return f"which no other clearly beats: {best.choice} {best.loss:.4g}{dense}"
    return f"where {first.choice} has {first.loss:.4g}{dense}"


# ---------------------------------------------------------------- is there anything to do


def target_rule(facts: ModelFacts, target: AdviceTarget) -> Recommendation:
    """Can the target be reached, and is it reached already?"""
    cost = f"the model has {facts.macs / 1e6:,.4g} M MACs, {facts.params / 1e6:,.4g} M parameters"
    if not facts.groups:
        return Recommendation("out of reach", f"nothing can be removed; {cost}")
    if facts.refused:
        return Recommendation("no plan", facts.refused)
    if facts.least:
        nearest = ", ".join(f"{kind}={share:.4g}" for kind, share in facts.reachable.items())
        reason = f"{facts.least}; what follows is for {nearest}, which can be reached with max_ratio={UTMOST}"
        others = ("a smaller architecture, which pruning of this one cannot become",)
        return Recommendation("out of reach", reason, {**facts.reachable, "max_ratio": UTMOST}, others)
    if facts.met:
        return Recommendation("met already", f"{target.text} is no less than it costs now; {cost}")
    return Recommendation(target.text, f"within reach; {cost}", dict(target.budgets))


def _masks(target: AdviceTarget) -> str:
    """What zeros that stay in place are good for."""
    if target.runtime is not None and target.runtime.name == "cuda":
        return "sparsify(model, '2:4'), for devices with sparse tensor cores: not measured here"
    return "sparsify(model, 0.9), single weights: save_sparse writes a smaller file, and nothing becomes faster"


def structure_rule(facts: ModelFacts, target: AdviceTarget) -> Recommendation:
    """Whole channels, single weights, or nothing?"""
    masks = _masks(target)
    if not facts.groups:
        why = "; ".join(f"{f.reason} ({f.example})" for f in facts.frozen[:2]) or "the model has no parameters"
        return Recommendation("nothing", f"no channel can go: {why}", {}, (masks, "quantization of the model as it is"))
    macs, params = facts.prunable
    reach = f"{macs:.0%} of the MACs and {params:.0%} of the parameters depend on channels that can go"
    if facts.frozen:
        reach += f"; most of the rest: {facts.frozen[0].reason} ({facts.frozen[0].example})"
    if facts.zero_channels is not None and facts.zero_channels > MANY_ZEROS:
        reason = f"{facts.zero_channels:.0%} of all channels are zero: compact removes them with equal outputs; {reach}"
        return Recommendation("compact first, then whole channels", reason, {}, (masks,))
    if facts.zero_weights is not None and facts.zero_weights > 4 * MANY_ZEROS:
        zeros = f"{facts.zero_weights:.0%} of the weights are zero but no channel is, which makes nothing faster; "
        return Recommendation("whole channels", zeros + reach, {}, (masks,))
    again = "it was pruned by graphprune before, and can be again; " if facts.pruned else ""
    return Recommendation("whole channels", again + reach, {}, (masks,))


# ---------------------------------------------------------------- where


def allocation_rule(facts: ModelFacts, target: AdviceTarget) -> Recommendation:
    """The same fraction of every group, or what matters least for what it costs?"""
    tried = _from_trials(facts, "allocation")
    if tried is not None:
        return tried
    if facts.on_meta:
        reason = "there are no weights to rank, so every group loses the same fraction"
        return Recommendation("uniform", reason, {"allocation": "uniform"}, ("global, once there are weights",))
    reason = (
        "importance lost for what it saves; on digits and text networks it was ahead of uniform in 9 of 10 "
        "comparisons, of isomorphic in 6"
    )
    return Recommendation(
        "global",
        reason,
        {"allocation": "global"},
        ("uniform: widths that are easy to say", "graph.sensitivity(evaluate): a loss measured for each group"),
    )


def depth_rule(facts: ModelFacts, target: AdviceTarget) -> Recommendation:
    """Narrower layers, or fewer?"""
    if not facts.blocks:
        return Recommendation("width", "there is no residual block that can be left out whole")
    half = facts.timing.half if facts.timing is not None else None
    here = target.timed and (target.runtime is None or target.runtime.here)
    if here and half is not None and half > STAYS_SLOW and facts.share is not None:
        blocks = _blocks_for(facts)
        reason = (
            f"with half of all channels the kernels still take {half:.0%} of their time on {_device(facts)}, while a "
            f"block that is left out takes none; {blocks} of {len(facts.blocks)} go"
        )
        asked = {"depth": depth_of(blocks, len(facts.blocks))}
        return Recommendation("depth, then width", reason, asked, ("width alone, at the same latency",))
    tried = _from_trials(facts, "depth or width")
    if tried is not None:
        return tried
    faster = "" if half is None else f"half of all channels leave {half:.0%} of the time of the kernels; "
    reason = (
        f"{faster}{len(facts.blocks)} blocks could be left out, but at the same MACs that was no better for a small "
        "ResNet, and worse for a small ViT"
    )
    return Recommendation("width", reason, {}, (_least_block(facts),))


def _blocks_for(facts: ModelFacts) -> int:
    """As many blocks as save half of what is to be saved, at most half of them."""
    wanted = (1 - (facts.share or 1.0)) / 2
    each = sum(block.macs for block in facts.blocks) / len(facts.blocks)
    return max(1, min(len(facts.blocks) // 2, math.floor(wanted / max(each, 1e-9))))


def _least_block(facts: ModelFacts) -> str:
    known = [block for block in facts.blocks if block.influence is not None]
    if not known:
        return "depth=: at a latency where width stays slow"
    least = min(known, key=lambda block: block.influence or 0.0)
    return f"depth=: {least.path} changes least what goes through it ({least.influence:.2g}; MACs {least.macs:.0%})"


def _device(facts: ModelFacts) -> str:
    return facts.timing.device if facts.timing is not None else facts.device


def ends_rule(facts: ModelFacts, target: AdviceTarget) -> Recommendation:
    """First and last layers gentler?"""
    tried = _from_trials(facts, "ends")
    if tried is not None:
        return tried
    first, last = facts.ends
    share = f"the first product has {first:.0%} of the MACs, the last {last:.0%}"
    known = [g.rise for g in facts.groups if g.rise is not None]
    if len(known) == len(facts.groups) >= 3:
        ends, others = max(known[0], known[-1]), sorted(known[1:-1])[(len(known) - 2) // 2]
        suffer = f"with half of them gone the loss rises by {ends:.3g} at an end, by {others:.3g} in the middle"
        if ends > SENSITIVE * max(others, 0.0):
            return Recommendation("gentler", f"{suffer}; {share}", {"protect_ends": True})
        return Recommendation("as the others", f"{suffer}; {share}")
    if facts.on_meta:
        return Recommendation("gentler", f"{share}; nothing else is known of them", {"protect_ends": True})
    reason = f"{share}; the importance of their channels is weighed against that"
    return Recommendation("as the others", reason, {}, ("protect_ends=True: with a ratio, or allocation='uniform'",))


# ---------------------------------------------------------------- which channels


def criterion_rule(facts: ModelFacts, target: AdviceTarget) -> Recommendation:
    """Which channels go?"""
    tried = _from_trials(facts, "criterion")
    if tried is not None:
        return tried
    if facts.on_meta:
        reason = "the weights are on meta: sizes can be planned, but not which channels; load them and ask again"
        return Recommendation("random", reason, {"importance": "random"})
    if facts.data.batches and facts.tokens:
        reason = (
            "inputs are whole numbers and there are data: the byte-level GPT at half of its MACs reads 2.290 bits per "
            "byte by wanda after repair, 2.359 by l2, 2.391 by schur (dense 2.143)"
        )
        return Recommendation("wanda", reason, {"importance": "wanda"}, ("l2", "schur: for encoders of sentences"))
    if facts.data.batches:
        reason = (
            "there are data: at a quarter of the MACs the digits ViT reads 90.4 % by schur after repair, 86.5 % by l2; "
            "convolutional networks differ by 0.6 % or less"
        )
        return Recommendation("schur", reason, {"importance": "schur"}, ("l2: faster to compute", "wanda"))
    reason = "without data nothing reads better from weights; l1, lamp, fpgm and bn_scale read the same weights"
    return Recommendation("l2", reason, {"importance": "l2"}, ("schur or wanda, with 128 samples without labels",))


def rounding_rule(facts: ModelFacts, target: AdviceTarget) -> Recommendation:
    """Which numbers of channels?"""
    if not target.timed:
        return Recommendation("any number", "the target is no time: bytes and MACs fall with every channel")
    if target.runtime is not None and "serve" in target.runtime.arguments:
        reason = f"serve={target.runtime.name!r} rounds widths by itself: to 32, or to what the format can say"
        return Recommendation("as the server asks", reason)
    if "latency" in target.budgets:
        reason = f"under a latency budget a plan keeps these by itself, and any numbers where {ALIGNMENT} is too coarse"
        return Recommendation(f"multiples of {ALIGNMENT}", reason)
    wanted, reason = _wanted_multiple(facts, target)
    largest = _largest_multiple(facts)
    if wanted > largest:
        reason += f"; but the narrowest groups that matter have {4 * largest} channels or so, which leaves {largest}"
    number = min(wanted, largest)
    if number <= 1:
        return Recommendation("any number", reason)
    return Recommendation(
        f"multiples of {number}", reason, _multiple(facts, number), ("multiple=1: more exact budgets",)
    )


def _wanted_multiple(facts: ModelFacts, target: AdviceTarget) -> tuple[int, str]:
    """The multiple that makes kernels fast, and why."""
    measured = facts.timing.rounding if facts.timing is not None else {}
    runtime = target.runtime
    if measured and (runtime is None or runtime.here):
        number = fast_multiple(measured)
        times = ", ".join(f"{n}: {time:.2f}" for n, time in sorted(measured.items()))
        return number, f"time for a multiply-add on {_device(facts)} by multiple, the slowest 1: {times}"
    if runtime is not None and runtime.multiple > 1:
        return runtime.multiple, f"{runtime.name} was not measured; its kernels are written for such multiples"
    where = runtime.name if runtime is not None else _device(facts)
    return 1, f"nothing was measured on {where}"


def fast_multiple(times: Mapping[int, float]) -> int:
    """The smallest multiple that is nearly as fast as the fastest one.

    >>> fast_multiple({1: 1.0, 8: 0.72, 16: 0.70, 32: 0.71})
    8
    """
    fastest = min(times.values())
    return min(n for n, time in times.items() if time <= fastest * FAST_ENOUGH)


def _largest_multiple(facts: ModelFacts) -> int:
    """The largest power of two that leaves every group with a tenth of the MACs four stops."""
    heavy = [g.units for g in facts.groups if g.role in CHANNELS and g.macs >= 0.1]
    return 1 << max(int(math.log2(max(min(heavy, default=4) // 4, 1))), 0)


def _multiple(facts: ModelFacts, number: int) -> dict[str, Any]:
    """The arguments for multiples of channels, which heads and experts are not."""
    if all(group.role in CHANNELS for group in facts.groups):
        return {"multiple": number}
    return {"overrides": {of_channels: Override(multiple=number)}}


def of_channels(group: Group) -> bool:
    """Are the units of a group single channels?"""
    return group.role in CHANNELS


# ---------------------------------------------------------------- when, and what then


def schedule_rule(facts: ModelFacts, target: AdviceTarget) -> Recommendation:
    """At once, in rounds, or during training?"""
    share = facts.share if facts.share is not None else 0.5
    gradual = "GradualPruner in a training loop of your own: widths shrink while it trains"
    if not facts.can_train:
        reason = "nothing trains in between, so rounds would only rank what repair has changed"
        return Recommendation("one-shot", reason, {}, ("rounds with prune_iteratively, with labels and time to train",))
    if share >= ROUNDS_BELOW:
        reason = (
            f"{share:.0%} of the cost is left, and repair comes first: with equally many steps of training in all, "
            "rounds were worse for a small ResNet and ViT even at a tenth, and hardly better for a small CNN"
        )
        return Recommendation("one-shot", reason, {}, (gradual, "rounds, if each may train as long as one-shot would"))
    rounds = rounds_for(share)
    each = share ** (1 / rounds)
    reason = (
        f"{share:.0%} of the cost is left: each round leaves {each:.0%} and needs a training of its own, as the five "
        "of ResNet-18 on digits to 50 times fewer parameters (99.6 % of images, dense 99.8 %)"
    )
    return Recommendation(f"{rounds} rounds", reason, {}, ("one-shot: if training is short", gradual))


def rounds_for(share: float) -> int:
    """In how many rounds to prune to a fraction of the cost.

    >>> [rounds_for(share) for share in (0.5, 0.25, 0.1, 0.02)]
    [1, 2, 3, 5]
    """
    return max(1, math.ceil(math.log(max(share, 1e-4)) / math.log(PER_ROUND) - 1e-9))


def recovery_rule(facts: ModelFacts, target: AdviceTarget) -> Recommendation:
    """What makes up for what was removed?"""
    norms = f"{facts.batch_norms} normalizations have running statistics" if facts.batch_norms else ""
    if facts.on_meta:
        return Recommendation("nothing yet", "there are no weights")
    if facts.data.batches and facts.can_train:
        reason = f"{facts.data.samples} samples repair it in closed form before it trains" + (
            f"; {norms}" if norms else ""
        )
        return Recommendation("repair, then train with the dense model as teacher", reason)
    if facts.data.batches:
        few = "; 128 or more go further" if facts.data.samples < 128 else ""
        reason = f"{facts.data.samples} samples are there{few}" + (f"; {norms} and are re-estimated" if norms else "")
        return Recommendation("repair", reason, {}, ("finetune with the dense model as teacher, without labels too",))
    if facts.batch_norms:
        reason = (
            f"there are no data, but {norms}, from which inputs can be made: the digits ResNet-20 at half of its MACs "
            "reads 98.7 % so, 25.8 % folded, 16.2 % as cut (dense 99.1 %)"
        )
        return Recommendation(
            "repair with synthesized inputs", reason, {}, ("128 real samples without labels: better",)
        )
    reason = (
        "there are neither data nor running statistics to make some from: 128 samples without labels would close 88 % "
        "of the gap of the byte-level GPT; folding closes none of it"
    )
    return Recommendation("get samples", reason, {}, ("train afterwards",))


_PYTHON = "export_source or export_loader, for Python"


def runtime_rule(facts: ModelFacts, target: AdviceTarget) -> Recommendation:
    """What its files must be."""
    runtime = target.runtime
    if runtime is None:
        return Recommendation("torch", "nothing else was named; the slim model is a module of the same class")
    if facts.unserved:
        return Recommendation(f"not {runtime.name}", facts.unserved, {}, (_PYTHON,))
    if runtime.arguments and not facts.configured:
        reason = f"{runtime.reason}; but no configuration builds a {facts.model}, so its folder cannot say what it is"
        return Recommendation(f"not {runtime.name}", reason, {}, (_PYTHON,))
    return Recommendation(runtime.name, runtime.reason, dict(runtime.arguments))


TOPICS: Mapping[str, TopicRule] = {
    "target": target_rule,
    "structure": structure_rule,
    "allocation": allocation_rule,
    "depth or width": depth_rule,
    "ends": ends_rule,
    "criterion": criterion_rule,
    "rounding": rounding_rule,
    "schedule": schedule_rule,
    "recovery": recovery_rule,
    "runtime": runtime_rule,
}
"""The rules by topic, in the order in which they are printed."""


def recommend(facts: ModelFacts, target: AdviceTarget) -> tuple[Recommendation, ...]:
    """What every rule says; where nothing is to be pruned, only the first ones, which say so."""
    asked = TOPICS if facts.prunes else list(TOPICS)[:2]
    return tuple(replace(TOPICS[name](facts, target), topic=name) for name in asked)
