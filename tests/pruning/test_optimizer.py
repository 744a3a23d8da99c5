"""Pruning amid training: it goes on as a training of the slim model that was given its state by hand would."""

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import timm.optim
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer, RMSprop
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import graphprune
from graphprune.errors import InputError, PlanError
from graphprune.pruning.optimizer import prune_in_place
from graphprune.pruning.optimizer_state import slim_state
from models import vit
from tests.networks import FusedAttention, GroupedQueryAttention, TextNetwork, TorchAttention, TransformerBlock

Factory = Callable[..., Optimizer]


def image_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Flatten(),
        nn.Linear(12 * 16, 10), nn.ReLU(), nn.Linear(10, 5)
    )  # fmt: skip


def text_net() -> nn.Module:
    torch.manual_seed(0)
    attention = (GroupedQueryAttention(16, 2, 2, 4), TorchAttention(16, 4))
    return TextNetwork(16, [TransformerBlock(16, a, 12, gated=True) for a in attention], tied=True)


IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
WORDS = torch.arange(24).reshape(6, 4) % 11
NETS = {"image": (image_net, IMAGES, torch.arange(6) % 5), "text": (text_net, WORDS, WORDS.roll(-1, 1))}


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten())


def steps(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        optimizer.step()


OPTIMIZERS: dict[str, Factory] = {
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, lr=0.01),
    "amsgrad": lambda p: AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: RMSprop(p, lr=0.003, momentum=0.5, centered=True),
    "fused": lambda p: Adam(p, lr=0.01, fused=True),
}


def sliced_by_hand(optimizer: Optimizer, model: nn.Module, plan: graphprune.Plan) -> dict[str, dict[str, Tensor]]:
    """The state by parameter name: what the mask says of tensors of the parameter's shape, all else as it is."""
    found = {}
    for name, p in model.named_parameters():
        own = optimizer.state[p].items()
        found[name] = {
            key: v[plan.mask(name)].reshape(plan.shape(name)).clone() if v.shape == p.shape else v.clone()
            for key, v in own
        }
    return found


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_by_hand(net: str, kind: str) -> None:
    make, x, y = NETS[net]
    model = make()
    optimizer = OPTIMIZERS[kind](model.parameters())
    steps(model, optimizer, x, y, 3)
    plan = graphprune.trace(model, x).plan(0.5)
    by_hand = sliced_by_hand(optimizer, model, plan)
    slim = plan.apply(model)
    other = OPTIMIZERS[kind](slim.parameters())
    for name, p in slim.named_parameters():
        other.state[p].update(by_hand[name])

    prune_in_place(model, plan, optimizer)
    steps(model, optimizer, x, y, 4)
    steps(slim, other, x, y, 4)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), slim.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), slim.buffers(), strict=True))
    assert sum(p.numel() for p in model.parameters()) < 0.8 * sum(p.numel() for p in make().parameters())


def test_a_model_may_hold_its_optimizer() -> None:
    """Its lists of parameters are no part of the model: the optimizer's state would lose them."""
    models = [image_net(), image_net()]
    x, y = NETS["image"][1:]
    for model in models:
        optimizer = OPTIMIZERS["adam"](model.parameters())
        if model is models[0]:
            model.trainer = SimpleNamespace(optimizers=[optimizer])
        steps(model, optimizer, x, y, 3)
        prune_in_place(model, graphprune.trace(model, x).plan(0.5), optimizer)
        steps(model, optimizer, x, y, 3)
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


def test_state_matters() -> None:
    """The control of the test above: with an optimizer that knows nothing, training goes elsewhere."""
    model, x, y = image_net(), *NETS["image"][1:]
    optimizer = OPTIMIZERS["adam"](model.parameters())
    steps(model, optimizer, x, y, 3)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    prune_in_place(model, plan, optimizer)
    steps(model, optimizer, x, y, 4)
    steps(slim, OPTIMIZERS["adam"](slim.parameters()), x, y, 4)
    assert not torch.equal(model[0].weight, slim[0].weight)


