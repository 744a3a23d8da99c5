"""Of those who write to one folder at a time, one does, and the others are told so."""

from __future__ import annotations

from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import SaveError
from graphprune.utils.folder_locks import only_writer


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(SaveError, match=r"another process or thread writes to [\s\S]*a folder of its own")
    with only_writer("directory", tmp_path), refused, only_writer("directory", tmp_path):
        pass
    with only_writer("directory", tmp_path):
        pass


def test_a_file_that_another_writer_took_away(tmp_path: Path) -> None:
    """As on file systems that know no locks."""
    with pytest.raises(SaveError, match="another process or thread writes"), only_writer("directory", tmp_path):
        (tmp_path / "gone").unlink()
    with pytest.raises(PermissionError), only_writer("directory", tmp_path):
        raise PermissionError(13, "not here")


def test_threads_that_save_to_one_folder(tmp_path: Path) -> None:
    """One of them at least succeeds, the others get a SaveError, and the bundle is whole."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    slim = graphprune.prune_model(model, 0.5, torch.randn(2, 4))
    begin, found = Barrier(3), list[str]()

    def save() -> None:
        begin.wait()
        for _ in range(4):
            try:
                graphprune.save(slim, tmp_path / "bundle")
                found.append("saved")
            except SaveError:
                found.append("refused")

    threads = [Thread(target=save) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert "saved" in found
    loaded = graphprune.load(tmp_path / "bundle", model=nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    assert loaded[0].out_features == 4
