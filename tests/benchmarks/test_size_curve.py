"""The script that measures accuracy against size."""

from pathlib import Path

import pytest

pytest.importorskip("sklearn")

from benchmarks import size_curve


def _seed(dense: float, trained: list[float]) -> dict[str, object]:
    sizes = [
        {"fewer": 100.0**n, "fewer_macs": 2.0**n, "params": 10, "at_once": 0.5, "before": 0.6, "trained": accuracy}
        for n, accuracy in enumerate(trained, 1)
    ]
    return {"dense": dense, "params": 100, "sizes": sizes}


def test_medians_are_over_the_seeds_and_begin_with_the_dense_network() -> None:
    middle = size_curve.medians([_seed(0.99, [0.98, 0.9]), _seed(1.0, [0.99, 0.8]), _seed(0.98, [0.97, 0.7])])
    assert [one["fewer"] for one in middle] == [1.0, 100.0, 10_000.0]
    assert [one["trained"] for one in middle] == [0.99, 0.98, 0.8]
    assert size_curve.lost(middle, 100) == pytest.approx(0.01)
    assert size_curve.lost(middle, 101) == pytest.approx(0.19)


def test_a_picture_is_drawn_and_small(tmp_path: Path) -> None:
    seeds = [_seed(0.99, [0.98, 0.9])]
    file = tmp_path / "curve.png"
    size_curve._figure(size_curve.medians(seeds), seeds).savefig(file, dpi=size_curve.DOTS)
    assert 5_000 < file.stat().st_size < 100_000
