"""Rotated streams: equal outputs, channels that are principal components, and what holds a stream."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import graphprune
from graphprune.errors import InputError, PlanError, VerificationError
from graphprune.graph.analysis import analyze
from graphprune.pruning.wide_run import run_slim
from graphprune.rotation import rotating
from graphprune.rotation.streams import find_streams
from graphprune.tracing.inputs import calls_of

IDS = torch.arange(12).view(2, 6)


class Scaled(nn.Module):
    """Root mean square normalization with ``1 + weight``, as Gemma has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x * x).mean(-1, keepdim=True).add(1e-6).rsqrt() * (1.0 + self.weight)


class Network(nn.Module):
    """Ids -> logits, with positions, biases and two blocks; ``norms`` makes the normalizations."""

    def __init__(self, norms: Any = nn.RMSNorm, width: int = 12) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(32, width), nn.Parameter(torch.randn(6, width))
        self.norms = nn.ModuleList(norms(width) for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(width, 20) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(20, width) for _ in range(2))
        self.head = nn.Linear(width, 7)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) * 3.0 + self.positions[: ids.shape[1]]
        for norm, up, down in zip(self.norms, self.up, self.down, strict=False):
            x = x + 0.5 * down(torch.relu(up(norm(x))))
        return self.head(self.norms[2](x))


class InPlace(Network):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.positions[: ids.shape[1]]
        for norm, up, down in zip(self.norms, self.up, self.down, strict=False):
            x += down(torch.relu(up(norm(x))))
        return self.head(self.norms[2](x).transpose(0, 1).contiguous()).transpose(0, 1)


def varied(model: nn.Module) -> nn.Module:
    """A model whose scales and biases are not those that it begins with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def batches(words: int = 32, name: str | None = None) -> list[Any]:
    generator = torch.Generator().manual_seed(2)
    found = [torch.randint(0, words, (8, 6), generator=generator) for _ in range(4)]
    return [{name: ids} for ids in found] if name else found


def require_equal(model: nn.Module, rotated: nn.Module, inputs: Any) -> None:
    """Both are in float64, and run in it where they would use float32."""
    before, after = (run_slim(one, calls_of(inputs)) for one in (model, rotated))
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-10 * float(one.abs().max()))


@pytest.mark.parametrize(("made", "norms"), [(Network, nn.RMSNorm), (Network, Scaled), (InPlace, nn.RMSNorm)])
def test_outputs_stay_equal(made: Any, norms: Any) -> None:
    torch.manual_seed(0)
    model = varied(made(norms)).double()
    before = copy.deepcopy(model.state_dict())
    rotated: Any = graphprune.rotate_streams(model, batches(), IDS)
    require_equal(model, rotated, IDS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.allclose(rotated.words.weight, model.words.weight)
    ones = 0.0 if norms is Scaled else 1.0
    assert all(bool((norm.weight == ones).all()) for norm in rotated.norms)


def test_channels_are_sorted_by_what_they_carry() -> None:
    torch.manual_seed(0)
    rotated: Any = graphprune.rotate_streams(varied(Network()), batches(), IDS)
    read: list[Tensor] = []
    for norm in rotated.norms:
        norm.register_forward_hook(lambda _module, _inputs, output: read.append(output.detach().flatten(0, 1)))
    with torch.no_grad():
        for ids in batches():
            rotated(ids)
    rows = torch.cat(read).double()
    moments = rows.T @ rows / len(rows)
    sizes = moments.diagonal()
    assert bool((sizes.diff() < 1e-6).all()), "the largest first"
    assert float((moments - torch.diag(sizes)).abs().max()) < 1e-5, "principal components are not correlated"


def language_model(kind: str, **others: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(  # noqa: C408
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0
    )
    config = getattr(transformers, f"{kind}Config")(**{**sizes, "tie_word_embeddings": False, **others})
    return varied(getattr(transformers, f"{kind}ForCausalLM")(config))


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        ("Llama", {}),
        ("Qwen3", {"head_dim": 8, "num_key_value_heads": 2}),
        ("Gemma", {"head_dim": 8, "num_key_value_heads": 4}),
    ],
)
def test_language_models(kind: str, others: dict[str, Any]) -> None:
    model = language_model(kind, **others).double()
    rotated = graphprune.rotate_streams(model, batches(64, "input_ids"), {"input_ids": IDS})
    require_equal(model, rotated, {"input_ids": IDS})


def test_less_is_lost_with_the_width(tmp_path: Path) -> None:
    """Of a stream whose words lie mostly in a few directions, the others go."""
    torch.manual_seed(0)
    model = language_model("Llama")
    with torch.no_grad():
        directions = torch.linalg.qr(torch.randn(32, 32))[0]
        model.model.embed_tokens.weight.copy_(torch.randn(64, 32) * 0.8 ** torch.arange(32) @ directions)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 0.3
            layer.mlp.down_proj.weight *= 0.3
    data, example = batches(64, "input_ids"), {"input_ids": IDS}
    errors = []
    for one in (model, graphprune.rotate_streams(model, data, example)):
        plan = graphprune.trace(one, example).plan(width=0.5, importance="l2")
        slim: Any = plan.apply(one)
        assert graphprune.verify(one, slim, plan, example).passed
        graphprune.repair(slim, one, plan, data)
        with torch.no_grad():
            errors.append(float((slim(**example).logits - model(**example).logits).norm()))
    assert errors[1] < 0.7 * errors[0]
    slim.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.hidden_size == 16
    with torch.no_grad():
        torch.testing.assert_close(loaded(**example).logits, slim(**example).logits, rtol=0, atol=0)


class Two(nn.Module):
    """Two streams, one of which reads the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Network(width=12), Network(width=8)
        self.between = nn.Linear(7, 8)

    def forward(self, ids: Tensor) -> Tensor:
        y = self.second.words(ids) + self.between(self.first(ids))
        return self.second.head(self.second.norms[0](y))


