"""Whose code runs: the user's, a library's, torch's or graphprune's."""

import sys
import threading
from types import FrameType
from typing import Any

import pytest
import torch

import graphprune.cli.program
import graphprune.planning.options
from graphprune.errors import Owner, owner_of


def frame_in(file: str, module: str = "__main__") -> FrameType:
    names: dict[str, Any] = {"sys": sys, "__name__": module}
    exec(compile("frame = sys._getframe()", file, "exec"), names)
    found: FrameType = names["frame"]
    return found


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("/home/me/train.py", Owner.USER),
        ("<stdin>", Owner.USER),
        ("<ipython-input-3-1a2b>", Owner.USER),
        ("<doctest page.md[2]>", Owner.USER),
        ("<eval_with_key>.7", Owner.FRAMEWORK),
        ("<frozen runpy>", Owner.FRAMEWORK),
        (torch.nn.__file__, Owner.FRAMEWORK),
        (pytest.__file__, Owner.LIBRARY),
        (threading.__file__, Owner.FRAMEWORK),
        (graphprune.planning.options.__file__, Owner.OWN),
        (graphprune.cli.program.__file__, Owner.COMMAND_LINE),
    ],
)
def test_whose_code_a_file_holds(file: str, code: Owner) -> None:
    assert owner_of(frame_in(file)) is code


def test_methods_that_python_wrote_for_dataclasses() -> None:
    assert owner_of(frame_in("<string>", "graphprune.planning.options")) is Owner.OWN
    assert owner_of(frame_in("<string>")) is Owner.USER
