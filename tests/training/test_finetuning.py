"""Fine-tuning: it learns, it says what happened, it can be left at any step, and mistakes change nothing."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import random
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import graphprune
from graphprune import History, Rewind, finetune
from graphprune.errors import InputError, LoadError
from graphprune.training.learning_rate import learning_rates
from tests.damage import damaged
from tests.training_net import Net, accuracy, equal, loader, net, slim_net, weights

QUICK: dict[str, Any] = {"epochs": 2, "lr": 0.05}
BATCHES = list(loader(shuffle=False))


# ------------------------------------------------------------ it trains


def test_it_learns_and_says_how() -> None:
    model = slim_net()
    history = finetune(model, loader(), epochs=8, lr=0.1, evaluate=accuracy)
    assert accuracy(model.eval()) == history.metric and history.metric > 0.8
    assert history.steps == len(history.lr) == 64 and history.epochs == tuple(range(8, 65, 8))
    assert list(history.metrics) == list(history.epochs)
    assert sum(history.loss[-8:]) < 0.7 * sum(history.loss[:8])
    assert History.from_json(history.to_json()) == history
    assert str(history).splitlines()[0].split() == ["epoch", "steps", "mean", "loss", "last", "lr", "metric"]
    assert len(str(history).splitlines()) == 9 and str(history).splitlines()[-1].split()[1] == "64"


def test_it_is_the_loop_that_one_would_write() -> None:
    """Without dropout and shuffling: SGD with momentum along a cosine, weights alone decaying. Bit for bit."""
    model, twin = (nn.Sequential(*[nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)]) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    finetune(model, loader(shuffle=False), epochs=2, lr=0.1, weight_decay=0.01)
    plain, biases = [twin[0].weight, twin[2].weight], [twin[0].bias, twin[2].bias]
    optimizer = torch.optim.SGD([{"params": plain, "weight_decay": 0.01}, {"params": biases}], 0.1, momentum=0.9)
    for step, (x, y) in enumerate([*loader(shuffle=False), *loader(shuffle=False)]):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * step / 16))
        optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        optimizer.step()
    assert equal(weights(model), weights(twin))


class OwnLoss(Net):
    """Computes its own loss, as models of Transformers do."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        scores = super().forward(x)
        return {"logits": scores} | ({} if labels is None else {"loss": F.cross_entropy(scores, labels)})


@pytest.mark.parametrize(
    "given",
    [
        {"batches": [{"x": x, "labels": y} for x, y in BATCHES]},
        {"batches": [((x,), y) for x, y in BATCHES]},
        {"batches": [({"x": x}, y) for x, y in BATCHES]},
        {"batches": BATCHES, "loss_fn": lambda out, y: F.cross_entropy(out["logits"], y)},
        {
            "batches": [{"x": x, "labels": y} for x, y in BATCHES],
            "loss_fn": lambda out, batch: F.cross_entropy(out["logits"], batch["labels"]),
        },
    ],
    ids=["own loss", "tuple", "dict", "loss_fn", "loss_fn of a dict"],
)
def test_every_kind_of_batch_is_the_same_training(given: dict[str, Any]) -> None:
    model = OwnLoss()
    reference = Net()
    reference.load_state_dict(model.state_dict())
    assert finetune(model, **QUICK, **given) == finetune(reference, BATCHES, **QUICK)
    assert equal(weights(model), weights(reference))


@pytest.mark.parametrize("optimizer", ["adamw", torch.optim.RMSprop, partial(torch.optim.Adam, betas=(0.8, 0.9))])
def test_optimizers(optimizer: Any) -> None:
    history = finetune(slim_net(), loader(), epochs=6, lr=0.02, optimizer=optimizer, clip=1.0)
    assert sum(history.loss[-8:]) < 0.8 * sum(history.loss[:8])


def test_weights_in_half_precision_are_refused_where_their_gradients_would_be_scaled() -> None:
    half = slim_net().half()
    batches = [(points.half(), target) for points, target in loader()]
    with pytest.raises(InputError, match=r"precision='fp16' needs weights in float32[\s\S]*call model.float\(\)"):
        finetune(half, batches, **QUICK, precision="fp16")
    finetune(half, batches, **QUICK)
    half.float().enter.requires_grad_(False).half()
    finetune(half, loader(), **QUICK, precision="fp16")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision(precision: str) -> None:
    full, mixed = slim_net(), slim_net()
    expected = finetune(full, loader(), **QUICK)
    found = finetune(mixed, loader(), **QUICK, precision=precision)
    assert all(t.dtype is torch.float32 for t in mixed.parameters())
    assert not equal(weights(full), weights(mixed))
    assert found.loss == pytest.approx(expected.loss, rel=0.1)


