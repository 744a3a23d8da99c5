"""Penalties against loops over channels, and what training with them does."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.errors import InputError, PlanError
from graphprune.training.regularization import GroupLasso, GrowingRegularization
from models import vit
from tests.networks import FusedAttention, GroupedQueryAttention, TextNetwork, TransformerBlock, randomize

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
WORDS = torch.arange(8).reshape(2, 4) % 11


def image_net() -> nn.Module:
    return randomize(
        nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(8 * 16, 10), nn.ReLU(), nn.Linear(10, 5)
        )
    )  # fmt: skip


def text_net() -> nn.Module:
    blocks = [
        TransformerBlock(12, a, 6, gated=True) for a in (FusedAttention(12, 3), GroupedQueryAttention(12, 2, 2, 3))
    ]
    return randomize(TextNetwork(12, blocks, tied=False))


NETS = {"image": (image_net, IMAGES), "text": (text_net, WORDS)}


def by_loop(graph: graphprune.ChannelGraph, unit: int) -> tuple[float, int]:
    """The square and the entries of a unit: what dies in each dimension of each parameter when it is removed."""
    alive = graph.solution.alive(torch.tensor([unit]).numpy())
    square, entries = 0.0, 0
    for axis in graph.units.axes:
        name, dim = axis.name[:-1].rsplit("[", 1)
        for number, label in enumerate(graph.units.labels_of(axis)):
            if not alive[label] and name in dict(graph.model.named_parameters()):
                part = graph.model.get_parameter(name).detach().select(int(dim), number)
                square += float(part.double().square().sum())
                entries += part.numel()
    return square, entries


@pytest.mark.parametrize("net", NETS)
def test_group_lasso_is_what_a_loop_finds(net: str) -> None:
    make, x = NETS[net]
    graph = graphprune.trace(make(), x)
    lasso = GroupLasso(graph, 0.3)
    total, norms = 0.0, lasso.norms()
    for group in graph.groups:
        found = [by_loop(graph, unit) for unit in group.unit_ids.tolist()]
        if group.name not in norms:
            assert group.role == "head_width" or graph.units.kind_of(group.unit_ids) == "repeat"
            continue
        torch.testing.assert_close(norms[group.name], torch.tensor([math.sqrt(s) for s, _ in found]))
        total += sum(math.sqrt(n * s) for s, n in found)
    assert len(norms) >= 2
    assert lasso().item() == pytest.approx(0.3 * total, rel=1e-5)


def test_group_lasso_of_some_groups() -> None:
    graph = graphprune.trace(image_net(), IMAGES)
    lasso = GroupLasso(graph, 1.0, groups=["6"])
    assert list(lasso.norms()) == ["6"]
    lasso().backward()
    touched = {name for name, p in graph.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"6.weight", "6.bias", "8.weight"}
    whole = graphprune.trace(text_net(), WORDS)
    assert list(GroupLasso(whole, 1.0, ["blocks.0.attention.qkv:head_width"]).norms())


def test_gradient() -> None:
    """That of a norm, and none where a unit is gone already."""
    model = image_net().double()
    graph = graphprune.trace(model, IMAGES.double())
    lasso = GroupLasso(graph, 0.1, groups=["6"])
    with torch.no_grad():
        for p in (model[6].weight[3], model[6].bias[3:4], model[8].weight[:, 3]):
            p.zero_()
    lasso().backward()
    norms, factor = lasso.norms()["6"], 0.1 * math.sqrt(128 + 1 + 5)
    wanted = factor * model[6].weight.detach() / norms.unsqueeze(1).clamp(min=1e-9)
    torch.testing.assert_close(model[6].weight.grad, wanted)
    assert not model[6].weight.grad[3].any() and norms[3] == 0


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A regression that needs 4 of 16 hidden units."""
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    teacher = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).requires_grad_(False)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)), x, teacher(x)


