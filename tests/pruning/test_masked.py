"""Models that look at the values of floats: traced with everything real, they may choose otherwise when pruned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.pruning.masked import Masks, _run_and_record, run_masked_model
from graphprune.pruning.wide_run import run_slim
from graphprune.tracing.inputs import MethodCall
from graphprune.utils.tree import tensors_of

IMAGE = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Detector(nn.Module):
    """Looks again at the places that it finds interesting, one after the other: as many as it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.Conv2d(16, 12, 3), nn.Sigmoid())
        self.interest = nn.Conv2d(12, 1, 1)
        self.look = nn.Linear(12, 10)
        self.name = nn.Linear(10, 4)

    def forward(self, image: Tensor) -> list[dict[str, Tensor]]:
        features = self.backbone(image)
        interest = self.interest(features)[0, 0]
        places = (interest > interest.mean() + interest.std()).nonzero()
        found = torch.zeros(len(places), features.shape[1])
        for i, (row, column) in enumerate(places.tolist()):
            found[i] = features[0, :, row, column] * interest[row, column]
        kinds = self.name(self.look(found).tanh())
        return [{"places": places, "kinds": kinds, "best": kinds[kinds.amax(dim=1).argmax()]}]


def pruned() -> tuple[nn.Module, graphprune.ChannelGraph, graphprune.Plan, nn.Module]:
    torch.manual_seed(3)
    model = Detector().eval()
    graph = graphprune.trace(model, IMAGE)
    plan = graph.plan(0.5, importance="random")
    return model, graph, plan, plan.apply(model)


def test_the_slim_model_equals_the_masked_one_that_chooses_otherwise() -> None:
    model, graph, plan, slim = pruned()
    assert not graph.trace.on_meta
    before, after = ([t.shape for t in tensors_of(run_slim(m, [MethodCall("forward", IMAGE)]))] for m in (model, slim))
    assert before != after, "the pruned model finds other places, or this proves nothing"
    check = graphprune.verify(model, slim, plan, IMAGE)
    assert check.passed
    assert check.outputs == 3
    assert any("group_norm" in text for text in check.inexact)


def test_every_layer_of_it_is_pruned() -> None:
    model, _, _, slim = pruned()
    for path in ("backbone.0", "backbone.2", "look"):
        assert slim.get_submodule(path).weight.shape[0] < model.get_submodule(path).weight.shape[0]


@pytest.mark.parametrize("path", ["backbone.0", "backbone.2", "interest", "look", "name"])
def test_one_wrong_weight_is_seen(path: str) -> None:
    model, _, plan, slim = pruned()
    with torch.no_grad():
        slim.get_submodule(path).weight.view(-1)[0] += 1e-6
    assert not graphprune.verify(model, slim, plan, IMAGE).passed


def test_a_run_that_goes_another_way_is_noticed() -> None:
    _, graph, plan, _ = pruned()
    _, other, same = _run_and_record(graph.model, Masks(graph, plan), graph.examples, None)
    assert not same
    assert _run_and_record(graph.model, Masks(other, plan), graph.examples, None)[2]


class Routed(nn.Module):
    """Each row goes to the expert that its router scores highest; in training noise has a say. Few are reached."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 16)
        self.drop = nn.Dropout(0.5)
        self.router = nn.Linear(16, 8)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.stem(x))
        chosen = self.router(y).argmax(-1)
        out = y.new_zeros(len(x), 3)
        for number in chosen.unique().tolist():
            rows = (chosen == number).nonzero()[:, 0]
            out = out.index_add(0, rows, self.experts[number](y[rows]))
        return out


def test_runs_that_reach_other_experts_have_the_masks_of_all_their_entries() -> None:
    torch.manual_seed(0)
    model, x = Routed().eval(), torch.randn(3, 5)
    graph = graphprune.trace(model, x)
    with pytest.warns(graphprune.UnreachedWarning):
        plan = graph.plan(0.5)
    slim, missed = plan.apply(model), set[str]()
    for seed in range(4):
        torch.manual_seed(seed)
        missed |= plan.removed.keys() - {group.name for group in graphprune.trace(model, x).groups}
        assert graphprune.verify(model, slim, plan, x).passed
    assert missed, "other noise reaches others, or this proves nothing"
    with pytest.raises(graphprune.PlanError):
        graphprune.verify(Detector().eval(), Detector().eval(), plan, IMAGE)


class Nothing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))[:0]


def test_nothing_to_compare_proves_nothing() -> None:
    model, inputs = Nothing(), torch.randn(3, 4)
    plan = graphprune.trace(model, inputs).plan(0.5)
    check = graphprune.verify(model, plan.apply(model), plan, inputs)
    assert check.outputs == 0
    assert not check.passed


class Scaled(nn.Module):
    """Uses a number of channels as a number."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        width = x.shape[-1]
        if self.kind == "divided":
            return self.last(x / width)
        if self.kind == "multiplied":
            return self.last(width * x)
        if self.kind == "tensor":
            return self.last(x / torch.tensor(width).sqrt())
        return self.last(x)


@pytest.mark.parametrize("kind", ["divided", "multiplied", "tensor"])
def test_a_size_that_meets_a_tensor_is_a_number(kind: str) -> None:
    graph = graphprune.trace(Scaled(kind), torch.randn(3, 4))
    assert any("is used as a number" in item.reason and item.axis == "first.weight[0]" for item in graph.frozen)
    others = graphprune.trace(Scaled("not at all"), torch.randn(3, 4)).frozen
    assert not any("is used as a number" in item.reason for item in others)