def test_frozen_parameters_stay() -> None:
    model = net()
    model.enter.requires_grad_(False)
    before = model.enter.weight.clone(), model.leave.weight.clone()
    finetune(model, loader(), **QUICK)
    assert torch.equal(model.enter.weight, before[0]) and not torch.equal(model.leave.weight, before[1])


def test_clipping() -> None:
    """With a learning rate of 1 and no momentum, a step is as long as the clipped gradient."""
    model = nn.Linear(6, 3)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    finetune(model, loader(), steps=1, lr=1.0, optimizer=torch.optim.SGD, clip=1e-3)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm() == pytest.approx(1e-3, rel=1e-3)


def test_the_surroundings_are_as_before() -> None:
    model = net().eval()
    model.drop.train()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = torch.rand(2), np.random.rand(2), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    finetune(model, loader(), **QUICK, evaluate=accuracy)
    assert not model.training and model.drop.training and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.rand(2), expected[0])
    assert (np.random.rand(2) == expected[1]).all() and random.random() == expected[2]


def test_on_step_is_told() -> None:
    seen: list[Any] = []
    model = net()
    finetune(model, loader(), steps=3, lr=0.1, on_step=lambda step, m, o: seen.append((step, m is model, type(o))))
    assert seen == [(n, True, torch.optim.SGD) for n in (1, 2, 3)]


