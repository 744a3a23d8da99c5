"""The command line: what it prints, what it writes, and its exit codes."""

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import graphprune
from graphprune.cli import main
from graphprune.cli.models import load_spec
from graphprune.cli.planned import read_plan
from graphprune.cli.program import FAILED, INTERRUPTED, OK, WRONG_USAGE
from graphprune.pruning.plan import plans_of
from graphprune.utils.tables import human

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        return self.head((x + self.body(x)).mean((2, 3)))


def make():
    torch.manual_seed(0)
    return Net()


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x, y):
        return self.linear(x) + y


def broken():
    raise ValueError("no [such] thing")
"""

INPUT = ("--input", "1,3,8,8")


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "network.py"
    path.write_text(NETWORK)
    return f"{path}:make"


# ---------------------------------------------------------------- inspect


def test_inspect_prints_sizes_groups_and_what_is_frozen(spec, capsys):
    assert main(["inspect", spec, *INPUT]) == OK
    out = capsys.readouterr().out
    assert "Net" in out and "parameters" in out and "MACs" in out
    assert "What goes together" in out and "stem" in out
    assert "What cannot be pruned" in out


def test_inspect_json_is_only_json(spec, capsys):
    assert main(["inspect", spec, *INPUT, "--json"]) == OK
    data = json.loads(capsys.readouterr().out)
    model = load_spec(spec)
    assert data["spec"] == spec and data["class"] == "Net"
    assert data["cost"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert [group["units"] for group in data["groups"]] == [8]
    assert all(item["axis"] and item["reason"] for item in data["frozen"])


def test_inspect_finds_its_inputs_and_needs_no_memory(spec, capsys):
    assert main(["inspect", spec, "--meta", "--json"]) == OK
    assert len(json.loads(capsys.readouterr().out)["groups"]) == 1


# ---------------------------------------------------------------- prune


def test_prune_writes_a_smaller_model_that_loads(spec, tmp_path, capsys):
    out = tmp_path / "slim"
    assert main(["prune", spec, "--ratio", "0.5", "-o", str(out), *INPUT]) == OK
    printed = capsys.readouterr().out
    assert "ratio 0.5" in printed and "before" in printed and "after" in printed
    assert f"saved in {out}" in printed.replace("\n", "")
    slim = graphprune.load(out, model=load_spec(spec))
    assert slim.stem.out_channels == 4
    assert slim(torch.randn(1, 3, 8, 8)).shape == (1, 5)


def test_prune_json(spec, tmp_path, capsys):
    out = tmp_path / "slim"
    assert main(["prune", spec, "--ratio", "0.25", "-o", str(out), "--json", *INPUT]) == OK
    data = json.loads(capsys.readouterr().out)
    assert data["after"]["parameters"] < data["before"]["parameters"]
    assert data["verified"]["passed"] and data["verified"]["relative"] < 1e-10
    assert data["saved"] == str(out) and data["requested"]["ratio"] == 0.25


def test_prune_to_budgets(spec, tmp_path, capsys):
    options = ["--macs", "0.6", "--params", "1k", "--allocation", "uniform"]
    assert main(["prune", spec, *options, "-o", str(tmp_path / "slim"), "--json", *INPUT]) == OK
    data = json.loads(capsys.readouterr().out)
    assert data["after"]["macs"] <= 0.6 * data["before"]["macs"]
    assert data["after"]["parameters"] <= 1000
    assert data["requested"] == {"macs": 0.6, "params": "1k", "allocation": "uniform", "importance": "l2", "seed": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--ratio: nothing is asked for"),
        (["--macs", "2 apples"], "--macs: must be a fraction"),
        (["--ratio", "0.5", "--max-ratio", "2"], "--max-ratio: must be a fraction, but is 2"),
        (["--macs", "0.5", "--ratio", "0.5"], "--ratio: given together with macs"),
    ],
)
def test_prune_to_what_cannot_be(tmp_path, capsys, options, message):
    """Usage is wrong, which is said before anything is built: the specification is never looked at."""
    assert main(["prune", "nothing.py:there", *options, "-o", str(tmp_path / "slim"), *INPUT]) == WRONG_USAGE
    assert message in capsys.readouterr().err


def test_prune_uses_the_weights_given(spec, tmp_path):
    model = load_spec(spec)
    with torch.no_grad():
        model.stem.weight[:4] = 0
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    out = tmp_path / "slim"
    weights = str(tmp_path / "weights.pt")
    assert main(["prune", spec, "--ratio", "0.5", "-o", str(out), "--weights", weights, "--no-verify"]) == OK
    slim = graphprune.load(out, model=load_spec(spec))
    assert set(slim.state_dict()) == set(model.state_dict())


def test_prune_without_verification_says_so(spec, tmp_path, capsys):
    assert main(["prune", spec, "--ratio", "0.5", "-o", str(tmp_path / "slim"), "--no-verify", *INPUT]) == OK
    assert "not verified" in capsys.readouterr().out


def test_failed_verification_fails_and_saves_nothing(spec, tmp_path, capsys, monkeypatch):
    wrong = SimpleNamespace(passed=False, vacuous="", relative=0.3, absolute=1.0, inexact=())
    monkeypatch.setattr(graphprune, "verify", lambda *_: wrong)
    out = tmp_path / "slim"
    assert main(["prune", spec, "--ratio", "0.5", "-o", str(out), *INPUT]) == FAILED
    assert not out.exists()
    assert "differs from the masked original; not saved" in capsys.readouterr().err


def test_failed_verification_in_json(spec, tmp_path, capsys, monkeypatch):
    wrong = SimpleNamespace(passed=False, vacuous="", relative=0.3, absolute=1.0, inexact=())
    monkeypatch.setattr(graphprune, "verify", lambda *_: wrong)
    assert main(["prune", spec, "--ratio", "0.5", "-o", str(tmp_path / "slim"), "--json", *INPUT]) == FAILED
    data = json.loads(capsys.readouterr().out)
    assert data["saved"] is None and data["verified"]["passed"] is False


# ---------------------------------------------------------------- errors


def test_error_is_one_message_without_a_traceback(tmp_path, capsys):
    assert main(["inspect", "torchvision:resnet5"]) == FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("graphprune: error: ") and "did you mean resnet50" in captured.err
    assert "Traceback" not in captured.err


def test_error_of_the_factory_keeps_its_brackets(spec, capsys):
    assert main(["inspect", spec.replace(":make", ":broken")]) == FAILED
    assert "no [such] thing" in capsys.readouterr().err


def test_error_of_inputs_that_do_not_fit(spec, capsys):
    assert main(["inspect", spec, "--input", "1,4,8,8"]) == FAILED
    assert capsys.readouterr().err.startswith("graphprune: error: ")


@pytest.mark.parametrize("options", [(), ("--input", "1,3")])
def test_error_of_a_model_of_several_inputs(spec, capsys, options):
    assert main(["inspect", spec.replace(":make", ":Pair"), *options]) == FAILED
    said = capsys.readouterr().err
    assert ("does not take it as its only input" if options else "no guessed example inputs fit Pair") in said
    assert "for a model of several inputs give --input module:function" in said


@pytest.mark.parametrize("dtype", ["half", "bfloat16"])
def test_a_shape_is_that_of_an_input_in_the_precision_of_the_model(spec, tmp_path, capsys, dtype):
    with (tmp_path / "network.py").open("a") as file:
        file.write(f"\n\ndef small():\n    return make().{dtype}()\n")
    small = f"{tmp_path / 'network.py'}:small"
    assert main(["prune", small, "--ratio", "0.5", "-o", str(tmp_path / "slim"), *INPUT]) == OK
    assert main(["verify", small, str(tmp_path / "slim"), "--input", "2,3,9,9"]) == OK
    assert "equal to the masked original" in capsys.readouterr().out


WORDS = """
from torch import nn

