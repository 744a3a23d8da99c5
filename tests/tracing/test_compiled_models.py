"""Models that were compiled, and pruning in inference mode: the same as without."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import graphprune
from graphprune.utils.evaluation import eagerly
from tests.training_net import equal, examples, net, weights

INPUTS, LABELS = examples()


def never(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
    """A compiler that must not be asked."""
    pytest.fail("something was compiled")


def as_module(model: nn.Module) -> nn.Module:
    compiled: nn.Module = torch.compile(model, backend=never)
    return compiled


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend=never)
    return model


def in_part(model: nn.Module) -> nn.Module:
    model.norm = torch.compile(model.norm, backend=never)
    return model


def everything(model: nn.Module) -> nn.Module:
    """Traced, planned from gradients, rewritten, verified and repaired."""
    options = {"importance": "taylor", "loss_fn": nn.functional.cross_entropy, "calibration": [(INPUTS, LABELS)]}
    plan = graphprune.trace(model, INPUTS).plan(0.5, **options)
    assert graphprune.verify(model, plan.apply(model), plan, INPUTS).passed
    return graphprune.prune_model(model, 0.5, INPUTS, **options)


@pytest.mark.parametrize("compiled", [as_module, in_place, in_part])
def test_a_compiled_model_is_seen_as_it_is_written(compiled: Callable[[nn.Module], nn.Module]) -> None:
    """And guessing inputs, data without labels and inputs that are made up."""
    model = compiled(net())
    slim = everything(model)
    assert type(slim) is type(model) and equal(weights(slim), weights(everything(net())))
    graphprune.prune_model(model, 0.5)
    graphprune.prune_model(model, 0.5, INPUTS, importance="wanda", calibration=[INPUTS])
    graphprune.synthesize(model, INPUTS, steps=1)


def test_names_may_be_those_of_the_state_dict() -> None:
    """Which begin with ``_orig_mod.``; the error told to name parameters as ``state_dict()`` does."""
    graph, plain = graphprune.trace(as_module(net()), INPUTS), graphprune.trace(net(), INPUTS)
    name = plain.groups[0].name
    mask = torch.ones(graph.trace.shapes[f"{name}.weight"])
    mask[0] = 0
    masked, wanted = (g.plan_from_masks({f"{p}{name}.weight": mask}) for g, p in ((graph, "_orig_mod."), (plain, "")))
    assert masked == wanted
    units = range(1, len(mask))
    assert graph.plan_from_kept({f"_orig_mod.{name}": units}) == plain.plan_from_kept({name: units})
    asked = graphprune.Override(ratio=0.25)
    plans = [graph.plan(0.5, overrides={prefix + name: asked}).removed for prefix in ("_orig_mod.", "")]
    assert plans[0] == plans[1] != graph.plan(0.5).removed


def test_what_is_left_of_a_compiled_model_is_compiled_anew() -> None:
    sizes: list[int] = []

    def noting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        sizes.append(sum(p.numel() for p in graph.parameters()))
        return graph.forward

    model = torch.compile(net(), backend=noting)
    slim = graphprune.prune_model(model, 0.5, INPUTS)
    with torch.no_grad():
        assert model.eval()(INPUTS).shape == slim.eval()(INPUTS).shape
    assert len(sizes) == 2


def test_in_inference_mode() -> None:
    """The slim model can be trained afterwards."""
    model = net()
    expected = everything(copy.deepcopy(model))
    with torch.inference_mode():
        slim = everything(model)
    assert equal(weights(slim), weights(expected))
    slim(INPUTS).sum().backward()
    assert not any(p.is_inference() for p in slim.parameters())


@pytest.mark.parametrize("importance", ["auto", "surgeon", "kfac", "fisher"])
def test_criteria_that_read_gradients_in_inference_mode(importance: str) -> None:
    model = net()
    with torch.inference_mode():
        slim = graphprune.prune_model(model, 0.5, INPUTS, importance=importance, calibration=[INPUTS])
    slim(INPUTS).sum().backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_gradients_are_as_they_were(mode: Callable[[], torch.autograd.grad_mode.no_grad]) -> None:
    with mode():
        before = torch.is_grad_enabled()
        with eagerly():
            assert torch.is_grad_enabled() == before and not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled() == before


def test_attention_of_torch_whose_output_is_compiled_loses_heads() -> None:
    model, x = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval(), torch.randn(2, 5, 16)
    model.self_attn.out_proj = torch.compile(model.self_attn.out_proj, backend="eager")
    plan = graphprune.trace(model, x).plan(heads=0.5)
    slim = plan.apply(model)
    assert slim.self_attn.num_heads == 2
    assert graphprune.verify(model, slim, plan, x).passed


def test_names_are_those_of_what_was_compiled(tmp_path: Path) -> None:
    model = net().eval()
    compiled: nn.Module = torch.compile(model, backend="eager")
    plan = graphprune.trace(compiled, INPUTS).plan(0.5)
    assert plan.to_json() == graphprune.trace(model, INPUTS).plan(0.5).to_json()
    slim, plain = plan.apply(compiled), plan.apply(model)
    assert isinstance(slim, torch._dynamo.OptimizedModule)
    assert torch.equal(slim(INPUTS), plain(INPUTS))
    assert graphprune.verify(compiled, plain, plan, INPUTS).passed
    assert graphprune.verify(model, slim, plan, INPUTS).passed
    graphprune.repair(slim, model, plan, [INPUTS])
    graphprune.repair(plain, compiled, plan, [INPUTS])
    assert torch.equal(slim(INPUTS), plain(INPUTS))
    graphprune.save(slim, tmp_path / "bundle")
    assert torch.equal(graphprune.load(tmp_path / "bundle", model=net())(INPUTS), plain(INPUTS))


def test_a_compiled_model_is_pruned_in_place_with_its_optimizer(tmp_path: Path) -> None:
    model: nn.Module = torch.compile(net(), backend="eager")
    plan = graphprune.trace(model, INPUTS).plan(0.5)
    optimizer, average = torch.optim.Adam(model.parameters()), AveragedModel(model)
    graphprune.prune_in_place(model, plan, optimizer, [average])
    model(INPUTS).sum().backward()
    optimizer.step()
    average.update_parameters(model)
    graphprune.save_checkpoint(tmp_path, model, optimizer=optimizer)
    again = net()
    graphprune.load_checkpoint(tmp_path, again, optimizer=torch.optim.Adam(again.parameters()))
    assert torch.equal(again.eval()(INPUTS), model.eval()(INPUTS))


def test_a_part_that_is_called_as_that_of_a_compiled_model_is_a_part() -> None:
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module | str) -> None:
            super().__init__()
            self._orig_mod, self.skip, self.leave = inner, nn.Linear(6, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            inner = self._orig_mod(x) if isinstance(self._orig_mod, nn.Module) else 0.0
            y: Tensor = self.leave(self.skip(x) + inner)
            return y

    x = torch.randn(2, 6)
    for part in (nn.Linear(6, 16), "the name of something"):
        slim = graphprune.prune_model(Wrapped(part).eval(), 0.5, x, verify=True)
        assert slim.skip.out_features == 8
        assert slim(x).shape == (2, 4)


def test_what_is_compacted_compiles_itself() -> None:
    model = net()
    with torch.no_grad():
        model.enter.weight[:3], model.enter.bias[:3] = 0.0, 0.0
    assert isinstance(graphprune.compact(torch.compile(model, backend="eager"), INPUTS), torch._dynamo.OptimizedModule)


def test_what_reads_weights_by_name_reads_those_within() -> None:
    model = net().eval()
    with torch.no_grad():
        model.enter.weight[:3], model.enter.bias[:3] = 1e-7, 0.0
    compiled: nn.Module = torch.compile(model, backend="eager")
    plan = graphprune.trace(compiled, INPUTS).plan(0.5)
    plain = plan.apply(model)
    graphprune.fold(plain, model, plan, INPUTS)
    for slim, dense in ((plan.apply(compiled), compiled), (plan.apply(compiled), model), (plan.apply(model), compiled)):
        graphprune.fold(slim, dense, plan, INPUTS)
        assert torch.equal(slim(INPUTS), plain(INPUTS))
    found = [graphprune.zero_channels(one, INPUTS, threshold=1e-3, relative=True) for one in (model, compiled)]
    assert found[0].removed == found[1].removed > 0
    assert torch.equal(found[0].slim(INPUTS), found[1].slim(INPUTS))
    penalties = [graphprune.GrowingRegularization(one, plan)().item() for one in (model, compiled)]
    assert penalties[0] == penalties[1] > 0
