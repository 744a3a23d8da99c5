"""What is installed: the package alone, with its types."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

USER = """
import graphprune
from torch import nn

reveal_type(graphprune.prune_model(nn.Linear(2, 3), 0.5))
graphprune.verify()
"""


def test_the_wheel_holds_the_package_and_says_that_it_is_typed(wheel: Path) -> None:
    assert sorted(path.name.split("-")[0] for path in wheel.iterdir()) == ["graphprune", "graphprune"]
    assert (wheel / "graphprune/py.typed").exists()


def test_a_users_project_sees_the_types(tmp_path: Path, wheel: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    cache = ROOT / ".mypy_cache" / "wheel"  # torch is read once for all runs
    command = [sys.executable, "-m", "mypy", "--config-file=", f"--cache-dir={cache}", "user.py"]
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert 'user.py:5: note: Revealed type is "torch.nn.modules.module.Module"' in done.stdout
    assert "user.py:6: error: Missing positional arguments" in done.stdout
    assert "Found 1 error in 1 file" in done.stdout
