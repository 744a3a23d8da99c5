"""Two processes on one machine through Accelerate: the same weights on both, and those of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from graphprune import Distillation, IterativeResult, across_processes, finetune, prune_iteratively
from graphprune.errors import InputError, PlanError
from graphprune.pruning.plan import plans_of
from tests.training_net import accuracy, equal, loader, net, slim_net, weights

accelerate = pytest.importorskip("accelerate")

ROOT = Path(__file__).parents[2]
GIVEN: dict[str, Any] = {"epochs": 3, "lr": 0.05, "weight_decay": 1e-3, "clip": 1.0}


def plain() -> nn.Module:
    """Without statistics of a batch and random numbers, so that one batch of 16 is two batches of 8."""
    model = slim_net()
    model.norm, model.drop = nn.LayerNorm(8), nn.Identity()
    return model


def part(folder: Path) -> None:
    """What each of two processes runs: a plain training, and one with everything, as it is and interrupted."""
    torch.set_num_threads(1)
    accelerator = accelerate.Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    models = {"plain": plain(), "whole": slim_net(), "resumed": slim_net()}
    loss = finetune(models["plain"], loader(shuffle=False), **GIVEN, accelerator=accelerator).loss
    distil = {"teacher": net(), "distill": Distillation(features=("norm",)), "accelerator": accelerator}
    finetune(models["whole"], loader(), **GIVEN, **distil)
    saved = {"checkpoint": folder / "checkpoint", "every": 2}
    with pytest.raises(KeyboardInterrupt):
        finetune(slim_net(), loader(), **GIVEN, **distil, **saved, on_step=interrupt)
    finetune(models["resumed"], loader(), **GIVEN, **distil, **saved)
    rounds = {"rounds": in_rounds(accelerator), "rounds resumed": in_rounds_resumed(accelerator, folder / "rounds")}
    rounds["rounds shared"] = in_rounds(accelerator, calibration=across_processes([torch.eye(6)] * 3))
    with pytest.raises(PlanError, match=r"params: params=0\.01 is out of reach"):
        in_rounds(accelerator, params=0.01)
    models |= {name: found.model for name, found in rounds.items()}
    tensors = {f"{name}.{i}": t for name, model in models.items() for i, t in enumerate(weights(model))}
    save_file(tensors | {"loss": torch.tensor(loss)}, folder / f"{accelerator.process_index}.safetensors")
    said = {name: said_of(found) for name, found in rounds.items()}
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(said))
    accelerator.end_training()


def in_rounds(accelerator: Any, **given: Any) -> IterativeResult:
    """Each process has data of its own; process 1 would choose other channels, and find what is left too bad."""
    rank = accelerator.process_index
    data = torch.randn(32, 6, generator=torch.Generator().manual_seed(rank)) * torch.arange(6).roll(3 * rank)
    tune = {"batches": loader(), "epochs": 2, "lr": 0.05, "accelerator": accelerator, **given.pop("tune", {})}
    return prune_iteratively(
        net(),
        torch.zeros(2, 6),
        rounds=2,
        tune=tune,
        evaluate=accuracy if rank == 0 else lambda model: float(model.enter.out_features),
        max_drop=1.0,
        importance="wanda",
        **{"params": 0.4, "calibration": [data], **given},
    )


def in_rounds_resumed(accelerator: Any, folder: Path) -> IterativeResult:
    """Interrupted in the second round."""
    steps: list[int] = []

    def interrupt_late(step: int, *_: Any) -> None:
        steps.append(step)
        if len(steps) == 11:
            raise KeyboardInterrupt

    saved = {"checkpoint": folder}
    with pytest.raises(KeyboardInterrupt):
        in_rounds(accelerator, tune={"every": 2, "on_step": interrupt_late}, **saved)
    return in_rounds(accelerator, tune={"every": 2}, **saved)


def said_of(found: IterativeResult) -> dict[str, Any]:
    """What was removed, and what is said of the rounds."""
    plans = [plan.to_json() for plan in plans_of(found.model)]
    return {"plans": plans, "rounds": [[r.params, r.before, r.after, r.good] for r in (found.dense, *found.rounds)]}


def interrupt(step: int, *_: Any) -> None:
    if step == 7:
        raise KeyboardInterrupt


def launch(folder: Path) -> subprocess.CompletedProcess[str]:
    """``--multi_gpu`` is how two processes are started; on a machine without GPUs they talk through gloo."""
    command = f"{sys.executable} -m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 "
    command += "--mixed_precision no --dynamo_backend no --main_process_port 0 -m tests.training.test_distributed"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    whole = [*command.split(), str(folder)]
    return subprocess.run(whole, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_two_processes(tmp_path: Path) -> None:
    done = launch(tmp_path)
    assert done.returncode == 0, done.stderr
    found = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    alone = plain()
    history = finetune(alone, loader(16, shuffle=False), **GIVEN)
    assert found[0]["loss"].tolist() == pytest.approx(history.loss, rel=1e-5)
    for i, tensor in enumerate(weights(alone)):
        assert torch.allclose(found[0][f"plain.{i}"], tensor, atol=1e-6)
    for i in range(len(weights(slim_net()))):
        assert torch.equal(found[0][f"resumed.{i}"], found[0][f"whole.{i}"])
        assert torch.equal(found[0][f"rounds resumed.{i}"], found[0][f"rounds.{i}"])
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert said[0] == said[1] and said[0]["rounds"] == said[0]["rounds resumed"]
    assert len(said[0]["rounds"]["plans"]) == 2


def test_one_process_under_accelerate_is_one_process() -> None:
    """With everything; and the model and the accelerator are left as they were."""
    accelerator = accelerate.Accelerator(cpu=True)
    one, other = slim_net(), slim_net()
    given = {**GIVEN, "teacher": net(), "distill": Distillation(features=("norm",))}
    forward = type(one).forward
    assert finetune(one, loader(), **given, accelerator=accelerator) == finetune(other, loader(), **given)
    assert equal(weights(one), weights(other)) and one.forward.__func__ is forward
    assert not accelerator._models and not accelerator._optimizers


def test_mistakes() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    with pytest.raises(InputError, match="precision: is 'bf16', but the accelerator decides it"):
        finetune(slim_net(), loader(), **GIVEN, accelerator=accelerator, precision="bf16")
    accelerator.gradient_accumulation_steps = 2
    with pytest.raises(InputError, match="accelerator: accumulates gradients over 2 steps, which finetune does not do"):
        finetune(slim_net(), loader(), **GIVEN, accelerator=accelerator)


if __name__ == "__main__":
    part(Path(sys.argv[1]))
