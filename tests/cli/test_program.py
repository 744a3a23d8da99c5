"""What all commands have in common: help, version, presets, forms of output, wrong usage, interruption."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import graphprune
from graphprune.cli import main
from graphprune.cli.commands import COMMANDS, load_command
from graphprune.cli.program import FAILED, INTERRUPTED, OK, WRONG_USAGE, make_program
from tests.cli.option_tables import examples_of

NETWORK = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
"""
INPUT = ("--input", "1,3,8,8")
ROOT = Path(graphprune.__file__).parents[1]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "network.py").write_text(NETWORK)
    return f"{tmp_path / 'network.py'}:make"


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "graphprune", *arguments]


# ---------------------------------------------------------------- help


def test_help_and_version_are_quick_and_load_no_torch() -> None:
    for argument, said in (("--help", "Make it smaller"), ("--version", f"graphprune {graphprune.__version__}")):
        code = (
            "import sys; from graphprune.cli import main; code = main([sys.argv[1]]); "
            "assert not {'torch', 'numpy', 'graphprune.api'} & sys.modules.keys(); sys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == OK and said in done.stdout, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples_that_parse(name: str, capsys: Capture) -> None:
    assert main([name, "--help"]) == OK
    shown = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    examples = examples_of(name)
    assert len(examples) >= 2
    for example in examples:
        assert example in shown
        words = shlex.split(example)
        assert words[:2] == ["graphprune", name]
        parsed = load_command(name).make_context(name, words[2:])
        assert parsed.params


def test_help_lists_every_command(capsys: Capture) -> None:
    assert main(["--help"]) == OK
    shown = capsys.readouterr().out
    assert all(re.search(rf"│ {name} ", shown) for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "offered"),
    [("insp", "inspect"), ("inspect --", "--explorer"), ("inspect torchvision:resnet1", "torchvision:resnet18")],
)
def test_a_shell_completes_commands_options_and_models(
    words: str, offered: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_GRAPHPRUNE_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", f"graphprune {words}")
    with pytest.raises(SystemExit):
        make_program().main(args=[], prog_name="graphprune")
    assert f'"{offered}"' in capsys.readouterr().out.replace("\\", "")


# ---------------------------------------------------------------- output


def test_quiet_prints_paths_alone(spec: str, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "slim"
    assert main(["prune", spec, *INPUT, "--ratio", "0.5", "-o", str(out), "--quiet"]) == OK
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n" and captured.err == ""
    assert main(["inspect", spec, *INPUT, "-q"]) == OK
    assert capsys.readouterr().out == ""


def test_quiet_prints_every_path_that_was_written(
    spec: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", spec, *INPUT, "-q", "--to", "a.json", "--explorer", "ex", "--html", "a.html"]) == OK
    assert capsys.readouterr().out == "a.json\nex\na.html\n"


TALKING = """
print("on import")
from torch import nn

class Talking(nn.Sequential):
    def forward(self, x):
        print("in forward")
        return super().forward(x)

def make():
    print("in make")
    return Talking(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
"""


def test_what_the_users_code_prints_is_no_result(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "talking.py").write_text(TALKING)
    spec, slim = f"{tmp_path / 'talking.py'}:make", str(tmp_path / "slim")
    assert main(["prune", spec, *INPUT, "--ratio", "0.5", "-o", slim, "--json"]) == OK
    captured = capsys.readouterr()
    assert json.loads(captured.out)["saved"] == slim
    assert all(said in captured.err for said in ("on import", "in make", "in forward"))


@pytest.mark.parametrize("place", ["on import", "in make", "in forward"])
@pytest.mark.parametrize("call", ["sys.exit()", "sys.exit(0)", "sys.exit('enough')"])
def test_code_of_the_user_that_ends_the_program_has_failed(
    place: str, call: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "leaving.py").write_text("import sys\n" + TALKING.replace(f'print("{place}")', call))
    assert main(["inspect", f"{tmp_path / 'leaving.py'}:make", *INPUT]) == FAILED
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("graphprune: error: ") == 1
    assert ("SystemExit" if place != "in forward" else "ended the program (sys.exit(") in captured.err


def test_json_and_quiet_exclude_each_other(capsys: Capture) -> None:
    assert main(["inspect", "nothing.py:there", "--json", "--quiet"]) == WRONG_USAGE
    assert "--json: given together with --quiet" in capsys.readouterr().err


def test_warnings_go_to_standard_error(spec: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["prune", spec, *INPUT, "--ratio", "0.01", "-o", str(tmp_path / "slim"), "--json"]) == OK
    captured = capsys.readouterr()
    assert json.loads(captured.out)["after"] == json.loads(captured.out)["before"]
    assert "\ngraphprune: warning: ratio" in captured.err


# ---------------------------------------------------------------- wrong usage


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "missing command; these are inspect, explain"),
        ("--json inspect x", "options of a command stand behind its name: graphprune COMMAND ... --json"),
        ("prune x -r 0.5 -o out", "no such option: -r (Possible options: --ratio, --reduce, --run-with)"),
        ("insepct x", "no such command 'insepct'. Did you mean 'inspect'"),
        ("inspect", "SPEC: is missing; it is torchvision:NAME"),
        ("inspect x --jsn", "no such option: --jsn (Possible options: --json)"),
        ("inspect x y", "got unexpected extra argument"),
        ("prune x --ratio half -o out", "--ratio: 'half' is no fraction; give one such as 0.5 or 50%; --ratio takes"),
        ("prune x --ratio 50 -o out", "--ratio: must be a fraction, but is 50; for 50 percent give 0.5 or 50%"),
        ("prune x --ratio 0.5", "-o/--output: is missing; -o/--output takes DIR: where to save it"),
        ("prune x --ratio 0.5 -o", "option '-o' requires an argument"),
        ("prune x --multiple 2.5 --ratio 0.5 -o out", "--multiple: '2.5' is no whole number"),
        ("prune x --importance l3 --ratio 0.5 -o out", "--importance: "),
        (
            "prune x --input 1,a -o out --ratio 0.5",
            "--input: '1,a' is no shape; give whole numbers such as 1,3,224,224",
        ),
        ("prune x --weights gone.pt -o out --ratio 0.5", "--weights: gone.pt does not exist"),
        ("prune x --weights a --pretrained -o out --ratio 0.5", "--weights: given together with --pretrained"),
        ("prune x -o file/slim --ratio 0.5", "/file is a file, and no folder; give another path"),
        ("prune x -o slim --ratio 0.5", "SPEC: 'x' names no model; did you mean torchvision:x, timm:x or hf:x?"),
        ("prune torch:x -o slim --ratio 0.5", "'torch' is no source of models; did you mean torchvision?"),
        ("inspect torchvision.models.resnet18", "did you mean torchvision:resnet18?"),
        (
            "prune x --macs 50 -o out",
            "50 is neither a fraction nor an amount; give 0.5, 50%, or an amount with its unit",
        ),
        (
            "plan hf:x --meta --ratio 0.5",
            "--meta: there are no weights that channels could be chosen by; give --weights DIR",
        ),
        ("inspect net.py:make --pretrained", "--pretrained: 'net.py:make' names no model with published weights"),
        ("inspect here", "it is a folder without a config.json"),
        ("inspect net.py", "say which function of it makes the model: net.py:make or net.py:Net"),
        ("inspect nte.py:make", "the file 'nte.py' does not exist; did you mean net.py?"),
        ("export gone --to onnx -o out", "DIR: gone is no folder"),
        ("measure x --layers --json", "--layers: given together with --json"),
        ("inspect folder.py:make", "SPEC: 'folder.py:make': folder.py is a folder"),
        ("inspect net:make", "did you mean net.py:make?"),
        ("inspect net.make", "did you mean net.py:make?"),
        ("inspect file:make", "'file' is a file that does not end with .py"),
        ("inspect dense.pt", "it is a file of weights; give the SPEC of their model, and --weights dense.pt"),
        ("inspect x --meta --pretrained", "--pretrained: given together with --meta, which loads no weights"),
        ("inspect x --meta --weights dense.pt", "--weights: given together with --meta, which loads no weights"),
        ("report x --meta --weights here -o page.html", "--weights: given together with --meta"),
        ("plan x --meta --weights dense.pt --ratio 0.5", "--weights: dense.pt is a file; with --meta give a folder"),
        ("inspect x --to dense.json", "--to dense.json: exists; give another path"),
        ("inspect x --to gone/a.json", "--to gone/a.json: gone is no folder; make it, or give a path in another"),
        ("inspect x --explorer full", "--explorer: full holds what graphprune did not write"),
        ("inspect x --explorer dense.pt", "--explorer: dense.pt holds what graphprune did not write"),
        ("inspect x --to a.json --explorer a.json", "--explorer a.json: is where --to goes, too"),
        ("prune x --ratio 0.5 -o out --html out", "--html out: is where -o goes, too; give another path"),
        ("prune x --ratio 0.5 -o -", "-o -: nothing is written to standard output but the result"),
        ("plan x --ratio 0.5 -o gone/plan.json", "-o gone/plan.json: gone is no folder; make it"),
        ("sparsify x --amount 0.5 -o gone/a.sparse", "-o gone/a.sparse: gone is no folder"),
        ("sparsify x --amount 0.5 --seed 3 -o a.sparse", "--seed: is of --method random, not of --method l1"),
        ("compact x --relative -o out", "--relative: is about --threshold, which is not given"),
        ("compact x --threshold -1 -o out", "--threshold: must be 0 or more, but is -1"),
        ("advise net.py:make --target bogus", "--target: 'bogus' is not known; use one of 'cpu'"),
        ("advise net.py:make --target macs=0", "must be a fraction of what the model costs now"),
        ("advise net.py:make --target cpu,macs=2", "--target: macs: 2 is neither a fraction nor an amount"),
        ("advise net.py:make --device banana", "--device: 'banana' is none; give cpu"),
        ("advise net.py:make --device cuda:99", "--device: cuda:99 is not there; give cpu"),
        ("sparsify x --amount 1.5 -o a.sparse", "--amount: must be a fraction from 0 to 1, or a number of weights"),
        ("sparsify x --amount -1 -o a.sparse", "--amount: must be a fraction from 0 to 1, or a number of weights"),
        ("sparsify x --amount 0.5 -o dense.json", "dense.json: exists; give another path, or --force"),
        ("plan x --ratio 0.5 --allocation searched", "--allocation: searched compares plans on data; give"),
        ("advise x --seconds 0", "--seconds: must be above 0, but is 0"),
        ("verify x here --tolerance nan", "--tolerance: 'nan' is no number"),
        ("verify x here --tolerance 0", "--tolerance: must be above 0, but is 0"),
        ("prune x --ratio 0.5 --no-repair -o out", "--no-repair: is about --calibration"),
        ("prune x --ratio 0.5 --samples 3 -o out", "--samples: is for a folder or a file, and --calibration is not"),
        ("prune x --plan dense.json --seed 0 -o out", "--plan: given together with --seed"),
        ("report x --calibration net.py:make -o a.html", "--calibration: is for criteria of a plan"),
    ],
)
def test_wrong_usage_is_told_before_any_work(
    line: str, said: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No model is built: ``x`` is none."""
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    Path("file").touch()
    Path("full").mkdir()
    for name in ("folder.py", "full/folder"):
        Path(name).mkdir()
    for name in ("dense.pt", "dense.json"):
        Path(name).touch()
    Path("net.py").write_text("def make(): ...\nclass Net: ...\n")
    assert main(line.split()) == WRONG_USAGE
    captured = capsys.readouterr()
    assert captured.out == "" and "graphprune" in captured.err and "try: graphprune" in captured.err
    assert said in captured.err


def test_a_folder_that_cannot_be_written(capsys: Capture) -> None:
    assert main("prune x -o /proc/slim --ratio 0.5".split()) == WRONG_USAGE
    assert "-o /proc/slim: nothing can be written in /proc" in capsys.readouterr().err


def test_percent_is_a_fraction(spec: str, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["prune", spec, *INPUT, "--ratio", "50%", "-o", str(tmp_path / "slim"), "--json"]
    assert main(arguments) == OK
    assert json.loads(capsys.readouterr().out)["requested"]["ratio"] == 0.5


# ---------------------------------------------------------------- presets

PRESETS = """
input = [1, 3, 8, 8]

[half]
ratio = 0.5
no-verify = true

[quarter]
ratio = "25%"
importance = "l1"

[wrong]
ration = 0.5

[unfit]
no-verify = 3
"""


@pytest.fixture
def presets(tmp_path: Path) -> str:
    (tmp_path / "presets.toml").write_text(PRESETS)
    return str(tmp_path / "presets.toml")


def test_a_preset_stands_in_for_options(spec: str, presets: str, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["prune", spec, "-o", str(tmp_path / "slim"), "--json", "--preset"]
    assert main([*arguments, f"{presets}:half"]) == OK
    data = json.loads(capsys.readouterr().out)
    assert data["requested"]["ratio"] == 0.5 and data["verified"] is None
    assert main([*arguments, f"{presets}:quarter", "--ratio", "0.3", "--force"]) == OK
    data = json.loads(capsys.readouterr().out)
    assert data["requested"]["ratio"] == 0.3 and data["requested"]["importance"] == "l1"


def test_entries_outside_of_tables_hold_for_all(spec: str, presets: str, capsys: Capture) -> None:
    assert main(["inspect", spec, "--preset", presets, "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["groups"][0]["units"] == 8


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("presets.toml:wrong", "gives 'ration', which is no option of this command; did you mean ratio"),
        ("presets.toml:haf", "has no preset 'haf'; it has half, quarter, wrong, unfit"),
        ("presets.toml:unfit", "gives no_verify = 3; needed is true or false"),
        ("gone.toml", "the file gone.toml does not exist"),
        ("broken.toml", "broken.toml cannot be read as TOML"),
    ],
)
@pytest.mark.usefixtures("presets")
def test_a_preset_that_cannot_be_used(
    place: str, said: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.toml").write_text("ratio = ")
    assert main(["prune", "x", "-o", "slim", "--preset", place]) == WRONG_USAGE
    assert said in capsys.readouterr().err


# ---------------------------------------------------------------- interruption

SLOW = """
import time
from torch import nn

def make():
    print("building", flush=True)
    time.sleep(60)
"""


def test_an_interruption_leaves_neither_traceback_nor_files(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    arguments = program("prune", f"{tmp_path / 'slow.py'}:make", "--ratio", "0.5", "-o", str(tmp_path / "slim"))
    running = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert running.stderr is not None and running.stderr.readline() == "building\n"
    time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=20)
    assert running.returncode == INTERRUPTED
    assert out == "" and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["slow.py"]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("--help", OK),
        ("plan --help", OK),
        ("inspect network.py:make --input 1,3,8,8", OK),
        ("inspect network.py:make --input 1,3,8,8 --json", OK),
        ("compact network.py:make --input 1,3,8,8 -o slim", FAILED),
    ],
)
def test_a_reader_that_has_seen_enough_is_no_error(command: str, code: int, spec: str) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{shlex.join(program())} {command} 2> said | true"],
        cwd=Path(spec).parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == code
    if code != OK:
        return
    assert "error" not in (Path(spec).parent / "said").read_text()


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("--version >/dev/full", FAILED, "graphprune: error: standard output: No space left on device"),
        ("plan --help >/dev/full", FAILED, "graphprune: error: standard output: No space left on device"),
        ("--version >&-", OK, ""),
        ("inspect network.py:mkae 2>&-", FAILED, ""),
    ],
)
def test_output_that_goes_nowhere(command: str, code: int, said: str, spec: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(program())} {command}"],
        capture_output=True,
        text=True,
        cwd=Path(spec).parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (code, "", said)


FAILING = """
from torch import nn

def make():
    return Net()

class Net(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)

    def parameters(self, recurse=True):
        {raising}
"""
RAISING = {
    "missing": ('open("/nowhere/at/all")', "FileNotFoundError"),
    "pipe": ('raise BrokenPipeError(32, "gone")', "BrokenPipeError"),
}


@pytest.mark.parametrize("name", RAISING)
def test_a_failure_of_files_of_the_user_is_none_of_standard_output(name: str, tmp_path: Path, capsys: Capture) -> None:
    raising, kind = RAISING[name]
    file = tmp_path / "failing.py"
    file.write_text(FAILING.replace("{raising}", raising))
    command = ["plan", f"{file}:make", "--ratio", "0.5", "--input", "1,3"]
    assert main(command) == FAILED
    err = capsys.readouterr().err
    assert kind in err and "failing.py:" in err and raising in err and "standard output" not in err
    done = subprocess.run(program(*command, "--debug"), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == FAILED and "standard output" not in done.stderr
    assert "Traceback" in done.stderr and f"{kind}: [Errno" in done.stderr


def test_the_program_can_be_made_again() -> None:
    assert make_program() is not make_program()
