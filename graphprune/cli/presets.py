"""``--preset FILE[:NAME]``: options from a TOML file, under the names that they have on the command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from graphprune.cli.option_groups import usage_error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NOT_IN_PRESETS = ("preset", "help")


def use_preset(context: typer.Context, value: str | None) -> str | None:
    """Let the options of a preset stand in for those that are not given."""
    if value is not None and not context.resilient_parsing:
        options = {one.name: one for one in context.command.params if one.name not in NOT_IN_PRESETS}
        context.default_map = {
            name: _given(value, options[name], given) for name, given in read_preset(value, options).items()
        }
    return value


def read_preset(place: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a preset by the names of the options.

    Args:
        place: a file, whose entries hold, or a file and the name of one of its tables, which holds beside them.
        options: what may be given, by name; a table that is called like none of these is a preset.
    """
    file, name = _split(place)
    data = {key.replace("-", "_"): value for key, value in _read(file).items()}
    tables = {key: value for key, value in data.items() if isinstance(value, dict) and key not in options}
    found = {key: value for key, value in data.items() if key not in tables}
    if name:
        chosen = name.replace("-", "_")
        if chosen not in tables:
            raise usage_error(f"--preset: {file} has no preset {name!r}{_known(name, tables)}")
        found |= {key.replace("-", "_"): value for key, value in tables[chosen].items()}
    elif tables and not found:
        raise usage_error(f"--preset: {file} has several presets; give one by name: {file}:{next(iter(tables))}")
    for key in found:
        if key not in options:
            raise usage_error(
                f"--preset: {file} gives {key!r}, which is no option of this command{_near(key, options)}"
            )
    return found


def _split(place: str) -> tuple[Path, str]:
    """A path and the name behind its colon, which a path may have too."""
    file, _, name = place.rpartition(":")
    return (Path(place), "") if not file or Path(place).is_file() else (Path(file), name)


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise usage_error(f"--preset: the file {file} does not exist") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise usage_error(f"--preset: {file} cannot be read as TOML: {error}") from error
    return found


def _known(name: str, tables: Mapping[str, Any]) -> str:
    return f"; it has {', '.join(tables)}" if tables else "; it has no tables"


def _near(key: str, options: Mapping[str, Any]) -> str:
    from graphprune.utils.checks import did_you_mean

    return did_you_mean(key, options) or f"; these are {', '.join(sorted(options))}"


def _given(place: str, option: Any, value: Any) -> Any:
    """A value of TOML in the form that the command line has it."""
    if getattr(option, "is_flag", False):
        if not isinstance(value, bool):
            raise usage_error(f"--preset: {place} gives {option.name} = {value!r}; needed is true or false")
        return value
    if option.multiple or option.nargs == -1:
        return _several(place, option, value)
    if isinstance(value, bool | dict):
        raise usage_error(f"--preset: {place} gives {option.name} = {value!r}; needed is a number or text")
    return _text(value)


def _several(place: str, option: Any, value: Any) -> list[str]:
    """The values of an option that may be given several times; a single one need not be in a list."""
    if isinstance(value, bool):
        raise usage_error(f"--preset: {place} gives {option.name} = {value!r}; needed is text, or a list of some")
    if isinstance(value, dict):
        return [f"{key}:{_text(one)}" for key, one in value.items()]
    return [_text(one) for one in (value if isinstance(value, list) else [value])]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={_text(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
