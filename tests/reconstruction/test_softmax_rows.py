"""What goes into a softmax along rows of data is fitted to how these differ within each row of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.reconstruction.call_recorder import CallRecorder
from tests.networks import randomize

PLACES = 7


class Scored(nn.Module):
    """``score`` says how much each place counts, from what ``hidden`` makes of it."""

    def __init__(self, weigh: Callable[[Scored, Tensor], Tensor], outputs: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.enter, self.hidden = nn.Linear(4, 6), nn.Linear(6, 12)
        self.score = nn.Linear(12, outputs, bias=bias)
        self.leave = nn.Linear(6, 3)
        self.weigh = weigh
        self.scores = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).tanh()
        return self.leave(self.weigh(self, x))


def pooled(model: Scored, x: Tensor) -> Tensor:
    return (model.score(model.hidden(x).tanh()).softmax(1) * x).sum(1)


def attended(model: Scored, x: Tensor) -> Tensor:
    pairs = model.hidden(x).unsqueeze(2) + model.hidden(x).unsqueeze(1)
    return model.score(pairs.tanh()).squeeze(-1).div(2.0).softmax(-1) @ x


def masked(model: Scored, x: Tensor) -> Tensor:
    scores = model.score(model.hidden(x).tanh()).transpose(1, 2)
    return scores.masked_fill(x[..., :1].mT > 0.9, float("-inf")).softmax(-1) @ x


def chosen(model: Scored, x: Tensor) -> Tensor:
    scores = model.score(model.hidden(x).tanh()).flatten(1)
    return (torch.where(x[..., 0] > 0.9, -1e9, scores).softmax(1).unsqueeze(1) @ x).squeeze(1)


def several(model: Scored, x: Tensor) -> Tensor:
    return (model.score(model.hidden(x).tanh()).log_softmax(1).exp().mT @ x).sum(1)


WAYS = {"pooled": pooled, "attended": attended, "masked": masked, "chosen": chosen, "several": several}


def made(name: str, bias: bool) -> Scored:
    torch.manual_seed(0)
    model = randomize(Scored(WAYS[name], outputs=3 if name == "several" else 1, bias=bias)).double().eval()
    with torch.no_grad():
        model.hidden.bias += 2  # what all scores have in common is large
    return model


def seen(model: Scored, x: Tensor) -> tuple[Tensor, Tensor]:
    """What goes into ``score`` and its result, with the rows of a softmax in the last but one dimension."""
    found: list[Tensor] = []
    hook = model.score.register_forward_hook(lambda _, args, out: found.extend((args[0].clone(), out.clone())))
    with torch.no_grad():
        model(x)
    hook.remove()
    return found[0], found[1]


def within(t: Tensor) -> np.ndarray:
    """Differences from the mean of the row."""
    return (t - t.mean(-2, keepdim=True)).flatten(0, -2).numpy()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", WAYS)
def test_differences_are_fitted_as_by_hand(name: str, bias: bool) -> None:
    model, x = made(name, bias), torch.randn(30, PLACES, 4, dtype=torch.float64)
    graph = graphprune.trace(model, x[:2])
    plan = graph.plan(0.0, overrides={"hidden": graphprune.Override(ratio=0.5)})
    slim = plan.apply(model)
    raw = slim.score.weight.detach().clone()
    record = graphprune.reconstruct(slim, model, plan, [x[:18], x[18:]], ridge=1e-3)
    (one,) = (r for r in record.repaired if r.name == "score.weight")
    fitted = slim.score.weight.detach().clone()
    slim.score.weight.data.copy_(raw)
    inputs, found, wanted = *seen(slim, x), seen(model, x)[1]
    a, b = within(inputs), within(wanted) - within(found)
    pull = np.sqrt(1e-3 * (a**2).mean() * len(a)) * np.eye(a.shape[1])
    rows, values = np.concatenate([a, pull]), np.concatenate([b, np.zeros((len(pull), b.shape[1]))])
    change = np.linalg.lstsq(rows, values, rcond=None)[0]
    torch.testing.assert_close(fitted, raw + torch.from_numpy(change.T), rtol=1e-7, atol=1e-9)
    left = ((b - a @ change) ** 2).sum() / (within(wanted) ** 2).sum()
    assert one.after == pytest.approx(left**0.5, rel=1e-6)


def test_a_convolution_of_one_place_scores_too() -> None:
    """Pooling of images by learned weights, as in the global context block (Cao et al., ICCV workshops 2019)."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.score, self.leave = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 1, 1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x).relu()
            weights = self.score(x).flatten(1).softmax(-1)
            return self.leave((x.flatten(2) @ weights.unsqueeze(-1)).squeeze(-1))

    model, x = randomize(Pooled()).double().eval(), torch.randn(20, 2, 5, 5, dtype=torch.float64)
    plan = graphprune.trace(model, x[:2]).plan(0.5)
    slim = plan.apply(model)
    bias = slim.score.bias.detach().clone()
    record = graphprune.reconstruct(slim, model, plan, [x])
    (one,) = (r for r in record.repaired if r.name == "score.weight")
    assert one.after < one.before
    torch.testing.assert_close(slim.score.bias, bias)  # a softmax is the same for any


