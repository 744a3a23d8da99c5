"""The example networks compute what they claim, and pruning finds the groups written in their files."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import pytest
import torch
from torch import Tensor, nn

import graphprune
from models import gpt, hardnet, mobilenet_v2, resnet_cifar, vit

Expected = tuple[str, int, tuple[str, ...]]
Build = Callable[[], nn.Module]
PAIRS: list[tuple[ModuleType, Build]] = [
    (resnet_cifar, resnet_cifar.resnet20),
    (mobilenet_v2, mobilenet_v2.mobilenet_v2),
    (vit, vit.vit),
    (gpt, gpt.gpt),
    (hardnet, hardnet.hardnet),
]
NAMES = [file.__name__ for file, _ in PAIRS]


class GroupLike(Protocol):
    """What the checks below need of a group."""

    @property
    def role(self) -> str: ...
    @property
    def units(self) -> int: ...
    @property
    def axes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Stub:
    """A group that no engine found."""

    role: str
    units: int
    axes: tuple[str, ...]


def small_mobilenet() -> nn.Module:
    return mobilenet_v2.mobilenet_v2(num_classes=10, width=0.5, small_input=True)


def example(model: nn.Module, batch: int, size: int = 32) -> Tensor:
    """Token ids for a language model, images for the others."""
    if isinstance(model, gpt.GPT):
        return torch.randint(256, (batch, 9))
    return torch.randn(batch, 3, size, size)


def complaints(groups: Iterable[GroupLike], expected: Iterable[Expected]) -> list[str]:
    """Expected entries that do not match exactly one group; groups, of heads or whole channels, that match none."""
    groups, wrong, known = tuple(groups), [], set()
    for entry in expected:
        found = [group for group in groups if fits(group, entry)]
        known |= {id(group) for group in found}
        if len(found) != 1:
            wrong.append(f"{len(found)} groups, not one, are {entry}")
    for group in groups:
        if group.role != "head_width" and id(group) not in known:
            wrong.append(f"not expected: {group.role} x {group.units} with {group.axes}")
    return wrong


def fits(group: GroupLike, entry: Expected) -> bool:
    role, units, members = entry
    return group.role == role and group.units == units and set(members) <= set(group.axes)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    ("build", "size"),
    [
        (resnet_cifar.resnet20, 32),
        (resnet_cifar.resnet20, 8),
        (resnet_cifar.resnet56, 32),
        (mobilenet_v2.mobilenet_v2, 64),
        (small_mobilenet, 32),
        (vit.vit, 32),
        (gpt.gpt, 0),
        (lambda: gpt.gpt(tied=True), 0),
        (hardnet.hardnet, 32),
        (hardnet.hardnet, 48),
    ],
)
def test_runs_forward_and_backward(build: Build, size: int, batch: int) -> None:
    torch.manual_seed(0)
    model = build()
    inputs = example(model, batch, size)
    outputs = model(inputs)
    assert outputs.shape[:-1] == (inputs.shape if isinstance(model, gpt.GPT) else (batch,))
    outputs.square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


@pytest.mark.parametrize("size", [32, 96, 224])
def test_mobilenet_takes_its_documented_sizes(size: int) -> None:
    model = mobilenet_v2.mobilenet_v2().eval()
    assert model(torch.randn(1, 3, size, size)).shape == (1, 1000)


@pytest.mark.parametrize(("build", "millions"), [(resnet_cifar.resnet20, 0.27), (resnet_cifar.resnet56, 0.85)])
def test_resnet_has_the_published_size(build: Build, millions: float) -> None:
    # The paper counts shortcuts without parameters (its option A); these have a 1x1 convolution twice.
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert round((parameters(build()) - shortcuts) / 1e6, 2) == millions


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.4])
def test_mobilenet_has_as_many_parameters_as_torchvision(width: float) -> None:
    reference = pytest.importorskip("torchvision").models.mobilenet_v2(weights=None, width_mult=width)
    assert parameters(mobilenet_v2.mobilenet_v2(width=width)) == parameters(reference)


def test_mobilenet_computes_what_torchvision_computes() -> None:
    reference = pytest.importorskip("torchvision").models.mobilenet_v2(weights=None).eval()
    model = mobilenet_v2.mobilenet_v2().eval()
    tensors = zip(model.state_dict(), reference.state_dict().values(), strict=True)  # in the same order
    model.load_state_dict(dict(tensors))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), reference(images))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_gpt_does_not_look_ahead() -> None:
    model = gpt.gpt().eval()
    ids = torch.randint(256, (1, 9))
    torch.testing.assert_close(model(ids)[:, :5], model(ids[:, :5]))


def test_rotary_scores_depend_on_the_distance_only() -> None:
    q, k = torch.randn(2, 8, dtype=torch.float64)
    angles = torch.arange(6)[:, None] * gpt.rope_frequencies(8).double().repeat(2)
    cos, sin = angles.cos(), angles.sin()
    turned = [gpt.rotate(x.expand(1, 1, 6, 8), cos, sin)[0, 0] for x in (q, k)]
    scores = turned[0] @ turned[1].T
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1])


def test_tied_embedding_is_the_head() -> None:
    model = gpt.gpt(tied=True)
    assert model.lm_head.weight is model.embed.weight
    assert parameters(gpt.gpt()) - parameters(model) == 256 * 64


def test_shuffle_interleaves() -> None:
    channels = torch.arange(6.0).view(1, 6, 1, 1)
    assert hardnet.shuffle(channels, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="patch_size must divide image_size"):
        vit.vit(image_size=30)
    with pytest.raises(ValueError, match="heads a multiple of kv_heads"):
        gpt.gpt(heads=8, kv_heads=3)
    with pytest.raises(ValueError, match="9 tokens in a row, the model's context is 8"):
        gpt.gpt(context=8)(torch.zeros(1, 9, dtype=torch.long))


@pytest.mark.parametrize(("file", "build"), PAIRS, ids=NAMES)
def test_expected_axes_exist_and_hold_all_units(file: ModuleType, build: Build) -> None:
    tensors = build().state_dict()
    for _, units, members in file.EXPECTED_GROUPS:
        for axis in members:
            found = re.fullmatch(r"(.+)\[(\d)\]", axis)
            assert found, axis
            assert tensors[found[1]].shape[int(found[2])] >= units, axis
        assert len(set(members)) == len(members)


@pytest.mark.parametrize(("file", "build"), PAIRS, ids=NAMES)
def test_every_channel_dimension_is_expected(file: ModuleType, build: Build) -> None:
    """By hand, too: what no entry mentions is an input, an output, or a depthwise filter's single column."""
    listed = {axis for _, _, members in file.EXPECTED_GROUPS for axis in members}
    axes = {f"{name}[{dim}]" for name, p in build().named_parameters() for dim in range(min(p.dim(), 2))}
    left = {axis for axis in axes - listed if not axis.startswith(BOUNDARY[file])}
    assert {axis for axis in left if not re.search(r"depthwise\.conv\.weight\[1\]", axis)} == set()


