"""The commands that go on from one another: plan, prune, verify, repair, finetune, bench, report, sparsify."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import graphprune
from graphprune.cli import main
from graphprune.cli.commands import load_command
from graphprune.cli.models import load_spec
from graphprune.cli.program import FAILED, OK, WRONG_USAGE
from graphprune.planning.options import PruningOptions
from graphprune.pruning.plan import plans_of

Capture = pytest.CaptureFixture[str]

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(self.norm(self.stem(x)).relu()).relu().mean((2, 3)))


def make():
    torch.manual_seed(0)
    return Net()
"""

DATA = """
import torch

def batches():
    torch.manual_seed(0)
    return (torch.randn(4, 3, 8, 8) for _ in range(2))

def pairs():
    return [(batch, torch.arange(4)) for batch in batches()]

def loss(output, target):
    return torch.nn.functional.cross_entropy(output, target)

def quality(model):
    return 0.5

def rising(group, context):
    return torch.arange(group.units).float()

number = 3
"""

SPEC = "net.py:make"
INPUT = ("--input", "1,3,8,8")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "data.py").write_text(DATA)
    return tmp_path


@pytest.fixture
def slim(capsys: Capture) -> str:
    assert main(["prune", SPEC, *INPUT, "--ratio", "0.5", "-o", "slim", "-q"]) == OK
    capsys.readouterr()
    return "slim"


def result(line: str, capsys: Capture, code: int = OK) -> dict[str, object]:
    """The JSON that a command prints."""
    assert main([*line.split(), "--json"]) == code
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def refused(line: str, capsys: Capture, code: int = WRONG_USAGE) -> str:
    """What a command says that does not work."""
    assert main(line.split()) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


# ---------------------------------------------------------------- plan


@pytest.mark.parametrize("command", ["plan", "prune", "report"])
def test_every_option_of_a_plan_is_an_option(command: str) -> None:
    flags = {flag for one in load_command(command).params for flag in one.opts}
    assert {f"--{one.name.replace('_', '-')}" for one in fields(PruningOptions)} <= flags


def test_a_plan_is_written_and_applied(capsys: Capture) -> None:
    planned = result(f"plan {SPEC} --input 1,3,8,8 --ratio 0.5 -o plan.json", capsys)
    assert planned["written"] == "plan.json"
    pruned = result(f"prune {SPEC} --plan plan.json -o slim", capsys)
    assert pruned["after"] == planned["after"] != planned["before"]
    assert graphprune.Plan.from_json(Path("plan.json").read_text()).shape("stem.weight") == (4, 3, 3, 3)


def test_a_plan_is_printed(capsys: Capture) -> None:
    assert main(["plan", SPEC, *INPUT, "--ratio", "0.5"]) == OK
    captured = capsys.readouterr()
    assert "What is left" in captured.out
    assert (
        captured.err == "Net, which make of net.py gives, weights as the function makes them, input 1x3x8x8 as given\n"
    )


