"""Damage to files, at random: bytes flipped, cut and added; keys of JSON deleted, types and numbers changed, parts cut,
doubled and exchanged."""

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


ABSURD = [b"[" * 200_000, b'{"a":' * 50_000, b"NaN", b"1" * 10_000, b"[" + b"[]," * 300_000 + b"1]"]
"""JSON texts that are deep, long or no JSON."""


def damaged_file(name: str, data: bytes, chance: random.Random) -> bytes:
    """The bytes of a file with a random change, which is mostly one of its JSON if its name says that it is JSON."""
    if name.endswith(".json") and chance.random() < 0.8:
        return (
            chance.choice(ABSURD)
            if chance.random() < 0.1
            else damaged(data.decode(), chance.randrange(1 << 30)).encode()
        )
    return damaged_bytes(data, chance)


def damaged_bytes(data: bytes, chance: random.Random) -> bytes:
    """Bytes with a bit flipped, a part cut off, taken out or put in, or another length at their start."""
    place, found = chance.randrange(len(data)), bytearray(data)
    kind = chance.choice(["flip", "flip", "cut", "drop", "add", "header"])
    if kind == "flip":
        found[place] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del found[place:]
    elif kind == "drop":
        del found[place : place + chance.choice([1, 8, 100])]
    elif kind == "add":
        found[place:place] = chance.randbytes(chance.choice([1, 8, 100]))
    else:
        found[:8] = chance.choice([0, 1, 1 << 40, (1 << 64) - 1, len(data)]).to_bytes(8, "little")
    return bytes(found)


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
