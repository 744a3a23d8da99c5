"""Walks through a model."""

from __future__ import annotations

from torch import nn

from graphprune.utils.modules import named_modules, tables, walked_once


def test_a_model_that_stays_as_it_is_is_walked_once() -> None:
    model, other = nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)
    with walked_once(model):
        assert named_modules(model) is named_modules(model)
        assert tables(model) is tables(model)
        found = tables(model)
        with walked_once(model):
            assert tables(model) is found
        assert tables(other) is not tables(other)
    assert tables(model) is not tables(model)


def test_what_is_found_is_what_torch_finds() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2)))
    with walked_once(model):
        assert named_modules(model) == list(model.named_modules())
        assert list(tables(model).parameters) == [name for name, _ in model.named_parameters()]
        assert list(tables(model).buffers) == [name for name, _ in model.named_buffers()]
    model.append(nn.Linear(2, 2))
    assert named_modules(model) == list(model.named_modules())
