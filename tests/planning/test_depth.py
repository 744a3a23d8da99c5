"""Whole layers: which blocks can be left out, and that leaving them out is leaving them out."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    BloomConfig,
    BloomForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

import graphprune
from graphprune.errors import InputError, PlanError
from graphprune.pruning.skip import Skip
from models import gpt, mobilenet_v2, resnet_cifar, vit

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IDS = torch.arange(12)[None]


@pytest.mark.parametrize(
    ("build", "inputs", "count"),
    [
        (resnet_cifar.resnet20, IMAGE, 7),
        (lambda: mobilenet_v2.mobilenet_v2(num_classes=10, small_input=True), IMAGE, 10),
        (vit.vit, IMAGE, None),
        (gpt.gpt, IDS, 4),
    ],
    ids=["resnet", "mobilenet", "vit", "gpt"],
)
@pytest.mark.parametrize("asked", [{"depth": 0.5}, {"ratio": 0.4, "depth": 0.3}, {"macs": 0.4, "depth": 0.3}])
def test_a_shallower_model_is_exact(build: Any, inputs: Tensor, count: int | None, asked: dict[str, float]) -> None:
    torch.manual_seed(0)
    model = build().eval()
    graph = graphprune.trace(model, inputs)
    assert count is None or len(graph.blocks) == count
    plan = graph.plan(**asked)  # type: ignore[arg-type]
    assert len(plan.skipped) == int(asked["depth"] * len(graph.blocks) + 1e-9) > 0
    slim = plan.apply(model)
    assert all(isinstance(slim.get_submodule(path), Skip | nn.Identity) for path in plan.skipped)
    check = graphprune.verify(model, slim, plan, inputs)
    assert check.passed, str(check)
    assert graph.cost(plan).params == sum(p.numel() for p in slim.parameters())
    assert graph.cost(plan).macs == graphprune.trace(slim, inputs).cost().macs
    if "macs" in asked:
        assert 0.98 * asked["macs"] <= graph.cost(plan).macs / graph.cost().macs <= asked["macs"]
    slim.train()(inputs).square().mean().backward()


class Blocks(nn.Module):
    """A body of four modules, two of which are residual blocks that nothing else looks into."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.first, self.second = Residual(), Residual()
        self.shared = Residual()
        self.leave = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.plain(x)))
        return self.leave(self.shared(self.shared(x)))


class Residual(nn.Module):
    """``x + f(x)``."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = "residual"
        self.inner = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def test_only_residual_blocks_that_are_called_once() -> None:
    graph = graphprune.trace(Blocks().eval(), torch.randn(3, 6))
    assert [block.path for block in graph.blocks] == ["first", "second"]


class PostNorm(nn.Module):
    """Two sums, each with a norm behind it; the first in a module of its own, as attention often is."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Normalized()
        self.inner, self.norm = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        return self.norm(x + self.inner(x))


class Normalized(nn.Module):
    """``norm(x + f(x))``."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.inner(x) + x)


class Bridged(nn.Module):
    """A sum around two blocks, and one behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Residual(), Residual())
        self.last = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.blocks(x))


def test_layers_of_several_sums_and_bodies_of_layers() -> None:
    """A layer goes whole though its attention is a block, but no body of several blocks, nor what bridges them."""
    model = nn.Sequential(nn.Linear(6, 6), PostNorm(), PostNorm(), Bridged(), nn.Sequential(PostNorm(), PostNorm()))
    graph = graphprune.trace(model.eval(), torch.randn(3, 6))
    assert [block.path for block in graph.blocks] == ["1", "2", "3.blocks.0", "3.blocks.1", "4.0", "4.1"]


@pytest.mark.parametrize("asked", [{"depth": 0.4}, {"macs": 0.4, "depth": 0.4}])
def test_layers_that_end_in_a_norm_go(asked: dict[str, float], tmp_path: Any) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    model = BertModel(BertConfig(vocab_size=99, **sizes)).eval()
    graph = graphprune.trace(model, IDS)
    plan = graph.plan(**asked)  # type: ignore[arg-type]
    assert len(graph.blocks) == 3 and len(plan.skipped) == 1
    slim = plan.apply(model)
    check = graphprune.verify(model, slim, plan, IDS)
    assert check.passed and check.relative < 1e-10, str(check)
    graphprune.save_pretrained(slim, tmp_path / "folder")
    loaded = AutoModel.from_pretrained(tmp_path / "folder", trust_remote_code=True)
    assert torch.equal(loaded.eval()(IDS)[0], slim(IDS)[0])