def make():
    return nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 7))
"""


@pytest.mark.parametrize("shape", ["2,5", "1,40"])
def test_a_shape_is_that_of_tokens_where_the_model_reads_tokens(tmp_path, capsys, shape):
    (tmp_path / "words.py").write_text(WORDS)
    assert main(["measure", f"{tmp_path / 'words.py'}:make", "--input", shape, "--untimed"]) == OK
    assert f"i64[{shape.replace(',', ', ')}]" in capsys.readouterr().out


def test_an_input_that_is_larger_than_the_memory(spec, capsys):
    assert main(["inspect", spec, "--input", "1,3,99999999,9999999"]) == FAILED
    assert "graphprune: error: there is not enough memory: " in capsys.readouterr().err


def test_output_that_is_a_file_is_refused_before_work(spec, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("kept")
    assert main(["prune", spec, "--ratio", "0.5", "-o", str(file)]) == WRONG_USAGE
    assert "is a file; give a folder" in capsys.readouterr().err
    assert file.read_text() == "kept"


@pytest.mark.parametrize("way", ["file", "weights", "hf"])
def test_output_that_is_the_source_is_refused_before_work(spec, tmp_path, capsys, way):
    (tmp_path / "weights.pt").write_bytes(b"dense")
    source = {"hf": f"hf:{tmp_path}", "file": spec, "weights": "torchvision:resnet18"}[way]
    weights = ("--weights", str(tmp_path / "weights.pt")) if way == "weights" else ()
    assert main(["prune", source, *weights, "--ratio", "0.5", "-o", f"{tmp_path}/."]) == WRONG_USAGE
    assert "is where the model comes from" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.py", "weights.pt"]


def test_output_that_holds_other_files_is_refused_before_work(spec, tmp_path, capsys):
    out = tmp_path / "slim"
    out.mkdir()
    (out / "notes.txt").write_text("kept")
    assert main(["prune", spec, "--ratio", "0.5", "-o", str(out)]) == WRONG_USAGE
    assert "holds 'notes.txt', which is not part of a bundle" in capsys.readouterr().err
    assert main(["prune", spec, "--ratio", "0.5", "-o", str(out), "--force", "--no-verify", *INPUT]) == OK
    assert (out / "notes.txt").read_text() == "kept"
    assert graphprune.load(out, model=load_spec(spec)).stem.out_channels == 4


def test_a_slim_model_is_replaced_by_force_alone(spec, tmp_path, capsys):
    prune = ["prune", spec, "-o", str(tmp_path / "slim"), "--no-verify", *INPUT, "--ratio"]
    assert main([*prune, "0.5"]) == OK
    assert main([*prune, "0.25"]) == WRONG_USAGE
    assert "holds a slim model; give another folder, or --force to replace it" in capsys.readouterr().err
    assert graphprune.load(tmp_path / "slim", model=load_spec(spec)).stem.out_channels == 4
    assert main([*prune, "0.25", "--force"]) == OK
    assert graphprune.load(tmp_path / "slim", model=load_spec(spec)).stem.out_channels == 6


@pytest.mark.parametrize("options", [(), ("--weights", "weights.pt")])
def test_random_weights_are_said_loudly(tmp_path, capsys, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    torch.save({}, "weights.pt")
    monkeypatch.setattr(graphprune, "trace", lambda *_: 1 / 0)
    assert main(["prune", "torchvision:squeezenet1_1", *options, "--ratio", "0.5", "-o", "slim"]) == FAILED
    assert ("has RANDOM weights" in capsys.readouterr().err) is not bool(options)


def test_published_weights_are_asked_of_the_library(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("torchvision.models.get_model", lambda name, **given: asked.append(given) or 1 / 0)
    arguments = ["prune", "torchvision:squeezenet1_1", "--pretrained", "--ratio", "0.5", "-o", str(tmp_path)]
    assert main(arguments) == FAILED
    assert asked == [{"weights": "DEFAULT"}]
    assert "RANDOM" not in capsys.readouterr().err


def test_a_factory_has_no_published_weights(spec, tmp_path, capsys):
    assert main(["prune", spec, "--pretrained", "--ratio", "0.5", "-o", str(tmp_path / "slim")]) == WRONG_USAGE
    assert "names no model with published weights" in capsys.readouterr().err


def test_unexpected_error_is_named_and_debug_raises_it(spec, capsys, monkeypatch):
    def fail(*_):
        raise KeyError("bug")

    monkeypatch.setattr(graphprune, "trace", fail)
    assert main(["inspect", spec]) == FAILED
    said = r"KeyError: 'bug', at .*test_main.py:\d+: raise KeyError\(\"bug\"\) \(unexpected: run with --debug"
    assert re.search(said, capsys.readouterr().err)
    with pytest.raises(KeyError):
        main(["inspect", spec, "--debug"])


def test_interrupt(spec, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(graphprune, "trace", interrupt)
    assert main(["inspect", spec]) == INTERRUPTED


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("shrink", "x"),
        ("inspect",),
        ("prune", "x", "--ratio", "1", "-o", "out"),
        ("prune", "x", "--ratio", "-0.1", "-o", "out"),
        ("prune", "x", "--ratio", "half", "-o", "out"),
        ("prune", "x", "--ratio", "0.5"),
        ("inspect", "x", "--input", "1,0,8"),
        ("inspect", "x", "--input", "big"),
    ],
)
def test_wrong_usage(arguments, capsys):
    assert main([*arguments]) == WRONG_USAGE
    assert "error: " in capsys.readouterr().err


def test_ratio_error_says_what_is_needed(capsys):
    assert main(["prune", "x", "--ratio", "1.5", "-o", "out"]) == WRONG_USAGE
    said = capsys.readouterr().err
    assert "--ratio: must be a fraction, but is 1.5; --ratio takes FRACTION: fraction of channels removed" in said


def test_help_documents_exit_codes(capsys):
    assert main(["--help"]) == OK
    assert "Exit codes" in capsys.readouterr().out


def test_module_runs_as_a_program():
    command = [sys.executable, "-m", "graphprune", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(graphprune.__file__).parents[1])
    assert done.stdout == f"graphprune {graphprune.__version__}\n"


@pytest.mark.parametrize(
    ("number", "unit", "said"),
    [
        (0, "", "0"),
        (312, "B", "312 B"),
        (25557032, "", "25.56 M"),
        (4089184256, "", "4.089 G"),
        (1e3, "B", "1 kB"),
    ],
)
def test_human(number, unit, said):
    assert human(number, unit) == said


def test_the_console_script_is_the_command_line():
    (script,) = entry_points(group="console_scripts", name="graphprune")
    assert script.load() is main


# ---------------------------------------------------------------- export


@pytest.fixture
def bundle(spec, tmp_path):
    out = tmp_path / "slim"
    assert main(["prune", spec, "--ratio", "0.5", "-o", str(out), "--no-verify", *INPUT]) == OK
    return out


def test_a_slim_model_is_pruned_again(bundle, spec, tmp_path, capsys):
    again, plan = tmp_path / "again", tmp_path / "plan.json"
    arguments = [str(bundle), "--model", spec, "--ratio", "0.5"]
    assert main(["plan", *arguments, "-o", str(plan)]) == OK
    assert main(["prune", *arguments, "-o", str(bundle)]) == WRONG_USAGE
    assert "is where the model comes from" in capsys.readouterr().err
    assert main(["prune", *arguments, "-o", str(again)]) == OK
    said = capsys.readouterr().err
    assert f"the slim Net in {bundle}, with its own weights, input 1x3x8x8 as in the plan" in said
    plans = plans_of(graphprune.load(again, model=load_spec(spec)))
    assert len(plans) == 2 and plans[-1].to_json() == read_plan(plan).to_json()
    assert main(["measure", str(bundle), str(again), "--model", spec, "--untimed"]) == OK


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--model: BUNDLE does not say how its model is built; give --model SPEC"),
        (("--model", "SPEC", "--meta"), "--meta: BUNDLE is a slim model, which is loaded with its weights"),
        (("--model", "SPEC", "--pretrained"), "--pretrained: BUNDLE is a slim model with weights of its own"),
        (("--model", "SPEC", "--weights", "BUNDLE"), "--weights: BUNDLE is a slim model with weights of its own"),
    ],
)
def test_a_slim_model_as_spec_with_wrong_options(bundle, spec, capsys, options, message):
    options = [option.replace("BUNDLE", str(bundle)).replace("SPEC", spec) for option in options]
    assert main(["inspect", str(bundle), *options]) == 2
    assert message.replace("BUNDLE", str(bundle)) in capsys.readouterr().err


def test_model_is_for_slim_models_alone(spec, capsys):
    assert main(["inspect", spec, "--model", spec]) == 2
    assert "--model: is for the folder of a slim model" in capsys.readouterr().err


def test_export_source(bundle, spec, tmp_path, capsys):
    out = tmp_path / "source"
    assert main(["export", str(bundle), "--to", "source", "--model", spec, "-o", str(out)]) == OK
    assert f"written to {out}" in capsys.readouterr().out
    assert "nn.Conv2d(3, 4, 3, padding=1)" in (out / "model.py").read_text()


def test_export_onnx_with_the_inputs_of_the_trace(bundle, spec, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "slim.onnx"
    assert main(["export", str(bundle), "--to", "onnx", "--model", spec, "-o", str(out)]) == OK
    session = onnxruntime.InferenceSession(str(out))
    x = torch.randn(3, 3, 8, 8)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    slim = graphprune.load(bundle, model=load_spec(spec)).eval()
    assert torch.allclose(torch.from_numpy(found), slim(x), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "cloud"), "--to: 'cloud' is no kind of file; needed is one of source, loader"),
        (("--to", "deci", "--input", "1,3,8,8"), "--input: is not for --to deci"),
        (("--to", "source", "--tokenizer", "there"), "--tokenizer: is not for --to source"),
        (("--to", "source", "-o", "SAME"), "is the bundle itself"),
        (("--to", "onnx", "-o", "FILE"), "exists; give another path"),
        (("--to", "hf", "--serve", "vllm"), "--serve: is not for --to hf"),
        (("--to", "hf", "--tokenizer", "gone"), "--tokenizer: gone is no folder"),
        (("--to", "source", "-o", "FILE"), "holds what graphprune did not write"),
        (("--to", "source", "-o", "FULL"), "model.py exists; give another folder, or delete it first"),
        (("--to", "hf", "-o", "FULL"), "holds what graphprune did not write"),
    ],
)
def test_export_with_wrong_usage(bundle, tmp_path, capsys, arguments, said):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.py").write_text("kept")
    places = {"SAME": str(bundle), "FILE": str(tmp_path / "file"), "FULL": str(tmp_path / "full")}
    given = [places.get(argument, argument) for argument in ("-o", "out", *arguments)]
    assert main(["export", str(bundle), *given]) == WRONG_USAGE
    assert said in capsys.readouterr().err


def test_export_of_what_is_no_bundle(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--to", "source", "-o", str(tmp_path / "out")]) == WRONG_USAGE
    assert "holds no slim model; give a folder that graphprune prune wrote" in capsys.readouterr().err


def test_export_help_lists_the_targets(capsys):
    assert main(["export", "--help"]) == OK
    out = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    assert "a file that stock llama.cpp runs" in out and "a folder that stock Transformers loads" in out


# ---------------------------------------------------------------- pages


def test_inspect_and_prune_write_a_page(spec, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["inspect", spec, *INPUT, "--html", str(page)]) == OK
    assert "Net: what can be pruned" in page.read_text()
    assert capsys.readouterr().err.endswith(f"page written to {page}\n")
    slim = tmp_path / "slim"
    assert main(["prune", spec, "--ratio", "0.5", "-o", str(slim), *INPUT, "--html", str(page)]) == OK
    assert "equal to the masked original" in page.read_text()
    assert "ratio 0.5" in page.read_text()


@pytest.mark.parametrize("command", [["inspect"], ["prune", "--ratio", "0.5", "-o", "slim"]])
def test_where_no_page_can_be_is_said_before_any_work(tmp_path, capsys, command):
    """The specification is never looked at."""
    assert main([*command, "nothing.py:there", "--html", str(tmp_path / "no" / "page.html")]) == WRONG_USAGE
    assert "--html: the folder" in capsys.readouterr().err
