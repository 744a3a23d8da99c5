"""Random numbers of one's own, between those of others."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
import torch

from graphprune.utils.random_state import random_numbers_kept, random_numbers_of, random_state


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    return str(one["python"]) == str(other["python"]) and all(
        np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in zip((one["torch"], *one["numpy"]), (other["torch"], *other["numpy"]), strict=True)  # type: ignore[misc]
    )


def test_contexts_within_each_other_go_back_to_what_each_found() -> None:
    before = random_state()
    with random_numbers_kept():
        torch.rand(3)
        random.random()
        middle = random_state()
        with random_numbers_of(5, 7):
            first = torch.rand(3), np.random.rand(), random.random()
        assert same(random_state(), middle)
        with random_numbers_of(5, 7):
            second = torch.rand(3), np.random.rand(), random.random()
    assert same(random_state(), before)
    assert torch.equal(first[0], second[0])
    assert first[1:] == second[1:]


def test_contexts_of_threads_that_overlap_leave_what_was_before_all_of_them() -> None:
    before = random_state()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with random_numbers_of(2):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with random_numbers_of(1):
        thread.start()
        assert inside.wait(10)
    leave.set()
    thread.join()
    assert same(random_state(), before)


def test_a_failure_leaves_what_was_before() -> None:
    before = random_state()
    with pytest.raises(RuntimeError, match="invalid for input"), random_numbers_of(1):
        torch.rand(3).reshape(2)
    assert same(random_state(), before)
