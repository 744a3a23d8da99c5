"""Checkpoints: whole at every moment, never pickled, and what is loaded is what was saved."""

from __future__ import annotations

import copy
import json
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import graphprune
from graphprune import load_checkpoint, save_checkpoint
from graphprune.errors import InputError, LoadError
from graphprune.pruning.optimizer import prune_in_place
from graphprune.pruning.plan import plans_of
from graphprune.training import checkpoint
from graphprune.training.checkpoint import fingerprint, has_checkpoint
from graphprune.training.packing import Packer, unpack_data
from graphprune.utils import files, folders
from models import gpt
from tests.damage import damaged, sum_of
from tests.training_net import Net, equal, examples, net, slim_net, weights


def train(model: nn.Module, optimizer: Any, average: AveragedModel | None = None, steps: int = 3) -> None:
    x, y = examples()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if average is not None:
            average.update_parameters(model)


def ema(model: nn.Module) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))


# ------------------------------------------------------------ round trips


@pytest.mark.parametrize(
    "make",
    [lambda p: SGD(p, 0.1, momentum=0.9), lambda p: Adam(p, 0.01), lambda p: AdamW(p, 0.01, amsgrad=True), RMSprop],
    ids=["sgd", "adam", "amsgrad", "rmsprop"],
)
def test_training_goes_on_as_if_nothing_had_happened(tmp_path: Path, make: Any) -> None:
    """Pruned amid training, saved, loaded into a dense network: the same weights after some more steps, dropout too."""
    model = net()
    optimizer, average = make(model.parameters()), ema(model)
    train(model, optimizer, average)
    prune_in_place(model, graphprune.trace(model, torch.zeros(2, 6)).plan(0.5), optimizer, [average])
    train(model, optimizer, average)
    save_checkpoint(tmp_path, model, {"step": 6}, optimizer=optimizer, averages=[average])
    train(model, optimizer, average)

    fresh = net(seed=7)
    other, other_average = make(fresh.parameters()), ema(fresh)
    torch.manual_seed(12345)
    state = load_checkpoint(tmp_path, fresh, optimizer=other, averages=[other_average])
    assert state == {"step": 6}
    train(fresh, other, other_average)
    assert equal(weights(fresh), weights(model)) and equal(weights(other_average), weights(average))
    assert fresh.enter.out_features == 8


def test_tied_weights(tmp_path: Path) -> None:
    ids = torch.arange(12)[None]
    slim = graphprune.prune_model(gpt.gpt(tied=True).eval(), 0.5, ids)
    save_checkpoint(tmp_path, slim)
    loaded = gpt.gpt(tied=True).eval()
    load_checkpoint(tmp_path, loaded)
    assert torch.equal(loaded(ids), slim(ids))


def test_a_model_that_is_pruned_already(tmp_path: Path) -> None:
    slim = slim_net()
    save_checkpoint(tmp_path, slim)
    again = slim_net()
    with torch.no_grad():
        again.enter.weight.zero_()
    load_checkpoint(tmp_path, again)
    assert equal(weights(again), weights(slim))


def test_what_was_changed_between_prunings_goes_on_from_the_model_before_the_last(tmp_path: Path) -> None:
    slim: Any = slim_net()
    slim.leave = nn.Linear(slim.leave.in_features, 5)
    before = copy.deepcopy(slim)
    again = graphprune.prune_model(slim, 0.25, torch.zeros(2, 6))
    save_checkpoint(tmp_path, again)
    with pytest.raises(LoadError, match=r"changed between pruning 1 and pruning 2[\s\S]*before its last pruning"):
        load_checkpoint(tmp_path, net())
    load_checkpoint(tmp_path, before)
    assert equal(weights(before), weights(again)) and plans_of(before) == plans_of(again)


def test_random_numbers_go_on(tmp_path: Path) -> None:
    model = net()
    save_checkpoint(tmp_path, model)
    drawn = torch.rand(3), np.random.rand(3), random.random()
    load_checkpoint(tmp_path, model)
    assert torch.equal(torch.rand(3), drawn[0])
    assert (np.random.rand(3) == drawn[1]).all() and random.random() == drawn[2]