RESIDUAL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(self.up(x).relu())


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), Block(), Block(), Block(), nn.Linear(8, 2))
"""


def test_json_names_what_is_left_out_whole(capsys: Capture) -> None:
    Path("residual.py").write_text(RESIDUAL)
    given = "residual.py:make --input 4,8 --depth 0.34 --ratio 0.25"
    planned = result(f"plan {given} -o plan.json", capsys)
    plan = graphprune.Plan.from_json(Path("plan.json").read_text())
    assert plan.skipped and planned["skipped"] == list(plan.skipped) and planned["zeroed"] == list(plan.zeroed)
    assert [(one["macs"], one["params"]) for one in planned["groups"]] == [(c.macs, c.params) for c in plan.choices]
    assert planned["merged"] == planned["stale"] == []
    pruned = result(f"prune {given} -o slim", capsys)
    assert planned.pop("written") == "plan.json" and planned.items() <= pruned.items()
    assert main(f"prune {given} -o printed".split()) == OK
    assert f"without {plan.skipped[0]}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("plan.json --ratio 0.5", "--plan: given together with --ratio"),
        ("gone.json", "--plan: the file gone.json does not exist"),
    ],
)
def test_a_plan_that_cannot_be_used(line: str, said: str, capsys: Capture) -> None:
    assert said in refused(f"prune x -o slim --plan {line}", capsys)


def test_a_file_that_holds_no_plan(capsys: Capture) -> None:
    Path("plan.json").write_text("{}")
    assert "--plan: plan.json holds no plan" in refused(f"prune {SPEC} -o slim --plan plan.json", capsys, FAILED)


def test_overrides_budgets_and_functions_of_the_user(capsys: Capture) -> None:
    line = f"plan {SPEC} --input 1,3,8,8 --ratio 0.5 --overrides stem*:ratio=25% --importance data.py:rising"
    kept = {group["name"]: group["kept"] for group in result(line, capsys)["groups"]}  # type: ignore[attr-defined]
    assert kept == {"stem": 6, "body": 4}
    found = result(f"plan {SPEC} --input 1,3,8,8 --budgets macs=0.5 --allocation uniform", capsys)
    assert found["requested"]["macs"] == 0.5  # type: ignore[index]


def test_a_limit_of_zero_is_a_limit(capsys: Capture) -> None:
    found = result(f"plan {SPEC} --input 1,3,8,8 --ratio 0.5 --max-ratio 0", capsys)
    assert found["after"] == found["before"]


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("--ratio 0.5", {"ratio": 0.5}),
        ("--macs 50% --multiple 2 --max-ratio 0.6", {"macs": 0.5, "multiple": 2, "max_ratio": 0.6}),
        ("--mlp 0.5 --seed 3 --importance random", {"mlp": 0.5, "seed": 3, "importance": "random"}),
        (
            "--params 300 --allocation isomorphic --reduce max",
            {"params": "300", "allocation": "isomorphic", "reduce": "max"},
        ),
        ("--ratio 0.5 --overrides stem:ratio=0.25", {"ratio": 0.5, "overrides": {"stem": graphprune.Override(0.25)}}),
        (
            "--ratio 0.5 --overrides *:frozen --overrides stem:frozen=no",
            {
                "ratio": 0.5,
                "overrides": {"*": graphprune.Override(frozen=True), "stem": graphprune.Override(frozen=False)},
            },
        ),
        ("--bytes 2kB --protect-ends --layers equal", {"bytes": "2kB", "protect_ends": True, "layers": "equal"}),
    ],
)
def test_the_command_line_makes_the_plan_of_the_function(line: str, asked: dict[str, Any], capsys: Capture) -> None:
    result(f"plan {SPEC} --input 1,3,8,8 {line} -o plan.json", capsys)
    model = load_spec(SPEC).eval()
    made = graphprune.trace(model, torch.randn(1, 3, 8, 8)).plan(**asked)
    assert json.loads(Path("plan.json").read_text()) == json.loads(made.to_json())


@pytest.mark.parametrize("given", ['"stem:frozen"', '["stem:frozen"]'])
def test_one_text_in_a_preset_is_a_list_of_one(given: str, capsys: Capture) -> None:
    Path("my.toml").write_text(f'ratio = 0.5\ninput = "1x3x8x8"\noverrides = {given}\n')
    assert [group["kept"] for group in result(f"plan {SPEC} --preset my.toml", capsys)["groups"]] == [8, 4]  # type: ignore[attr-defined]


def test_wrong_values_of_repeated_options_in_a_preset(capsys: Capture) -> None:
    line = f"sparsify {SPEC} --preset my.toml --amount 0.5 -o net.sparse"
    Path("my.toml").write_text("layers = true\n")
    assert "gives layers = True; needed is text, or a list of some" in refused(line, capsys)
    Path("my.toml").write_text("layers = 3\n")
    assert "'3' matches no parameter" in refused(line, capsys, FAILED)


def test_overrides_in_a_preset(capsys: Capture) -> None:
    Path("my.toml").write_text('ratio = 0.5\ninput = "1x3x8x8"\n[overrides]\n"stem*" = { frozen = true }\n')
    assert [group["kept"] for group in result(f"plan {SPEC} --preset my.toml", capsys)["groups"]] == [8, 4]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--overrides stem", "--overrides: 'stem' is none; needed is PATTERN:ratio=0.25,multiple=8"),
        ("--overrides stem:rato=3", "--overrides: 'rato' is none of ratio, min_units"),
        ("--overrides stem:ratio=7", "must be a fraction, but is 7"),
        ("--budgets mac=3", "--budgets: 'mac=3' is none; needed is NAME=AMOUNT"),
        ("--loss-fn nothing", "--loss-fn: 'nothing' names no function; give module:function"),
        ("--loss-fn gone.py:loss", "--loss-fn: the file gone.py does not exist"),
        ("--ratio 0.5 --importance wanda", "--importance: wanda reads data; give --calibration DIR"),
        ("--ratio 0.5 --macs 0.5", "--ratio: given together with macs"),
        ("-o net.py --ratio 0.5", "-o net.py: exists; give another path"),
        ("--ratio 0.5 --multiple 0", "--multiple: must be a whole number of units, at least 1, but is 0"),
        ("--ratio 0.5 --tensor-parallel 0", "--tensor-parallel: must be a whole number of devices, at least 1"),
        ("--macs 0", "--macs: must be a fraction of what the model costs now"),
        ("--macs 0.5 --budgets macs=0.4", "--budgets: macs is given twice"),
        ("--budgets macs=0.5 --budgets macs=0.4", "--budgets: 'macs' is given twice; give it once"),
        ("--budgets macs=3", "--budgets: 'macs=3': 3 is neither a fraction nor an amount"),
        ("--overrides stem:ratio=7", "--overrides: 'stem:ratio=7': ratio: must be a fraction, but is 7"),
        ("--overrides stem:frozen=maybe", "--overrides: 'stem:frozen=maybe': frozen: 'maybe' is neither true nor"),
        ("--overrides stem:ratio=0.1,ratio=0.2", "ratio is given twice"),
        ("--overrides stem:frozen --overrides stem:ratio=0.2", "--overrides: 'stem' is given twice"),
        ("--ratio 0.5 --run-with data.py:loss", "--run-with: is for models that are timed; give --latency"),
        ("--ratio 0.5 --loss-fn data.py:loss", "--loss-fn: is of batches; give --calibration DIR"),
        ("--ratio 0.5 --seed 3", "--seed: nothing is drawn for --importance l2; leave it out"),
        ("--ratio 0.5 --candidates 5", "--allocation searched too, or leave out --candidates"),
    ],
)
def test_wrong_options_of_a_plan(line: str, said: str, capsys: Capture) -> None:
    assert said in refused(f"plan x {line}", capsys)


# ---------------------------------------------------------------- data


def images(where: str, count: int) -> None:
    from PIL import Image

    Path(where).mkdir(parents=True)
    for number in range(count):
        values = np.random.default_rng(number).integers(0, 255, (12, 9, 3), dtype=np.uint8)
        Image.fromarray(values).save(f"{where}/{number}.png")


def test_calibration_by_images(slim: str, capsys: Capture) -> None:
    images("images/class", 5)
    assert main(f"repair {SPEC} {slim} --calibration images --samples 4 --batch-size 3 -o repaired".split()) == OK
    captured = capsys.readouterr()
    assert "calibration: 4 of 5 images in images, made 3x8x8, normalized by the means of ImageNet" in captured.err
    assert "2 batches" in captured.err and "saved in repaired" in captured.out


@pytest.mark.parametrize("kind", ["npy", "pt", "safetensors"])
def test_calibration_by_arrays(kind: str, slim: str, capsys: Capture) -> None:
    Path("arrays").mkdir()
    for number in range(2):
        sample = torch.randn(3, 8, 8)
        if kind == "npy":
            np.save(f"arrays/{number}.npy", sample.numpy())
        elif kind == "pt":
            torch.save(sample[None], f"arrays/{number}.pt")
        else:
            save_file({"x": sample}, f"arrays/{number}.safetensors")
    assert result(f"repair {SPEC} {slim} --calibration arrays -o repaired", capsys)["fitted"]


def test_calibration_by_records(slim: str, capsys: Capture) -> None:
    lines = [json.dumps({"x": torch.randn(3, 8, 8).tolist()}) for _ in range(3)]
    Path("records.jsonl").write_text("\n".join(lines))
    assert main(f"repair {SPEC} {slim} --calibration records.jsonl -o repaired".split()) == OK
    assert "calibration: 3 of 3 records in records.jsonl, x=f32[1, 3, 8, 8]" in capsys.readouterr().err


def test_prune_with_calibration_repairs(capsys: Capture) -> None:
    line = f"prune {SPEC} --input 1,3,8,8 --ratio 0.5 --calibration data.py:batches --importance wanda -o"
    assert result(f"{line} slim", capsys)["repaired"]["fitted"]  # type: ignore[index]
    assert result(f"{line} other --no-repair", capsys)["repaired"] is None


@pytest.mark.parametrize(
    ("options", "tried"),
    [("", True), ("--importance l2", False), ("--importance auto", True), ("--no-repair", False)],
)
def test_prune_that_repairs_tries_criteria_unless_one_is_named(options: str, tried: bool) -> None:
    line = f"prune {SPEC} --input 1,3,8,8 --macs 0.5 --calibration data.py:batches -o slim {options}"
    assert main(line.split()) == OK
    (plan,) = plans_of(graphprune.load("slim", load_spec(SPEC)))
    assert ("tried" in plan.requested) is tried


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("arrays --tokenizer arrays", "--tokenizer: is for a file of texts, and arrays is a folder; leave it out"),
        ("ids.jsonl --batch-size 3", "--batch-size: is for a folder of images or of arrays, and ids.jsonl is a file"),
        ("ids.jsonl --tokenizer gone", "--tokenizer: gone is no folder; give the one that holds"),
        ("data.py:batches --length 3", "--length: is for a file of texts, and data.py:batches is a function"),
    ],
)
def test_options_that_data_does_not_take(options: str, said: str, capsys: Capture) -> None:
    Path("arrays").mkdir()
    np.save("arrays/0.npy", np.zeros((3, 8, 8), np.float32))
    Path("ids.jsonl").write_text('{"input_ids": [1, 2]}')
    assert said in refused(f"prune {SPEC} --ratio 0.5 -o out --calibration {options}", capsys)


@pytest.mark.parametrize(
    ("line", "warned"),
    [
        ("plan --ratio 0.5", True),
        ("plan --ratio 0.5 --importance wanda", False),
        ("prune --ratio 0.5 -o out", False),
        ("prune --ratio 0.5 -o out --no-repair", True),
    ],
)
def test_data_that_makes_no_difference_is_said(line: str, warned: bool, capsys: Capture) -> None:
    command, _, options = line.partition(" ")
    assert main(f"{command} {SPEC} --input 1,3,8,8 {options} --calibration data.py:batches".split()) == OK
    assert ("--calibration: makes no difference to this plan" in capsys.readouterr().err) is warned


def test_an_error_of_the_users_code_says_where(capsys: Capture) -> None:
    Path("bad.py").write_text("def scores(group, context):\n    return group.no_such_thing\n")
    said = refused(f"plan {SPEC} --ratio 0.5 --importance bad.py:scores", capsys, FAILED)
    assert "AttributeError" in said and "bad.py:2: return group.no_such_thing" in said


def test_samples_of_several_shapes(slim: str, capsys: Capture) -> None:
    Path("arrays").mkdir()
    for size in (8, 9):
        np.save(f"arrays/{size}.npy", np.zeros((3, size, 8), np.float32))
    said = refused(f"repair {SPEC} {slim} --calibration arrays -o out", capsys, FAILED)
    assert "arrays/9.npy has another shape than arrays/8.npy" in said


def test_a_folder_without_a_tokenizer(slim: str, capsys: Capture) -> None:
    Path("texts.jsonl").write_text('"a text"')
    Path("empty").mkdir()
    line = f"repair {SPEC} {slim} --calibration texts.jsonl --tokenizer empty -o out"
    assert "empty is not the folder of a tokenizer" in refused(line, capsys, FAILED)


def test_calibration_in_pairs_for_gradients(capsys: Capture) -> None:
    line = f"prune {SPEC} --input 1,3,8,8 --ratio 0.5 --importance taylor --loss-fn data.py:loss"
    assert result(f"{line} --calibration data.py:pairs -o slim", capsys)["repaired"]["fitted"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("gone", "--calibration: gone does not exist; needed is a folder of images"),
        ("gone.jsonl", "--calibration: the file gone.jsonl does not exist"),
        ("net.py", "--calibration: net.py is no file of JSON lines"),
        ("empty", "--calibration: empty holds neither images"),
        ("gone.py:batches", "--calibration: the file gone.py does not exist"),
    ],
)
def test_data_that_is_none(place: str, said: str, capsys: Capture) -> None:
    Path("empty").mkdir()
    assert said in refused(f"plan x --ratio 0.5 --calibration {place}", capsys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1 of data.jsonl is not JSON"),
        ("3", "line 1 of data.jsonl is a int"),
        ('"a text"', "texts need a tokenizer"),
        ('{"x": ["a"]}', "line 1 of data.jsonl is not an object of numbers and lists of numbers"),
        ("", "data.jsonl has no lines"),
    ],
)
def test_lines_that_are_no_data(text: str, said: str, slim: str, capsys: Capture) -> None:
    Path("data.jsonl").write_text(text)
    assert said in refused(f"repair {SPEC} {slim} --calibration data.jsonl -o out", capsys, FAILED)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("data.py:bathces", "data.py has no 'bathces'; did you mean batches?"),
        ("no_such_module:batches", "no_such_module cannot be imported"),
        ("data.py:loss", "data.py:loss() failed with TypeError"),
        ("data.py:number", "data.py:number gave an int"),
    ],
)
def test_functions_that_are_not_there(place: str, said: str, slim: str, capsys: Capture) -> None:
    assert said in refused(f"repair {SPEC} {slim} --calibration {place} -o out", capsys, FAILED)


# ---------------------------------------------------------------- verify and repair


def test_verify(slim: str, capsys: Capture) -> None:
    assert result(f"verify {SPEC} {slim}", capsys)["passed"] is True
    assert main(f"repair {SPEC} {slim} --calibration data.py:batches -o repaired -q".split()) == OK
    assert capsys.readouterr().out == "repaired\n"
    assert result(f"verify {SPEC} repaired", capsys, FAILED)["passed"] is False


def test_verify_of_what_is_no_slim_model(capsys: Capture) -> None:
    assert "DIR: gone is no folder" in refused("verify x gone", capsys)
    Path("empty").mkdir()
    assert "DIR: empty holds no slim model" in refused("verify x empty", capsys)


def test_the_folder_in_the_place_of_the_model(slim: str, capsys: Capture) -> None:
    assert f"write {SPEC} before slim" in refused(f"verify {slim} {SPEC}", capsys)


def test_repair_needs_data(slim: str, capsys: Capture) -> None:
    assert "--calibration: is missing" in refused(f"repair {SPEC} {slim} -o out", capsys)


# ---------------------------------------------------------------- finetune


def test_finetune_of_a_slim_model(slim: str, capsys: Capture) -> None:
    line = f"finetune {slim} --model {SPEC} --data data.py:pairs --epochs 2 --lr 0.01"
    found = result(f"{line} --evaluate data.py:quality --teacher {SPEC} -o tuned", capsys)
    assert found["steps"] == 4 and found["metrics"] == {"2": 0.5, "4": 0.5}
    assert result(f"measure tuned --model {SPEC} --untimed", capsys)["parameters"] == 108 + 4 + 8 + 148 + 20


def test_finetune_of_a_spec_writes_weights(capsys: Capture) -> None:
    line = f"finetune {SPEC} --data data.py:pairs --steps 1 --lr 0.01 --loss-fn data.py:loss -o"
    assert main(f"{line} tuned.safetensors".split()) == OK
    assert "1 steps, loss" in capsys.readouterr().out
    assert load_file("tuned.safetensors")["head.weight"].shape == (4, 8)
    assert main(f"{line} tuned.pt -q".split()) == OK
    assert capsys.readouterr().out == "tuned.pt\n"
    assert result(f"measure {SPEC} --weights tuned.pt --untimed", capsys)["parameters"]


FROZEN = """

