from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from graphprune.utils import direct_file
from graphprune.utils.direct_file import BLOCK, DirectFile


def write(path: Path, *parts: bytes) -> None:
    file = DirectFile(path)
    try:
        for part in parts:
            file.write(memoryview(part))
        file.finish()
    finally:
        file.close()


@pytest.mark.parametrize("sizes", [(), (1,), (4096, 1, 5000), (BLOCK,), (BLOCK - 1, 2), (3, 2 * BLOCK, 7)])
def test_the_file_is_what_was_written(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    parts = [os.urandom(size) for size in sizes]
    (tmp_path / "file").write_bytes(b"longer than what follows")
    write(tmp_path / "file", *parts)
    assert (tmp_path / "file").read_bytes() == b"".join(parts)


def _refusing(error: int, times: int) -> Callable[..., int]:
    write, left = os.write, [times]

    def refuse(handle: int, data: memoryview) -> int:
        if left[0]:
            left[0] -= 1
            raise OSError(error, os.strerror(error))
        return write(handle, data)

    return refuse


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="this system has no such writes")
def test_a_file_system_that_refuses_such_writes_is_written_to_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = DirectFile(tmp_path / "file")
    if not file._direct:
        pytest.skip("the file system of temporary files has no such writes")
    monkeypatch.setattr(direct_file.os, "write", _refusing(errno.EINVAL, 1))
    content = os.urandom(BLOCK + 5)
    file.write(memoryview(content))
    file.finish()
    file.close()
    assert (tmp_path / "file").read_bytes() == content


def test_a_file_system_without_such_writes_is_opened_as_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = os.open

    def refuse(path: Path, flags: int, mode: int) -> int:
        if flags & getattr(os, "O_DIRECT", 0):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return usual(path, flags, mode)

    monkeypatch.setattr(direct_file.os, "open", refuse)
    write(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_other_errors_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        DirectFile(tmp_path / "nowhere" / "file")
    file = DirectFile(tmp_path / "file")
    monkeypatch.setattr(direct_file.os, "write", _refusing(errno.ENOSPC, 9))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as raised:
        file.write(memoryview(bytes(BLOCK)))
    file.close()  # while the error holds what was not written
    assert raised.value.errno == errno.ENOSPC
