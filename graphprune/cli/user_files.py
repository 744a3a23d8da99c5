"""Python files of the user: imported as a script sees itself, or as a part of their package."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from graphprune.errors import SpecError
from graphprune.tracing.places import raised_at

FILE_MODULE = "graphprune_spec_"
"""What modules that are made from files are called, behind their package and before the name of the file."""


def in_a_line(error: BaseException) -> str:
    """What went wrong, without what stands in further lines."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(": ")


@contextmanager
def imports_of(path: Path) -> Iterator[None]:
    """Let what stands beside a file, and above its package, be imported; afterwards, after all that is installed.

    What a function of the file imports when it runs later is found, too. A command takes it from the path in the end.
    """
    folders = [str(path.resolve().parent), str(_package_of(path)[0])]
    before = list(sys.path)
    sys.path[:0] = folders
    try:
        yield
    finally:
        sys.path[:] = [*before, *(folder for folder in dict.fromkeys(folders) if folder not in before)]


def files_of_module(name: str) -> list[Path]:
    """The files that are run when a module, such as ``package.module``, is imported here; none of them is run."""
    found: list[Path] = []
    folders: Sequence[str] | None = None
    with imports_of(Path(name)):
        for part in name.split("."):
            spec = PathFinder.find_spec(part, folders)
            if spec is None:
                break
            found += [Path(spec.origin)] if spec.has_location and spec.origin is not None else []
            folders = spec.submodule_search_locations or []
    return found


def _package_of(path: Path) -> tuple[Path, str]:
    """The folder that holds the package of a file, and the package's name; its own folder and nothing: it has none."""
    folder, names = path.resolve().parent, list[str]()
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(names)


def import_file(spec: str, path: Path) -> ModuleType:
    """Import a file: with its own folder on the import path, and with relative imports if it is in a package.

    Several options may name one file: it is one module, unless it was changed in between.

    Raises:
        SpecError: it cannot be imported.
    """
    package = _package_of(path)[1]
    name = ".".join(filter(None, (package, f"{FILE_MODULE}{path.stem}")))
    state = _state_of(path)
    known = _imported.get(name)
    if known is not None and state is not None and known == (state, sys.modules.get(name)):
        return known[1]
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise SpecError(
            f"{spec!r}: {str(path)!r} cannot be imported as Python",
            where=str(path),
            found=f"the suffix {path.suffix!r}",
            needed="a Python file",
            do="give a file that ends with .py",
        )
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickling look a class's module up here
    try:
        with imports_of(path):
            found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise SpecError(
            f"{spec!r}: importing {path.name} failed with {in_a_line(error)}",
            where=raised_at(error) or str(path),
            found=f"{type(error).__name__}: {error}",
            needed="a file that Python can import",
            do=_advice(error, path),
        ) from error
    if state is not None:
        _imported[name] = state, module
        _name_for_others(module, path, known[1] if known is not None else None)
    return module


def _name_for_others(module: ModuleType, path: Path, earlier: ModuleType | None) -> None:
    """Let files that import this one by its name get the same module, and not an ``earlier`` one of the file."""
    package = _package_of(path)[1]
    name = ".".join(filter(None, (package, path.stem)))
    if sys.modules.get(name) is not earlier or (package and package not in sys.modules):
        return
    with imports_of(path):
        sys.modules.pop(name, None)
        found = importlib.util.find_spec(name)
    if found is not None and found.origin is not None and Path(found.origin).resolve() == path.resolve():
        sys.modules[name] = module


_FileState = tuple[Path, int, int]
_imported: dict[str, tuple[_FileState, ModuleType]] = {}
"""By their names, the modules that files were imported as, and these files as they were."""


def _state_of(path: Path) -> _FileState | None:
    """Which file it is, when it was changed, and its size; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return path.resolve(), found.st_mtime_ns, found.st_size


def _advice(error: BaseException, path: Path) -> str:
    """What to do about a file that cannot be imported."""
    if isinstance(error, SystemExit):
        return "put what only a program does behind: if __name__ == '__main__':"
    if isinstance(error, ImportError) and "relative import" in str(error):
        return (
            f"put an empty __init__.py into {path.resolve().parent}, which makes it a package, or import by full names"
        )
    return f"run python {path}, and mend what it says"
