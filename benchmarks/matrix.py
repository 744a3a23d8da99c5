"""``make matrix``: install graphprune beside the oldest and the newest versions that it supports, and test it there.

Each environment is made anew below ``build/matrix`` with a Python of its own, if that is on the path, and runs the
tests that need nothing but what it holds: what meets torch, Transformers, numpy and networkx, golden plans, and files
of old versions.

    python -m benchmarks.matrix oldest newest
    python -m benchmarks.matrix --keep newest    # leave the environment (6 GB) for a look
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, read_json, row, table, wide_console, write_json

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "matrix"
TESTS = (
    "tests/golden",
    "tests/graph",
    "tests/importance/test_criteria.py",
    "tests/planning/test_planner.py",
    "tests/planning/test_budgets.py",
    "tests/pruning/test_plan.py",
    "tests/pruning/test_rewrite.py",
    "tests/reconstruction/test_paused_forward.py",
    "tests/rules",
    "tests/sparsity/test_sparse_files.py",
    "tests/tracing/test_opaque.py",
    "tests/utils/test_global_state.py",
    "tests/utils/test_hostile_files.py",
    "tests/utils/test_torch_modes.py",
)
NAMED = ("torch", "torchvision", "transformers", "numpy", "networkx")


@dataclass(frozen=True)
class Environment:
    """A Python, and what is installed beside graphprune."""

    python: str
    requirements: tuple[str, ...]


OLDEST = (
    "torch==2.8.0",
    "torchvision==0.23.0",
    "transformers==4.56.0",
    "numpy==1.26.4",
    "networkx==3.0",
    "msgspec==0.18.0",
    "rich==13.0.0",
    "safetensors==0.6.2",
    "scipy==1.12.0",
    "tomli==2.0.0",
    "typer==0.15.4",
    "typing_extensions==4.10.0",
)
"""The lower bounds in ``pyproject.toml``."""

ENVIRONMENTS = {
    "oldest": Environment("3.10", OLDEST),
    "numpy1": Environment("3.11", ("torch==2.10.0", "torchvision", "transformers<5", "numpy<2")),
    "middle": Environment("3.12", ("torch==2.11.0", "torchvision", "transformers<5.5")),
    "newest": Environment("3.13", ("torch", "torchvision", "transformers")),
}
TOOLS = ("pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "timm>=1.0", "scikit-learn>=1.4")


def run_environment(name: str, environment: Environment, keep: bool) -> dict[str, Any]:
    """Install one and run the tests there: its versions, and the last line of pytest."""
    python = shutil.which(f"python{environment.python}")
    if python is None:
        return {"environment": name, "state": f"no python{environment.python} on the path"}
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _call([python, "-m", "venv", folder])
        own = folder / "bin" / "python"
        _call([own, "-m", "pip", "install", "--quiet", "-e", ROOT, *environment.requirements, *TOOLS])
        versions = _versions(own)
        last = _tests(own)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    state = "passed" if re.search(r"\d+ passed", last) and "failed" not in last and "error" not in last else "failed"
    return {"environment": name, "state": state, "python": environment.python, "versions": versions, "tests": last}


def _call(command: Iterable[str | Path]) -> str:
    """The output of a command. CalledProcessError: it failed; what it said was printed."""
    return subprocess.run(
        [str(part) for part in command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _versions(python: Path) -> dict[str, str]:
    code = f"from importlib.metadata import version; print(*(version(name) for name in {NAMED}))"
    return dict(zip(NAMED, _call([python, "-c", code]).split(), strict=True))


def _tests(python: Path) -> str:
    """The last line that pytest prints there."""
    command = [str(python), "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True
    )
    print("\n".join(re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE)), flush=True)
    return done.stdout.strip().splitlines()[-1]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ENVIRONMENTS), help=f"of {', '.join(ENVIRONMENTS)}")
    parser.add_argument("--keep", action="store_true", help="leave the environments")
    options = parser.parse_args(argv)
    unknown = [name for name in options.names if name not in ENVIRONMENTS]
    if unknown:
        parser.error(f"there is no environment {unknown[0]!r}; there are {', '.join(ENVIRONMENTS)}")
    results = []
    for name in options.names:
        results.append(run_environment(name, ENVIRONMENTS[name], options.keep))
        note(results[-1])
    made = table("Supported versions", "environment", "python", *NAMED, "tests", left=8)
    for one in results:
        versions = one.get("versions", {})
        said = one.get("tests", one["state"])
        row(made, one["environment"], one.get("python", ""), *(versions.get(n, "") for n in NAMED), said)
    wide_console().print(made)
    return int(any(one["state"] != "passed" for one in results))


def note(result: dict[str, Any]) -> None:
    """Write what became of one environment beside the others, so that a run can be broken off."""
    known = read_json("matrix.json") if (RESULTS / "matrix.json").exists() else []
    by_name = {one["environment"]: one for one in [*known, result]}
    write_json("matrix.json", [by_name[name] for name in ENVIRONMENTS if name in by_name])


if __name__ == "__main__":
    sys.exit(main())
