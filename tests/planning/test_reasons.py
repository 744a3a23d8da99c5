"""A plan says why each group keeps what it keeps."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.errors import PlanError

X = torch.randn(2, 6)


class Applied(nn.Module):
    """Three layers, and a function after the first."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = nn.Linear(6, 16), nn.Linear(16, 8), nn.Linear(8, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.middle(self.function(self.enter(x))).relu())
        return found


def divided(y: Tensor) -> Tensor:
    return y / math.sqrt(2 * y.shape[1])


def doubled_if_wide(y: Tensor) -> Tensor:
    return y * 2 if y.shape[1] >= 12 else y


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (divided, r"the size \(2 \* \S+\.shape\[1\]\) is used as a number, at .*test_reasons\.py:\d+"),
        (doubled_if_wide, r"\S+\.shape\[1\] >= 12 in the code would be False"),
    ],
)
def test_what_a_size_decides(function: Callable[[Tensor], Tensor], why: str) -> None:
    plan = graphprune.trace(Applied(function).eval(), X).plan(0.5)
    assert [choice.kept for choice in plan.choices] == [16, 4]
    assert re.match(why, plan.choices[0].why)


@pytest.mark.parametrize(
    ("asked", "kept", "why"),
    [
        ({"ratio": 0.4, "multiple": 4}, [12, 4], ["; what is left is a multiple of 4"] * 2),
        ({"ratio": 0.5, "multiple": 4}, [8, 4], ["; at its floor", ""]),
        ({"ratio": 0.9, "multiple": 4}, [8, 4], ["; at its floor", "; what is left is a multiple of 4"]),
        ({"ratio": 0.1, "multiple": 8}, [16, 8], ["; what is left is a multiple of 8, or everything"] * 2),
        ({"ratio": 0.0, "multiple": 8}, [16, 8], [""] * 2),
    ],
)
@pytest.mark.filterwarnings("ignore::graphprune.NothingRemovedWarning")
def test_multiples_that_decide_are_said(asked: dict[str, Any], kept: list[int], why: list[str]) -> None:
    overrides = {"enter": graphprune.Override(min_units=8)}
    plan = graphprune.trace(Applied(torch.relu).eval(), X).plan(**asked, overrides=overrides)
    assert [choice.kept for choice in plan.choices] == kept
    ratio = f"ratio {asked['ratio']:g}"
    assert [choice.why for choice in plan.choices] == [f"{ratio} ('enter'){why[0]}", f"{ratio}{why[1]}"]


def test_groups_of_which_no_channel_was_chosen() -> None:
    plan = graphprune.trace(Applied(torch.relu).eval(), X).plan_from_kept({"enter": [0, 2, 5]})
    assert [choice.why for choice in plan.choices] == ["the numbers given", "nothing of it goes by the numbers given"]


