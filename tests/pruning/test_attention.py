"""``PrunedMultiheadAttention`` is ``nn.MultiheadAttention``, and stays so when heads are removed."""

from __future__ import annotations

from enum import IntEnum
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import graphprune
from graphprune.pruning.attention import PrunedMultiheadAttention
from tests.networks import randomize

HEADS, WIDTH, BATCH, QUERIES, KEYS = 3, 12, 2, 4, 5
MODULES = [
    dict(batch_first=first, add_bias_kv=kv, add_zero_attn=zero, **dims)
    for first, kv, zero, dims in product((True, False), (True, False), (True, False), ({}, {"kdim": 7, "vdim": 9}))
]
MODULES += [{"bias": False}, {"bias": False, "kdim": 7}, {"vdim": 9}]
WEIGHTS = [{"need_weights": False}, {}, {"average_attn_weights": False}]


def attention(**options: Any) -> nn.MultiheadAttention:
    module = nn.MultiheadAttention(WIDTH, HEADS, dtype=torch.float64, **options)
    randomize(module)
    return module.eval()


def replacement(module: nn.MultiheadAttention) -> PrunedMultiheadAttention:
    return PrunedMultiheadAttention(module, module.num_heads, module.head_dim**-0.5)


def inputs(module: nn.MultiheadAttention, batched: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for time, width in ((QUERIES, WIDTH), (KEYS, module.kdim), (KEYS, module.vdim)):
        x = torch.randn(BATCH, time, width, generator=generator, dtype=torch.float64)
        made.append((x if module.batch_first else x.transpose(0, 1)) if batched else x[0])
    return made[0], made[1], made[2]


def masks(batched: bool) -> list[dict[str, Any]]:
    """Every kind of mask: none, 2-D and 3-D, boolean and additive, with and without padded keys."""
    heads = BATCH * HEADS if batched else HEADS
    flat = torch.zeros(QUERIES, KEYS, dtype=torch.bool)
    flat[1, 2:] = flat[2, 0] = True
    deep = flat.repeat(heads, 1, 1)
    deep[1, 3, 1] = True
    padding = torch.zeros(BATCH, KEYS, dtype=torch.bool)
    padding[1, 3:] = padding[0, 4] = True
    padding = padding if batched else padding[1]
    additive = [torch.zeros(m.shape, dtype=torch.float64).masked_fill(m, -2.5) for m in (flat, deep)]
    bool_masks = [{"attn_mask": m, "key_padding_mask": p} for m, p in product((None, flat, deep), (None, padding))]
    float_padding = torch.zeros(padding.shape, dtype=torch.float64).masked_fill(padding, float("-inf"))
    float_masks = [{"attn_mask": m, "key_padding_mask": p} for m, p in product(additive, (None, float_padding))]
    return [*bool_masks, *float_masks]


def assert_same(expected: tuple[Tensor, Tensor | None], actual: tuple[Tensor, Tensor | None]) -> None:
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-10, atol=1e-12)
    assert (actual[1] is None) == (expected[1] is None)
    if expected[1] is not None:
        torch.testing.assert_close(actual[1], expected[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("options", MODULES, ids=lambda o: "-".join(k for k, v in o.items() if v) or "plain")
def test_equals_torch_where_nothing_is_removed(options: dict[str, Any], batched: bool) -> None:
    module = attention(**options)
    same = replacement(module)
    given = inputs(module, batched)
    for mask, weights in product(masks(batched), WEIGHTS):
        assert_same(module(*given, **mask, **weights), same(*given, **mask, **weights))


@pytest.mark.parametrize("options", MODULES, ids=lambda o: "-".join(k for k, v in o.items() if v) or "plain")
def test_has_the_same_state(options: dict[str, Any]) -> None:
    module = attention(**options)
    state = replacement(module).state_dict()
    assert list(state) == list(module.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


def test_is_causal_is_a_hint_beside_the_mask() -> None:
    module = attention(batch_first=True)
    x = inputs(module)[0]
    causal = nn.Transformer.generate_square_subsequent_mask(QUERIES, dtype=torch.float64)
    call = {"attn_mask": causal, "is_causal": True, "need_weights": False}
    assert_same(module(x, x, x, **call), replacement(module)(x, x, x, **call))


def test_dropout_works_in_training_only() -> None:
    module = replacement(attention(batch_first=True, dropout=0.5))
    x, k, v = inputs(module_like := attention(batch_first=True))
    assert module_like.kdim == WIDTH
    for need in (True, False):
        still = [module.eval()(x, k, v, need_weights=need)[0] for _ in range(2)]
        moving = [module.train()(x, k, v, need_weights=need)[0] for _ in range(2)]
        assert torch.equal(*still)
        assert not torch.equal(*moving)


class Mixer(nn.Module):
    """Attention over a sequence that was projected, so that all widths can be pruned."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.enter = nn.Linear(6, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)
        self.leave = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        memory = y.flip(1)
        return self.leave(self.attention(y, memory, memory, need_weights=False)[0])


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": WIDTH, "vdim": WIDTH}], ids=str)
@pytest.mark.parametrize("head_width", [False, True], ids=["heads", "width"])
def test_removed_heads_equal_the_masked_original(options: dict[str, Any], head_width: bool) -> None:
    model = randomize(Mixer(**options))
    x = torch.randn(2, 5, 6)
    graph = graphprune.trace(model, x)
    plan = graph.plan(0.5, head_width=0.5 if head_width else None)
    slim = plan.apply(model)
    assert isinstance(slim.attention, PrunedMultiheadAttention)
    assert slim.attention.num_heads == (HEADS if head_width else 2)
    assert list(slim.state_dict()) == list(model.state_dict())
    check = graphprune.verify(model, slim, plan, x)
    assert check.relative <= 1e-12, str(check)


def test_heads_go_where_torch_fills_in_zeros_of_their_number() -> None:
    model = randomize(Mixer(add_zero_attn=True))
    x = torch.randn(2, 5, 6)
    graph = graphprune.trace(model, x)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert slim.attention.num_heads == 2
    assert slim.attention.embed_dim == WIDTH // 2
    assert graphprune.verify(model, slim, plan, x).passed


def test_description_names_the_sizes() -> None:
    assert "embed_dim=12, num_heads=3, head_dim=4" in repr(replacement(attention()))


@pytest.mark.parametrize("stack", [False, True])
def test_encoder_layers_do_not_call_fused_kernels(stack: bool) -> None:
    """In inference, torch's encoder layers pass by their attention where they can; not by one without all heads."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.Sequential(nn.Linear(5, 16), nn.TransformerEncoder(layer, 2) if stack else layer, nn.Linear(16, 3))
    x = torch.randn(2, 6, 5)
    slim = graphprune.prune_model(randomize(model).eval(), None, x, heads=0.5)
    assert any(isinstance(module, PrunedMultiheadAttention) for module in slim.modules())
    with torch.no_grad():
        fused = slim(x)
    torch.testing.assert_close(fused, slim(x))


class WithWeights(nn.Module):
    """Self-attention as it is mostly called, with its weights."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 3)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        result: Tensor = self.leave(self.attention(x, x, x)[0])
        return result


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_heads_go_whatever_the_batch_and_the_order_of_dimensions(batch_first: bool, batch: int) -> None:
    model = randomize(WithWeights(batch_first)).eval()
    x = torch.randn((batch, 5, 6) if batch_first else (5, batch, 6), generator=torch.Generator().manual_seed(0))
    plan = graphprune.trace(model, x).plan(heads=0.5)
    slim = plan.apply(model)
    assert slim.attention.num_heads == 2
    check = graphprune.verify(model, slim, plan, x)
    assert check.passed
    assert not check.inexact  # the mean of the weights over heads, which nobody reads, is none


class Padded(nn.Module):
    """An encoder as torch makes it, which turns padded sequences into nested tensors in inference."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 3)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        result: Tensor = self.leave(self.encoder(self.enter(x), src_key_padding_mask=padding))
        return result


@pytest.mark.parametrize("options", [{"heads": 0.5}, {"head_width": 0.5}, {"width": 0.5}, {"ratio": 0.5}], ids=str)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")  # torch's, of its own encoder
def test_encoders_with_padding_in_inference(options: dict[str, Any]) -> None:
    model = randomize(Padded()).eval()
    x = torch.randn(3, 7, 6)
    padding = torch.arange(7) >= torch.tensor([[7], [3], [5]])
    slim = graphprune.prune_model(model, **{"ratio": None, **options}, example_inputs=(x, padding))
    wanted = slim(x, padding)
    with torch.no_grad():
        got = slim(x, padding)
    torch.testing.assert_close(got[~padding], wanted[~padding])
    alone = slim(x[1:2, :3], padding[1:2, :3])
    torch.testing.assert_close(got[1:2, :3], alone)
    with torch.no_grad():  # torch's own: what is padded comes out as zeros
        assert torch.equal(got[padding], model(x, padding)[padding])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors_have_weights_and_no_masks() -> None:
    module = replacement(attention(batch_first=True))
    long, short = (torch.randn(n, WIDTH, dtype=torch.float64) for n in (5, 3))
    nested = torch.nested.as_nested_tensor([long, short])
    out, weights = module(nested, nested, nested)
    wanted = module(short[None], short[None], short[None])
    assert weights is not None
    assert_same((wanted[0][0], wanted[1][0]), (out.unbind()[1], weights[1, :3, :3]))
    assert not weights[1, :, 3:].any()
    with pytest.raises(ValueError, match="without masks"):
        module(nested, nested, nested, attn_mask=torch.zeros(5, 5, dtype=torch.bool))


def test_what_stands_in_the_place_of_attention_has_all_that_its_owner_put_there() -> None:
    model = Mixer()
    seen: list[Tensor] = []
    model.attention.layer_index = 7  # type: ignore[assignment]
    model.attention.register_buffer("steps", torch.ones(1))
    model.attention.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    slim = graphprune.prune_model(randomize(model), None, torch.randn(2, 5, 6), heads=0.5)
    assert isinstance(slim.attention, PrunedMultiheadAttention)
    seen.clear()
    slim(torch.randn(2, 5, 6))
    assert len(seen) == 1
    assert slim.attention.layer_index == 7
    assert list(slim.state_dict()) == list(model.state_dict())


class Scaled(nn.MultiheadAttention):
    """Computes attention of its own, with another scale."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:  # type: ignore[override]
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        given = zip((query, key, value), weights, biases, strict=True)
        q, k, v = (F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x, w, b in given)
        mixed = (q @ k.mT * 0.4).softmax(-1) @ v
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


class Residual(nn.MultiheadAttention):
    def forward(self, query: Tensor, *args: Any, **options: Any) -> Any:
        mixed, weights = super().forward(query, *args, **options)
        return query + mixed, weights


class Labeled(nn.MultiheadAttention):
    """As torch's, with a method that others call."""

    def label(self) -> str:
        return f"{self.num_heads} heads"


class Heads(IntEnum):
    FEW = 3


def wrapped(module: nn.MultiheadAttention) -> nn.MultiheadAttention:
    """With another forward on the instance."""
    own = module.forward

    def forward(query: Tensor, *args: Any, **options: Any) -> Any:
        mixed, weights = own(query, *args, **options)
        return mixed * 2 + query, weights

    module.forward = forward  # type: ignore[method-assign]
    return module


def masked(module: nn.MultiheadAttention) -> nn.MultiheadAttention:
    prune.random_unstructured(module, "in_proj_weight", 0.2)
    return module


def torchs(heads: int = HEADS) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(WIDTH, heads, batch_first=True)


UNLIKE_TORCHS = {
    "other forward": lambda: Scaled(WIDTH, HEADS, batch_first=True),
    "forward around torch's": lambda: Residual(WIDTH, HEADS, batch_first=True),
    "other method": lambda: Labeled(WIDTH, HEADS, batch_first=True),
    "forward of the instance": lambda: wrapped(torchs()),
    "number of a class of its own": lambda: torchs(Heads.FEW),
    "parametrized": lambda: parametrizations.weight_norm(torchs(), "in_proj_weight"),
    "masked": lambda: masked(torchs()),
}


@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"heads": 0.5}, {"head_width": 0.5}], ids=str)
@pytest.mark.parametrize("kind", UNLIKE_TORCHS)
@pytest.mark.filterwarnings("ignore::graphprune.errors.NothingRemovedWarning")
def test_attention_that_is_not_quite_torchs_is_read_as_it_is_written(kind: str, options: dict[str, Any]) -> None:
    model = Mixer()
    model.attention = UNLIKE_TORCHS[kind]()
    x = torch.randn(2, 5, 6)
    graph = graphprune.trace(randomize(model), x)
    plan = graph.plan(**options)
    slim = plan.apply(model)
    assert type(slim.attention) is type(model.attention)
    check = graphprune.verify(model, slim, plan, x)
    assert check.passed, str(check)


def test_attention_of_its_own_loses_heads() -> None:
    model = Mixer()
    model.attention = Scaled(WIDTH, HEADS, batch_first=True)
    slim: Any = graphprune.prune_model(randomize(model), None, torch.randn(2, 5, 6), heads=0.34)
    assert slim.attention.num_heads == 2
    assert slim.attention.in_proj_weight.shape == (3 * 8, WIDTH)
