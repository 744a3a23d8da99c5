"""What is worked out once for each class is forgotten with it."""

from __future__ import annotations

import gc
from weakref import ref

from graphprune.utils.weak_caches import once_for_each


def test_each_class_is_asked_once_and_is_not_kept() -> None:
    asked: list[str] = []

    @once_for_each
    def name(kind: type) -> str:
        asked.append(kind.__name__)
        return kind.__name__

    made = type("Made", (), {})
    assert [name(made), name(int), name(made)] == ["Made", "int", "Made"]
    assert asked == ["Made", "int"]
    here = ref(made)
    del made
    gc.collect()
    assert here() is None