def frozen():
    model = make()
    model.stem.requires_grad_(False)
    model.count = nn.Parameter(torch.ones(1, dtype=torch.long), requires_grad=False)
    return model
"""


def test_finetune_leaves_frozen_layers_as_they_are(capsys: Capture, folder: Path) -> None:
    (folder / "net.py").write_text(NETWORK + FROZEN)
    line = "finetune net.py:frozen --data data.py:pairs --epochs 1 --lr 0.1 -o tuned.pt"
    assert main(line.split()) == OK
    assert "224 of " in (said := capsys.readouterr().err) and "are frozen (requires_grad=False), and stay" in said
    before, after = load_spec("net.py:frozen").state_dict(), torch.load("tuned.pt")
    assert torch.equal(after["stem.weight"], before["stem.weight"])
    assert not torch.equal(after["head.weight"], before["head.weight"])


def test_finetune_of_a_model_that_is_frozen_as_a_whole_trains_it(capsys: Capture, folder: Path) -> None:
    (folder / "net.py").write_text(f"{NETWORK}\n\ndef frozen():\n    return make().requires_grad_(False)\n")
    assert main("finetune net.py:frozen --data data.py:pairs --epochs 1 --lr 0.1 -o tuned.pt".split()) == OK
    assert "all parameters were frozen (requires_grad=False); all are trained" in capsys.readouterr().err
    assert not torch.equal(torch.load("tuned.pt")["head.weight"], load_spec("net.py:frozen").head.weight)


@pytest.mark.parametrize(
    ("start", "options", "value"),
    [
        (SPEC, "--weights ones.pt", 0),
        (SPEC, "--teacher-weights twos.pt", 2),
        (SPEC, "--weights ones.pt --teacher-weights twos.pt", 2),
        ("slim", "--weights twos.pt", 2),
        ("slim", "--teacher-weights twos.pt", 2),
    ],
)
def test_whose_weights_the_teacher_has(
    start: str, options: str, value: float, slim: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = "make().requires_grad_(False)\n    model.head.weight.zero_()\n    return model.requires_grad_(True)"
    (folder / "net.py").write_text(f"{NETWORK}\n\ndef teacher():\n    model = {made}\n")
    for number, name in ((1.0, "ones.pt"), (2.0, "twos.pt")):
        state = load_spec(SPEC).state_dict()
        torch.save(state | {"head.weight": torch.full_like(state["head.weight"], number)}, name)
    finetune, teachers = graphprune.finetune, []

    def noted(*args: Any, teacher: Any, **options: Any) -> graphprune.History:
        teachers.append(teacher.head.weight.unique().tolist())
        return finetune(*args, teacher=teacher, **options)

    monkeypatch.setattr(graphprune, "finetune", noted)
    output = "tuned --model net.py:make" if start == slim else "tuned.pt"
    line = f"finetune {start} --teacher net.py:teacher {options} --data data.py:pairs --steps 1 --lr 0.1 -o {output}"
    assert main(line.split()) == OK
    assert teachers == [[value]]


def test_teacher_weights_are_not_given_twice(slim: str, capsys: Capture) -> None:
    torch.save(load_spec(SPEC).state_dict(), "net.pt")
    line = f"finetune {slim} --teacher {SPEC} --teacher-weights net.pt --weights net.pt --data data.py:pairs"
    said = refused(f"{line} --steps 1 --lr 0.1 -o out", capsys)
    assert "--teacher-weights: given together with --weights, which is the teacher's beside a DIR" in said


def test_training_goes_on_from_its_checkpoint(slim: str, capsys: Capture) -> None:
    line = f"finetune {slim} --model {SPEC} --data data.py:pairs --epochs 2 --lr 0.01 --checkpoint"
    first = result(f"{line} ck -o tuned", capsys)
    assert result(f"{line} ck -o again", capsys)["loss"] == first["loss"]
    assert f"--checkpoint: {slim} is the folder of a slim model" in refused(f"{line} {slim} -o out", capsys)


def test_without_targets_the_error_says_that_alpha_is_one(slim: str, capsys: Capture, folder: Path) -> None:
    (folder / "arrays").mkdir()
    np.save(folder / "arrays" / "0.npy", np.zeros((3, 8, 8), np.float32))
    line = f"finetune {slim} --model {SPEC} --data arrays --teacher {SPEC} --epochs 1 --lr 0.01 -o tuned"
    said = refused(line, capsys, FAILED)
    assert "Distillation(alpha=1)" in said and "here:   --loss-fn for loss_fn=, --alpha for alpha=" in said
    data = next(one for one in load_command("finetune").params if one.name == "data")
    assert "with --teacher and --alpha 1 inputs alone" in data.help


def test_a_slim_model_is_not_trained_or_repaired_in_its_place(slim: str, capsys: Capture) -> None:
    commands = (
        f"finetune {slim} --model {SPEC} --data data.py:pairs --epochs 1 --lr 0.01 -o {slim}",
        f"repair {SPEC} {slim} --calibration data.py:batches -o {slim}",
    )
    for line in commands:
        said = refused(line, capsys)
        assert f"-o {slim}: holds a slim model; give another folder, or --force to replace it" in said
        assert main(f"{line} --force -q".split()) == OK
        capsys.readouterr()


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (f"sparsify {SPEC} --amount 0.5 --force -o ./net.py", SPEC),
        ("sparsify hf:gone --input data.py:batches --amount 0.5 --force -o data.py", "data.py:batches"),
        (f"finetune {SPEC} --weights net.pt --data data.py:pairs --epochs 1 --lr 1 --force -o net.pt", "net.pt"),
        (f"plan {SPEC} --ratio 0.5 -o net.py", SPEC),
    ],
)
def test_no_command_writes_over_what_it_reads(line: str, read: str, capsys: Capture, folder: Path) -> None:
    (folder / "net.pt").write_bytes(b"weights")
    assert f": is what this command reads ({read}); give another path" in refused(line, capsys)
    assert (folder / "net.py").read_text() == NETWORK and (folder / "net.pt").read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("options", "output", "read"),
    [
        ("--weights wd", "wd/model.safetensors", "wd"),
        ("--weights wd/model.safetensors.index.json", "wd/shard.safetensors", "wd/model.safetensors.index.json"),
        ("--weights wd", "wd/link.safetensors", "wd"),
        ("--weights elsewhere", "wd/model.safetensors", "elsewhere"),
    ],
)
def test_no_command_writes_into_a_folder_that_it_reads(
    options: str, output: str, read: str, capsys: Capture, folder: Path
) -> None:
    (folder / "wd").mkdir()
    for name in ("model.safetensors", "shard.safetensors", "model.safetensors.index.json"):
        (folder / "wd" / name).write_bytes(b"weights")
    (folder / "blob").write_bytes(b"weights")
    (folder / "wd" / "link.safetensors").symlink_to(folder / "blob")
    (folder / "elsewhere").symlink_to(folder / "wd")
    said = refused(f"sparsify {SPEC} --amount 0.5 --force {options} -o {output}", capsys)
    assert f"-o {output}: is in a folder that this command reads ({read}); give a path elsewhere" in said
    assert (folder / output).read_bytes() == b"weights"


def test_no_command_writes_into_the_folder_of_a_checkpoint_or_of_data(capsys: Capture, folder: Path) -> None:
    for name in ("checkpoint", "arrays"):
        (folder / name).mkdir()
        (folder / name / "one.pt").write_bytes(b"data")
    for line, output, read in (
        ("sparsify hf:checkpoint --amount 0.5", "checkpoint/one.pt", "hf:checkpoint"),
        (f"finetune {SPEC} --data arrays --epochs 1 --lr 1", "arrays/one.pt", "arrays"),
    ):
        said = refused(f"{line} --force -o {output}", capsys)
        assert f"-o {output}: is in a folder that this command reads ({read}); give a path elsewhere" in said


def test_a_file_beside_what_is_read_and_in_a_folder_called_like_another_option_is_replaced(
    capsys: Capture, folder: Path
) -> None:
    (folder / "l1").mkdir()
    for output in ("sparse", "l1/sparse"):
        (folder / output).write_bytes(b"earlier")
        assert main(f"sparsify {SPEC} --amount 0.5 --method l1 --input 1,3,8,8 --force -q -o {output}".split()) == OK
        assert (folder / output).read_bytes() != b"earlier"


@pytest.mark.parametrize(
    ("reference", "output"),
    [
        ("data:batches", "data.py"),
        ("package.inner.module:inputs", "package/inner/module.py"),
        ("package.inner.module:inputs", "package/__init__.py"),
    ],
)
def test_no_command_writes_over_a_module_that_it_imports(
    reference: str, output: str, capsys: Capture, folder: Path
) -> None:
    (folder / "package" / "inner").mkdir(parents=True)  # the inner one has no __init__.py
    for name in ("__init__.py", "inner/module.py"):
        (folder / "package" / name).write_text("raise SystemExit('it was run')\n")
    before = (folder / output).read_text()
    said = refused(f"sparsify {SPEC} --amount 0.5 --force --input {reference} -o {output}", capsys)
    assert f"-o {output}: is what this command reads ({reference}); give another path" in said
    assert (folder / output).read_text() == before


def test_paths_that_no_file_can_have_are_not_taken_for_what_is_written(capsys: Capture, folder: Path) -> None:
    (folder / "circle").symlink_to("circle")
    (folder / "sparse").write_bytes(b"earlier")
    long = "a" * 300
    for options in ("--weights circle -o sparse", f"-o {long}", f"--layers {long} -o sparse"):
        assert main(f"sparsify {SPEC} --amount 0.5 --force {options}".split()) in (FAILED, WRONG_USAGE)
        assert "Traceback" not in capsys.readouterr().err
    assert (folder / "sparse").read_bytes() == b"earlier"


def test_images_and_arrays_are_trained_on_in_batches(slim: str, capsys: Capture, folder: Path) -> None:
    (folder / "arrays").mkdir()
    for number in range(5):
        np.save(folder / "arrays" / f"{number}.npy", np.random.default_rng(number).random((3, 8, 8), np.float32))
    line = f"finetune {slim} --model {SPEC} --data arrays --teacher {SPEC} --alpha 1 --epochs 1 --lr 0.01"
    assert result(f"{line} -o tuned", capsys)["steps"] == 1
    assert result(f"{line} --batch-size 2 -o tuned --force", capsys)["steps"] == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--epochs 1 -o out.pt", "--lr: is missing"),
        ("--lr 0.1 -o out.pt", "--epochs: is missing; give --epochs N or --steps N"),
        ("--lr 0.1 --epochs 1 --steps 1 -o out.pt", "--epochs: given together with --steps"),
        ("--lr 0.1 --epochs 1 --optimizer adam -o out.pt", "'adam' is none of sgd, adamw; did you mean adamw?"),
        ("--lr 0.1 --epochs 1 --device gpu -o out.pt", "--device: 'gpu' is none"),
        ("--lr 0.1 --epochs 0 -o out.pt", "--epochs: must be 1 or more"),
        ("--lr 0.1 --epochs 1 -o out", "-o out: must end with .safetensors or .pt"),
        ("--lr nan --epochs 1 -o out.pt", "--lr: 'nan' is no number"),
        ("--lr 0 --epochs 1 -o out.pt", "--lr: must be above 0, but is 0"),
        ("--lr 0.1 --epochs 1 --clip 0 -o out.pt", "--clip: must be above 0, but is 0"),
        ("--lr 0.1 --epochs 1 --warmup -1 -o out.pt", "--warmup: must be 0 or more, but is -1"),
        ("--lr 0.1 --epochs 1 --weight-decay -1 -o out.pt", "--weight-decay: must be 0 or more, but is -1"),
        ("--lr 0.1 --epochs 1 --device meta -o out.pt", "--device: meta holds no values"),
        ("--lr 0.1 --epochs 1 --every 3 -o out.pt", "--every: is about --checkpoint, which is not given"),
        ("--lr 0.1 --epochs 1 --alpha 0 -o out.pt", "--alpha: is about --teacher, which is not given"),
        ("--lr 0.1 --epochs 1 --teacher-weights a.pt -o out.pt", "--teacher-weights: is about --teacher, which is"),
        (
            "--lr 0.1 --epochs 1 --teacher net.py:make --teacher-weights a.pt -o o.pt",
            "--teacher-weights: a.pt does",
        ),
        (
            "--lr 0.1 --epochs 1 --teacher torchvision:resnet18 --weights net.py -o out.pt",
            "--weights: are those of SPEC, and torchvision:resnet18 has none; give --teacher-weights PATH",
        ),
        ("--lr 0.1 --epochs 1 --teacher net.py:make --alpha 2 -o out.pt", "--alpha: must be a fraction, but is 2"),
        ("--lr 0.1 --epochs 1 --teacher gone.py:make -o out.pt", "--teacher: 'gone.py:make': the file 'gone.py' does"),
        ("--lr 0.1 --epochs 1 --checkpoint net.py -o out.pt", "--checkpoint: net.py is a file; give a folder"),
        ("--lr 0.1 --epochs 1 --samples 3 -o out.pt", "--samples: is for a folder or a file, and data.py:pairs is a"),
        ("--lr 0.1 --epochs 1 --model net.py:make -o out.pt", "--model: is for the folder of a slim model"),
        ("--lr 0.1 --epochs 1 -o gone/out.pt", "-o gone/out.pt: gone is no folder"),
    ],
)
def test_wrong_usage_of_finetune(line: str, said: str, capsys: Capture) -> None:
    assert said in refused(f"finetune {SPEC} --data data.py:pairs {line}", capsys)


def test_the_folder_of_a_slim_model_needs_the_dense_one(slim: str, capsys: Capture) -> None:
    line = f"finetune {slim} --data data.py:pairs --epochs 1 --lr 0.01 -o out"
    assert "how its model is built; give --model SPEC, the dense model\n" in refused(line, capsys)


# ---------------------------------------------------------------- bench, report, sparsify


def test_bench(slim: str, capsys: Capture) -> None:
    line = f"bench {SPEC} {slim} --model {SPEC} --repeats 1 --threads 1"
    found = result(line, capsys)["models"]
    assert [one[0]["batch"] for one in found.values()] == [1, 1]  # type: ignore[attr-defined]
    assert main(line.split()) == OK
    assert "1.00x" in capsys.readouterr().out
    assert "there is 1; give the dense model, and slim ones" in refused(f"bench {SPEC}", capsys)


def test_report(capsys: Capture) -> None:
    assert main(["report", SPEC, *INPUT, "--ratio", "0.5", "--verify", "-o", "report.html", "-q"]) == OK
    assert capsys.readouterr().out == "report.html\n"
    assert "equal to the masked original" in Path("report.html").read_text()
    assert main(["report", SPEC, *INPUT, "-o", "report.html"]) == OK
    capsys.readouterr()
    assert "--verify: is about a plan" in refused("report x --verify -o other.html", capsys)
    assert "is no report that graphprune wrote" in refused("report x -o net.py", capsys)


def test_sparsify(capsys: Capture) -> None:
    found = result(f"sparsify {SPEC} --amount 50% --skip stem -o net.sparse", capsys)
    assert found["zeros"] == (8 * 8 * 9 + 4 * 8) // 2 + 8  # and the bias of the batch norm
    state = graphprune.load_sparse("net.sparse")
    assert (state["body.weight"] == 0).float().mean() == 0.5
    assert "-o net.sparse: exists" in refused(f"sparsify {SPEC} --amount 0.5 -o net.sparse", capsys)
    assert "--method: 'l2' is none; needed is one of l1" in refused("sparsify x --amount 1 --method l2 -o o", capsys)
    assert "'half' is no amount; give a fraction" in refused("sparsify x --amount half -o o", capsys)


def test_percent_is_read_as_the_method_takes_it(capsys: Capture) -> None:
    """A percentile of 90 leaves a tenth, as 90 % of the weights do."""
    for number, amount in enumerate(("90%", "90", "90.0 %")):
        given = ["--amount", amount, "--method", "percentile", "--layers", "body", "-o", f"{number}.sparse", "--json"]
        assert main(["sparsify", SPEC, *given]) == OK
        zeros = json.loads(capsys.readouterr().out)["zeros"]
        assert zeros / (8 * 8 * 9) == pytest.approx(0.9, abs=0.02)
    said = refused("sparsify x --amount 50% --method threshold -o o", capsys)
    assert "--amount: 50% is a share of the weights, and --method threshold takes a magnitude" in said
    assert "'half%' is no amount" in refused("sparsify x --amount half% --method percentile -o o", capsys)


def test_errors_say_which_options_the_arguments_are_that_they_name(capsys: Capture) -> None:
    said = refused(f"plan {SPEC} --input 1,3,8,8 --macs 0.0001", capsys, FAILED)
    assert "needed: " in said and "\n  here:   --macs for macs=, graphprune inspect SPEC for print(graph)\n" in said
    said = refused(f"sparsify {SPEC} --amount 2:4 -o sparse", capsys, FAILED)
    assert "overrides=" in said and "\n  here:   --skip for skip=\n" in said
    assert "here:" not in refused(f"plan {SPEC} --ratio 0.5 --importance bad.py:scores", capsys, WRONG_USAGE)


def test_errors_say_which_commands_the_calls_are_that_they_name(capsys: Capture) -> None:
    lists, says = "graphprune inspect SPEC for print(graph)", "graphprune explain SPEC NAME for graph.explain(layer)"
    said = refused(f"plan {SPEC} --input 1,3,8,8 --ratio 0.5 --overrides zz:frozen", capsys, FAILED)
    assert f"\n  here:   {lists}\n" in said
    said = refused(f"plan {SPEC} --input 1,3,8,8 --heads 0.5", capsys, FAILED)
    assert f"\n  here:   {lists}, {says}\n" in said
    assert f"\n  here:   {lists}\n" in refused(f"explain {SPEC} nope --input 1,3,8,8", capsys, FAILED)


def test_one_is_neither_a_fraction_nor_an_amount(capsys: Capture) -> None:
    said = refused(f"plan {SPEC} --input 1,3,8,8 --macs 1", capsys)
    assert "--macs: 1 may be a fraction or an amount; give 1.0 for all of it, or an amount with its unit" in said
    assert "--budgets: 'macs=1': 1 may be" in refused(f"plan {SPEC} --budgets macs=1", capsys)