class Flattened(Residual):
    """OPT's layers: the rows of all samples in one dimension, which is split again after the sum."""

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = x.reshape(-1, x.size(-1))
        return (x + self.inner(x)).view(shape)


class Dropped(Residual):
    """Training mode does something else, so that it is traced too; both read the parameters."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.inner(x.flip(0) if self.training else x)
        return found


@pytest.mark.parametrize("kind", [Flattened, Dropped])
def test_what_a_block_may_do_besides(kind: type[Residual]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 6), kind(), kind(), nn.Linear(6, 2)).eval(), torch.randn(2, 5, 6)
    graph = graphprune.trace(model, x)
    assert [block.path for block in graph.blocks] == ["1", "2"] and len(graph.branches) == 2
    assert (kind is Dropped) == bool(graph.trace.trained)
    plan = graph.plan(0.3, depth=0.5)
    check = graphprune.verify(model, plan.apply(model), plan, x)
    assert check.passed and check.relative < 1e-10, str(check)


def test_the_block_that_changes_least_goes() -> None:
    torch.manual_seed(0)
    model = Blocks().eval()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.second.inner[2].weight.mul_(1e-3)
        model.second.inner[2].bias.mul_(1e-3)
        model.first.inner[0].weight.mul_(0.01)
        model.first.inner[2].bias.add_(5.0)
    graph = graphprune.trace(model, torch.randn(3, 6))
    batches = [torch.randn(8, 6) for _ in range(3)]
    assert graph.plan(depth=0.5, calibration=batches).skipped == ("second",)
    slim = graph.plan(depth=0.5, calibration=batches).apply(model)
    assert slim.second.kind == "residual"
    assert not any(name.startswith("second") for name in slim.state_dict())
    assert before.keys() == model.state_dict().keys()


def test_a_plan_with_skipped_blocks_goes_through_json_and_files(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = resnet_cifar.resnet20().eval()
    plan = graphprune.trace(model, IMAGE).plan(0.5, depth=0.4)
    again = graphprune.Plan.from_json(plan.to_json())
    assert again.skipped == plan.skipped and again.to_json() == plan.to_json()
    name = next(n for n in plan.shapes if n.startswith(plan.skipped[0]))
    assert not plan.mask(name).any()
    slim = plan.apply(model)
    graphprune.save(slim, tmp_path)
    loaded = graphprune.load(tmp_path, resnet_cifar.resnet20())
    assert torch.equal(loaded.eval()(IMAGE), slim(IMAGE))
    assert all(path in str(plan) for path in plan.skipped)


def test_what_cannot_be_asked() -> None:
    graph = graphprune.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(1, 4))
    with pytest.raises(PlanError, match="depth: the model has no residual block"):
        graph.plan(0.5, depth=0.5)
    with pytest.raises(InputError, match="depth: must be a fraction"):
        graph.plan(0.5, depth=1.0)


class InTuple(Residual):
    """The layers of MPT and Swin: the stream, and weights of attention that nobody asked for."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), None


class Alone(Residual):
    """MPNet's: a tuple of one."""

    def forward(self, x: Tensor) -> Any:
        return (super().forward(x),)


class Weighing(Residual):
    """The layers of Bloom and GPT-Neo, whose weights are there though nobody reads them; and keys in a tuple."""

    def forward(self, x: Tensor) -> Any:
        keys = self.inner[0](x)
        return super().forward(x), keys.softmax(-1), (keys, *keys.max(-1))


