"""Saving and loading: two kinds of files, nothing pickled, replaced whole or not at all."""

from pathlib import Path

import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import LoadError, PlanError
from graphprune.export import bundle
from models import gpt, resnet_cifar

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def slim_resnet(rounds: int = 1) -> nn.Module:
    model = resnet_cifar.resnet20().eval()
    for _ in range(rounds):
        model = graphprune.prune_model(model, 0.5, IMAGE)
    return model


@pytest.mark.parametrize("rounds", [1, 2])
def test_round_trip(tmp_path: Path, rounds: int) -> None:
    slim = slim_resnet(rounds)
    graphprune.save(slim, tmp_path / "new" / "folder")
    loaded = graphprune.load(tmp_path / "new" / "folder", model=resnet_cifar.resnet20().eval())
    assert torch.equal(loaded(IMAGE), slim(IMAGE))
    names = {p.name for p in (tmp_path / "new" / "folder").iterdir()}
    assert names == {"model.safetensors", *(f"plan-{i}.json" for i in range(rounds))}


def test_tied_weights(tmp_path: Path) -> None:
    ids = torch.arange(12)[None]
    slim = graphprune.prune_model(gpt.gpt(tied=True).eval(), 0.5, ids)
    graphprune.save(slim, tmp_path)
    assert torch.equal(graphprune.load(tmp_path, model=gpt.gpt(tied=True).eval())(ids), slim(ids))


def test_saving_again_leaves_nothing_behind(tmp_path: Path) -> None:
    graphprune.save(slim_resnet(2), tmp_path)
    slim = slim_resnet(1)
    graphprune.save(slim, tmp_path)
    assert torch.equal(graphprune.load(tmp_path, model=resnet_cifar.resnet20().eval())(IMAGE), slim(IMAGE))


def test_a_model_that_was_not_pruned(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="slim: this ResNet carries no plan"):
        graphprune.save(resnet_cifar.resnet20(), tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"directory: .* holds no saved model"):
        graphprune.load(tmp_path, model=resnet_cifar.resnet20())


def test_another_architecture(tmp_path: Path) -> None:
    graphprune.save(slim_resnet(), tmp_path)
    with pytest.raises(LoadError, match=r"model: .*plan-0.json does not apply to this Linear"):
        graphprune.load(tmp_path, model=nn.Linear(2, 2))


def test_damaged_files(tmp_path: Path) -> None:
    graphprune.save(slim_resnet(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(LoadError, match="does not hold the weights of this model"):
        graphprune.load(tmp_path, model=resnet_cifar.resnet20())
    plan = (tmp_path / "plan-0.json").read_text()
    for data, message in (
        (b"{", "not JSON"),
        (b"\xff", "cannot be read"),
        (
            plan.replace('"sizes"', '"size"').encode(),
            "Object contains unknown field `size`|missing required field `sizes`",
        ),
        (plan.replace('"kept": {', '"kept": {"x": {"0": "0-999999999"}, ').encode(), "'x' is not among the"),
    ):
        (tmp_path / "plan-0.json").write_bytes(data)
        with pytest.raises(LoadError, match=rf"directory: .*plan-0.json: .*({message})"):
            graphprune.load(tmp_path, model=resnet_cifar.resnet20())


def test_a_failing_write_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slim = slim_resnet()
    graphprune.save(slim, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full_disk(model: nn.Module, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(bundle, "save_model", full_disk)
    with pytest.raises(OSError, match="no space left"):
        graphprune.save(slim, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
