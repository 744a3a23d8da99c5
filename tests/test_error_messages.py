"""Errors have five parts, point at the user's line, and leave models, files and torch as they were."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import pickle
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graphprune import errors
from graphprune.errors import GraphpruneError, InputError
from tests.error_settings import FILE, Situation, run, setting, write_files
from tests.error_situations import SITUATIONS, document

PACKAGE = Path(errors.__file__).parent
PARTS = ("where", "found", "needed", "do")


@contextmanager
def hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Packages that look as if they were not installed."""
    with pytest.MonkeyPatch.context() as patch:
        find, load = importlib.util.find_spec, builtins.__import__

        def gone(name: str) -> bool:
            return name.partition(".")[0] in packages

        def imported(name: str, *args: Any, **kwargs: Any) -> Any:
            if gone(name):
                raise ImportError(f"No module named {name!r}")
            return load(name, *args, **kwargs)

        patch.setattr(importlib.util, "find_spec", lambda name, *args: None if gone(name) else find(name, *args))
        patch.setattr(builtins, "__import__", imported)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("errors")
    write_files(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def of_models() -> list[Any]:
    """Weights, modes and gradients of the models that the programs are given."""
    models = [value for value in setting().values() if isinstance(value, nn.Module)]
    tensors = [t for model in models for t in model.state_dict().values()]
    flags = [(m.training, [p.requires_grad for p in m.parameters(False)]) for model in models for m in model.modules()]
    return [*(t.clone() for t in tensors), flags, [[*vars(m)] for model in models for m in model.modules()]]


def of_torch() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.nn.Module.__call__,
        torch.nn.functional.linear,
        torch._C._len_torch_function_stack(),
        torch._C._len_torch_dispatch_stack(),
    )


def same(before: list[Any], after: list[Any]) -> bool:
    return len(before) == len(after) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(before, after, strict=True)
    )


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.title)
def test_situation(situation: Situation, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    models, written, state = of_models(), contents(files), of_torch()
    error: Any = run(situation, hidden)
    assert type(error) is situation.error
    assert all(getattr(error, part) for part in PARTS) and error.what
    assert "\n" not in error.what
    assert f"{FILE}:{situation.number}: " in error.placed
    assert situation.where in error.placed
    assert situation.found in error.found
    assert situation.do in error.do
    assert same(models, of_models()) and written == contents(files) and state == of_torch()
    assert [path.name for path in files.rglob("new*")] == []


# ---------------------------------------------------------------- the document

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"


def test_the_page_shows_the_messages_as_they_are_printed(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m tests.test_error_messages`` writes it anew."""
    monkeypatch.chdir(files)
    expected = document({one.title: shown(one) for one in SITUATIONS})
    assert PAGE.read_text() == expected, "run python -m tests.test_error_messages"


def shown(situation: Situation) -> str:
    """The message of a situation."""
    text: str = run(situation, hidden).shown  # type: ignore[attr-defined]
    return text


def write_page() -> None:
    """Write the page with the messages of today."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_files(Path(folder))
        PAGE.write_text(document({one.title: shown(one) for one in SITUATIONS}))


# ---------------------------------------------------------------- the code


def raised(tree: ast.Module) -> Iterator[ast.Call]:
    """The calls that make an error of this library."""
    names = {name for name, value in vars(errors).items() if _is_error(value)} | {"RuleCheckError"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in names:
            yield node


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, GraphpruneError)


def incomplete(text: str) -> list[int]:
    """The lines of a file that make an error without saying what was found, what is needed and what to do."""
    calls = raised(ast.parse(text))
    return [c.lineno for c in calls if not {"found", "needed", "do"} <= {keyword.arg for keyword in c.keywords}]


def test_every_error_has_its_parts() -> None:
    found = {str(path): incomplete(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert {path: lines for path, lines in found.items() if lines} == {}
    assert sum(1 for path in PACKAGE.rglob("*.py") for _ in raised(ast.parse(path.read_text()))) > 350


def test_an_error_without_its_parts_is_noticed() -> None:
    assert incomplete('raise InputError("x")\nraise InputError("x", found="1", needed="2", do="3")') == [1]


def test_enough_situations() -> None:
    titles = [situation.title for situation in SITUATIONS]
    assert len(titles) >= 90 and len(set(titles)) == len(titles)


# ---------------------------------------------------------------- the class


def test_parts_are_printed_one_below_the_other() -> None:
    error = InputError("ratio: is 2\nor more", where="conv", found="2", needed="less\nthan 1", do="pass 0.5")
    assert error.what == "ratio: is 2" and error.found == "2\nor more"
    where = str(error).splitlines()
    assert where[:2] == ["ratio: is 2", "  where:  conv"]
    assert where[2].startswith("          tests/test_error_messages.py:") or "test_error_messages.py:" in where[2]
    assert where[3:] == ["  found:  2", "          or more", "  needed: less", "          than 1", "  do:     pass 0.5"]


def test_errors_go_to_other_processes() -> None:
    for kind in (value for value in vars(errors).values() if _is_error(value)):
        error = kind("a: is 3", where="here", found="3", needed="4", do="pass 4")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind and str(again) == str(error) and again.called_at == error.called_at


def test_an_error_of_a_thread_names_the_line_that_waited() -> None:
    made: list[GraphpruneError] = []
    thread = threading.Thread(target=lambda: made.append(_made_by_a_library()))
    thread.start()
    thread.join()
    with pytest.raises(GraphpruneError) as caught:
        raise made[0]
    assert "test_error_messages.py" in caught.value.where


def _made_by_a_library() -> GraphpruneError:
    names: dict[str, Any] = {"GraphpruneError": GraphpruneError, "__name__": "graphprune.errors"}
    exec(compile("error = GraphpruneError('a: is 3')", str(PACKAGE / "inner.py"), "exec"), names)
    made: GraphpruneError = names["error"]
    return made


if __name__ == "__main__":
    write_page()