class Counting(Weighing):
    """Looks at values, so that the masked original runs itself."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x.clamp(-9, 9) if bool(x.abs().max() > 9) else x)


class Decoder(nn.Module):
    """Layers that return tuples, of which the first is read; ``kept``: and the second of each, unless it is None."""

    def __init__(self, kind: type[nn.Module] = Weighing, kept: bool = False) -> None:
        super().__init__()
        self.kept = kept
        self.enter, self.layers = nn.Embedding(9, 6), nn.ModuleList(kind() for _ in range(3))
        self.leave = nn.Linear(6, 9)

    def forward(self, ids: Tensor) -> Any:
        x, others = self.enter(ids), []
        for layer in self.layers:
            x, *more = layer(x)
            others += more[:1] if self.kept else []
        return self.leave(x), [other for other in others if other is not None]


@pytest.mark.parametrize(
    ("kind", "kept", "results"),
    [(InTuple, False, 2), (InTuple, True, 2), (Alone, True, 1), (Weighing, False, 3), (Counting, False, 3)],
)
@pytest.mark.parametrize("asked", [{"depth": 0.4}, {"ratio": 0.4, "depth": 0.4}])
def test_layers_that_return_tuples_go(
    kind: type[Residual], kept: bool, results: int, asked: dict[str, float], tmp_path: Any
) -> None:
    """None stands in the places of the other results."""
    torch.manual_seed(0)
    model, ids = Decoder(kind, kept).eval(), torch.arange(8).view(2, 4)
    graph = graphprune.trace(model, ids)
    assert graph.trace.on_meta == (kind is not Counting)
    plan = graph.plan(**asked)  # type: ignore[arg-type]
    (path,) = plan.skipped
    assert plan.results == {path: results} and graphprune.Plan.from_json(plan.to_json()) == plan
    slim = plan.apply(model)
    assert [type(one).__name__ for one in slim.get_submodule(path)(ids)] == ["Tensor"] + ["NoneType"] * (results - 1)
    check = graphprune.verify(model, slim, plan, ids)
    assert check.passed and check.relative < 1e-10, str(check)
    assert graph.cost(plan).macs == graphprune.trace(slim, ids).cost().macs
    assert plan.apply_to_state_dict(model.state_dict()).keys() == slim.state_dict().keys()
    graphprune.save(slim, tmp_path)
    assert torch.equal(graphprune.load(tmp_path, Decoder(kind, kept)).eval()(ids)[0], slim(ids)[0])
    slim.train()(ids)[0].square().mean().backward()


class Handed(Residual):
    """Returns a tensor that it was given."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class Twice(Residual):
    """Returns its result twice."""

    def forward(self, x: Tensor) -> Any:
        x = super().forward(x)
        return x, x


class Stating(Residual):
    """Returns what is neither a tensor nor None."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), [x]


@pytest.mark.parametrize(
    ("kind", "kept", "why"),
    [
        (Weighing, True, "returns a tuple of which more than the first tensor is used outside"),
        (Handed, False, "hands on a tensor that it does not make, besides its result"),
        (Twice, False, "returns its result twice"),
        (Stating, False, "returns a list besides its result, which others may read"),
    ],
)
def test_layers_of_which_more_is_used_stay(kind: type[Residual], kept: bool, why: str) -> None:
    graph = graphprune.trace(Decoder(kind, kept).eval(), torch.arange(8).view(2, 4))
    assert not graph.blocks
    with pytest.raises(PlanError, match=rf"no residual block that can be left out: layers\.0 {why}"):
        graph.plan(depth=0.4)


class Unpacked(nn.Module):
    """A layer that returns its result twice, or one that runs twice, or one that is read from outside."""

    def __init__(self, kind: type[Residual], times: int = 1, read: bool = False) -> None:
        super().__init__()
        self.enter, self.layer, self.leave = nn.Linear(6, 6), kind(), nn.Linear(6, 2)
        self.times, self.read = times, read

    def forward(self, x: Tensor) -> Any:
        x = self.enter(x)
        for _ in range(self.times):
            out = self.layer(x)
            x = out[0] if isinstance(out, tuple) else out
        return self.leave(x) * self.layer.inner[0].weight.sum() if self.read else self.leave(x)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Unpacked(Twice), "layer returns its result twice"),
        (Unpacked(Residual, 2), "layer runs 2 times"),
        (Unpacked(Residual, read=True), "layer has more of what is within it used outside"),
    ],
)
def test_why_what_looks_like_a_block_is_none(model: nn.Module, why: str) -> None:
    with pytest.raises(PlanError, match=f"no residual block that can be left out: {why}") as caught:
        graphprune.trace(model.eval(), torch.randn(3, 6)).plan(depth=0.5)
    assert ("allocation=" in (caught.value.do or "")) == ("twice" in why)


def counting_llama() -> nn.Module:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=3, **sizes))


def counting_gpt_neo() -> nn.Module:
    sizes = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "attention_types": [[["global"], 3]]}
    return GPTNeoForCausalLM(GPTNeoConfig(vocab_size=64, **sizes))


def counting_bloom() -> nn.Module:
    return BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=3, n_head=4))


@pytest.mark.parametrize("build", [counting_llama, counting_gpt_neo, counting_bloom])
def test_the_layer_by_whose_cache_tokens_are_counted_stays(build: Any) -> None:
    torch.manual_seed(0)
    model = build().eval()
    (layers,) = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    with torch.no_grad():
        for parameter in layers[0].parameters():  # the layer with the least influence
            parameter.zero_()
    plan = graphprune.trace(model, IDS).plan(depth=0.34)
    assert len(plan.skipped) == 1 and not plan.skipped[0].endswith(".0")
    slim = plan.apply(model)
    given = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    one, other = (slim.generate(IDS, use_cache=cached, **given) for cached in (True, False))
    assert torch.equal(one, other)


def test_the_only_layer_that_counts_tokens_is_named() -> None:
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=40
    )
    graph = graphprune.trace(LlamaForCausalLM(config))
    with pytest.raises(PlanError, match=r"depth: model\.layers\.0 cannot be left out, as Transformers counts tokens"):
        graph.plan(depth=0.5)


class Stream(nn.Module):
    """A stream that is the model's input and output: no channel can go."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.layer(x)
        return found


