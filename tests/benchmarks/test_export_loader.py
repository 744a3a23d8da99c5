"""The round trips through files work; the whole table takes minutes."""

from benchmarks.export_loader import CASES, main


def test_one_round_trip() -> None:
    assert len(CASES) >= 15
    assert main(["timm-features"]) == 0
