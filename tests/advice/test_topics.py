"""The rules, on facts that are given by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from graphprune.advice.facts import BlockFacts, DataFacts, FrozenFacts, GroupFacts, ModelFacts, Timing, Trial
from graphprune.advice.recommendations import Recommendation
from graphprune.advice.targets import parse_target
from graphprune.advice.topics import TOPICS, fast_multiple, of_channels, recommend, rounds_for
from graphprune.planning.limits import Override

GROUPS = tuple(GroupFacts(f"layer{i}", "mlp", 64, 0.3, 0.3) for i in range(4))
FACTS = ModelFacts("Net", 1000, 500, 2000, groups=GROUPS, share=0.5)
DATA = DataFacts(4, 256, False, "output", 1, 0.0)


def said(name: str, facts: ModelFacts, target: Any = None) -> Recommendation:
    return TOPICS[name](facts, parse_target(target))


def trials(topic: str, **losses: float) -> tuple[Trial, ...]:
    return tuple(Trial(topic, name, {"importance": name}, loss) for name, loss in losses.items())


def test_every_topic_has_an_answer_with_a_reason() -> None:
    found = recommend(FACTS, parse_target(None))
    assert [r.topic for r in found] == list(TOPICS)
    assert all(r.choice and r.reason for r in found)


def test_nothing_can_go() -> None:
    facts = replace(FACTS, groups=(), frozen=(FrozenFacts("output of the model", 1, "fc.weight[0]"),))
    assert said("target", facts).choice == "out of reach"
    structure = said("structure", facts)
    assert structure.choice == "nothing"
    assert "output of the model (fc.weight[0])" in structure.reason


def test_zero_channels_are_compacted_first() -> None:
    assert said("structure", FACTS).choice == "whole channels"
    assert said("structure", replace(FACTS, zero_channels=0.3)).choice.startswith("compact first")
    scattered = said("structure", replace(FACTS, zero_weights=0.9))
    assert scattered.choice == "whole channels"
    assert "90% of the weights are zero" in scattered.reason


def test_a_target_that_is_met_or_out_of_reach() -> None:
    assert said("target", replace(FACTS, met=True)).choice == "met already"
    far = said("target", replace(FACTS, least="macs: 0.001 is out of reach; ..."))
    assert far.choice == "out of reach"
    assert "0.001" in far.reason


def test_trials_decide_the_criterion_where_there_are_any() -> None:
    facts = replace(FACTS, data=DATA, trials=trials("criterion", schur=0.4, l2=0.2))
    chosen = said("criterion", facts)
    assert (chosen.choice, chosen.arguments) == ("l2", {"importance": "l2"})
    assert "0.2" in chosen.reason
    assert "0.4" in chosen.reason


def test_a_difference_that_is_no_difference_changes_nothing() -> None:
    facts = replace(FACTS, data=DATA, trials=trials("criterion", schur=0.2, l2=0.199))
    assert said("criterion", facts).choice == "schur"


def test_the_criterion_without_trials() -> None:
    assert said("criterion", FACTS).choice == "l2"
    assert said("criterion", replace(FACTS, data=DATA)).choice == "schur"
    assert said("criterion", replace(FACTS, data=DATA, tokens=True)).choice == "wanda"
    assert said("criterion", replace(FACTS, on_meta=True)).arguments == {"importance": "random"}


def test_the_allocation_without_trials() -> None:
    assert said("allocation", FACTS).arguments == {"allocation": "global"}
    assert said("allocation", replace(FACTS, on_meta=True)).choice == "uniform"


BLOCKS = tuple(BlockFacts(f"blocks.{i}", 0.1) for i in range(8))


@pytest.mark.parametrize(
    ("half", "target", "choice"),
    [
        (0.9, "cpu, latency=0.5", "depth, then width"),
        (0.3, "cpu, latency=0.5", "width"),
        (0.9, {"params": 0.5}, "width"),
        (None, "cpu, latency=0.5", "width"),
    ],
)
def test_depth_where_width_stays_slow(half: float | None, target: Any, choice: str) -> None:
    facts = replace(FACTS, blocks=BLOCKS, timing=Timing("cpu", 0.01, 0.01, half))
    assert said("depth or width", facts, target).choice == choice


def test_width_where_there_are_no_blocks() -> None:
    facts = replace(FACTS, timing=Timing("cpu", 0.01, 0.01, 0.9))
    assert said("depth or width", facts, "latency=0.5").arguments == {}


def test_the_depth_that_is_advised_leaves_blocks_out_for_half_of_what_goes() -> None:
    facts = replace(FACTS, blocks=BLOCKS, timing=Timing("cpu", 0.01, 0.01, 0.9))
    assert said("depth or width", facts, "latency=0.5").arguments == {"depth": 0.25}


def test_sensitive_ends_are_protected() -> None:
    rises = (0.9, 0.1, 0.1, 0.1)
    groups = tuple(replace(g, rise=rise) for g, rise in zip(GROUPS, rises, strict=True))
    assert said("ends", replace(FACTS, groups=groups)).arguments == {"protect_ends": True}
    even = tuple(replace(g, rise=0.1) for g in GROUPS)
    assert said("ends", replace(FACTS, groups=even)).arguments == {}
    assert said("ends", FACTS).arguments == {}


def test_rounding_follows_what_was_measured_here() -> None:
    facts = replace(FACTS, timing=Timing("cpu", 0.01, 0.01, 0.3, {1: 1.0, 8: 0.7, 16: 0.69}))
    assert said("rounding", facts, "cpu, macs=0.5").arguments == {"multiple": 8}
    assert said("rounding", facts, "size on disk").arguments == {}
    assert said("rounding", facts, "latency=0.5").arguments == {}
    assert said("rounding", facts, "tensorrt").choice == "multiples of 16"


def test_rounding_leaves_narrow_groups_some_choice() -> None:
    narrow = tuple(replace(g, units=16) for g in GROUPS)
    facts = replace(FACTS, groups=narrow, timing=Timing("cpu", 0.01, 0.01, 0.3, {1: 1.0, 16: 0.5}))
    assert said("rounding", facts, "cpu").arguments == {"multiple": 4}


def test_heads_are_not_rounded() -> None:
    groups = (*GROUPS, GroupFacts("attn", "heads", 8, 0.2, 0.2))
    found = said("rounding", replace(FACTS, groups=groups), "tensorrt").arguments
    assert found == {"overrides": {of_channels: Override(multiple=16)}}


def test_the_fastest_multiple_is_the_smallest_that_is_nearly_as_fast() -> None:
    assert fast_multiple({1: 1.0, 4: 0.98, 8: 0.99}) == 1
    assert fast_multiple({1: 1.0, 4: 0.8, 8: 0.7, 16: 0.69}) == 8


@pytest.mark.parametrize(
    ("share", "train", "choice"),
    [(0.5, True, "one-shot"), (0.1, True, "one-shot"), (0.05, True, "4 rounds"), (0.05, False, "one-shot")],
)
def test_rounds_where_much_goes_and_something_trains(share: float, train: bool, choice: str) -> None:
    assert said("schedule", replace(FACTS, share=share, can_train=train)).choice == choice


def test_a_target_of_nothing_is_no_endless_schedule() -> None:
    assert rounds_for(1.0) == 1
    assert rounds_for(1e-12) < 20


@pytest.mark.parametrize(
    ("changes", "choice"),
    [
        ({"data": DATA}, "repair"),
        ({"data": DATA, "can_train": True}, "repair, then train with the dense model as teacher"),
        ({"batch_norms": 3}, "repair with synthesized inputs"),
        ({}, "get samples"),
        ({"on_meta": True}, "nothing yet"),
    ],
)
def test_what_makes_up_for_it(changes: dict[str, Any], choice: str) -> None:
    assert said("recovery", replace(FACTS, **changes)).choice == choice


def test_a_runtime_that_needs_a_configuration() -> None:
    assert said("runtime", replace(FACTS, configured=True), "vllm").arguments == {"serve": "vllm"}
    assert said("runtime", FACTS, "vllm").choice == "not vllm"
    assert said("runtime", FACTS, "tensorrt").choice == "tensorrt"
    assert said("runtime", FACTS).choice == "torch"