def test_a_loop_scores_the_places_at_every_step() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.cell = nn.Linear(4, 6), nn.GRUCell(6, 6)
            self.hidden, self.score, self.leave = nn.Linear(6, 10), nn.Linear(10, 1, bias=False), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x).tanh()
            state = x[:, 0]
            for _ in range(3):
                scores = self.score((self.hidden(x) + state.unsqueeze(1).mean(-1, keepdim=True)).tanh())
                state = self.cell((scores.softmax(1) * x).sum(1), state)
            return self.leave(state)

    torch.manual_seed(0)
    model = randomize(Steps()).double().eval()
    batches = [torch.randn(8, places, 4, dtype=torch.float64) for places in (5, 5, 7)]
    graph = graphprune.trace(model, batches[0])
    plan = graph.plan(0.0, overrides={"hidden": graphprune.Override(ratio=0.5)})
    slim = plan.apply(model)
    record = graphprune.reconstruct(slim, model, plan, batches)
    (one,) = (r for r in record.repaired if r.name == "score.weight")
    assert one.after < one.before
    survey = CallRecorder(slim)
    for batch in batches:
        with torch.no_grad():
            survey.record(slim, 0, batch)
    (score,) = (c for c in survey.consumers.values() if c.key.name == "score.weight")
    assert score.scoring and [[rows.length for rows in batch] for batch in score.scores] == [[5] * 3, [5] * 3, [7] * 3]


# ---------------------------------------------------------------- what is no score


def over_outputs(model: Scored, x: Tensor) -> Tensor:
    return model.score(model.hidden(x).tanh()).softmax(-1) @ x[:, :3]


def also_read(model: Scored, x: Tensor) -> Tensor:
    scores = model.score(model.hidden(x).tanh())
    return (scores.softmax(1).mT @ x + scores.mean(1, keepdim=True).mT).sum(1)


def bent(model: Scored, x: Tensor) -> Tensor:
    return model.score(model.hidden(x).tanh()).tanh().softmax(1).mT @ x


def beside_zeros(model: Scored, x: Tensor) -> Tensor:
    scores = model.score(model.hidden(x).tanh())
    return scores.masked_fill(x[..., :1] > 0, 0.0).softmax(1).mT @ x


def beside_others(model: Scored, x: Tensor) -> Tensor:
    scores = model.score(model.hidden(x).tanh())
    return torch.where(x[..., :1] > 0, x[..., :3], scores).softmax(1).mT @ x


def returned(model: Scored, x: Tensor) -> Tensor:
    model.scores = model.score(model.hidden(x).tanh())
    return model.scores.softmax(1).mT @ x


class Telling(Scored):
    """Returns its scores too."""

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return super().forward(x), {"scores": self.scores.flatten(1)}


@pytest.mark.parametrize("weigh", [over_outputs, also_read, bent, beside_zeros, beside_others, returned])
def test_other_results_are_fitted_to_their_own_output(weigh: Callable[[Scored, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = randomize((Telling if weigh is returned else Scored)(weigh, outputs=3)).double().eval()
    survey = CallRecorder(model)
    with torch.no_grad():
        survey.record(model, 0, torch.randn(5, PLACES, 4, dtype=torch.float64))
    (score,) = (c for c in survey.consumers.values() if c.key.name == "score.weight")
    assert not score.scoring and score.used_otherwise
