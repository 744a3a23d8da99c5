"""The versions that are promised are those that are tested, here and in the job file."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

from benchmarks.common import read_json
from benchmarks.matrix import ENVIRONMENTS, NAMED, OLDEST, TESTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def test_the_oldest_environment_has_every_lower_bound() -> None:
    needed = [*project()["dependencies"], *project()["optional-dependencies"]["demo"]]
    bounds = {one.name: one.specifier for one in map(Requirement, needed)}
    pinned = {one.name: next(iter(one.specifier)).version for one in map(Requirement, OLDEST)}
    assert bounds.keys() == pinned.keys()
    for name, bound in bounds.items():
        (lowest,) = (one.version for one in bound)
        assert f"{pinned[name]}.".startswith(f"{lowest}."), name


def test_every_python_that_is_named_is_tested() -> None:
    assert [environment.python for environment in ENVIRONMENTS.values()] == PYTHONS
    named = [found[1] for c in project()["classifiers"] if (found := re.fullmatch(r".*Python :: (3\.\d+)", c))]
    assert named == PYTHONS
    assert project()["requires-python"] == f">={PYTHONS[0]}"


def test_the_job_file_runs_every_environment_with_its_python() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    rows = {row["environment"]: row["python"] for row in jobs["matrix"]["strategy"]["matrix"]["include"]}
    assert rows == {name: environment.python for name, environment in ENVIRONMENTS.items()}
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = {found[1] for command in commands if (found := re.match(r"make (\w+)", command))}
    assert targets == {"matrix", "dist"}
    assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in targets)
    assert ".ci/run" in commands and (ROOT / ".ci/run").exists()


def test_what_is_run_exists_and_the_results_are_of_every_environment() -> None:
    assert [path for path in TESTS if not (ROOT / path).exists()] == []
    results = read_json("matrix.json")
    assert [one["environment"] for one in results] == list(ENVIRONMENTS)
    assert all(set(one["versions"]) == set(NAMED) and one["state"] == "passed" for one in results)