def test_each_stream_has_its_own_matrix() -> None:
    torch.manual_seed(0)
    model = varied(Two()).double()
    streams, held = find_streams(analyze(model, IDS))
    assert [stream.width for stream in streams] == [12, 8] and not held
    require_equal(model, graphprune.rotate_streams(model, batches(), IDS), IDS)


# ---------------------------------------------------------------- what holds a stream


class Returned(Network):
    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x = self.words(ids) + self.positions[: ids.shape[1]]
        return self.head(self.norms[2](x)), x


class Clipped(Network):
    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.words(ids) + self.positions[: ids.shape[1]]))


class NormAdded(Network):
    """What a normalization has scaled channel by channel is added, as Gemma 2 does it."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.positions[: ids.shape[1]]
        return self.head(x + self.norms[0](self.down[0](torch.relu(self.up[0](x)))))


class Sliced(Network):
    """Some of the channels that a layer makes are added."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.positions[: ids.shape[1]]
        return self.head(x + self.up[0](x)[..., :12])


class TwiceUsed(Network):
    """The embedding is the head."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.positions[: ids.shape[1]]
        return self.norms[2](x) @ self.words.weight.T


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: Network(nn.LayerNorm), "native_layer_norm in norms.. reads its channels one by one"),
        (Returned, "is a result of the model"),
        (Clipped, "relu in the model reads its channels one by one"),
        (NormAdded, "multiplies each channel by another number before it is added"),
        (TwiceUsed, "words.weight in words is used for two things"),
        (Sliced, "slice in the model makes its channels, and is no product with a weight"),
    ],
)
def test_reasons(made: Any, reason: str) -> None:
    with pytest.raises(PlanError, match=f"has no residual stream that can be turned: .*{reason}") as raised:
        graphprune.rotate_streams(made().eval(), batches(), IDS)
    assert "nn.Parameter" in raised.value.do and raised.value.place


def test_a_head_of_its_own_is_what_the_message_says() -> None:
    model = language_model("Llama", tie_word_embeddings=True)
    data, example = batches(64, "input_ids"), {"input_ids": IDS}
    with pytest.raises(PlanError, match="embedding that is the head"):
        graphprune.rotate_streams(model, data, example)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model = model.double()
    require_equal(model, graphprune.rotate_streams(model, data, example), {"input_ids": IDS})


def test_weights_are_needed() -> None:
    with pytest.raises(InputError, match=r"model: .* is on meta, and has no values"):
        graphprune.rotate_streams(Network().to("meta"), batches(), IDS)


class Fourth(nn.Module):
    """A normalization by the fourth power, which notices a rotation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * x.pow(4).mean(-1, keepdim=True).rsqrt() * self.weight


def test_other_statistics_than_squares_are_found_by_the_outputs() -> None:
    torch.manual_seed(0)
    with pytest.raises(VerificationError, match="rotated, it gives other outputs"):
        graphprune.rotate_streams(varied(Network(Fourth)), batches(), IDS)


def test_models_without_sums() -> None:
    with pytest.raises(PlanError, match=r"no residual stream that can be turned\n"):
        graphprune.rotate_streams(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), [torch.ones(1, 4)], torch.ones(1, 4))


def test_the_largest_moments_come_first() -> None:
    basis = rotating._components([torch.diag(torch.tensor([1.0, 3.0, 2.0]))], 3)
    torch.testing.assert_close(basis.abs(), torch.eye(3, dtype=torch.float64)[[1, 2, 0]].T)
