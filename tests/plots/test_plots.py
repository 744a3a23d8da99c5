"""What pictures show: heights, labels and legends, for few and for many layers."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from transformers import LlamaConfig, LlamaForCausalLM

import graphprune
from graphprune.errors import InputError
from graphprune.plots.figures import COLORS, GRAY, MOST_NAMED
from graphprune.plots.weight_maps import MOST_CELLS, MOST_MAPS, pooled


def layer(name: str, width: int = 64, **more: Any) -> graphprune.MeasuredLayer:
    return graphprune.MeasuredLayer(name, "Conv2d", 100, **{"nonzero": 100, "width": width, "macs": 10, **more})


def measurement(*layers: graphprune.MeasuredLayer, **more: Any) -> graphprune.Measurement:
    known = {"parameters": 1000, "nonzero": 400, "memory_bytes": 4000, "macs": 2_000_000, "disk_bytes": 5_000_000}
    return graphprune.Measurement("Net", "f32[1, 3, 8, 8]", "cpu", 1, layers=layers, **{**known, **more})


FEW = measurement(layer("conv1", 64), layer("layer1.conv", 128), layer("fc", 10))
SLIM = measurement(layer("conv1", 32), layer("layer1.conv", 16), layer("fc", 10))


def bars(figure: Any, which: int = 0) -> list[float]:
    """The lengths of a series of bars."""
    drawn = figure.axes[0].containers[which]
    below = drawn.orientation == "horizontal"
    return [bar.get_width() if below else bar.get_height() for bar in drawn]


def legend(figure: Any) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def names(figure: Any) -> list[str]:
    axes = figure.axes[0]
    below = axes.containers[0].orientation == "horizontal"
    return [text.get_text() for text in (axes.get_yticklabels() if below else axes.get_xticklabels())]


def overlapping(figure: Any) -> list[tuple[str, str]]:
    """Pairs of labels of layers that cover one another when the picture is drawn."""
    figure.canvas.draw()
    axes = figure.axes[0]
    below = axes.containers[0].orientation == "horizontal"
    texts = axes.get_yticklabels() if below else axes.get_xticklabels()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    return [(a, b) for (a, one), (b, other) in pairwise(boxes) if one.overlaps(other)]


# ---------------------------------------------------------------- layers


def test_widths_of_a_plan_that_merges_heads() -> None:
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=40
    )
    graph = graphprune.trace(LlamaForCausalLM(config))
    figure = graphprune.plot_widths(graph.plan_merged_heads(2))
    assert [name.partition("self_attn.")[2] for name in sorted(names(figure))] == [
        "k_proj.weight[0]",
        "v_proj.weight[0]",
    ]
    assert (bars(figure, 0), bars(figure, 1)) == ([32, 32], [16, 16])
    empty = replace(graph.plan(0.5), choices=(), skipped=("model.layers.0",))
    with pytest.raises(InputError, match="data: the plan chooses among no groups"):
        graphprune.plot_widths(empty)


def test_widths_of_a_plan() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    plan = graphprune.trace(model, torch.randn(1, 3, 16, 16)).plan(0.25)
    figure = graphprune.plot_widths(plan)
    assert names(figure) == ["0", "2"]
    assert (bars(figure, 0), bars(figure, 1)) == ([16, 8], [12, 6])
    assert legend(figure) == ["before", "after"]
    assert figure.axes[0].get_xlabel() == "units (channels, heads, ...)"
    assert figure.get_facecolor() == (1, 1, 1, 1)


def test_widths_of_measurements() -> None:
    figure = graphprune.plot_widths(FEW)
    assert (bars(figure), names(figure), legend(figure)) == ([64, 128, 10], ["conv1", "layer1.conv", "fc"], [])
    figure = graphprune.plot_widths(FEW.compare(SLIM))
    assert (bars(figure, 0), bars(figure, 1)) == ([64, 128, 10], [32, 16, 10])
    assert figure.axes[0].get_title(loc="left") == "Width of the layers of Net"
    assert figure.axes[0].get_xscale() == "linear"
    wide = graphprune.plot_widths(measurement(layer("a", 4096), layer("b", 16)))
    assert wide.axes[0].get_xscale() == "log" and wide.axes[0].get_xlabel().endswith("logarithmic")


def test_several_models_are_points_beside_the_first() -> None:
    half = measurement(layer("conv1", 48), layer("fc", 10))
    figure = graphprune.plot_widths(graphprune.Comparison({"dense": FEW, "slim": SLIM, "half": half}))
    axes = figure.axes[0]
    assert legend(figure) == ["dense", "slim", "half"]
    assert len(axes.containers) == 1 and axes.containers[0][0].get_facecolor()[:3] == pytest.approx(rgb(GRAY))
    assert [list(line.get_xdata()) for line in axes.lines] == [[32, 16, 10], [48, 0, 10]]
    assert len({line.get_color() for line in axes.lines} | {line.get_marker() for line in axes.lines}) == 4


def rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


@pytest.mark.parametrize("count", [1, 5, MOST_NAMED, MOST_NAMED + 1, 200])
def test_labels_of_few_and_many_layers_do_not_overlap(count: int) -> None:
    many = measurement(
        *(layer(f"encoder.layers.encoder_layer_{i}.self_attention.projection", 64 + i) for i in range(count))
    )
    figure = graphprune.plot_widths(many.compare(many))
    assert bars(figure) == [64 + i for i in range(count)]
    assert overlapping(figure) == []
    assert min(count, 20) <= len(names(figure)) <= MOST_NAMED + 1
    assert all("attention.projection" in name for name in names(figure))
    width, height = figure.get_size_inches()
    assert width <= 12 and height <= 12


def test_sparsity_in_percent_with_that_of_the_model() -> None:
    layers = (layer("conv", nonzero=25), layer("fc", nonzero=100), layer("norm", width=None, nonzero=50))
    figure = graphprune.plot_sparsity(measurement(*layers))
    assert (bars(figure), names(figure)) == ([75, 0], ["conv", "fc"])
    axes = figure.axes[0]
    assert axes.get_xlim() == (0, 100) and "%" in axes.get_xlabel()
    assert axes.lines[0].get_xdata()[0] == pytest.approx(60)
    assert [text.get_text() for text in axes.texts] == ["whole model: 60.0%"]
    both = graphprune.plot_sparsity(graphprune.Comparison({"dense": FEW, "masked": measurement(*layers)}))
    assert np.isnan(bars(both, 1)[:3]).tolist() == [True, True, False]  # it has no conv1 and no layer1.conv


def test_time_of_each_module() -> None:
    layers = [layer("stem", seconds=2e-3), *(layer(f"body.{i}.conv", seconds=1e-3) for i in range(50))]
    layers += [layer(f"tiny.{i}", seconds=1e-6) for i in range(3)]
    figure = graphprune.plot_latency(measurement(*layers))
    assert names(figure) == ["stem", "body", "tiny"]
    assert sum(bars(figure)) == pytest.approx(2 + 50 + 0.003)
    one = graphprune.plot_latency(measurement(*layers), depth=1)
    assert names(one) == ["stem", "body", "tiny"] and bars(one) == pytest.approx([2, 50, 0.003])
    each = graphprune.plot_latency(measurement(*layers), depth=3)
    assert len(bars(each)) == 52 and bars(each)[-1] == pytest.approx(0.003) and names(each)[0] == "stem"
    assert each.axes[0].get_ylabel() == "time (ms)"


# ---------------------------------------------------------------- weights


def test_weights_with_masks() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Conv2d(1, 2, 2))
    prune.ln_structured(model[0], "weight", 2, n=1, dim=0)
    figure = graphprune.plot_weights(model)
    axes = figure.axes[0]
    shown = axes.images[0].get_array()
    gone = (model[0].weight_mask == 0).numpy()
    assert (shown.mask == gone).all()
    assert np.allclose(shown[~gone], model[0].weight_orig.detach().abs().numpy()[~gone])
    assert axes.get_title(loc="left") == "0.weight\n4 x 6, 50.0% zero"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("inputs", "outputs")
    named = graphprune.plot_weights(model, ["1.weight", "0.weight"])
    assert [a.get_title(loc="left").split()[0] for a in named.axes if a.images] == ["1.weight", "0.weight"]


def test_what_a_plan_removes_is_gray() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    plan = graphprune.trace(model, torch.randn(1, 4)).plan(0.5)
    figure = graphprune.plot_weights(model, plan=plan)
    first, second = (axes.images[0].get_array().mask for axes in figure.axes if axes.images)
    removed = list(plan.choices[0].removed)
    assert first.all(1).nonzero()[0].tolist() == removed and second.all(0).nonzero()[0].tolist() == removed


def test_weights_of_every_kind() -> None:
    for kind in (torch.float16, torch.bfloat16, torch.complex64, torch.float8_e4m3fn):
        model = nn.Linear(4, 4, bias=False)
        model.weight = nn.Parameter(model.weight.detach().to(kind))
        figure = graphprune.plot_weights(model, "weight")
        assert figure.axes[0].images[0].get_array().shape == (4, 4)
    other = graphprune.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4)).plan(0.5)
    with pytest.raises(InputError, match=r"plan: 0.weight has shape \[8, 4\] there and \[3, 4\] in the model"):
        graphprune.plot_weights(nn.Sequential(nn.Linear(4, 3)), plan=other)


def test_names_are_shown_as_they_are() -> None:
    figure = graphprune.plot_widths(graphprune.Comparison({"_dense": FEW, "$5$": SLIM}))
    assert legend(figure) == [" _dense", r"\$5\$"]
    figure.canvas.draw()


def test_large_matrices_are_pooled_and_many_spread() -> None:
    matrix = torch.zeros(2 * MOST_CELLS, MOST_CELLS)
    matrix[0, 0] = 4.0
    assert pooled(matrix).shape == (MOST_CELLS, MOST_CELLS) and pooled(matrix)[0, 0] == 2.0
    deep = nn.Sequential(*(nn.Linear(2 * MOST_CELLS, 3) for _ in range(50)))
    figure = graphprune.plot_weights(deep)
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == MOST_MAPS
    assert [a.get_title(loc="left").split(".")[0] for a in (drawn[0], drawn[-1])] == ["0", "49"]
    assert drawn[0].get_xlabel() == "inputs (means of 1 x 2)"


# ---------------------------------------------------------------- curves


def curves(count: int) -> graphprune.Sensitivity:
    losses = {f"layer{i}": tuple((r, 0.3 + r * (i + 1)) for r in (0.25, 0.5)) for i in range(count)}
    return graphprune.Sensitivity(0.3, (0.25, 0.5), losses)


@pytest.mark.parametrize("count", [3, 200])
def test_sensitivity(count: int) -> None:
    figure = graphprune.plot_sensitivity(curves(count))
    axes = figure.axes[0]
    top = [f"layer{i}" for i in reversed(range(max(count - len(COLORS), 0), count))]
    rest = [f"{count - len(COLORS)} others"] if count > len(COLORS) else []
    assert legend(figure) == ["whole model", *top, *rest]
    line = next(one for one in axes.lines if one.get_label() == top[0])
    assert list(line.get_xdata()) == [0, 25, 50]
    assert list(line.get_ydata()) == pytest.approx([0.3, 0.3 + 0.25 * count, 0.3 + 0.5 * count])
    assert len(axes.lines) == count + 1 and axes.get_xlabel().endswith("(%)")


def test_accuracy_against_macs() -> None:
    dense = replace(FEW, scores={"accuracy": 0.9})
    points = [replace(dense, macs=macs, scores={"accuracy": score}) for macs, score in ((10**6, 0.8), (5 * 10**5, 0.7))]
    figure = graphprune.plot_accuracy(dense, {"ours": points, "rival": [(1.5e6, 0.6)]})
    axes = figure.axes[0]
    found = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert found["ours"] == ([0.5, 1.0], [0.7, 0.8])
    assert found["rival"] == ([1.5], [0.6])
    assert found["dense"] == ([2.0], [0.9])
    assert legend(figure) == ["ours", "rival", "dense"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("MACs (millions)", "accuracy")
    assert axes.get_xlim()[0] == 0
    compared = graphprune.plot_accuracy(dense.compare(points[0]), against="disk_bytes")
    assert legend(compared) == ["after", "dense"] and compared.axes[0].get_xlabel() == "size on disk (MB)"


# ---------------------------------------------------------------- what is refused


def test_pyplot_is_not_used(tmp_path: Path) -> None:
    before = sys.modules.get("matplotlib.pyplot")
    graphprune.plot_widths(FEW).savefig(tmp_path / "widths.png")
    assert (tmp_path / "widths.png").stat().st_size > 1000
    assert sys.modules.get("matplotlib.pyplot") is before


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pictures need matplotlib[\s\S]*pip install 'graphprune\[plot\]'"):
        graphprune.plot_widths(FEW)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: graphprune.plot_widths(3), "data: must be a graphprune.Plan, Measurement or Comparison, but is 3"),
        (lambda: graphprune.plot_widths(measurement()), "data: nothing is known of what is to be drawn, channels"),
        (lambda: graphprune.plot_latency(FEW), "nothing is known of what is to be drawn, time"),
        (lambda: graphprune.plot_latency(FEW, depth=0), "depth: must be"),
        (lambda: graphprune.plot_sparsity(measurement(layer("a", nonzero=None))), "measure a model with values"),
        (lambda: graphprune.plot_weights(nn.ReLU()), "names: there is no weight matrix to draw"),
        (
            lambda: graphprune.plot_weights(nn.Linear(2, 2), ["wieght"]),
            "no weight matrix 'wieght'; did you mean weight",
        ),
        (lambda: graphprune.plot_weights(nn.Linear(2, 2, device="meta")), "weight is on meta"),
        (lambda: graphprune.plot_sensitivity(curves(0)), "sensitivity: no group was measured"),
        (lambda: graphprune.plot_accuracy(FEW), "score: say which; the measurement of the dense model has none"),
        (lambda: graphprune.plot_accuracy(replace(FEW, scores={"a": 1.0}), against="mac"), "did you mean macs"),
        (lambda: graphprune.plot_accuracy(replace(FEW, scores={"a": 1.0}), {"x": []}), "series: 'x' has no points"),
        (
            lambda: graphprune.plot_accuracy(replace(FEW, scores={"a": 1.0}), {"x": [3]}),
            r"series: 'x' holds 3[\s\S]*needed",
        ),
        (
            lambda: graphprune.plot_accuracy(replace(FEW, scores={"a": 1.0}), {"x": [FEW]}),
            "series: a measurement of 'x' does not have the score 'a'",
        ),
        (
            lambda: graphprune.plot_accuracy(replace(FEW, scores={"a": 1.0}), against="seconds"),
            "a measurement of 'dense' does not have seconds",
        ),
    ],
)
def test_what_cannot_be_drawn(draw: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw()
