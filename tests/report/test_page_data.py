"""What a page says of modules, groups and frozen axes."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from torch import Tensor, nn

import graphprune
from graphprune.errors import PlanError
from graphprune.report.measured import MeasuredResults
from graphprune.report.page_data import PageData, page_data
from graphprune.report.short_paths import without_folders
from models import resnet_cifar


class Backwards(nn.Module):
    """Modules run in another order than they are made in; one does not run, and one is not needed."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(8, 2), nn.Linear(3, 8)
        self.idle, self.empty = nn.Linear(4, 4), nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


@pytest.fixture(scope="module")
def graph() -> graphprune.ChannelGraph:
    return graphprune.trace(resnet_cifar.ResNet(3).eval(), torch.randn(1, 3, 32, 32))


@pytest.fixture(scope="module")
def data(graph: graphprune.ChannelGraph) -> PageData:
    return page_data(graph, None, MeasuredResults())


def test_modules_stand_in_the_order_in_which_they_run() -> None:
    graph = graphprune.trace(Backwards().eval(), torch.randn(1, 3))
    found = page_data(graph, None, MeasuredResults())
    assert [(m.parent, m.name, m.kind) for m in found.modules] == [
        (-1, "Backwards", "Backwards"),
        (0, "first", "Linear"),
        (0, "last", "Linear"),
        (0, "idle", "Linear"),
    ]
    assert "not used in the traced run" in {one.why for one in found.frozen}


def test_modules_of_equal_structure_are_told(data: PageData) -> None:
    alike = {
        m.name: m.alike for m in data.modules if m.kind == "BasicBlock" and data.modules[m.parent].name == "layer2"
    }
    assert alike["1"] == alike["2"] != alike["0"]


def test_tensors_have_the_sizes_of_their_dimensions(data: PageData) -> None:
    for tensor in data.tensors:
        sizes = [data.sizes[d] if d else size for d, size in zip(tensor.dims, tensor.shape, strict=True)]
        assert tuple(sizes) == tensor.shape


def test_groups_have_members_and_reasons(graph: graphprune.ChannelGraph, data: PageData) -> None:
    for group, shown in zip(graph.groups, data.groups, strict=True):
        assert (shown.name, shown.role, shown.units) == (group.name, group.role, group.units)
        assert len(shown.axes) == len(group.axes)
        assert sum(tie.pairs for tie in shown.ties) == len(group.couplings)
        assert all(tie.place.startswith("models/resnet_cifar.py:") for tie in shown.ties)


def test_what_is_frozen_by_share_of_parameters(graph: graphprune.ChannelGraph, data: PageData) -> None:
    total = graph.cost().params
    shares = {one.why: round(one.params * total) for one in data.frozen}
    assert shares["output of the model"] == pytest.approx(64 * 10 + 10, rel=1e-2)
    assert sum(len(one.axes) for one in data.frozen) == len(graph.frozen)
    assert data.free.whole + data.free.part + data.free.none == pytest.approx(1, abs=1e-4)
    assert data.free.part == pytest.approx((64 * 10 + 3 * 16 * 9 + 10) / total, rel=0.05)


class Keyed(nn.Module):
    """A parameter that is frozen along one axis."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.p = nn.ParameterDict({key: torch.randn(16, 8), "v": torch.randn(4, 16)})
        self.key = key

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = (x @ self.p[self.key].t()).relu()
        return hidden @ self.p["v"].t()


@pytest.mark.parametrize("key", ["w[0]", "[w", "w]["])
def test_brackets_in_names_change_no_share(key: str) -> None:
    plain, other = (
        page_data(graphprune.trace(Keyed(name).eval(), torch.randn(2, 8)), None, MeasuredResults()).free
        for name in ("w", key)
    )
    assert plain == other and plain.whole == 0


def test_a_plan_without_blocks(graph: graphprune.ChannelGraph) -> None:
    plan = graph.plan(0.5, depth=0.3)
    found = page_data(graph, plan, MeasuredResults()).plan
    assert found is not None
    assert found.skipped and found.costs == graph.cost(plan).counts
    assert found.kept == [choice.kept for choice in plan.choices]


def test_a_plan_that_merges_heads() -> None:
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).eval()
    graph = graphprune.trace(model, {"input_ids": torch.zeros(2, 6, dtype=torch.long, device="meta")})
    plan = graph.plan_merged_heads(2)
    data = page_data(graph, plan, MeasuredResults())
    assert data.plan is not None and data.plan.costs == graph.cost(plan).counts
    assert graph.cost(plan).macs < graph.cost().macs
    kept = [left for left, group in zip(data.plan.kept, data.groups, strict=True) if group.role == "heads"]
    assert kept == [2, 2]
    left = {data.tensors[number].shape: shape for number, shape in data.plan.merged.items()}
    assert left == {(16, 16): (8, 16)} and len(data.plan.merged) == 4


def test_a_plan_of_another_model_is_refused(graph: graphprune.ChannelGraph) -> None:
    other = graphprune.trace(Backwards().eval(), torch.randn(1, 3)).plan(0.5)
    with pytest.raises(PlanError, match="speaks of group 'first'"):
        page_data(graph, other, MeasuredResults())


def test_names_cannot_end_the_script() -> None:
    model = nn.Sequential()
    model.add_module("</script><script>alert(1)</script>", nn.Linear(3, 8))
    model.add_module("out", nn.Linear(8, 2))
    found = page_data(graphprune.trace(model.eval(), torch.randn(1, 3)), None, MeasuredResults())
    text = found.to_json()
    assert "<" not in text
    assert json.loads(text)["modules"][1][1] == "</script><script>alert(1)</script>"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("at /home/me/lib/torchvision/models/resnet.py:268: x = y / z", "at models/resnet.py:268: x = y / z"),
        (r"at C:\lib\models\resnet.py:3", r"at models\resnet.py:3"),
        ("at net.py:3: a/b/c", "at net.py:3: a/b/c"),
    ],
)
def test_folders_are_left_out(text: str, short: str) -> None:
    assert without_folders(text) == short