def test_groups_names_and_schedulers_stay() -> None:
    model, x, y = image_net(), *NETS["image"][1:]
    named = list(model.named_parameters())
    optimizer = AdamW([{"params": named[:4], "lr": 0.1}, {"params": named[4:], "weight_decay": 0.0}], lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    steps(model, optimizer, x, y, 1)
    prune_in_place(model, graphprune.trace(model, x).plan(0.5), optimizer)
    steps(model, optimizer, x, y, 1)
    scheduler.step()
    now = dict(model.named_parameters())
    for group, part in zip(optimizer.param_groups, (named[:4], named[4:]), strict=True):
        assert group["param_names"] == [name for name, _ in part]
        assert all(p is now[name] for p, name in zip(group["params"], group["param_names"], strict=True))
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.05, 0.01), (0.005, 0.0)]
    assert list(optimizer.state) == list(model.parameters())
    fresh = AdamW([{"params": named[:4]}, {"params": named[4:]}])
    fresh.load_state_dict(optimizer.state_dict())  # in the order that checkpoints rely on


def test_gradients_are_carried() -> None:
    model, x, y = image_net(), *NETS["image"][1:]
    loss_of(model, x, y).backward()
    plan = graphprune.trace(model, x).plan(0.5)
    wanted = {n: p.grad[plan.mask(n)].reshape(plan.shape(n)) for n, p in model.named_parameters()}
    prune_in_place(model, plan)
    assert all(torch.equal(p.grad, wanted[n]) for n, p in model.named_parameters())


def test_several_optimizers_and_strangers() -> None:
    model, x, y = image_net(), *NETS["image"][1:]
    stranger = nn.Parameter(torch.randn(8, 3, 3, 3))
    first = SGD([model[0].weight, stranger], lr=0.1, momentum=0.9)
    second = Adam(list(model.parameters())[1:], lr=0.1)
    stranger.grad = torch.ones_like(stranger)
    steps(model, second, x, y, 1)
    first.step()
    prune_in_place(model, graphprune.trace(model, x).plan(0.5), [first, second])
    assert first.param_groups[0]["params"][0] is model[0].weight
    assert first.param_groups[0]["params"][1] is stranger
    assert first.state[stranger]["momentum_buffer"].shape == stranger.shape
    assert second.state[model[8].weight]["exp_avg"].shape == model[8].weight.shape == (5, 5)


# ---------------------------------------------------------------- averages


@pytest.mark.parametrize("wrapped", [True, False])
def test_averages(wrapped: bool) -> None:
    model, x, y = text_net(), *NETS["text"][1:]
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    for _ in range(3):
        steps(model, optimizer, x, y, 1)
        ema.update_parameters(model)
    plan = graphprune.trace(model, x).plan(0.5)
    wanted = plan.apply(ema.module)
    prune_in_place(model, plan, optimizer, averages=[ema if wrapped else ema.module])
    assert torch.equal(ema(x), wanted(x))
    assert not torch.equal(ema(x), model(x))
    before = [p.clone() for p in ema.parameters()]
    steps(model, optimizer, x, y, 1)
    ema.update_parameters(model)
    for new, old, p in zip(ema.parameters(), before, model.parameters(), strict=True):
        torch.testing.assert_close(new, (old + p) / 2)


