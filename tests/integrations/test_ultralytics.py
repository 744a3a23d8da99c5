"""YOLO end to end: pruned, trained by Ultralytics' trainers, saved, opened without graphprune, exported."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from ultralytics import YOLO

from benchmarks.common import enliven
from benchmarks.shapes import TASKS, draw_dataset
from graphprune.errors import InputError
from graphprune.integrations.ultralytics import (
    PruningCallback,
    SlimDetectionTrainer,
    SlimYOLO,
    predictions,
    prune_yolo,
)
from graphprune.pruning.plan import plans_of
from graphprune.training.schedules import Gradual

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning"
)

SIZE = 64
IMAGE = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
HEADS = {
    "detect": "Detect, [nc]",
    "segment": "Segment, [nc, 8, 16]",
    "pose": "Pose, [nc, [3, 3]]",
    "obb": "OBB, [nc, 1]",
    "classify": "Classify, [nc]",
}
NETWORK = """
nc: 3
kpt_shape: [3, 3]
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C2f, [24, True]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, C2PSA, [32]]
head:
"""
FRESH = """
import sys
sys.modules["graphprune"] = None
import torch
from ultralytics import YOLO
image, out, *files = sys.argv[1:]
with torch.no_grad():
    torch.save([YOLO(file).model(torch.load(image))[0] for file in files], out)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By task, a data set of some pictures."""
    folder = tmp_path_factory.mktemp("shapes")
    return {task: draw_dataset(folder / task, task, train=4, val=3, size=SIZE) for task in TASKS}


@pytest.fixture(scope="module")
def slim_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``save`` wrote of a slim network that detects; the dense one is beside it."""
    folder = tmp_path_factory.mktemp("slim")
    dense = yolo_of(folder)
    dense.save(folder / "dense.pt")
    prune_yolo(dense, 0.5, imgsz=SIZE).save(folder / "slim.pt")
    return folder / "slim.pt"


def yolo_of(folder: Path, task: str = "detect", extra: str = "") -> YOLO:
    """A small network of that task, with random weights and statistics."""
    layers = "-1" if task == "classify" else "[3, 5]"
    folder.mkdir(exist_ok=True)
    (folder / f"{task}.yaml").write_text(f"{extra}{NETWORK}  - [{layers}, 1, {HEADS[task]}]\n")
    yolo = YOLO(folder / f"{task}.yaml", task=task)
    enliven(yolo.model)
    return yolo


def options(folder: Path, data: Path, **more: Any) -> dict[str, Any]:
    quiet = {"plots": False, "verbose": False, "workers": 0, "device": "cpu", "amp": False}
    return {"data": str(data), "imgsz": SIZE, "batch": 4, "project": str(folder), "epochs": 1, **quiet, **more}