@pytest.mark.parametrize("strength", [0.003, 0.0])
def test_training_drives_some_units_down(strength: float) -> None:
    model, x, y = problem()
    lasso = GroupLasso(graphprune.trace(model, x), strength or 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(800):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        (loss + lasso() if strength else loss).backward()
        optimizer.step()
    norms = lasso.norms()["0"]
    small = int((norms < 0.02 * norms.max()).sum())
    assert (8 <= small < 16) if strength else small == 0
    if strength:
        slim = graphprune.prune_model(model, small / 16, x)
        torch.testing.assert_close(slim(x), model(x), atol=0.03, rtol=0.1)


# ---------------------------------------------------------------- growing regularization


@pytest.mark.parametrize("net", [*NETS, "blocks"])
def test_growing_is_what_the_masks_say(net: str) -> None:
    make, x = NETS.get(net, (vit.vit, torch.randn(1, 3, 32, 32)))
    model = make()
    plan = graphprune.trace(model, x).plan(0.4, depth=0.5 if net == "blocks" else None)
    growing = GrowingRegularization(model, plan, growth=0.01, every=2, ceiling=0.03)
    strengths, ends = [], []
    for _ in range(7):
        strengths.append(growing.strength)
        ends.append(growing.finished)
        growing.step()
    assert strengths == pytest.approx([0.01, 0.01, 0.02, 0.02, 0.03, 0.03, 0.03])
    assert ends == [False] * 4 + [True] * 3
    assert GrowingRegularization(model, plan, growth=0.01, every=2, steps=3).strength == pytest.approx(0.02)
    growing().backward()
    for name, p in model.named_parameters():
        gone = ~plan.mask(name)
        assert gone.any() or p.grad is None
        if gone.any():
            torch.testing.assert_close(p.grad, 0.03 * p.detach() * gone)


def test_growing_makes_a_plan_harmless() -> None:
    model, x, y = problem()
    plan = graphprune.trace(model, x).plan(0.5)
    before = F.mse_loss(plan.apply(model)(x), y)
    growing = GrowingRegularization(model, plan, growth=0.02, every=5, ceiling=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    while not growing.finished:
        optimizer.zero_grad()
        (F.mse_loss(model(x), y) + growing()).backward()
        optimizer.step()
        growing.step()
    torch.testing.assert_close(plan.apply(model)(x), model(x), atol=1e-2, rtol=1e-2)
    assert F.mse_loss(plan.apply(model)(x), y) < 0.5 * before


def test_errors() -> None:
    model = image_net()
    graph = graphprune.trace(model, IMAGES)
    plan = graph.plan(0.5)
    for strength in (0, -1.0, float("inf"), "much"):
        with pytest.raises(InputError, match="strength: must be a positive number"):
            GroupLasso(graph, strength)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"groups: must be several names, [\s\S]*pass \['6'\]"):
        GroupLasso(graph, 1.0, "6")
    with pytest.raises(InputError, match="no group 'head'"):
        GroupLasso(graph, 1.0, ["head"])
    with pytest.raises(InputError, match="every: must be a whole number"):
        GrowingRegularization(model, plan, every=0)
    with pytest.raises(InputError, match="growth: must be a positive number"):
        GrowingRegularization(model, plan, growth=0.0)
    with pytest.raises(InputError, match="plan: it removes nothing"):
        GrowingRegularization(model, graph.plan(0.0))
    with pytest.raises(PlanError, match="the plan names"):
        GrowingRegularization(text_net(), plan)
    lasso, growing = GroupLasso(graph, 1.0), GrowingRegularization(model, plan)
    graphprune.prune_in_place(model, plan)
    for penalty in (lasso, growing):
        with pytest.raises(
            InputError, match=r"is not what it was when the penalty was made[\s\S]*after a pruning make a new"
        ):
            penalty()


def test_penalties_of_complex_weights_count_moduli() -> None:
    model = nn.Sequential(*(nn.Linear(n, m, bias=False, dtype=torch.complex64) for n, m in ((3, 4), (4, 2))))
    graph = graphprune.trace(model, torch.randn(2, 3) + 0j)
    squares = model[0].weight.detach().abs().square().sum(1) + model[1].weight.detach().abs().square().sum(0)
    assert torch.allclose(GroupLasso(graph, 1.0).norms()["0"], squares.sqrt())
    plan = graph.plan(0.5)
    gone = [i for i in range(4) if i not in plan.kept["0.weight"][0]]
    assert torch.allclose(GrowingRegularization(model, plan, growth=1.0)(), 0.5 * squares[gone].sum())
