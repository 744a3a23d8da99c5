"""Two hypothesis profiles: the default draws the same few networks every time; the other searches for trouble.

pytest tests/test_random_networks.py --hypothesis-profile=thorough --hypothesis-seed=1
"""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick", deadline=None, database=None, suppress_health_check=list(HealthCheck), max_examples=50, derandomize=True
)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=2000, derandomize=False)
settings.load_profile("quick")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