def entries(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_a_network_is_pruned_and_the_dense_one_is_as_it_was(tmp_path: Path) -> None:
    yolo = yolo_of(tmp_path)
    before = {name: tensor.clone() for name, tensor in yolo.model.state_dict().items()}
    slim = prune_yolo(yolo, 0.5, imgsz=SIZE, verify=True)
    assert entries(slim.model) < 0.35 * entries(yolo.model)
    assert all(torch.equal(before[name], tensor) for name, tensor in yolo.model.state_dict().items())
    for kept in ("names", "stride", "task"):
        assert np.array_equal(getattr(slim.model, kept), getattr(yolo.model, kept)), kept
    assert [m.yaml["backbone"][0][2].split()[:2] for m in (yolo.model, slim.model)] == [["Conv"], ["Conv", "(pruned:"]]
    assert slim.model.yaml["nc"] == 3 and slim.info()[1] == entries(slim.model)
    assert not any("forward" in vars(m) for model in (yolo.model, slim.model) for m in model.modules())
    block = slim.model.model[2]
    x = torch.randn(1, block.cv1.conv.in_channels, 4, 4)
    assert torch.equal(block(x), block.forward_split(x))


def test_what_was_used_before_is_pruned_alike(tmp_path: Path) -> None:
    yolo = yolo_of(tmp_path)
    cold = prune_yolo(yolo, 0.5, imgsz=SIZE).model
    yolo.predict(IMAGE, verbose=False)
    yolo.model.eval()(IMAGE)
    shape = yolo.model.model[-1].shape
    hot = prune_yolo(yolo, 0.5, imgsz=SIZE).model
    assert plans_of(cold)[0].to_json() == plans_of(hot)[0].to_json()
    assert yolo.model.model[-1].shape is shape and shape[1] == 32
    with torch.no_grad():
        assert torch.equal(cold.eval()(IMAGE)[0], hot.eval()(IMAGE)[0])


def test_trained_saved_and_opened_without_graphprune(tmp_path: Path, data: dict[str, Path]) -> None:
    slim = prune_yolo(yolo_of(tmp_path), 0.5, imgsz=SIZE)
    size = entries(slim.model)
    slim.train(**options(tmp_path, data["detect"], epochs=2, name="run"))
    assert type(slim.trainer) is SlimDetectionTrainer
    assert entries(slim.model) == entries(slim.trainer.model) == entries(slim.trainer.ema.ema) == size
    slim.save(tmp_path / "saved.pt")
    torch.save(IMAGE, tmp_path / "image.pt")
    files = [tmp_path / "run/weights/best.pt", tmp_path / "run/weights/last.pt", tmp_path / "saved.pt"]
    command = [sys.executable, "-c", FRESH, *map(str, (tmp_path / "image.pt", tmp_path / "out.pt", *files))]
    environment = os.environ | {"ULTRALYTICS_SAFE_LOAD": "1"}  # nothing but tensors and Ultralytics' classes
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=environment)
    for file, there in zip(files, torch.load(tmp_path / "out.pt"), strict=True):
        here = YOLO(file).model
        assert entries(here) == size and len(plans_of(here)) == 1
        with torch.no_grad():
            assert torch.equal(there, here(IMAGE)[0])
    found = slim.val(**options(tmp_path, data["detect"], name="val"))
    assert found.results_dict.keys() >= {"fitness"}
    assert entries(slim.model) == size


def test_stock_trainers_stop_instead_of_training_a_dense_network(
    tmp_path: Path, data: dict[str, Path], slim_file: Path
) -> None:
    yolo = YOLO(slim_file)
    size = entries(yolo.model)
    with pytest.raises(KeyError, match=r"SlimYOLO\(path\)"):
        yolo.train(**options(tmp_path, data["detect"]))
    yolo.train(trainer=SlimDetectionTrainer, **options(tmp_path, data["detect"]))
    assert entries(yolo.model) == size


def test_the_dense_network_can_teach(tmp_path: Path, data: dict[str, Path], slim_file: Path) -> None:
    slim = SlimYOLO(slim_file)
    size = entries(slim.model)
    slim.train(**options(tmp_path, data["detect"], distill_model=str(slim_file.parent / "dense.pt")))
    assert entries(slim.trainer.model.teacher_model) > size == entries(slim.model)


class Stopped(Exception):
    """What interrupts a training."""


def stop(trainer: Any) -> None:
    raise Stopped