class WithAverages(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.ema = net, AveragedModel(net)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


def test_averages_within_the_model_are_those_of_the_part_that_is_averaged() -> None:
    model, x, _ = text_net(), *NETS["text"][1:]
    whole = WithAverages(model)
    with pytest.warns(graphprune.UnreachedWarning):
        plan = graphprune.trace(whole, x).plan(0.5)
    with pytest.raises(InputError, match=r"averages\[0\]: lies within the model that is pruned, at ema\.module"):
        prune_in_place(whole, plan, averages=[whole.ema])
    prune_in_place(model, graphprune.trace(model, x).plan(0.5), averages=[whole.ema])
    whole.ema.update_parameters(model)
    assert torch.equal(whole.ema(x), whole(x))


# ---------------------------------------------------------------- whole blocks, tied weights


def test_skipped_blocks_leave_the_optimizer() -> None:
    model, image = vit.vit(), torch.randn(2, 3, 32, 32)
    plan = graphprune.trace(model, image).plan(0.5, depth=0.5)
    gone, stays = (next(b for i, b in enumerate(model.blocks) if (f"blocks.{i}" in plan.skipped) == s) for s in (1, 0))
    first = list(gone.fc1.named_parameters())
    second = [*gone.norm1.named_parameters("gone"), *stays.named_parameters()]
    optimizer = AdamW([{"params": first}, {"params": second}])
    steps(model, optimizer, image, torch.arange(2), 1)
    prune_in_place(model, plan, optimizer)
    groups = optimizer.param_groups
    assert groups[0]["params"] == groups[0]["param_names"] == []
    assert [id(p) for p in groups[1]["params"]] == [id(p) for p in stays.parameters()]
    assert groups[1]["param_names"] == [name for name, _ in stays.named_parameters()]
    assert list(optimizer.state) == list(stays.parameters())
    steps(model, optimizer, image, torch.arange(2), 1)


def test_tied_weights_are_one() -> None:
    model, x, y = text_net(), *NETS["text"][1:]
    optimizer = OPTIMIZERS["adam"](model.parameters())
    steps(model, optimizer, x, y, 1)
    prune_in_place(model, graphprune.trace(model, x).plan(0.5), optimizer)
    assert model.head.weight is model.embed.weight
    own = [p for g in optimizer.param_groups for p in g["params"]]
    assert [id(p) for p in own] == [id(p) for p in model.parameters()]


# ---------------------------------------------------------------- state of other shapes


def attention_net() -> nn.Module:
    torch.manual_seed(0)
    return TextNetwork(16, [TransformerBlock(16, FusedAttention(16, 4), 16, gated=False)], tied=False)


@pytest.mark.parametrize(
    "factory",
    [lambda p: Adafactor(p, lr=0.01), lambda p: transformers.Adafactor(p, lr=0.01, relative_step=False)],
    ids=["torch", "transformers"],
)
def test_factored_state_of_square_weights(factory: Factory) -> None:
    model, x, y = attention_net(), *NETS["text"][1:]
    optimizer = factory(model.parameters())
    steps(model, optimizer, x, y, 2)
    weight = model.blocks[0].attention.out.weight
    before = [v.clone() for v in optimizer.state[weight].values() if isinstance(v, Tensor) and v.numel() == 16]
    assert len(before) == 2  # rows and columns
    plan = graphprune.trace(model, x).plan(heads=0.5)
    columns = plan.mask("blocks.0.attention.out.weight").any(0)
    assert columns.sum() == 8 and weight.shape == (16, 16)
    prune_in_place(model, plan, optimizer)
    state = optimizer.state[model.blocks[0].attention.out.weight]
    after = [v for v in state.values() if isinstance(v, Tensor) and v.numel() > 1]
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1].flatten(), before[1].flatten()[columns])
    steps(model, optimizer, x, y, 2)


TIMMS = {
    "adafactor": lambda p: timm.optim.Adafactor(p, lr=0.01, min_dim_size_to_factor=9),
    "big vision": lambda p: timm.optim.AdafactorBigVision(p, lr=0.01, min_dim_size_to_factor=9),
    "lookahead": lambda p: timm.optim.Lookahead(timm.optim.Adafactor(p, lr=0.01, min_dim_size_to_factor=9)),
}
"""They factor statistics of matrices that are large enough."""


@pytest.mark.parametrize("kind", TIMMS)
def test_state_that_depends_on_sizes_begins_anew_where_it_is_another_one(kind: str) -> None:
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    x, y = torch.randn(6, 12), torch.arange(6) % 4
    optimizer = TIMMS[kind](model.parameters())
    torch.optim.lr_scheduler.ConstantLR(optimizer)  # it counts the steps of the instance
    steps(model, optimizer, x, y, 2)
    before = [p.clone() for p in model.parameters()]
    plan = graphprune.trace(model, x).plan(0.5)
    with pytest.warns(graphprune.RestartedStateWarning, match=r"the state of 2\.weight begins anew"):
        prune_in_place(model, plan, optimizer)
    pairs = zip(model.named_parameters(), before, strict=True)
    assert all(torch.equal(p.flatten(), old[plan.mask(name)]) for (name, p), old in pairs)
    state = getattr(optimizer, "_base_optimizer", optimizer).state
    assert model[2].weight not in state and state[model[0].weight]["step"] == 2
    steps(model, optimizer, x, y, 2)
    assert state[model[2].weight]["exp_avg_sq"].shape == (8, 16)