def test_nested_data() -> None:
    one = torch.arange(6.0)
    data = {"a": [1, (2.5, None, True)], 3: OrderedDict(x=one, same=one, part=one[2:4]), "n": np.arange(3, dtype="u4")}
    packer = Packer()
    text = json.dumps(packer.pack(data | {"f": np.float64(0.1)}, "data"))
    back = unpack_data(json.loads(text), packer.tensors)
    assert back["a"] == [1, (2.5, None, True)] and back["f"] == 0.1
    assert back[3]["same"] is back[3]["x"] and back[3]["part"].tolist() == [2, 3]
    assert back["n"].dtype == np.uint32 and back["n"].tolist() == [0, 1, 2]
    assert len(packer.tensors) == 3


def test_what_is_no_data_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"state\.hooks\.1: is a function, which a checkpoint cannot hold"):
        save_checkpoint(tmp_path, net(), {"hooks": [1, lambda: None]})
    assert not has_checkpoint(tmp_path)


def test_fingerprints_tell_weights_apart() -> None:
    model = net()
    before = fingerprint(model)
    assert fingerprint(net()) == before
    with torch.no_grad():
        model.norm.running_mean[3] += 1e-6
    assert fingerprint(model) != before


# ------------------------------------------------------------ always whole


def test_only_the_latest_is_kept(tmp_path: Path) -> None:
    for step in range(3):
        save_checkpoint(tmp_path, net(), {"step": step})
    assert load_checkpoint(tmp_path, net())["step"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["version-00000002"]


def test_a_failing_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, net(), {"step": 1})

    def full_disk(tensors: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(tmp_path, net(), {"step": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["version-00000000"]
    assert load_checkpoint(tmp_path, net())["step"] == 1


def test_a_kill_between_two_steps_of_writing_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever call of the file system is the last one, there is a whole checkpoint, of before or after."""
    save_checkpoint(tmp_path, net(), {"step": 0})
    calls = (("mkdir", Path), ("rename", Path), ("rmtree", files.shutil), ("fsync", files.os))
    for step, (name, owner) in enumerate(calls, 1):

        def killed(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed)
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(tmp_path, net(), {"step": step})
        assert load_checkpoint(tmp_path, net())["step"] in (step - 1, step)
        save_checkpoint(tmp_path, net(), {"step": step})
        assert len(list(tmp_path.iterdir())) == 1


# ------------------------------------------------------------ what does not fit


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"holds no checkpoint[\s\S]*pass the directory that save_checkpoint wrote"):
        load_checkpoint(tmp_path / "no", net())


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.DATA, folders.CHECKSUMS])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damage_is_seen_and_changes_nothing(tmp_path: Path, name: str, damage: str) -> None:
    save_checkpoint(tmp_path, slim_net())
    file = tmp_path / "version-00000000" / name
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.unlink()
    if damage != "gone":
        file.write_bytes(raw if damage == "flip" else raw[: len(raw) // 2])
    model = net(seed=1)
    before = weights(model)
    with pytest.raises(LoadError, match=r"directory: .*(damaged|incomplete).*[\s\S]*restore the folder from a copy"):
        load_checkpoint(tmp_path, model)
    assert equal(weights(model), before)


def test_damaged_data_with_the_right_checksum(tmp_path: Path) -> None:
    """A hand that edits the JSON is no better than a broken disk: it loads, or nothing is changed."""
    saved = slim_net()
    save_checkpoint(tmp_path, saved, {"step": 3, "more": (1, [2.5, None])}, optimizer=Adam(saved.parameters()))
    version = tmp_path / "version-00000000"
    text, sums = (version / checkpoint.DATA).read_text(), json.loads((version / folders.CHECKSUMS).read_text())
    model, messages = net(), []
    before = weights(model)
    for seed in range(100):
        damage = damaged(text, seed)
        (version / checkpoint.DATA).write_text(damage)
        known = sums | {checkpoint.DATA: sum_of(damage.encode())}
        (version / folders.CHECKSUMS).write_text(json.dumps(known))
        try:
            load_checkpoint(tmp_path, model, optimizer=Adam(model.parameters()))
        except LoadError as error:
            messages.append(str(error))
        else:
            model = net()
        assert equal(weights(model), before)
    assert 50 < len(messages) < 100
    assert all(message.startswith(("directory: ", "model: ", "optimizer: ")) for message in messages)


class Wider(Net):
    def __init__(self) -> None:
        super().__init__(width=20)


class Longer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Wider, r"model: .* is not of this Wider: .*enter.weight has shape \[20, 6\]"),
        (Longer, r"model: this Longer has 'more.bias', unlike the checkpoint \(2 such names\)"),
        (
            lambda: slim_net().half(),
            "model: was pruned 1 times, but not as the checkpoint's model was|has enter.weight",
        ),
        (lambda: graphprune.prune_model(net(), 0.25, torch.zeros(2, 6)), "was pruned 1 times, but not as"),
        (lambda: nn.Linear(2, 2), "is not of this Linear"),
    ],
)
def test_another_model(tmp_path: Path, make: Any, message: str) -> None:
    save_checkpoint(tmp_path, slim_net())
    model = make()
    before = weights(model)
    with pytest.raises(LoadError, match=message):
        load_checkpoint(tmp_path, model)
    assert equal(weights(model), before)


def test_other_companions(tmp_path: Path) -> None:
    model = net()
    save_checkpoint(tmp_path, model, optimizer=SGD(model.parameters(), 0.1), averages=[ema(model)])
    given: list[tuple[dict[str, Any], str]] = [
        ({}, r"optimizer: the checkpoint was saved with \['SGD'\], but given are \[\]"),
        ({"optimizer": Adam(model.parameters())}, r"but given are \['Adam'\]"),
        (
            {"optimizer": SGD([model.enter.weight], 0.1), "averages": [ema(model)]},
            r"optimizer: has groups of \[1\] parameters",
        ),
        ({"optimizer": SGD(model.parameters(), 0.1)}, "averages: the checkpoint was saved with 1, but given are 0"),
    ]
    before = weights(model)
    for arguments, message in given:
        with pytest.raises(LoadError, match=message):
            load_checkpoint(tmp_path, model, **arguments)
    assert equal(weights(model), before)


class Counted(nn.Module):
    """Hands what it counts to its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.runs = net(), 0

    def get_extra_state(self) -> dict[str, Any]:
        return {"runs": self.runs, "last": torch.tensor([self.runs])}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.runs = state["runs"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += self.training
        y: torch.Tensor = self.net(x)
        return y


def test_extra_states_are_saved(tmp_path: Path) -> None:
    model = Counted()
    optimizer, average = SGD(model.parameters(), 0.1), ema(model)
    train(model, optimizer, average)
    slim = graphprune.prune_model(model, 0.5, torch.zeros(2, 6))
    assert slim.runs == 3
    save_checkpoint(tmp_path, slim)
    again = Counted()
    load_checkpoint(tmp_path, again)
    assert again.runs == 3
    save_checkpoint(tmp_path, model, averages=[average])
    again, other = Counted(), ema(Counted())
    other.module.runs = 5
    load_checkpoint(tmp_path, again, averages=[other])
    assert again.runs == model.runs and other.module.runs == average.module.runs


def test_extra_states_of_another_model(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Counted())
    plain = nn.Module()
    plain.net = net()
    before = weights(plain)
    with pytest.raises(LoadError, match="the model has an extra state"):
        load_checkpoint(tmp_path, plain)
    assert equal(weights(plain), before)


def test_paths_that_read_alike_are_kept_apart(tmp_path: Path) -> None:
    state = {"a.b": torch.zeros(2), "a": {"b": torch.ones(2)}, "a.b#1": torch.full((2,), 2.0)}
    save_checkpoint(tmp_path, net(), state)
    found = load_checkpoint(tmp_path, net())
    assert [found["a.b"].tolist(), found["a"]["b"].tolist(), found["a.b#1"].tolist()] == [[0, 0], [1, 1], [2, 2]]
