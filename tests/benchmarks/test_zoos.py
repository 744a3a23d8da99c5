"""A sample of the zoos goes through what ``make sweep`` does with all of them: pruned, verified, trained a step."""

import warnings
from collections.abc import Iterator

import pytest
import torch

from benchmarks.trial import TOLERANCE, Clock, trial
from benchmarks.zoos import HEAVY, SAMPLE, ZOOS, zoo

CASES = [(name, model) for name, models in SAMPLE.items() for model in models]


@pytest.fixture(autouse=True)
def _foreign_warnings() -> Iterator[None]:
    """Other people's models may warn; ours may not, and that is tested elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("zoo_name", "model"), CASES, ids=[f"{z}-{m}" for z, m in CASES])
def test_a_model_of_a_zoo(zoo_name: str, model: str) -> None:
    result = trial(zoo_name, model, Clock())
    assert result["status"] == "passed", result["error"] or result["stuck"]
    assert result["relative"] <= TOLERANCE
    before, after = result["parameters"]
    assert after < 0.75 * before, "half of all channels were to go"


def test_samples_are_members() -> None:
    for name in ZOOS:
        members = zoo(name)
        assert set(SAMPLE[name]) <= members.keys()
        assert not set(SAMPLE[name]) & HEAVY
