"""Walks through a model."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from graphprune.utils.held import held_functions
from graphprune.utils.modules import check_once, named_modules, tables, walked_once


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


def test_a_check_is_made_once_while_the_model_stays_as_it_is() -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    done: list[str] = []

    def check(module: nn.Module, name: str) -> None:
        check_once(module, name, lambda: done.append(name))

    with walked_once(model):
        for _ in range(2):
            check(model, "shapes")
            check(model, "types")
            check(other, "of another")
    assert done == ["shapes", "types", "of another", "of another"]
    check(model, "shapes")
    check(model, "shapes")
    assert done[4:] == ["shapes", "shapes"]


def test_a_check_that_failed_is_made_again() -> None:
    model = nn.Linear(2, 2)

    def refuse() -> None:
        raise ValueError

    with walked_once(model):
        for _ in range(2):
            with pytest.raises(ValueError):
                check_once(model, "shapes", refuse)


def test_modules_that_may_hold_functions_or_dictionaries_are_known() -> None:
    def hook(*_: Any) -> None: ...

    plain, hooked, calling, keeping = (nn.Linear(2, 2) for _ in range(4))
    hooked.register_forward_hook(hook)
    vars(calling)["call"], vars(keeping)["kept"] = hook, {}
    found = tables(nn.Sequential(plain, hooked, calling, keeping))
    assert [path for path, _ in found.holders] == ["1", "2", "3"]
    assert found.functions == held_functions(found.modules)
    assert [function for _, function in found.functions] == [hook, hook]
