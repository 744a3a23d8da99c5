"""Narrower heads: queries take up what removed channels of the scores did; others are left alone, with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.errors import InputError, PlanError
from graphprune.plan import Plan
from graphprune.repair.attention import compensate_heads
from graphprune.repair.reconstruct import reconstruct
from models import gpt, vit

WIDTH, HEADS, HEAD = 12, 2, 6


class Scores(nn.Module):
    """Attention of which the projections may be separate, shared by query heads, and changed on the way."""

    def __init__(
        self, bias: bool = True, kv_heads: int = HEADS, change: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.change = HEADS, kv_heads, change
        self.query = nn.Linear(WIDTH, HEADS * HEAD, bias=bias)
        self.key = nn.Linear(WIDTH, kv_heads * HEAD, bias=bias)
        self.value = nn.Linear(WIDTH, kv_heads * HEAD)
        self.out = nn.Linear(HEADS * HEAD, WIDTH)
        self.scale = 0.4

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:2], heads, -1).transpose(1, 2)
            for layer, heads in ((self.query, self.heads), (self.key, self.kv_heads), (self.value, self.kv_heads))
        )
        if self.change is not None:
            q, k = self.change(q), self.change(k)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = ((q * self.scale) @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(*x.shape[:2], -1))


def narrow(model: nn.Module, x: Tensor, width: float = 0.5) -> tuple[Plan, nn.Module]:
    plan = graphprune.trace(model, x).plan(0.0, head_width=width)
    return plan, plan.apply(model)


def scores(model: Scores, x: Tensor) -> Tensor:
    q = model.query(x).view(*x.shape[:2], model.heads, -1).transpose(1, 2)
    k = model.key(x).view(*x.shape[:2], model.kv_heads, -1).transpose(1, 2)
    return (q @ k.repeat_interleave(model.heads // model.kv_heads, 1).transpose(-1, -2)).detach()


def dependent(model: Scores) -> Scores:
    """Keys of every head lie in the span of three channels, whatever the input."""
    with torch.no_grad():
        mixing = torch.randn(HEAD, 3) @ torch.randn(3, HEAD)
        for tensor in (model.key.weight, model.key.bias):
            if tensor is not None:
                tensor.copy_((mixing @ tensor.view(model.kv_heads, HEAD, -1)).reshape(tensor.shape))
    return model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_scores_are_exact_where_keys_depend_on_kept_ones(bias: bool, kv_heads: int) -> None:
    model, x = dependent(Scores(bias, kv_heads)).eval(), torch.randn(4, 9, WIDTH)
    plan, slim = narrow(model, x)
    wanted = scores(model, x)
    assert slim.query.weight.shape[0] == HEADS * HEAD // 2
    assert (scores(slim, x) - wanted).norm() > 0.1 * wanted.norm()
    done = compensate_heads(slim, model, plan, [x[:2], x[2:]], ridge=1e-9)
    assert (scores(slim, x) - wanted).norm() < 1e-3 * wanted.norm()
    assert done.compensated[0].heads == HEADS and done.compensated[0].after < 1e-3 < done.compensated[0].before


def test_the_rows_are_those_of_least_squares() -> None:
    model, x = Scores().eval(), torch.randn(4, 9, WIDTH)
    plan, slim = narrow(model, x)
    done = compensate_heads(slim, model, plan, [x], ridge=0.01)
    kept = torch.from_numpy(plan.kept["query.weight"][0])
    for head in range(HEADS):
        mine = kept[(kept >= head * HEAD) & (kept < (head + 1) * HEAD)]
        gone = torch.tensor([i for i in range(head * HEAD, (head + 1) * HEAD) if i not in mine])
        keys = model.key(x).flatten(0, 1).double().detach()
        second = keys.T @ keys / len(keys)
        penalty = 0.01 * second[mine][:, mine].diagonal().mean()
        mixing = torch.linalg.inv(second[mine][:, mine] + penalty * torch.eye(len(mine))) @ second[mine][:, gone]
        place = torch.isin(kept, mine)
        for new, old in ((slim.query.weight, model.query.weight), (slim.query.bias, model.query.bias)):
            torch.testing.assert_close(new[place], old[mine] + mixing.float() @ old[gone])
        torch.testing.assert_close(done.targets["query.weight"][place][:, gone], mixing, rtol=1e-4, atol=1e-5)
    assert torch.equal(slim.key.weight, model.key.weight[plan.kept["key.weight"][0]])


def test_no_error_rises_and_the_record_says_what_was_measured() -> None:
    model, x = Scores().eval(), torch.randn(4, 9, WIDTH)
    for ridge in (1e-4, 1.0, 100.0):
        plan, slim = narrow(model, x)
        done = compensate_heads(slim, model, plan, [x], ridge=ridge).compensated[0]
        assert 0 < done.after < done.before < 1.5


def test_a_fused_projection_and_torch_attention() -> None:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).eval()
    for model, x, name in (
        (vit.vit(depth=1).eval(), torch.randn(2, 3, 32, 32), "blocks.0.attn.qkv.weight"),
        (layer, torch.randn(2, 5, 16), "self_attn.in_proj_weight"),
    ):
        plan, slim = narrow(model, x)
        done = compensate_heads(slim, model, plan, [x])
        assert [one.name for one in done.compensated] == [name]
        assert done.targets.keys() == {name, name.replace("weight", "bias")}
        assert done.compensated[0].after < done.compensated[0].before
        assert slim(x).isfinite().all()


def test_values_are_repaired_by_reconstruction() -> None:
    """The output projection is fitted to what heads of narrower values give."""
    model, x = Scores().eval(), torch.randn(8, 9, WIDTH)
    plan, slim = narrow(model, x)
    compensate_heads(slim, model, plan, [x])
    before = (slim(x) - model(x)).norm()
    repair = reconstruct(slim, model, plan, [x])
    assert (slim(x) - model(x)).norm() < 0.7 * before
    assert "out.weight" in [one.name for one in repair.repaired]


def test_reconstruction_keeps_to_the_targets() -> None:
    model, x = dependent(Scores()).eval(), torch.randn(8, 9, WIDTH)
    plan, slim = narrow(model, x)
    plain, wanted = plan.apply(model), scores(model, x)
    record = graphprune.repair(slim, model, plan, [x[:5], x[5:]])
    graphprune.reconstruct(plain, model, plan, [x[:5], x[5:]])
    assert (scores(slim, x) - wanted).norm() < 0.1 * (scores(plain, x) - wanted).norm()
    query = next(one for one in record.repaired if one.name == "query.weight")
    assert query.before < 1e-5 and all(one.after <= one.before for one in record.repaired)
    assert record.heads is not None and str(record.heads) in str(record)


def test_targets_of_a_projection_whose_input_lost_channels() -> None:
    """Compensated queries are fitted to the same combinations of dense ones, in parts of a fused weight as well."""
    torch.manual_seed(0)
    for model, x, name in (
        (nn.Sequential(nn.Linear(4, WIDTH), nn.ReLU(), Scores()), torch.randn(40, 9, 4), "2.query.weight"),
        (vit.vit(depth=1), torch.randn(8, 3, 32, 32), "blocks.0.attn.qkv.weight"),
        (
            nn.Sequential(nn.Linear(4, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)),
            torch.randn(40, 9, 4),
            "1.self_attn.in_proj_weight",
        ),
    ):
        model.eval()
        plan = graphprune.trace(model, x).plan(0.25, head_width=0.5)
        slim = plan.apply(model)
        done = compensate_heads(slim, model, plan, [x])
        assert {one.name for one in done.compensated} == {name}
        record = reconstruct(slim, model, plan, [x], targets=done.targets)
        fitted = [one for one in record.repaired if one.name == name]
        assert fitted and all(one.after < one.before for one in fitted)
        other = plan.apply(model)
        compensate_heads(other, model, plan, [x])
        reconstruct(other, model, plan, [x])
        assert (slim(x) - model(x)).norm() < 1.05 * (other(x) - model(x)).norm()


def test_a_failure_after_compensation_undoes_it() -> None:
    class Failing:
        """Good batches, until the third time that they are gone through."""

        times = 0

        def __iter__(self) -> Iterator[Tensor]:
            self.times += 1
            yield torch.randn(4, 9, WIDTH if self.times < 3 else 5)

    model, x = Scores().eval(), torch.randn(2, 9, WIDTH)
    plan, slim = narrow(model, x)
    before = {name: tensor.clone() for name, tensor in slim.state_dict().items()}
    with pytest.raises(InputError, match="failed on batch 0"):
        graphprune.repair(slim, model, plan, Failing())
    assert all(torch.equal(tensor, before[name]) for name, tensor in slim.state_dict().items())


# ---------------------------------------------------------------- what is left alone


@pytest.mark.parametrize(
    ("change", "op"),
    [
        (lambda t: t * t.new_ones(t.shape[2], 1).cumsum(0), "mul"),
        (lambda t: F.normalize(t, dim=-1), "div"),
        (lambda t: t.tanh(), "tanh"),
    ],
)
def test_changed_factors_are_left_alone(change: Callable[[Tensor], Tensor], op: str) -> None:
    model, x = Scores(change=change).eval(), torch.randn(2, 9, WIDTH)
    plan, slim = narrow(model, x)
    before = slim.query.weight.clone()
    done = compensate_heads(slim, model, plan, [x])
    assert not done.compensated and torch.equal(slim.query.weight, before)
    assert {one.name: one.why for one in done.left_alone}["query.weight"].startswith(f"{op} comes between")
    assert "query.weight  left alone" in str(done)


def test_values_that_change_in_place_are_seen() -> None:
    def change(t: Tensor) -> Tensor:
        t[..., :3].mul_(torch.arange(1.0, 4.0))
        return t

    model, x = Scores(change=change).eval(), torch.randn(2, 9, WIDTH)
    plan = graphprune.trace(Scores().eval(), x).plan(0.0, head_width=0.5)
    done = compensate_heads(plan.apply(model), model, plan, [x])
    assert not done.compensated and "in place" in done.left_alone[0].why


def test_rotary_positions_are_left_alone() -> None:
    model, ids = gpt.gpt(depth=1).eval(), torch.randint(256, (2, 8))
    plan, slim = narrow(model, ids)
    done = compensate_heads(slim, model, plan, [ids])
    assert not done.compensated
    assert [one.name for one in done.left_alone] == [f"blocks.0.attn.{n}_proj.weight" for n in "qk"]


def test_whole_heads_and_nothing_change_nothing() -> None:
    model, x = vit.vit(depth=1).eval(), torch.randn(2, 3, 32, 32)
    for ratio in (0.0, 0.5):
        plan = graphprune.trace(model, x).plan(ratio)
        slim = plan.apply(model)
        before = {name: tensor.clone() for name, tensor in slim.state_dict().items()}
        assert not compensate_heads(slim, model, plan, [x]).compensated
        assert all(torch.equal(tensor, slim.state_dict()[name]) for name, tensor in before.items())


def test_wrong_arguments_are_named_and_nothing_changes() -> None:
    model, x = Scores().train(), torch.randn(2, 9, WIDTH)
    plan, slim = narrow(model, x)
    before = slim.query.weight.clone()
    with pytest.raises(InputError, match="calibration: there are no batches"):
        compensate_heads(slim, model, plan, [])
    with pytest.raises(InputError, match=r"calibration: Scores\.forward failed on batch 1"):
        compensate_heads(slim, model, plan, [x, x[..., :3]])
    with pytest.raises(InputError, match="ridge: is 0"):
        compensate_heads(slim, model, plan, [x], ridge=0)
    with pytest.raises(PlanError, match="slim"):
        compensate_heads(Scores(), model, plan, [x])
    assert model.training and torch.equal(slim.query.weight, before)
