"""A sample of the zoos goes through what ``make sweep`` does with all of them: pruned, verified, trained a step."""

import warnings
from collections.abc import Iterator

import pytest
import torch

from benchmarks.trial import TOLERANCE, Clock, trial
from benchmarks.zoos import HEAVY, SAMPLE, ZOOS, zoo
from benchmarks.zoos.common import NotInstalled
from benchmarks.zoos.third_party.later import found_in_library, later

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
    try:
        result = trial(zoo_name, model, Clock())
    except NotInstalled as error:
        pytest.skip(str(error))
    assert result["status"] == "passed", result["error"] or result["stuck"]
    assert result["relative"] <= TOLERANCE
    before, after = result["parameters"]
    assert after < 0.75 * before, "half of all channels were to go"


def test_samples_are_members() -> None:
    for name in ZOOS:
        members = zoo(name)
        assert set(SAMPLE[name]) <= members.keys()
        assert not set(SAMPLE[name]) & HEAVY


def test_the_third_party_zoo_has_at_least_150_members_of_many_libraries() -> None:
    members = zoo("third_party")
    assert len(members) >= 150
    assert len({name.partition(".")[0] for name in members}) >= 20


def test_a_library_that_is_not_there_is_named() -> None:
    with pytest.raises(NotInstalled, match="no_such_library needs no_such_library, which is not installed"):
        found_in_library("no_such_library:Model")


def test_calls_within_calls_are_made_when_they_are_needed() -> None:
    made = later("torch.nn:Sequential", later("torch.nn:Linear", 2, 3), later("torch.nn:ReLU"))()
    assert [type(part).__name__ for part in made] == ["Linear", "ReLU"]
