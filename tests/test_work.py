"""How much work pruning a model takes: operations are counted, not seconds, which depend on the machine."""

from __future__ import annotations

import gc
import inspect
import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import graphprune
from graphprune.pruning.rewrite import slim_meta_tensor, slim_tensor
from graphprune.rules.labels import LabeledTensor
from graphprune.tracing.meta import _maker, _remembered
from graphprune.tracing.recorder import Recorder
from graphprune.tracing.running import run_recorded
from graphprune.utils.copier import Copier
from graphprune.utils.deepcopy import copy_with_tables
from graphprune.utils.held import held_functions
from graphprune.utils.modules import _tables_of, _walked

RUNS = 2
"""The trace, and the check of the slim model."""
COPIES = 3
"""One is traced, one is checked, one is the slim model."""


def network(layers: int) -> nn.Module:
    """``layers`` times a convolution, a batch norm and a ReLU; 6 parameters and buffers each."""
    kinds = [(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(layers)]
    return nn.Sequential(*(nn.Sequential(*modules) for modules in kinds)).eval()


def prune(layers: int) -> nn.Module:
    return graphprune.prune_model(network(layers), 0.5, torch.randn(1, 8, 9, 9))


def work(run: Callable[[], Any]) -> Counter[CodeType]:
    """How often each function was called, by its code; what frees the garbage of earlier tests is not counted."""
    calls: Counter[CodeType] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            calls[frame.f_code] += 1

    gc.collect()
    before, collected = sys.getprofile(), gc.isenabled()
    gc.disable()
    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(before)
        if collected:
            gc.enable()
    return calls


def code_of(function: Callable[..., Any]) -> CodeType:
    found: CodeType = inspect.unwrap(function).__code__
    return found


def test_the_model_is_walked_as_often_however_deep_it_is() -> None:
    prune(2)
    walks = [_walked, _tables_of, held_functions, copy_with_tables]
    few, many = work(lambda: prune(2)), work(lambda: prune(9))
    assert [few[code_of(walk)] for walk in walks] == [many[code_of(walk)] for walk in walks]
    assert many[code_of(_walked)] <= 4
    assert many[code_of(_tables_of)] <= 2
    assert many[code_of(held_functions)] <= 4
    assert many[code_of(copy_with_tables)] == COPIES


def test_every_operation_is_seen_once_a_run_and_every_tensor_is_cut_once() -> None:
    layers = 5
    prune(layers)
    done = work(lambda: prune(layers))
    operations = 4 * layers  # a convolution, a batch norm, the space that torch makes beside it, a ReLU
    assert done[code_of(Recorder._dispatch)] == RUNS * operations
    assert done[code_of(Recorder._note_call)] == RUNS * 3 * layers
    assert done[code_of(slim_tensor)] == (1 + 1) * layers + 5 * layers
    assert done[code_of(slim_meta_tensor)] == 6 * layers


def test_shapes_that_were_seen_before_are_not_worked_out_again() -> None:
    prune(3)
    done = work(lambda: prune(3))
    assert done[code_of(_remembered)] and not done[code_of(_maker)]


def test_the_work_grows_with_the_depth_as_it_should() -> None:
    sizes = (4, 8, 16)
    prune(max(sizes))
    calls = [sum(work(lambda layers=layers: prune(layers)).values()) for layers in sizes]  # type: ignore[misc]
    per_layer = [(b - a) / (n - m) for a, b, m, n in zip(calls, calls[1:], sizes, sizes[1:], strict=False)]
    assert per_layer[1] < 1.05 * per_layer[0]
    assert per_layer[1] < 2100


def test_what_a_model_starts_its_caches_with_takes_no_further_run() -> None:
    """Of an empty tensor on ``meta`` all is known."""

    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.key, self.query = nn.Linear(8, 12), nn.Linear(8, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            key = self.key(x)
            keys = torch.cat([torch.tensor([], dtype=key.dtype, device=key.device), key])
            return self.query(x) @ keys.mT

    done = work(lambda: graphprune.prune_model(Cached().eval(), 0.5, torch.randn(3, 8)))
    assert done[code_of(run_recorded)] == RUNS


def runs(layers: int, width: int) -> int:
    """How many runs of labels a Llama with 4 heads has, which all work on labels goes by."""
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        use_cache=False,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    return len(graphprune.trace(model, torch.zeros(1, 4, dtype=torch.long)).solution.items.of)


def test_the_work_on_labels_grows_with_the_layers_and_not_with_their_width() -> None:
    few, more, many = (runs(layers, 64) for layers in (1, 2, 3))
    assert many - more == more - few
    assert runs(2, 512) == more


def test_the_analysis_is_freed_without_a_collection() -> None:
    def parts() -> list[object]:
        return [one for one in gc.get_objects() if type(one) in (LabeledTensor, Copier, Recorder)]

    prune(2)
    gc.collect()
    before = parts()  # graphs of other tests, kept so that no new object has the identity of one of them
    known = {id(one) for one in before}
    gc.disable()
    try:
        slim = prune(2)
        left = [one for one in parts() if id(one) not in known]
    finally:
        gc.enable()
    assert isinstance(slim, nn.Module) and not left