def test_a_bar_only_where_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, progress, shown in ((Terminal(), True, True), (Terminal(), False, False), (io.StringIO(), True, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        finetune(net(), loader(), **QUICK, progress=progress)
        assert ("fine-tuning" in stream.getvalue()) == shown


# ------------------------------------------------------------ learning rates


def test_learning_rates() -> None:
    assert [learning_rates("cosine", 2.0, 0, 4)(s) for s in range(4)] == pytest.approx(
        [2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5]
    )
    assert [learning_rates("linear", 1.0, 0, 4)(s) for s in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [learning_rates("constant", 1.0, 3, 5)(s) for s in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert [learning_rates(lambda done: done**2, 4.0, 0, 2)(s) for s in range(2)] == [0, 1]


def test_rewinding_takes_the_last_rates_of_the_first_training() -> None:
    first = finetune(net(), loader(), epochs=3, lr=0.1)
    again = finetune(slim_net(), loader(), epochs=2, schedule=Rewind(first.lr))
    assert again.lr == first.lr[8:]
    with pytest.raises(InputError, match="has the rates of 24 steps, but 32 are to be taken"):
        finetune(slim_net(), loader(), epochs=4, schedule=Rewind(first.lr))


# ------------------------------------------------------------ the same again


class Noisy(Dataset[Any]):
    """Draws random numbers for every example, from all three generators."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        return torch.randn(6) + np.random.rand() + random.random(), index % 3


LOADERS = {
    "shuffled": loader,
    "own generator": lambda: loader(generator=torch.Generator()),
    "random examples": lambda: DataLoader(Noisy(), 8, shuffle=True),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("kills", [(1, 4, 13), (9, 17), (20, 20)], ids=str)
def test_interrupted_training_gives_the_same_weights(tmp_path: Path, kind: str, kills: tuple[int, ...]) -> None:
    """Left at any step and taken up by a new model, loader and optimizer; saved every two steps and every epoch."""
    batches = LOADERS[kind]
    given: dict[str, Any] = {"epochs": 3, "lr": 0.01, "optimizer": "adamw", "teacher": net(), "evaluate": accuracy}
    given["distill"] = graphprune.Distillation(features=("norm",))
    expected = slim_net()
    history = finetune(expected, batches(), **given)

    def killed(step: int, kill: int) -> None:
        if step == kill:
            raise KeyboardInterrupt

    for kill in kills:
        given["on_step"] = lambda step, *_, kill=kill: killed(step, kill)
        with pytest.raises(KeyboardInterrupt):
            finetune(slim_net(), batches(), **given, checkpoint=tmp_path, every=2)
    resumed = slim_net()
    given["on_step"] = None
    assert finetune(resumed, batches(), **given, checkpoint=tmp_path, every=2) == history
    assert equal(weights(resumed), weights(expected))
    done = slim_net()
    assert finetune(done, batches(), **given, checkpoint=tmp_path, every=2) == history
    assert equal(weights(done), weights(expected))


def test_another_seed_is_another_training() -> None:
    one, same, other = slim_net(), slim_net(), slim_net()
    finetune(one, loader(), **QUICK)
    finetune(same, loader(), **QUICK)
    finetune(other, loader(), **QUICK, seed=1)
    assert equal(weights(one), weights(same)) and not equal(weights(one), weights(other))


def orders(seed: int) -> list[list[int]]:
    """The numbers of the examples as each epoch reads them, by a loader with a generator of its own."""
    numbers = TensorDataset(torch.arange(32.0).view(32, 1), torch.zeros(32, dtype=torch.long))
    read: list[list[int]] = []

    def noted(batch: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        read.append([int(x) for x, _ in batch])
        return [torch.stack(column) for column in zip(*batch, strict=True)]

    batches = DataLoader(numbers, 32, shuffle=True, generator=torch.Generator(), collate_fn=noted)
    finetune(nn.Linear(1, 2), batches, epochs=3, lr=1e-3, seed=seed)
    return read


def test_no_epoch_of_another_seed_reads_the_examples_in_the_same_order() -> None:
    found = [tuple(order) for seed in (0, 1, 2**64 - 1, 2**64 + 5) for order in orders(seed)]
    assert len(found) == len(set(found)) == 12
    assert orders(1) == orders(1)


def test_the_scaler_of_float16_goes_on(tmp_path: Path) -> None:
    """The loss is so large that the scale has to fall at first; a new scaler would leave out those steps again."""

    def large(output: Tensor, target: Tensor) -> Tensor:
        return 200 * F.cross_entropy(output, target)

    def stop(step: int, *_: Any) -> None:
        if step == 9:
            raise KeyboardInterrupt

    given: dict[str, Any] = {"steps": 12, "lr": 1e-4, "precision": "fp16", "loss_fn": large}
    expected, resumed = slim_net(), slim_net()
    finetune(expected, loader(), **given)
    with pytest.raises(KeyboardInterrupt):
        finetune(slim_net(), loader(), **given, checkpoint=tmp_path, on_step=stop)
    finetune(resumed, loader(), **given, checkpoint=tmp_path)
    assert equal(weights(resumed), weights(expected))


def test_every_step_draws_other_random_numbers() -> None:
    drawn: list[float] = []

    class Drawing(Net):
        def forward(self, x: Tensor) -> Tensor:
            drawn.append(float(torch.rand(())))
            return super().forward(x)

    finetune(Drawing(), BATCHES, **QUICK)
    assert len(set(drawn)) == len(drawn) == 16


def test_a_checkpoint_of_another_training(tmp_path: Path) -> None:
    finetune(slim_net(), loader(), **QUICK, checkpoint=tmp_path)
    model = slim_net()
    before = weights(model)
    with pytest.raises(LoadError, match=r"checkpoint: is of a training with lr=0.05, but asked for is lr=0.1"):
        finetune(model, loader(), epochs=2, lr=0.1, checkpoint=tmp_path)
    graphprune.save_checkpoint(tmp_path, model, {"mine": 1})
    with pytest.raises(LoadError, match="checkpoint: is not one of finetune"):
        finetune(model, loader(), **QUICK, checkpoint=tmp_path)
    assert equal(weights(model), before)


def test_damaged_histories() -> None:
    history = History((0.5, 0.25), (0.1, 0.1), {2: math.inf}, (2,))
    text = history.to_json()
    assert History.from_json(text) == history
    for seed in range(100):
        with contextlib.suppress(LoadError):
            assert str(History.from_json(damaged(text, seed))).startswith("epoch")
    for change, message in (
        ({"loss": [0.5]}, "loss: has 1 steps, but lr has 2"),
        ({"epochs": [3]}, "there is step 3, but there are 2 steps in all"),
        ({"metrics": {"first": 0.5}}, "Expected `int`, got `str`"),
        ({"more": 1}, "Object contains unknown field `more`"),
    ):
        with pytest.raises(LoadError, match=f"text: .*{message}"):
            History.from_json(json.dumps(json.loads(text) | change))
    with pytest.raises(LoadError, match="text: Object missing required field `metrics`"):
        History.from_json('{"loss": [], "lr": [], "epochs": []}')


# ------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": 3}, "model: must be a torch.nn.Module, but is an int"),
        ({"batches": torch.zeros(3, 6)}, r"batches: is a Tensor[\s\S]*needed: an iterable that can be read again"),
        ({"batches": iter(())}, r"batches: is a tuple_iterator[\s\S]*needed: an iterable that can be read again"),
        ({"batches": []}, r"batches: there are none[\s\S]*needed: an iterable that can be read again"),
        ({"batches": [(1, 2, 3)]}, "batches: a batch is a tuple of 3"),
        ({"batches": ["no"]}, "batches: the inputs of a batch are a str"),
        ({"batches": [torch.zeros(2, 6)]}, r"output .* has none[\s\S]*pass loss_fn="),
        (
            {"batches": [torch.zeros(2, 6)], "teacher": net(3)},
            r"has none[\s\S]*distill=graphprune.Distillation\(alpha=1\)",
        ),
        ({"batches": [(torch.zeros(2, 6), torch.randn(2, 3))]}, "loss_fn: is not given, and cross entropy does not"),
        (
            {"batches": [(torch.full((2, 6), math.nan), torch.zeros(2).long())]},
            "batches: the loss of step 0, before any",
        ),
        ({"epochs": None}, "epochs: is None and steps is None; say how long"),
        ({"steps": 3}, "epochs: is 2 and steps is 3; say how long"),
        ({"epochs": 0}, "epochs: must be a whole number, at least 1, but is 0"),
        ({"lr": None}, "lr: must be the highest learning rate, a positive number, but is None"),
        ({"lr": -1}, "lr: must be the highest learning rate"),
        ({"lr": 10**400}, "lr: must be the highest learning rate"),
        ({"weight_decay": 10**400}, "weight_decay: must be a number, 0 or more"),
        ({"schedule": Rewind([0.1] * 99)}, "lr: is 0.05, but schedule=Rewind"),
        ({"schedule": "zigzag"}, "schedule: 'zigzag' is not known; use one of 'cosine', 'constant', 'linear'"),
        ({"warmup": 99}, "warmup: must be a number of steps, at most the 16 of the training, but is 99"),
        ({"optimizer": "adam"}, "optimizer: 'adam' is not known; use one of 'sgd', 'adamw'"),
        ({"optimizer": lambda p, **_: 3}, "optimizer: the factory made an int"),
        ({"precision": "fp8"}, "precision: 'fp8' is not known; use one of 'fp32', 'bf16', 'fp16'"),
        ({"distill": graphprune.Distillation()}, "distill: is given without a teacher"),
        ({"seed": -1}, "seed: must be a whole number, at least 0, but is -1"),
        ({"accelerator": 3}, r"accelerator: is an int[\s\S]*pass accelerator=accelerate.Accelerator\(\)"),
        ({"loss_fn": lambda out, y: out}, "loss_fn: must give one number that depends on the weights"),
        ({"evaluate": lambda m: "good"}, "evaluate: must give a number, higher for a better model"),
        ({"lr": 1e30}, "lr: training diverged: the loss of step"),
    ],
)
def test_mistakes_are_explained_and_change_nothing(given: dict[str, Any], message: str) -> None:
    model = net()
    before = weights(model)
    gradients = [torch.randn_like(p) for p in model.parameters()]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    arguments = {"model": model, "batches": loader(), **QUICK} | given
    with pytest.raises(InputError, match=message):
        finetune(**arguments)
    assert equal(weights(model), before) and model.training
    assert all(gradient.equal(p.grad) for p, gradient in zip(model.parameters(), gradients, strict=True))


def test_numbers_of_other_libraries_count(tmp_path: Path) -> None:
    """It is the same training with numpy's numbers, in its checkpoint too."""
    given: dict[str, Any] = {"steps": np.int64(2), "lr": Fraction(1, 20), "seed": np.int32(3), "warmup": np.uint8(1)}
    plain: dict[str, Any] = {"steps": 2, "lr": 0.05, "seed": 3, "warmup": 1}
    model, twin, resumed = net(), net(), net()
    finetune(model, BATCHES, **plain)
    finetune(twin, BATCHES, **given, checkpoint=tmp_path)
    finetune(resumed, BATCHES, **plain, checkpoint=tmp_path)
    assert equal(weights(model), weights(twin)) and equal(weights(model), weights(resumed))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_trained(mode: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    pairs, before = [(torch.randn(4, 4), torch.arange(4) % 3)], copy.deepcopy(model.state_dict())
    message = rf"trains, but gradients are off here[\s\S]*outside of torch.{mode.__name__}\(\)"
    with mode():
        with pytest.raises(InputError, match=f"finetune: {message}"):
            finetune(model, pairs, epochs=1, lr=0.1)
        with pytest.raises(InputError, match=f"prune_iteratively: {message}"):
            graphprune.prune_iteratively(
                model, pairs[0][0], ratio=0.5, rounds=1, tune={"batches": pairs, "epochs": 1, "lr": 0.1}
            )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_nothing_to_train() -> None:
    with pytest.raises(InputError, match=r"model: no parameter requires gradients[\s\S]*call model.requires_grad_\(\)"):
        finetune(net().requires_grad_(False), loader(), **QUICK)


def test_a_stream_needs_steps() -> None:
    class Stream:
        def __iter__(self) -> Any:
            return iter(loader())

    with pytest.raises(InputError, match=r"epochs: a Stream does not say how many batches it has[\s\S]*pass steps="):
        finetune(net(), Stream(), **QUICK)
    history = finetune(net(), Stream(), steps=11, lr=0.05, evaluate=accuracy)
    assert history.epochs == (8,) and list(history.metrics) == [8, 11] and len(str(history).splitlines()) == 3