def test_the_state_of_a_wrapped_optimizer_is_cut() -> None:
    """Lookahead has a state of its own beside that of the one that it holds, Accelerate's the same."""
    accelerate = pytest.importorskip("accelerate")
    for wrap in (timm.optim.Lookahead, accelerate.Accelerator(cpu=True).prepare_optimizer):
        model, x, y = image_net(), *NETS["image"][1:]
        inner = Adam(model.parameters(), lr=0.01)
        optimizer = wrap(inner)
        steps(model, optimizer, x, y, 2)
        plan = graphprune.trace(model, x).plan(0.5)
        by_hand = sliced_by_hand(inner, model, plan)
        prune_in_place(model, plan, optimizer)
        for name, p in model.named_parameters():
            assert all(torch.equal(value, by_hand[name][key]) for key, value in inner.state[p].items())
        assert inner.state.keys() == set(model.parameters())
        steps(model, optimizer, x, y, 2)


def test_statistics_of_rows_and_columns_of_ones_own_are_cut() -> None:
    class Rows(SGD):
        def __init__(self, parameters: object) -> None:
            super().__init__(parameters, lr=0.01)
            self.decay = 0.9

        @torch.no_grad()
        def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
            for p in (p for group in self.param_groups for p in group["params"] if p.ndim == 2):
                row = self.state[p].setdefault("row", torch.zeros(p.shape[0]))
                row.mul_(self.decay).add_(p.grad.square().mean(1))
            return super().step(closure)

    model, x, y = image_net(), *NETS["image"][1:]
    optimizer = Rows(model.parameters())
    steps(model, optimizer, x, y, 2)
    before = optimizer.state[model[6].weight]["row"].clone()
    plan = graphprune.trace(model, x).plan(0.5)
    prune_in_place(model, plan, optimizer)
    assert torch.equal(optimizer.state[model[6].weight]["row"], before[plan.mask("6.bias")])
    steps(model, optimizer, x, y, 1)


def test_an_optimizer_whose_first_step_fails_is_refused() -> None:
    class Needy(Adafactor):
        def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
            self.calls.append(closure)
            return super().step(closure)

    model, x, y = image_net(), *NETS["image"][1:]
    optimizer = Needy(model.parameters())
    optimizer.calls = []
    steps(model, optimizer, x, y, 1)
    with pytest.raises(InputError, match=r"Needy, for 0\.weight of shape .* cannot be found out: AttributeError"):
        prune_in_place(model, graphprune.trace(model, x).plan(0.5), optimizer)


def test_integers_of_entries_are_no_numbers_of_channels() -> None:
    kept = {0: torch.tensor([1, 3]).numpy()}
    counts = slim_state({"counts": torch.tensor([7, 5, 7, 9])}, torch.Size((4,)), kept, "")["counts"]
    assert counts.tolist() == [5, 9]


def test_what_could_be_rows_or_columns_is_refused() -> None:
    kept = {1: torch.arange(3).numpy()}
    square, oblong = torch.Size((5, 5)), torch.Size((4, 5))
    assert slim_state({"sums": torch.ones(5)}, oblong, kept, "")["sums"].shape == (3,)
    assert slim_state({"sums": torch.ones(4)}, oblong, kept, "")["sums"].shape == (4,)
    assert slim_state({"sums": torch.ones(1, 5)}, square, kept, "")["sums"].shape == (1, 3)
    with pytest.raises(InputError, match=r"'sums' of shape \[5\], which could be over other dimensions"):
        slim_state({"sums": torch.ones(5)}, square, kept, "")
    with pytest.raises(InputError, match=r"'factor' of shape \[7\], which are not its dimensions"):
        slim_state({"factor": torch.ones(7)}, oblong, kept, "")
    with pytest.raises(InputError, match=r"a list of tensors such as \[4, 4\]"):
        slim_state({"factors": [torch.ones(4, 4)]}, oblong, kept, "")


# ---------------------------------------------------------------- errors