@pytest.mark.parametrize("asked", [{"depth": 0.5}, {"depth": 0.5, "macs": 0.5}, {"depth": 0.5, "ratio": 0.5}])
def test_a_model_of_which_no_channel_can_go_loses_blocks(asked: dict[str, float]) -> None:
    model, x = nn.Sequential(Stream(), Stream()), torch.randn(2, 16)
    graph = graphprune.trace(model, x)
    plan = graph.plan(**asked)  # type: ignore[arg-type]
    assert len(plan.skipped) == 1
    assert graphprune.verify(model, plan.apply(model), plan, x).passed
    with pytest.raises(PlanError, match="has nothing that can be pruned"):
        graph.plan(0.5)


class Looking(nn.Module):
    """Adds in place, and looks at values between its sums."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(16), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))

    def forward(self, x: Tensor) -> Tensor:
        x += self.attention(self.norm(x))
        if bool(x.abs().max() > 1e4):
            x = x.clamp(-1e4, 1e4)
        found: Tensor = x + self.mlp(x)
        return found


def looking() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), Looking(), Looking(), Looking(), nn.Linear(16, 3)).eval()


@pytest.mark.parametrize("asked", [{"depth": 0.4}, {"depth": 0.4, "ratio": 0.5}, {"depth": 0.4, "macs": 0.5}])
def test_blocks_of_a_model_that_looks_at_values_go(asked: dict[str, float]) -> None:
    model, x = looking(), torch.randn(4, 6)
    graph = graphprune.trace(model, x)
    assert not graph.trace.on_meta and [block.path for block in graph.blocks] == ["1", "2", "3"]
    plan = graph.plan(**asked)  # type: ignore[arg-type]
    slim = plan.apply(model)
    check = graphprune.verify(model, slim, plan, x)
    assert len(plan.skipped) == 1 and check.passed and check.relative < 1e-10, str(check)
    (gone,) = plan.skipped
    with torch.no_grad():
        (slim[0] if gone == "1" else slim[-1]).weight.add_(1e-3)
    assert not graphprune.verify(model, slim, plan, x).passed


def test_what_such_a_block_leaves_elsewhere_holds_it() -> None:
    """A number that a block writes down for another one is no tensor of the trace, so the run decides."""

    class Heard(Residual):
        def __init__(self, levels: dict[str, float], name: str) -> None:
            super().__init__()
            self.levels, self.name = levels, name

        def forward(self, x: Tensor) -> Tensor:
            self.levels[self.name] = float(x.abs().max())
            found: Tensor = super().forward(x)
            return found

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.levels: dict[str, float] = {"first": 1.0, "second": 1.0}
            self.first, self.second = Heard(self.levels, "first"), Heard(self.levels, "second")
            self.leave = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.leave(self.second(self.first(x))) * sum(self.levels.values())
            return found

    with pytest.raises(PlanError, match=r"depth: the program would be another one without (first|second)"):
        graphprune.trace(Scaled().eval(), torch.randn(3, 6)).plan(depth=0.5)


@pytest.mark.parametrize(("depth", "kept"), [(0.25, 3), (0.75, 1)])
def test_a_block_whose_weights_are_read_elsewhere_stays_and_others_go(depth: float, kept: int) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 4).eval(), torch.randn(2, 5, 16)
    graph = graphprune.trace(model, x)
    plan = graph.plan(depth=depth)
    assert len(plan.skipped) == 4 - kept and "layers.0" not in plan.skipped
    assert graphprune.verify(model, plan.apply(model), plan, x).passed
    with pytest.raises(PlanError, match="ask for a smaller depth="):
        graph.plan(depth=0.9, overrides={model.layers[1]: graphprune.Override(frozen=True)})
