"""Walks of nested arguments."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from graphprune.pruning.float64 import widen
from graphprune.utils.tree import replaced


class Kinds(NamedTuple):
    """Arguments that a program names."""

    first: Any
    second: Any


@pytest.mark.parametrize(
    "value",
    [
        Kinds(torch.float16, 2),
        (torch.float16, [torch.float16, None]),
        {"kind": Kinds([torch.float16], {"more": (torch.float16,)})},
        torch.Size([2, 3]),
        torch.fx.immutable_collections.immutable_list([torch.float16]),
    ],
    ids=["a named tuple", "lists in tuples", "named tuples in dicts", "a shape", "a list that cannot change"],
)
def test_containers_keep_their_class_when_something_in_them_is_replaced(value: Any) -> None:
    found = widen(value)
    assert type(found) is type(value)
    assert replaced(lambda _: torch.float16, found, torch.dtype) == value
    assert "float16" not in str(found)
