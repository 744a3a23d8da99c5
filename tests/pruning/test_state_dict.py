"""State dicts of dense models are cut as the models are."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import graphprune
from graphprune.errors import InputError
from models import gpt, resnet_cifar

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_averaged_weights_and_prefixes() -> None:
    model = resnet_cifar.resnet20().eval()
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    plan = graphprune.trace(model, IMAGE).plan(0.5)
    slim = plan.apply(model)
    state = averaged.state_dict()
    found = plan.apply_to_state_dict(state, prefix="module.")
    assert found.keys() == state.keys() and found["n_averaged"] is state["n_averaged"]
    fresh = AveragedModel(slim)
    fresh.load_state_dict(found)
    assert fresh.n_averaged == 1
    assert torch.equal(fresh(IMAGE), slim(IMAGE))
    assert state["module.conv1.weight"].shape == (16, 3, 3, 3)


def test_what_lacks_the_prefix_is_not_the_models() -> None:
    model = resnet_cifar.resnet20().eval()
    plan = graphprune.trace(model, IMAGE).plan(0.5)
    inside = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    outside = {"conv1.weight": torch.ones(3), "epoch": 3}
    found = plan.apply_to_state_dict({**outside, **inside}, prefix="model.")
    assert list(found) == [*outside, *inside] and all(found[name] is value for name, value in outside.items())
    assert found["model.conv1.weight"].shape == plan.shape("conv1.weight")
    with pytest.raises(InputError, match=r"prefix: no name in state begins with 'modul.'[\s\S]*'model.conv1.weight'"):
        plan.apply_to_state_dict(inside, prefix="modul.")
    with pytest.raises(InputError, match=r"knows nothing called 'model\.epoch'"):
        plan.apply_to_state_dict({**inside, "model.epoch": torch.ones(1)}, prefix="model.")
    assert plan.apply_to_state_dict({}, prefix="model.") == {}


def test_tied_weights_blocks_left_out_and_other_names() -> None:
    ids = torch.arange(12)[None]
    model = gpt.gpt(tied=True).eval()
    graph = graphprune.trace(model, ids)
    plan = graph.plan(0.5, depth=0.3)
    slim = plan.apply(model)
    other = copy.deepcopy(slim)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    found = plan.apply_to_state_dict({f"gpt/{name}": t for name, t in model.state_dict().items()}, prefix="gpt/")
    other.load_state_dict({name.removeprefix("gpt/"): value for name, value in found.items()})
    assert torch.equal(other(ids), slim(ids))


class _Counting(nn.Linear):
    """Adds to its state dict what is no tensor."""

    calls = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_modules_add_to_their_state_goes_along(prefix: str) -> None:
    model = nn.Sequential(_Counting(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    plan = graphprune.trace(model, torch.ones(1, 8)).plan(0.5)
    slim = plan.apply(model)
    model[0].calls = 3
    state = {prefix + name: value for name, value in model.state_dict().items()}
    found = plan.apply_to_state_dict(state, prefix=prefix)
    assert found.keys() == state.keys()
    slim.load_state_dict({name.removeprefix(prefix): value for name, value in found.items()})
    assert slim[0].calls == 3


def test_what_does_not_fit() -> None:
    model = resnet_cifar.resnet20().eval()
    plan = graphprune.trace(model, IMAGE).plan(0.5)
    with pytest.raises(
        InputError,
        match=r"state: the plan knows nothing called 'conv1.wieght'[\s\S]*did you mean conv1.weight [\s\S]*give",
    ):
        plan.apply_to_state_dict({"conv1.wieght": torch.ones(1)})
    with pytest.raises(InputError, match=r"state: 'conv1.weight' is \[8, 3, 3, 3\], and the plan was made for \[16"):
        plan.apply_to_state_dict(plan.apply(model).state_dict())
    with pytest.raises(InputError, match="state: must be a dictionary of tensors"):
        plan.apply_to_state_dict([1])