def snapshot(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    state = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
    return [*model.parameters(), *model.buffers(), *state]


class Preconditioned(SGD):
    """Keeps a matrix for every parameter."""

    def step(self, closure: Callable[[], float] | None = None) -> None:
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["factor"] = torch.eye(p.numel())


def test_errors_change_nothing() -> None:
    model, x, y = image_net(), *NETS["image"][1:]
    plan = graphprune.trace(model, x).plan(0.5)
    good, other = Adam(model.parameters()), Preconditioned(model.parameters(), lr=0.1)
    lbfgs = torch.optim.LBFGS(model.parameters())
    steps(model, good, x, y, 1)
    steps(model, other, x, y, 1)
    ema, foreign, before = copy.deepcopy(model), text_net(), [t.clone() for t in snapshot(model, good)]
    cases = [
        ({"optimizer": [good, other]}, InputError, r"Preconditioned, for 0\.weight of shape .* keeps 'factor'"),
        ({"optimizer": [good, lbfgs]}, InputError, "LBFGS holds parameters in its attribute '_params'"),
        ({"optimizer": [good, good]}, InputError, "given twice"),
        ({"optimizer": [good, model]}, InputError, "but is a Sequential"),
        ({"optimizer": good, "averages": [ema, foreign]}, PlanError, r"averages\[1\]: model: the plan names"),
        ({"optimizer": good, "averages": [3]}, InputError, "averages: must be a list of modules, .* but is 3"),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error, match=message):
            prune_in_place(model, plan, **arguments)
        now = snapshot(model, good)
        assert all(torch.equal(a, b) for a, b in zip(now, before, strict=True)), message
        assert ema[0].weight.shape == model[0].weight.shape == (8, 3, 3, 3)
        assert [id(p) for p in good.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    with pytest.raises(PlanError, match="the plan names"):
        prune_in_place(foreign, plan)


class Facade(Optimizer):
    """Has the groups and the state of the optimizer that it wraps."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner, self.param_groups, self.state, self.defaults = inner, inner.param_groups, inner.state, {}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("slow", "what"),
    [
        (lambda parameters: {p: p.detach().clone() for p in parameters}, "parameters"),
        (lambda parameters: [p.detach().clone() for p in parameters], "tensors of the sizes of its parameters"),
        (lambda parameters: {i: p.detach().clone() for i, p in enumerate(parameters)}, "tensors of the sizes"),
    ],
)
def test_slow_weights_outside_of_the_state_are_refused(
    wrapped: bool, slow: Callable[[list[Tensor]], object], what: str
) -> None:
    model, x, _ = image_net(), *NETS["image"][1:]
    inner = SGD(model.parameters(), lr=0.1)
    optimizer = Facade(inner) if wrapped else inner
    optimizer.slow = slow(list(model.parameters()))
    with pytest.raises(InputError, match=f"{type(optimizer).__name__} holds {what}.* in its attribute 'slow'"):
        prune_in_place(model, graphprune.trace(model, x).plan(0.5), optimizer)
    del optimizer.slow
    prune_in_place(model, graphprune.trace(model, x).plan(0.5), optimizer)


def test_an_attribute_that_is_missing_is_seen_before_anything_changes() -> None:
    model, x = attention_net(), WORDS
    plan = graphprune.trace(model, x).plan(heads=0.5)
    broken = attention_net()
    attention = broken.blocks[0].attention
    broken.blocks[0].attention = nn.Sequential()
    broken.blocks[0].attention.qkv, broken.blocks[0].attention.out = attention.qkv, attention.out
    del attention.num_heads
    with pytest.raises(PlanError, match="num_heads"):
        prune_in_place(broken, plan)
    assert attention.qkv.weight.shape == (48, 16)


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_of_parameters_that_shrink_are_refused(register: str) -> None:
    """They would be gone, and a step in the backward pass with them."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    plan = graphprune.trace(model, torch.randn(2, 8)).plan(0.5)
    getattr(model[2].bias, register)(lambda _: None)  # stays as it is
    handle = getattr(model[0].weight, register)(lambda _: None)
    with pytest.raises(InputError, match=rf"0\.weight has hooks on its gradient[\s\S]*{register}"):
        prune_in_place(model, plan)
    assert model[0].out_features == 16
    handle.remove()
    prune_in_place(model, plan)
    assert model[0].out_features == 8