def test_a_training_is_resumed(tmp_path: Path, data: dict[str, Path], slim_file: Path) -> None:
    slim = SlimYOLO(slim_file)
    size = entries(slim.model)
    slim.add_callback("on_model_save", stop)
    with pytest.raises(Stopped):
        slim.train(**options(tmp_path, data["detect"], epochs=3, name="run"))
    again = SlimYOLO(tmp_path / "run/weights/last.pt")
    again.train(resume=True)
    assert again.trainer.start_epoch == 1 and again.trainer.epoch == 2
    assert entries(again.model) == size
    assert len((tmp_path / "run/results.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_other_tasks(tmp_path: Path, data: dict[str, Path], task: str) -> None:
    yolo = yolo_of(tmp_path, task)
    slim = prune_yolo(yolo, 0.5, imgsz=SIZE)
    size = entries(slim.model)
    slim.train(**options(tmp_path, data[task], name="run"))
    assert size < 0.4 * entries(yolo.model)
    assert entries(YOLO(tmp_path / "run/weights/best.pt").model) == size
    assert len(slim.predict(IMAGE, verbose=False)) == 1


def test_heads_without_suppression_are_trained_too(tmp_path: Path, data: dict[str, Path]) -> None:
    yolo = yolo_of(tmp_path, extra="end2end: True\nreg_max: 1")
    slim = prune_yolo(yolo, 0.5, imgsz=SIZE)
    size = entries(slim.model)
    slim.train(**options(tmp_path, data["detect"], name="run"))
    assert entries(YOLO(tmp_path / "run/weights/best.pt").model) == size < 0.4 * entries(yolo.model)


def test_exported_models_compute_the_same(tmp_path: Path) -> None:
    dense = yolo_of(tmp_path)
    dense.save(tmp_path / "dense.pt")
    slim = prune_yolo(YOLO(tmp_path / "dense.pt"), macs=0.6, imgsz=SIZE)
    assert slim.model.pt_path == "dense-slim.pt"  # what exported files are named after
    assert all(m.cv1.conv.out_channels == 2 * m.c for m in slim.model.modules() if hasattr(m, "forward_split"))
    slim.save(tmp_path / "slim.pt")
    slim = YOLO(tmp_path / "slim.pt")
    file = slim.export(format="onnx", imgsz=SIZE, device="cpu")
    session = onnxruntime.InferenceSession(file)
    (found,) = session.run(None, {session.get_inputs()[0].name: IMAGE.numpy()})
    with torch.no_grad():
        wanted = slim.model.eval()(IMAGE)[0]
    assert np.allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_fused_before_and_after(tmp_path: Path, data: dict[str, Path]) -> None:
    yolo = yolo_of(tmp_path)
    yolo.model.eval()
    late = prune_yolo(yolo, 0.5, imgsz=SIZE)
    with torch.no_grad():
        wanted = late.model.eval()(IMAGE)[0]
        late.fuse(verbose=False)
        assert torch.allclose(late.model(IMAGE)[0], wanted, rtol=1e-3, atol=1e-3)
    yolo.fuse(verbose=False)
    early = prune_yolo(yolo, 0.5, imgsz=SIZE)
    assert entries(early.model) < 0.4 * entries(yolo.model)
    with pytest.raises(InputError, match="batch norms of this network were fused"):
        early.train(**options(tmp_path, data["detect"]))


def test_pruning_amid_a_training(tmp_path: Path, data: dict[str, Path]) -> None:
    yolo = yolo_of(tmp_path)
    before = entries(yolo.model)
    callback = PruningCallback(Gradual(1, 3, 1), ratio=0.5)
    callback.attach(yolo)
    yolo.train(**options(tmp_path, data["detect"], epochs=4, name="run"))
    assert [cut.step for cut in callback.pruner.history] == [2, 3]
    best = YOLO(tmp_path / "run/weights/best.pt")
    assert entries(best.model) == callback.pruner.history[-1].params < 0.4 * before
    assert "(pruned:" in best.model.yaml["backbone"][0][2]
    assert all(m.cv1.conv.out_channels == 2 * m.c for m in best.model.modules() if hasattr(m, "forward_split"))


@pytest.mark.parametrize(
    ("yolo", "message"),
    [
        (nn.Linear(1, 1), "must be an ultralytics.YOLO, but is a Linear"),
        ("semantic", "its task is semantic, but must be one of detect, "),
        ("exported", r"has no network in torch, but 'model\.onnx'"),
    ],
)
def test_what_cannot_be_pruned(tmp_path: Path, yolo: Any, message: str) -> None:
    if isinstance(yolo, str):
        name, yolo = yolo, yolo_of(tmp_path)
        if name == "exported":
            yolo._modules["model"] = "model.onnx"
        else:
            yolo.task = name
    with pytest.raises(InputError, match=message):
        prune_yolo(yolo, 0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pretrained": False}, "weights: a slim network cannot be built from a YAML"),
        ({"single_cls": True}, "data: has nc 1, but the slim network was pruned with 3"),
    ],
)
def test_what_cannot_be_trained(
    tmp_path: Path, data: dict[str, Path], slim_file: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SlimYOLO(slim_file).train(**options(tmp_path, data["detect"], **given))


def test_feature_maps_are_left_out() -> None:
    result = ({"one2many": {"boxes": 1, "feats": [2]}, "feats": 3}, [4, {"feats": 5}])
    assert predictions(result) == [{"one2many": {"boxes": 1}}, [4, {}]]


def test_what_to_install_for_yolo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics.models.yolo.detect", None)
    monkeypatch.delitem(sys.modules, "graphprune.integrations.ultralytics")
    with pytest.raises(ImportError, match=r"pip install 'graphprune\[yolo\]'"):
        importlib.import_module("graphprune.integrations.ultralytics")


def test_resumed_trainings_are_not_pruned_further() -> None:
    trainer = type("Trainer", (), {"resume": True, "model": nn.Linear(1, 1)})()
    with pytest.raises(InputError, match="a training that is resumed"):
        PruningCallback(Gradual(0, 2), ratio=0.5).on_pretrain_routine_end(trainer)
