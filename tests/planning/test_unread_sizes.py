"""Sizes that forward does not read follow where nothing else can be meant; the others are listed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A depthwise and a pointwise convolution that can be made one."""

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__()
        self.in_chs, self.out_chs, self.groups = in_chs, out_chs, in_chs
        self.depth = nn.Conv2d(in_chs, in_chs, 3, padding=1, groups=in_chs, bias=False)
        self.point = nn.Conv2d(in_chs, out_chs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(self.depth(x))

    def merge(self) -> nn.Conv2d:
        merged = nn.Conv2d(self.in_chs, self.out_chs, 3, padding=1, bias=False)
        merged.weight.data = self.point.weight.data * self.depth.weight.data.view(1, self.groups, 3, 3)
        return merged


class Net(nn.Module):
    """The classifier can be made anew. ``num_classes`` and ``depth`` are numbers of other things."""

    def __init__(self, num_classes: int = 16, inner: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(Block(16, inner), Block(inner, 24))
        self.num_features = 24
        self.dims = [16, 24]
        self.num_classes = num_classes
        self.image_size = 24
        self.depth = 2
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        self.head = nn.Linear(self.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def _plan(model: nn.Module, **options: Any) -> graphprune.Plan:
    return graphprune.trace(model, IMAGE).plan(**options)


def test_sizes_that_other_methods_read_follow() -> None:
    torch.manual_seed(0)
    model = Net()
    plan = _plan(model, ratio=0.5)
    slim = plan.apply(model)
    assert slim.num_features == 12
    assert [(b.in_chs, b.out_chs, b.groups) for b in slim.blocks] == [(8, 8, 8), (8, 12, 8)]
    slim.reset_classifier(5)
    assert slim(IMAGE).shape == (1, 5)
    features = slim.stem(IMAGE)
    torch.testing.assert_close(slim.blocks[0].merge()(features), slim.blocks[0](features))
    assert (model.num_features, model.blocks[0].groups, model.dims) == (24, 16, [16, 24])


def test_what_has_the_value_by_chance_stays() -> None:
    """The number of classes is a width's too; no channel is called an image size, so that is listed."""
    model = Net()
    plan = _plan(model, ratio=0.5)
    slim = plan.apply(model)
    assert (slim.num_classes, slim.depth, slim.image_size) == (16, 2, 24)
    assert plan.stale == ("dims[0]", "image_size")
    assert slim.dims == [16, 12]
    assert "stale (sizes that forward does not read, as they were): dims[0], image_size" in str(plan)


def test_equal_widths_that_shrink_differently() -> None:
    """``in_chs`` is what comes in and ``out_chs`` what goes out, though both were 16; a list entry cannot be told."""
    plan = _plan(Net(10), ratio=0.5, overrides={"stem": graphprune.Override(ratio=0.25)})
    slim = plan.apply(Net(10))
    assert [(b.in_chs, b.out_chs, b.groups) for b in slim.blocks] == [(12, 8, 12), (8, 12, 8)]
    assert slim.num_features == 12
    assert plan.stale == ("dims[0]", "image_size")


class Reading(Net):
    """Forward reads the size after all, past the methods of integers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if f"{self.num_features}" == "24" else 2.0)


class Attention(nn.Module):
    """Three widths of 32, and heads whose number forward works out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = 32, 4
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)
        self.inner = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
        self.stem, self.head = nn.Linear(3, 32), nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(self.norm(x)).view(1, 64, 3, -1, 8).permute(2, 0, 3, 1, 4)
        x = x + self.out((q @ k.transpose(2, 3)).softmax(3).matmul(v).transpose(1, 2).flatten(2))
        return self.head(x + self.inner(x)).mean(1)


def test_heads_and_the_width_of_the_classifier() -> None:
    """All of 32 is the stream's width, the heads' and the inner layer's; the classifier reads the stream."""
    model = Attention()
    plan = _plan(model, ratio=0.5, overrides={"stem": graphprune.Override(ratio=0.25)})
    slim = plan.apply(model)
    assert (slim.num_heads, slim.embed_dim) == (2, 24)
    assert (slim.out.in_features, slim.inner[0].out_features) == (16, 16)
    assert plan.stale == ()


def test_a_size_that_forward_reads_after_all_stays() -> None:
    model = Reading()
    plan = _plan(model, ratio=0.5)
    assert "num_features" in plan.stale
    assert plan.unread == {}
    check = graphprune.verify(model, plan.apply(model), plan, IMAGE)
    assert check.passed


def test_plans_keep_them_as_json() -> None:
    model = Net()
    plan = _plan(model, ratio=0.5)
    again = graphprune.Plan.from_json(plan.to_json())
    assert (again.unread, again.stale) == (plan.unread, plan.stale)
    del (other := Net()).image_size
    del other.num_features
    assert not hasattr(again.apply(other), "num_features")


def test_inplace_too() -> None:
    model = Net()
    graphprune.prune_model(model, 0.5, IMAGE, inplace=True)
    assert model.num_features == 12


class Described(nn.Module):
    """What its layers give is described in a list and in an object."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3), nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 24, 1))
        self.head = nn.Linear(24, 5)
        self.feature_info = [{"num_chs": 16, "module": "stem", "reduction": 16}, {"num_chs": 24, "module": "body.1"}]
        self.other_info = [{"num_chs": 16, "module": "nothing"}, {"num_chs": 99, "module": "stem"}]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def test_descriptions_of_modules_follow_these() -> None:
    model = Described()
    slim = _plan(model, ratio=0.5).apply(model)
    assert slim.feature_info == [
        {"num_chs": 8, "module": "stem", "reduction": 16},
        {"num_chs": 12, "module": "body.1"},
    ]
    assert slim.other_info == model.other_info
    assert model.feature_info[0]["num_chs"] == 16


class Configured(nn.Module):
    """A layer of 16 channels, and dictionaries that speak of them; one of labels, one that holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[Any, Any] = {"embed_dim": 16, "dims": [3, 16], "inner": {"width": 16}, "image_size": 16}
        self.settings |= {16: 16, "num_classes": 5, "name": "stem"}
        self.settings["own"] = self.settings
        self.others = SimpleNamespace(table={"hidden": 16})
        self.labels = {f"LABEL_{i}": i for i in range(17)}
        self.stem = nn.Conv2d(3, 16, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).mean((2, 3)))


def test_entries_of_dictionaries_follow_as_attributes_do() -> None:
    model = Configured()
    plan = _plan(model, ratio=0.5)
    slim = plan.apply(model)
    assert (slim.settings["embed_dim"], slim.settings["dims"], slim.settings["inner"]) == (8, [3, 8], {"width": 8})
    assert slim.others.table == {"hidden": 8}
    assert plan.stale == ("settings['image_size']",)
    assert (slim.settings["image_size"], slim.settings[16], slim.settings["num_classes"]) == (16, 16, 5)
    assert slim.labels == model.labels
    assert model.settings["embed_dim"] == 16
    again = graphprune.Plan.from_json(plan.to_json()).apply(model)
    assert again.settings["inner"] == {"width": 8}


TIMM = {
    "resnet18": {},
    "vit_tiny_patch16_224": {"img_size": 32},
    "convnext_atto": {},
    "efficientnet_b0": {},
    "swin_tiny_patch4_window7_224": {"img_size": 32},
}


@pytest.mark.parametrize("name", TIMM)
def test_what_timm_says_of_its_models(name: str) -> None:
    timm = pytest.importorskip("timm")
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    slim = graphprune.prune_model(timm.create_model(name, num_classes=10, **TIMM[name]).eval(), 0.5, images)
    width = slim.forward_head(slim.forward_features(images), pre_logits=True).shape[-1]
    assert width == slim.head_hidden_size == slim.num_features
    maps = slim.forward_intermediates(images, intermediates_only=True)
    assert [info["num_chs"] for info in slim.feature_info] == [m.shape[1] for m in maps]
    slim.reset_classifier(7)
    assert slim(images).shape == (1, 7)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_what_timm_says_of_feature_maps(name: str) -> None:
    """The last map is an output, whose width stays; ``outputs`` lets the others shrink."""
    timm = pytest.importorskip("timm")
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = timm.create_model(name, features_only=True, **TIMM[name]).eval()
    slim = graphprune.prune_model(model, 0.5, images, outputs=lambda maps: maps[-1])
    channels = -1 if name.startswith("swin") else 1
    assert slim.feature_info.channels() == [m.shape[channels] for m in slim(images)]
    assert slim.feature_info.channels()[0] < model.feature_info.channels()[0]
    assert slim.feature_info.channels()[-1] == model.feature_info.channels()[-1]


def test_query_heads_for_each_key_follow_although_only_a_padded_batch_reads_their_number() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 99}
    config = transformers.Qwen2Config(num_attention_heads=8, num_key_value_heads=4, **sizes)
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(config).eval()
    plan = graphprune.trace(model).plan(heads=0.5)
    slim = plan.apply(model)
    assert slim.model.layers[0].self_attn.num_key_value_groups == 1
    padded = {"input_ids": torch.arange(14).view(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    padded["attention_mask"][0, :3] = 0
    assert graphprune.verify(model, slim, plan, padded).passed


def test_heads_of_latent_keys_follow_those_of_queries_though_no_size_tells_them() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 99}
    latent = {"q_lora_rank": 16, "kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "first_k_dense_replace": 1, "head_dim": 4}
    torch.manual_seed(0)
    model = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**sizes, **latent, **heads)).eval()
    slim = graphprune.trace(model).plan(0.5).apply(model)
    attention, tokens = slim.model.layers[0].self_attn, torch.arange(14).view(2, 7)
    assert (slim.config.num_attention_heads, slim.config.num_key_value_heads) == (2, 2)
    assert (attention.num_heads, attention.num_key_value_groups) == (2, 1)
    with torch.no_grad():
        fused = slim(tokens).logits
        slim.set_attn_implementation("eager")
        torch.testing.assert_close(slim(tokens).logits, fused, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
def test_a_width_of_heads_that_a_configuration_cannot_say_is_stale(kind: str) -> None:
    """The class would work out another scale of scores. Half of the heads in its place gave their whole width too."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 99, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes, **heads)).eval()
    plan = graphprune.trace(model).plan(head_width=0.5, mlp=0.5)
    config, attention = plan.apply(model).config, plan.apply(model).model.layers[0].self_attn
    assert (attention.q_proj.out_features, attention.k_proj.out_features, attention.head_dim) == (16, 8, 4)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 8)
    assert config.intermediate_size == 24
    assert plan.stale == ("config.head_dim",)


def test_features_that_a_model_of_timm_without_a_classifier_returns() -> None:
    timm = pytest.importorskip("timm")
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    slim = graphprune.prune_model(timm.create_model("resnet10t", num_classes=0).eval(), 0.5, images)
    assert slim.num_features == slim.head_hidden_size == slim(images).shape[1] == 512
    slim.reset_classifier(7)
    assert slim(images).shape == (1, 7)


class Sampling(nn.Module):
    """``z`` is read by ``sample`` alone, and perhaps as large as the input; ``layers`` is, too, and no width."""

    def __init__(self, inputs: int, z: int) -> None:
        super().__init__()
        self.z, self.layers = z, z
        self.encoder = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, z))
        self.decoder = nn.Sequential(nn.Linear(z, 64), nn.ReLU(), nn.Linear(64, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("inputs", [20, 16])
def test_sizes_that_may_be_one_of_several_are_stale(inputs: int) -> None:
    plan = graphprune.trace(Sampling(inputs, 16).eval(), torch.randn(2, inputs)).plan(0.5)
    assert "z" in plan.stale and ("layers" in plan.stale) == (inputs == 20)


BARE_NORMS = {
    "batch": nn.BatchNorm2d(16, affine=False, track_running_stats=False),
    "instance": nn.InstanceNorm2d(16),
    "group": nn.GroupNorm(4, 16, affine=False),
}


@pytest.mark.parametrize("name", BARE_NORMS)
def test_norms_without_tensors_follow_their_channels(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), BARE_NORMS[name], nn.ReLU(), nn.Conv2d(16, 4, 3))
    plan = graphprune.trace(model, IMAGE).plan(0.5)
    slim = plan.apply(model)
    assert getattr(slim[1], "num_channels" if name == "group" else "num_features") == slim[0].out_channels == 8
    assert not plan.stale


def test_a_norm_without_tensors_that_never_runs_is_stale() -> None:
    model = Sampling(20, 16).eval()
    model.idle = nn.BatchNorm1d(16, affine=False, track_running_stats=False)
    assert "idle.num_features" in graphprune.trace(model, torch.randn(2, 20)).plan(0.5).stale
