"""Two hypothesis profiles: the default draws the same few networks every time; the other searches for trouble.

pytest tests/reconstruction/test_layerwise.py --hypothesis-profile=thorough --hypothesis-seed=1
"""

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # the last bits of sums depend on it, and exported files are compared bit by bit
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start
os.environ["YOLO_OFFLINE"] = "true"  # Ultralytics reads these when it is imported
os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ["YOLO_CONFIG_DIR"] = os.path.join(tempfile.gettempdir(), "graphprune-tests")

settings.register_profile(
    "quick", deadline=None, database=None, suppress_health_check=list(HealthCheck), max_examples=50, derandomize=True
)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=2000, derandomize=False)
settings.load_profile("quick")


def pytest_collection() -> None:
    """Collect no garbage while thousands of tests are made: there is none."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Freeze what stays to the end (torch, the tests), so that later collections skip it."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def _what_is_imported_stays() -> None:
    """Freeze what earlier modules of tests imported, such as Transformers, once their garbage is gone."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _same_determinism() -> Iterator[None]:
    """Ultralytics asks for deterministic operations when it trains, and a training that ends early leaves it so."""
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    yield
    torch.use_deterministic_algorithms(before, warn_only=warns)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, as if it were installed there."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    ZipFile(file).extractall(folder / "site")
    return folder / "site"
