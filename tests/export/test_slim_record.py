"""What distinguishes a slim module from a dense one, and its application with torch alone."""

import json
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import ExportError
from graphprune.export.resizing import set_attributes, set_place, set_tensors
from graphprune.export.slim_record import SlimRecord, slim_record
from models import gpt, resnet_cifar

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Heads(nn.Module):
    """Attention with its sizes in a dictionary, a tuple and an object, and a table that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = {"sizes": {"heads": 4}}
        self.shape = (4, 8)
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)
        self.register_buffer("scale", torch.full((32,), 2.0), persistent=False)
        self.tables = [torch.ones(1)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.settings["sizes"]["heads"], self.shape[1])).unbind(2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores, v).flatten(2) * self.scale
        return self.head(x + self.out(mixed) * self.tables[0])


def pruned(model: nn.Module, inputs: Any) -> tuple[nn.Module, SlimRecord]:
    slim = graphprune.prune_model(model.eval(), 0.5, inputs)
    with torch.device("meta"):
        dense = type(model)() if isinstance(model, Heads) else resnet_cifar.resnet20()
    return slim, slim_record(slim, dense)


def test_sizes_wherever_they_stand() -> None:
    slim, record = pruned(Heads(), torch.randn(1, 5, 32))
    assert record.attributes[""] == {"settings['sizes']['heads']": 2}
    assert record.attributes["qkv"] == {"out_features": 48}
    assert record.shapes["qkv.weight"] == [48, 32]
    assert set(record.unsaved) == {"scale", "tables[0]"}
    assert torch.equal(record.unsaved["scale"], torch.full((16,), 2.0))
    assert (record.frozen, record.training, record.tied, bool(record)) == ((), False, {}, True)
    assert json.loads(json.dumps(record.to_data())) == record.to_data()
    assert "unsaved" not in record.to_data()
    assert not slim_record(slim, slim)


def test_the_record_makes_a_dense_network_slim() -> None:
    slim, record = pruned(resnet_cifar.resnet20(), IMAGE)
    dense = resnet_cifar.resnet20().eval()
    set_attributes(dense, record.attributes)
    set_tensors(dense, {**dict(slim.named_parameters()), **dict(slim.named_buffers())}, {})
    assert torch.equal(dense(IMAGE), slim(IMAGE))
    assert not slim_record(slim, dense)


def test_ties_modes_and_frozen_parameters() -> None:
    slim = gpt.gpt(tied=True)
    slim.train()
    slim.blocks[0].eval().requires_grad_(False)
    slim.blocks[1].requires_grad_(False)
    record = slim_record(slim, gpt.gpt(tied=True))
    assert len(record.tied) == 1
    assert "blocks.0" in record.frozen
    assert record.training
    assert record.attributes["blocks.0"] == {"training": False}
    slim.requires_grad_(False)
    assert slim_record(slim, gpt.gpt(tied=True)).frozen == ("",)


def test_several_rounds_and_a_head_put_in_by_hand() -> None:
    slim = resnet_cifar.resnet20().eval()
    for _ in range(2):
        slim = graphprune.prune_model(slim, 0.5, IMAGE)
    slim.fc = nn.Linear(slim.fc.in_features, 3).eval()
    record = slim_record(slim, resnet_cifar.resnet20())
    assert record.attributes["fc"] == {"in_features": 16, "out_features": 3}
    assert record.shapes["conv1.weight"] == [4, 3, 3, 3]


def test_another_architecture_is_refused() -> None:
    slim = resnet_cifar.resnet20()
    slim.fc = nn.Sequential(nn.Linear(64, 10))
    with pytest.raises(ExportError, match=r"slim: fc is torch.nn.*Sequential, and the architecture .* has .*Linear"):
        slim_record(slim, resnet_cifar.resnet20())
    slim = resnet_cifar.resnet20()
    slim.extra = nn.Parameter(torch.ones(1))
    with pytest.raises(ExportError, match="the slim model has the parameter or buffer extra"):
        slim_record(slim, resnet_cifar.resnet20())


def test_places() -> None:
    model = Heads()
    set_place(model, "settings['sizes']['heads']", 3)
    set_place(model, "shape[1]", 5)
    set_place(model, "qkv.in_features", 7)
    set_place(model, "tables[0]", "there")
    model.part = (slice(2, 8), None)
    set_place(model, "part[0].stop", 4)
    assert model.settings == {"sizes": {"heads": 3}}
    assert model.part == (slice(2, 4), None)
    assert (model.shape, model.qkv.in_features, model.tables) == ((4, 5), 7, ["there"])
