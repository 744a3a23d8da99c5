"""Damage to JSON texts, at random: keys deleted, types and numbers changed, parts cut, doubled and exchanged."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

NUMBERS = [-1, 0, 1, 7, 2.5, 10**9, 10**18, 10**30, -(10**12), float("nan"), float("inf"), True]
OTHERS = [None, True, "", "text", 3, 0.5, [], {}, [1, "a"], {"a": 1}, [[[]]], "0-999999999", "5-2", "-3", "1 1", "٣"]
RUNS = ["0", "3", "0-2", "9-1", "99999", "0-999999999", "-1", "1-", "x"]


def sum_of(data: bytes) -> dict[str, Any]:
    """What ``checksums.json`` says of a file."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


Place = tuple[Any, Any]
"""A list or dict, and an index or key of it."""


def damaged(text: str, seed: int) -> str:
    """The text with one to three random changes, which follow from the seed."""
    chance = random.Random(seed)
    data = json.loads(text)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        chance.choice([_delete, _replace, _replace, _renumber, _renumber, _rerun, _double, _exchange])(data, chance)
    found = json.dumps(data)
    return found if chance.random() < 0.9 else _cut(found, chance)


def _places(data: Any) -> Iterator[Place]:
    for key in data if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], dict | list):
            yield from _places(data[key])


def _pick(data: Any, chance: random.Random, fits: Callable[[Any], bool] = lambda value: True) -> Place:
    """A place whose value fits; shallow and deep ones come up equally often."""
    levels: dict[int, list[Place]] = {}
    for holder, key in _places(data):
        if fits(holder[key]):
            levels.setdefault(len(str(holder[key])) // 100, []).append((holder, key))
    return chance.choice(levels[chance.choice(sorted(levels))]) if levels else ([None], 0)


def _delete(data: Any, chance: random.Random) -> None:
    holder, key = _pick(data, chance)
    del holder[key]


def _replace(data: Any, chance: random.Random) -> None:
    holder, key = _pick(data, chance)
    holder[key] = copy.deepcopy(chance.choice(OTHERS))


def _renumber(data: Any, chance: random.Random) -> None:
    holder, key = _pick(data, chance, lambda v: isinstance(v, int | float))
    holder[key] = chance.choice(NUMBERS)


def _rerun(data: Any, chance: random.Random) -> None:
    """Another number in a run of indices."""
    holder, key = _pick(data, chance, lambda v: isinstance(v, str) and v[:1].isdigit())
    pieces = str(holder[key]).split()
    pieces[chance.randrange(len(pieces))] = chance.choice(
        ["0", "3", "0-2", "9-1", "99999", "0-999999999", "-1", "1-", "x"]
    )
    holder[key] = " ".join(pieces)


def _double(data: Any, chance: random.Random) -> None:
    holder, key = _pick(data, chance)
    if isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        holder[f"{key}{chance.choice(['', '.', '0', ' again'])}"] = copy.deepcopy(holder[key])


def _exchange(data: Any, chance: random.Random) -> None:
    (one, a), (other, b) = _pick(data, chance), _pick(data, chance)
    one[a], other[b] = copy.deepcopy(other[b]), copy.deepcopy(one[a])


def _cut(text: str, chance: random.Random) -> str:
    start = chance.randrange(len(text))
    return text[:start] + text[start + chance.choice([1, 5, len(text)]) :]
