"""A few models of the benchmark of zero channels."""

import pytest

from benchmarks.compact import NAMES, TOLERANCE, measure


@pytest.mark.parametrize(
    ("zoo", "name"), [("layers", "conv1d"), ("layers", "glu"), ("networks", "mlp_mixer"), ("transformers", "llama_gqa")]
)
def test_zero_channels_go_with_equal_outputs(zoo: str, name: str) -> None:
    assert name in NAMES[zoo].split()
    found = measure(zoo, name)
    assert found["difference"] <= TOLERANCE
    assert 0 < found["removed"] <= found["zero"]