class Attending(nn.Module):
    """Attention whose result is as wide as what it reads, in code that says so."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.enter, self.mix, self.out = nn.Linear(6, 16), nn.Linear(16, 32), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        batch, count, width = x.shape
        q, v = self.mix(x).view(batch, count, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(((q @ q.mT).softmax(-1) @ v).transpose(1, 2).reshape(batch, count, width))
        found: Tensor = self.down(self.up(x).relu())
        return found


@pytest.mark.filterwarnings("ignore::graphprune.errors.NothingRemovedWarning")
@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (
            {"ratio": 0.02},
            {"enter": "ratio 0.02 is less than one unit", "mix:heads": "ratio 0.02 is less than one unit"},
        ),
        ({"mlp": 0.5}, {"enter": "nothing is asked of it", "mix:heads": "nothing is asked of it"}),
        (
            {"ratio": 0.5, "overrides": {"*:heads": graphprune.Override(frozen=True)}},
            {"mix:heads": "frozen ('*:heads')"},
        ),
    ],
    ids=["small", "other role", "frozen"],
)
def test_heads_and_the_width_that_is_tied_to_them(asked: dict[str, Any], why: dict[str, str]) -> None:
    plan = graphprune.trace(Attending().eval(), torch.randn(2, 5, 6)).plan(**asked)
    found = {choice.group: choice.why for choice in plan.choices}
    assert why.items() <= found.items()


class Stacked(nn.Module):
    """Attention after attention, all as wide as the stream, in code that says so."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.heads, self.enter, self.leave = 4, nn.Linear(6, 16), nn.Linear(16, 3)
        self.mix = nn.ModuleList(nn.Linear(16, 32) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(16, 16) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        batch, count, width = x.shape
        for mix, out in zip(self.mix, self.out, strict=True):
            q, v = mix(x).view(batch, count, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            x = x + out(((q @ q.mT).softmax(-1) @ v).transpose(1, 2).reshape(batch, count, width))
        found: Tensor = self.leave(x)
        return found


Given = graphprune.Override


@pytest.mark.filterwarnings("ignore::graphprune.errors.NothingRemovedWarning")
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(
    ("asked", "kept", "width", "heads"),
    [
        ({"heads": 0.5, "width": 0.0}, 4, "ratio 0 (width=)", "ratio 0.5 (heads=), lowered to 0 by enter (width=)"),
        ({"heads": 0.25, "width": 0.5}, 3, "ratio 0.5 (width=), lowered to 0.25 by ", "ratio 0.25 (heads=)"),
        ({"heads": 0.5, "width": 0.25}, 3, "ratio 0.25 (width=)", "ratio 0.5 (heads=), lowered to 0.25 by enter"),
        ({"heads": 0.5}, 2, "ratio 0.5 (heads=)", "ratio 0.5 (heads=)"),
        ({"ratio": 0.5, "overrides": {"enter": Given(ratio=0.0)}}, 4, "ratio 0 ('enter')", "ratio 0 ('enter')"),
    ],
    ids=["none", "fewer heads", "narrower", "follows", "override"],
)
def test_of_ratios_of_groups_in_step_the_least_decides_however_many_there_are(
    layers: int, asked: dict[str, Any], kept: int, width: str, heads: str
) -> None:
    plan = graphprune.trace(Stacked(layers).eval(), torch.randn(2, 5, 6)).plan(**asked)
    found = [(choice.kept, choice.units) for choice in plan.choices if choice.role in ("width", "heads")]
    assert found == [(4 * kept, 16)] + layers * [(kept, 4)]
    assert all(choice.why.startswith({"width": width, "heads": heads}.get(choice.role, "")) for choice in plan.choices)


@pytest.mark.parametrize(
    ("override", "why"),
    [
        (Given(frozen=True), "enter is frozen ('enter')"),
        (Given(max_ratio=0.1), "enter keeps at least 15 of its 16 units ('enter')"),
    ],
    ids=["frozen", "floor"],
)
def test_heads_that_stay_since_the_width_may_not_lose_what_goes_with_one(override: Given, why: str) -> None:
    graph = graphprune.trace(Stacked(2).eval(), torch.randn(2, 5, 6))
    with pytest.warns(graphprune.errors.NothingRemovedWarning, match="heads=0.5: nothing is removed"):
        plan = graph.plan(heads=0.5, overrides={"enter": override})
    told = {choice.why for choice in plan.choices if choice.role == "heads"}
    assert told == {f"ratio 0.5 (heads=), in step with 2 other groups; {why}"}


def test_a_ratio_of_nothing_is_told() -> None:
    plan = graphprune.trace(Applied(torch.relu).eval(), X).plan(0.5, overrides={"enter": Given(ratio=0.0)})
    assert [choice.why for choice in plan.choices] == ["ratio 0 ('enter')", "ratio 0.5"]


class Slopes(nn.Module):
    """ALiBi as Bloom has it: slopes of the heads, made of numbers, are repeated for every sample of the batch."""

    def __init__(self, made: bool) -> None:
        super().__init__()
        self.heads, self.enter, self.mix, self.leave = 4, nn.Linear(6, 16), nn.Linear(16, 32), nn.Linear(16, 3)
        self.made = made
        if not made:
            self.register_buffer("slopes", 0.5 ** torch.arange(1.0, 5.0))

    def forward(self, x: Tensor) -> Tensor:
        batch, count, _ = x.shape
        q, v = self.mix(self.enter(x)).view(batch, count, 2, self.heads, -1).permute(2, 0, 3, 1, 4).flatten(1, 2)
        slopes = 0.5 ** torch.arange(1, self.heads + 1) if self.made else self.slopes
        alibi = (slopes[:, None, None] * torch.arange(count)).repeat(batch, 1, 1)
        y = (alibi.baddbmm(q, q.mT).softmax(-1) @ v).unflatten(0, (batch, self.heads))
        found: Tensor = self.leave(y.transpose(1, 2).flatten(2))
        return found


def test_heads_that_go_together_since_they_meet_a_constant() -> None:
    graph = graphprune.trace(Slopes(made=True).eval(), torch.randn(2, 5, 6))
    with pytest.warns(graphprune.errors.NothingRemovedWarning, match="mix:heads keeps its only unit: one must stay:"):
        plan = graph.plan(heads=0.5)
    (why,) = (choice.why for choice in plan.choices if choice.role == "heads")
    met = r"all 4 go together, since they meet a constant that the program makes \(arange, .*test_reasons\.py:\d+\); "
    assert re.match(
        f"one must stay: {met}made once and registered as a buffer, it would follow, at .*alibi.baddbmm", why
    )
    assert re.search(f"The heads around the channels of mix:head_width stay: {met}", str(graph.why_frozen("mix")))
    assert re.search(f"Plans leave them: one must stay: {met}", str(graph.explain("mix:heads")))


def test_heads_follow_where_what_they_meet_is_a_buffer() -> None:
    model, x = Slopes(made=False).eval(), torch.randn(2, 5, 6)
    plan = graphprune.trace(model, x).plan(heads=0.5)
    assert [(choice.kept, choice.why) for choice in plan.choices if choice.role == "heads"] == [
        (2, "ratio 0.5 (heads=)")
    ]
    assert graphprune.verify(model, plan.apply(model), plan, x).passed


class Routed(nn.Module):
    """Rows go to the expert that has their number; the example leaves some without any."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.gate = nn.Linear(6, 16), nn.Linear(16, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 16)) for _ in range(4))
        self.leave = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        chosen, out = self.gate(h).argmax(-1), torch.zeros_like(h)
        for number, expert in enumerate(self.experts):
            rows = chosen == number
            if rows.any():
                out[rows] = expert(h[rows])
        found: Tensor = self.leave(h + out)
        return found


@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
def test_a_slim_model_that_fails_is_told_in_one_line_with_what_no_example_runs() -> None:
    torch.manual_seed(2)  # the slim model sends a row to an expert that had none
    plan = graphprune.trace(Routed(), torch.randn(6, 6)).plan(0.5)
    why = plan.choices[0].why
    assert why.startswith("the program would be another one: the slim model fails: RuntimeError: mat1 and mat2")
    assert "out[rows] = expert(h[rows])" in why
    assert why.endswith("; no example runs experts.0.0.weight, experts.0.0.bias and 6 more: give examples that do")
    assert "\n" not in why


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        for _ in range(2):
            y = y.view(len(y), 2, -1).transpose(1, 2).flatten(1)
        found: Tensor = self.leave(torch.cat(y.chunk(2, 1)[::-1], 1))
        return found


@pytest.mark.filterwarnings("ignore::graphprune.NothingRemovedWarning")
def test_a_step_that_is_more_than_what_is_asked_is_told() -> None:
    plan = graphprune.trace(Shuffled(), torch.randn(2, 5)).plan(0.5)
    (choice,) = plan.choices
    assert choice.kept == choice.units
    assert "the least that can go at once is more than that" in choice.why


@pytest.mark.filterwarnings("ignore::graphprune.NothingRemovedWarning")
def test_a_size_that_became_a_tensor_is_told_with_its_line() -> None:
    def mean(y: Tensor) -> Tensor:
        count = torch.IntTensor([y.shape[1]])
        return y / count

    choice = graphprune.trace(Applied(mean), X).plan(0.5).choices[0]
    assert "the values of a constant change; if sizes were put into it (torch.tensor([n])), use them as" in choice.why
    assert "return y / count" in choice.why


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*is deprecated")
def test_what_weight_normalization_works_out_is_not_told_to_be_unused() -> None:
    layers = nn.Linear(4, 8), nn.ReLU(), torch.nn.utils.weight_norm(nn.Linear(8, 2))
    graph = graphprune.trace(nn.Sequential(*layers), torch.randn(2, 4))
    assert not graph.trace.unreached
    assert not [frozen for frozen in graph.frozen if "not used" in frozen.reason]


def test_a_parameter_that_nothing_reads_is_told_whatever_others_are_called() -> None:
    model = Applied(torch.relu)
    model.scale, model.scale_v = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    assert set(graphprune.trace(model, X).trace.unreached) == {"scale", "scale_v"}


@pytest.mark.filterwarnings("ignore")
def test_what_was_quantized_or_prepared_for_it_is_named() -> None:
    from torch.ao.quantization import get_default_qconfig, prepare, quantize_dynamic

    layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    dynamic = quantize_dynamic(nn.Sequential(nn.LayerNorm(8), layers), {nn.Linear})
    layers.qconfig = get_default_qconfig("x86")
    for model, found in (
        (dynamic, r"1\.0 is a torch\.ao\.nn\.quantized"),
        (prepare(layers), "is a torch.ao.quantization"),
    ):
        with pytest.raises(
            PlanError, match=rf"nothing that can be pruned[\s\S]*{found}[\s\S]*prune the model, then quantize"
        ):
            graphprune.trace(model, torch.randn(2, 8)).plan(0.5)


class GreatestHead(nn.Module):
    """Every head becomes the greatest of four."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).view(len(x), 4, -1)
        y: Tensor = self.leave(h.amax(1, keepdim=True).expand_as(h).flatten(1))
        return y


def test_heads_become_narrower_where_their_number_is_a_literal_and_repeats_go_by_it() -> None:
    plan = graphprune.trace(GreatestHead(), torch.randn(3, 8)).plan(0.5)
    found = {choice.group: (choice.kept, choice.why) for choice in plan.choices}
    assert found["enter:head_width"] == (3, "ratio 0.5")
    assert found["enter:heads"][1].startswith("the size 4 is a literal")
    kept, why = found["leave.weight[1]:heads"]
    assert kept == 4
    assert why.startswith("the code has one size for them and for channels that stay, at")