class Collected(nn.Module):
    """Writes rows into a tensor of zeros that is as wide as the channels, or as a number says."""

    def __init__(self, width: int | None) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.constant = width

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        rows = torch.zeros(len(x), x.shape[1] if self.constant is None else 8)
        rows[torch.tensor([2, 0])] = x[:2]
        return self.last(rows)


def test_zeros_follow_the_size_they_are_made_with() -> None:
    model, inputs = Collected(None), torch.randn(3, 4)
    plan = graphprune.trace(model, inputs).plan(0.5)
    slim = plan.apply(model)
    assert slim.first.weight.shape == (4, 4)
    assert graphprune.verify(model, slim, plan, inputs).passed


def test_zeros_of_a_literal_size_stay() -> None:
    graph = graphprune.trace(Collected(8), torch.randn(3, 4))
    assert any("literal" in item.reason and item.axis == "first.weight[0]" for item in graph.frozen)


class Queries(nn.Module):
    """Queries that are a parameter attend to one another. [n, 5] -> [n, 4, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.enter, self.leave = nn.Parameter(torch.randn(4, 16)), nn.Linear(5, 16), nn.Linear(16, 3)
        self.heads = 2

    def forward(self, x: Tensor) -> Tensor:
        y = (self.queries + self.enter(x)[:, None]).unflatten(2, (self.heads, -1)).transpose(1, 2)
        result: Tensor = self.leave(((y @ y.mT).softmax(-1) @ y).transpose(1, 2).flatten(2))
        return result


def test_a_softmax_over_what_stays_is_exact() -> None:
    torch.manual_seed(0)
    model, x = Queries().eval(), torch.randn(3, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    check = graphprune.verify(model, slim, plan, x)
    assert slim.heads == 1
    assert check.passed
    assert not check.inexact


class Tokens(nn.Module):
    """Some tokens become what another layer says of them. [n, t, 5] -> [n, t, 3]"""

    def __init__(self, replace: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.other, self.leave = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 3)
        self.replace = replace

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        y, mask = self.enter(x), chosen[..., None]
        result: Tensor = self.leave(self.replace(y, mask.expand_as(y), self.other(x)))
        return result


def _of_chosen(y: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    return y.masked_scatter(mask, source[mask].view(-1, y.shape[-1]))


def _counted(y: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    if y[mask].numel() != source[mask].numel():
        raise ValueError("as many entries are needed")
    return y.masked_scatter(mask, source)


def _counting(y: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    return torch.where(mask, source, y) / mask.sum()


def _taken_and_counted(y: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    return y.masked_scatter(mask, source[mask].view(-1, y.shape[-1])) / mask.sum()


@pytest.mark.parametrize("replace", [_of_chosen, _counted, _counting, _taken_and_counted])
def test_masks_of_whole_rows_take_dead_channels_too(replace: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Tokens(replace).eval()
    inputs = (torch.randn(2, 6, 5), torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 0]]).bool())
    plan = graphprune.trace(model, inputs).plan(0.5)
    slim = plan.apply(model)
    assert slim.leave.in_features == 4
    assert graphprune.verify(model, slim, plan, inputs).passed


class BroadcastTokens(Tokens):
    """The mask has one entry for each token."""

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        result: Tensor = self.leave(self.enter(x).masked_scatter(chosen[..., None], self.other(x)))
        return result


def test_a_mask_of_one_entry_a_row_takes_whole_rows() -> None:
    torch.manual_seed(0)
    model = BroadcastTokens(_counted).eval()
    inputs = (torch.randn(2, 6, 5), torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 0]]).bool())
    plan = graphprune.trace(model, inputs).plan(0.5)
    slim = plan.apply(model)
    assert slim.leave.in_features == 4
    assert graphprune.verify(model, slim, plan, inputs).passed


class SharedHeads(nn.Module):
    """Eight layers in which each head of keys serves two of queries: ``reshape`` copies them, as they repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.ModuleList([nn.Linear(6, 16) for _ in range(8)])
        self.keys = nn.ModuleList([nn.Linear(6, 8) for _ in range(8)])
        self.leave = nn.ModuleList([nn.Linear(16, 6) for _ in range(8)])

    def forward(self, x: Tensor) -> Tensor:
        for query, key, leave in zip(self.queries, self.keys, self.leave, strict=True):
            q, k = (part(x).view(*x.shape[:2], -1, 4).transpose(1, 2) for part in (query, key))
            batch, heads, length, width = k.shape
            k = k[:, :, None].expand(batch, heads, q.shape[1] // heads, length, width).reshape(batch, -1, length, width)
            x = x + leave(((q @ k.mT).softmax(-1) @ k).transpose(1, 2).flatten(2))
        return x


def test_masked_repeats_are_copied_where_the_program_copies_them(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = SharedHeads().eval(), torch.randn(2, 5, 6)
    graph = graphprune.trace(model, x)
    plan = graph.plan(kv_groups=0.5)
    monkeypatch.setattr("graphprune.pruning.masked._ATTEMPTS", 1)
    found = run_masked_model(graph, plan)
    torch.testing.assert_close(found.outputs, run_slim(plan.apply(model), [MethodCall("forward", x)]))
