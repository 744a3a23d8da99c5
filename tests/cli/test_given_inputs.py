"""``--input module:function``: models of several inputs on the command line."""

import json
from pathlib import Path

import pytest

from graphprune.cli import main

FAILED, OK, USAGE = 1, 0, 2
PAIR = """
import torch
from torch import nn

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(8, 32), nn.Embedding(10, 32), nn.Linear(32, 4)

    def forward(self, x, ids, scale=1.0):
        return self.c((self.a(x) * scale + self.b(ids)).relu())

def positional():
    return torch.randn(2, 8), torch.tensor([3, 4])

def named():
    return {"x": torch.randn(2, 8), "ids": torch.tensor([3, 4]), "scale": 0.5}

def text():
    return "2,8"

def alone():
    return torch.randn(2, 8)

def broken():
    raise ValueError("no [such] thing")

value = positional()
"""


@pytest.fixture(autouse=True)
def pair(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pair.py").write_text(PAIR)


@pytest.mark.parametrize("inputs", ["positional", "named", "value"])
def test_all_inputs_come_from_a_function_or_a_value(inputs, capsys):
    given = ("--input", f"pair.py:{inputs}")
    assert main(["prune", "pair.py:Pair", *given, "--ratio", "0.5", "-o", "slim"]) == OK
    assert main(["verify", "pair.py:Pair", "slim", *given, "--json"]) == OK
    assert main(["verify", "pair.py:Pair", "slim"]) == OK  # the plan knows them
    assert "equal to the masked original" in capsys.readouterr().out


def test_a_slim_model_is_measured_and_exported_with_them(capsys):
    given = ("--input", "pair.py:positional")
    assert main(["prune", "pair.py:Pair", *given, "--ratio", "0.5", "-o", "slim", "--quiet"]) == OK
    capsys.readouterr()
    assert main(["measure", "pair.py:Pair", "slim", *given, "--model", "pair.py:Pair", "--untimed", "--json"]) == OK
    assert "i64[2]" in json.dumps(json.loads(capsys.readouterr().out))
    assert main(["export", "slim", "--to", "source", "--model", "pair.py:Pair", *given, "-o", "written"]) == OK


CLASSES = """
from dataclasses import dataclass
import torch
from torch import nn

print("imported")

@dataclass
class Batch:
    image: torch.Tensor

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, batch):
        assert isinstance(batch, Batch)
        return self.b(self.a(batch.image).relu())

def inputs():
    return (Batch(torch.randn(2, 8)),)
"""


def test_a_file_that_several_options_name_is_one_module(capsys):
    Path("classes.py").write_text(CLASSES)
    given = ("--input", "classes.py:inputs")
    assert main(["prune", "classes.py:Net", *given, "--ratio", "0.5", "-o", "slim"]) == OK
    assert capsys.readouterr().err.count("imported") == 1
    Path("classes.py").write_text(CLASSES.replace("16", "32"))
    assert main(["inspect", "classes.py:Net", *given, "--json"]) == OK
    assert "32" in capsys.readouterr().out


def test_a_file_that_another_one_imports_is_the_same_module(capsys):
    Path("shapes.py").write_text(CLASSES)
    Path("batches.py").write_text("import torch\nfrom shapes import Batch\n\ninputs = (Batch(torch.randn(2, 8)),)\n")
    given = ("--input", "batches.py:inputs")
    assert main(["prune", "shapes.py:Net", *given, "--ratio", "0.5", "-o", "slim"]) == OK
    assert capsys.readouterr().err.count("imported") == 1


def test_they_serve_a_model_without_memory(capsys):
    assert main(["inspect", "pair.py:Pair", "--input", "pair.py:named", "--meta"]) == OK
    assert "input x=f32[2, 8], ids=i64[2], scale=0.5 as given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("inputs", "status", "said"),
    [
        ("pair.py:text", FAILED, "--input: pair.py:text gave no inputs: is a str"),
        ("pair.py:broken", FAILED, "--input: pair.py:broken() failed with ValueError"),
        ("pair.py:alone", FAILED, "--input pair.py:alone: Pair does not run with what it gives"),
        ("pair.py:nothing", FAILED, "--input: pair.py has no 'nothing'"),
        ("nowhere.py:f", USAGE, "--input: the file nowhere.py does not exist"),
        ("pair.py:", USAGE, "--input: 'pair.py:' names no function"),
    ],
)
def test_what_gives_no_inputs_is_said(inputs, status, said, capsys):
    assert main(["inspect", "pair.py:Pair", "--input", inputs]) == status
    assert said in capsys.readouterr().err