# Beginnings of axes that keep their size, and of those that only have cells, which are not listed.
BOUNDARY: dict[ModuleType, tuple[str, ...]] = {
    resnet_cifar: ("conv1.weight[1]", "fc.weight[0]", "fc.bias"),
    mobilenet_v2: ("stem.conv.weight[1]", "classifier.weight[0]", "classifier.bias"),
    vit: ("patch_embed.weight[1]", "cls_token[", "pos_embed[", "head.weight[0]", "head.bias"),
    gpt: ("embed.weight[0]", "lm_head.weight[0]"),
    hardnet: (
        *("stem.conv.weight[1]", "fc2.weight[0]", "fc2.bias"),
        *("grouped.0.grouped.conv.weight[1]", "grouped.1.grouped.conv.weight[1]"),
    ),
}


@pytest.mark.parametrize(("file", "build"), PAIRS, ids=NAMES)
def test_expected_groups_are_found(file: ModuleType, build: Build) -> None:
    model = build().eval()
    graph = graphprune.trace(model, example(model, batch=2, size=64 if file is mobilenet_v2 else 32))
    assert complaints(graph.groups, file.EXPECTED_GROUPS) == []


@pytest.mark.parametrize(("file", "build"), PAIRS, ids=NAMES)
def test_wrong_expectations_are_not_found(file: ModuleType, build: Build) -> None:
    model = build().eval()
    graph = graphprune.trace(model, example(model, batch=2))
    for wrong in distortions(file.EXPECTED_GROUPS):
        assert complaints(graph.groups, wrong) != []


@pytest.mark.parametrize("file", [file for file, _ in PAIRS], ids=NAMES)
def test_the_check_itself_notices_wrong_groups(file: ModuleType) -> None:
    right = tuple(Stub(*entry) for entry in file.EXPECTED_GROUPS)
    assert complaints(right, file.EXPECTED_GROUPS) == []
    for wrong in distortions(file.EXPECTED_GROUPS):
        assert complaints(right, wrong) != []
    assert complaints((*right, right[0]), file.EXPECTED_GROUPS) != []  # one group too many
    assert complaints(right[1:], file.EXPECTED_GROUPS) != []  # one too few
    for role, noticed in (("mlp", True), ("width", True), ("heads", True), ("head_width", False)):
        further = Stub(role, 3, ("x.weight[0]",))
        assert bool(complaints((*right, further), file.EXPECTED_GROUPS)) is noticed


def distortions(expected: tuple[Expected, ...]) -> list[tuple[Expected, ...]]:
    """The list with its first entry missing, and each entry in turn with wrong units, role or members."""
    wrong = [expected[1:]]
    for place, (role, units, members) in enumerate(expected):
        for entry in (
            (role, units + 1, members),
            ("head_width", units, members),
            (role, units, (*members, "x.weight[0]")),
        ):
            wrong.append((*expected[:place], entry, *expected[place + 1 :]))
    return wrong


class Filled(nn.Module):
    """A mask of positions is expanded along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        y = self.enter(x)
        result: Tensor = self.leave(y.masked_fill(chosen[..., None].expand_as(y), 0))
        return result


def test_channels_along_which_a_mask_is_expanded_are_no_heads() -> None:
    graph = graphprune.trace(Filled(), (torch.randn(2, 6, 5), torch.ones(2, 6).bool()))
    assert [(group.role, group.units) for group in graph.groups] == [("mlp", 8)]
