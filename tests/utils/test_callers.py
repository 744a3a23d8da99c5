"""Whose code runs: the user's, a library's, torch's or graphprune's."""

import sys
import threading
from types import FrameType
from typing import Any

import pytest
import torch

import graphprune.cli.program
import graphprune.planning.options
from graphprune.errors import Code, code_of


def frame_in(file: str, module: str = "__main__") -> FrameType:
    names: dict[str, Any] = {"sys": sys, "__name__": module}
    exec(compile("frame = sys._getframe()", file, "exec"), names)
    found: FrameType = names["frame"]
    return found


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("/home/me/train.py", Code.USER),
        ("<stdin>", Code.USER),
        ("<ipython-input-3-1a2b>", Code.USER),
        ("<doctest page.md[2]>", Code.USER),
        ("<eval_with_key>.7", Code.FRAMEWORK),
        ("<frozen runpy>", Code.FRAMEWORK),
        (torch.nn.__file__, Code.FRAMEWORK),
        (pytest.__file__, Code.LIBRARY),
        (threading.__file__, Code.FRAMEWORK),
        (graphprune.planning.options.__file__, Code.OWN),
        (graphprune.cli.program.__file__, Code.COMMAND_LINE),
    ],
)
def test_whose_code_a_file_holds(file: str, code: Code) -> None:
    assert code_of(frame_in(file)) is code


def test_methods_that_python_wrote_for_dataclasses() -> None:
    assert code_of(frame_in("<string>", "graphprune.planning.options")) is Code.OWN
    assert code_of(frame_in("<string>")) is Code.USER
