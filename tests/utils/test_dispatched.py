"""Models that Accelerate dispatched give the same slim model as plain ones, with weights where they lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import graphprune
from graphprune.errors import InputError
from graphprune.utils.dispatched import resident

accelerate = pytest.importorskip("accelerate")

LLAMA = LlamaConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    use_cache=False,
)
EXAMPLE = {"input_ids": torch.arange(12)[None]}
PLACES = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}


def plain(dtype: torch.dtype = torch.float32, tied: bool = False) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(**{**LLAMA.to_dict(), "tie_word_embeddings": tied})
    return LlamaForCausalLM(config).to(dtype).eval()


def in_memory(model: nn.Module, folder: Path) -> nn.Module:
    return accelerate.cpu_offload(model, execution_device="cpu")


def on_disk(model: nn.Module, folder: Path) -> nn.Module:
    return accelerate.disk_offload(model, folder, execution_device="cpu")


def in_both(model: nn.Module, folder: Path) -> nn.Module:
    return accelerate.dispatch_model(model, PLACES, main_device="cpu", offload_dir=folder, force_hooks=True)


def with_hooks_alone(model: nn.Module, folder: Path) -> nn.Module:
    return accelerate.dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)


def loaded(model: nn.Module, folder: Path) -> nn.Module:
    """As users get it: the weights stay in the files of the checkpoint."""
    model.save_pretrained(folder / "saved")
    given = {"device_map": PLACES, "offload_folder": folder / "offloaded", "dtype": model.dtype}
    return LlamaForCausalLM.from_pretrained(folder / "saved", **given).eval()


DISPATCHES = [in_memory, on_disk, in_both, with_hooks_alone, loaded]
Dispatch = Callable[[nn.Module, Path], nn.Module]


def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(61, (3, 12), generator=generator)} for _ in range(2)]


def labeled() -> list[dict[str, Tensor]]:
    return [{**batch, "labels": batch["input_ids"]} for batch in batches()]


def slim_of(model: nn.Module) -> dict[str, Tensor]:
    return graphprune.prune_model(model, 0.5, EXAMPLE, importance="wanda", calibration=batches()).state_dict()


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_the_same_slim_model(dispatch: Dispatch, tmp_path: Path) -> None:
    model = dispatch(plain(), tmp_path)
    with torch.no_grad():
        before = model(**EXAMPLE).logits
    assert_equal(slim_of(model), slim_of(plain()))
    with torch.no_grad():
        assert torch.equal(model(**EXAMPLE).logits, before)


@pytest.mark.parametrize("dispatch", [in_memory, on_disk])
@pytest.mark.parametrize(("dtype", "tied"), [(torch.bfloat16, False), (torch.float32, True)])
def test_narrow_types_and_tied_weights(dispatch: Dispatch, dtype: torch.dtype, tied: bool, tmp_path: Path) -> None:
    model = dispatch(plain(dtype, tied), tmp_path)
    slim, expected = (graphprune.prune_model(m, 0.5, EXAMPLE) for m in (model, plain(dtype, tied)))
    assert_equal(slim.state_dict(), expected.state_dict())
    assert (slim.lm_head.weight is slim.model.embed_tokens.weight) == tied
    assert slim.lm_head.weight.dtype == dtype


@pytest.mark.parametrize("importance", ["l2", "taylor", "random"])
def test_the_steps_one_by_one(importance: str, tmp_path: Path) -> None:
    model, other = on_disk(plain(), tmp_path), plain()
    given = {"importance": importance, "calibration": labeled()}
    plan, expected = (graphprune.trace(m, EXAMPLE).plan(0.5, **given) for m in (model, other))
    assert plan.to_json() == expected.to_json()
    slim, slim_expected = plan.apply(model), plan.apply(other)
    assert graphprune.verify(model, slim, plan, EXAMPLE).passed
    for fit in (graphprune.compensate_heads, graphprune.reconstruct, graphprune.repair):
        fit(slim, model, plan, batches())
        fit(slim_expected, other, plan, batches())
    assert_equal(slim.state_dict(), slim_expected.state_dict())


def test_a_slim_model_has_no_hooks_and_can_be_saved(tmp_path: Path) -> None:
    slim = graphprune.prune_model(in_both(plain(), tmp_path), mlp=0.5, example_inputs=EXAMPLE)
    kinds = {name for module in slim.modules() for name in vars(module) if name in ("_hf_hook", "forward", "to")}
    assert not kinds and not hasattr(slim, "hf_device_map")
    slim.to(torch.float64)
    graphprune.save_pretrained(slim, tmp_path / "slim")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "slim")
    assert again.config.intermediate_size == 24


def test_weights_on_disk_are_mapped_and_not_read(tmp_path: Path) -> None:
    model = on_disk(plain(), tmp_path)
    found = resident(model)
    file = tmp_path / "lm_head.weight.dat"
    values = file.read_bytes()
    file.write_bytes(bytes(len(values)))
    assert (found.lm_head.weight == 0).all()
    with torch.no_grad():
        found.model.norm.weight.fill_(3)
    assert (
        torch.frombuffer(bytearray((tmp_path / "model.norm.weight.dat").read_bytes()), dtype=torch.float32) == 1
    ).all()


def test_in_place_is_refused(tmp_path: Path) -> None:
    model = on_disk(plain(), tmp_path)
    plan = graphprune.trace(model, EXAMPLE).plan(0.5)
    for change in (lambda: plan.apply(model, inplace=True), lambda: graphprune.prune_model(model, 0.5, inplace=True)):
        with pytest.raises(
            InputError, match=r"model: its weights are offloaded by Accelerate, [\s\S]*leave out inplace"
        ):
            change()


class Counting(accelerate.hooks.ModelHook):
    """A hook of the user's."""


def test_other_hooks_stay() -> None:
    model = plain()
    accelerate.hooks.add_hook_to_module(model.model, Counting())
    assert resident(model) is model
    assert resident(plain()).__class__ is LlamaForCausalLM


def test_a_forward_of_its_own_stays(tmp_path: Path) -> None:
    """An instance may have had another ``forward`` before it was dispatched."""
    model: Any = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].forward = lambda x: torch.zeros(len(x), 4)
    found: Any = resident(on_disk(model, tmp_path))
    x = torch.randn(2, 3)
    assert torch.equal(found(x), found[1].bias.expand(2, 2))
