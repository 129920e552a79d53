"""Data to measure on: made here, from a seed, the same everywhere."""

from __future__ import annotations

import functools
import gzip
import io
import json
import random
import shutil
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import numpy as np

    from shardbuild.shards.samples import Sample


__all__ = [
    "DIALECTS",
    "USTAR",
    "Dialect",
    "make_photo",
    "make_photo_samples",
    "make_small_samples",
    "open_large",
    "renamed",
    "write_compressed",
    "write_tar",
]

# Half a byte of news in every byte: compresses about as text and arrays do.
_HALF = bytes(byte & 0x0F for byte in range(256))

PHOTO_SIZE = (500, 375)


def _labels(number: int, width: int, height: int) -> dict[str, bytes]:
    """The fields that small samples and photographs have in common."""
    facts = {
        "id": number,
        "width": width,
        "height": height,
        "caption": f"photograph {number:09d} of a made data set that nobody ever saw",
        "source": "shardbuild bench",
        "license": "CC0-1.0",
        "checked": number % 3 == 0,
    }
    return {"cls": b"%020d" % (number % 1000), "json": json.dumps(facts).encode()}


def make_small_samples(num_samples: int, seed: int) -> list[Sample]:
    """Make samples of three members: 3,000 B .bin, 20 B .cls, about 190 B .json.

    >>> [sample] = make_small_samples(1, seed=0)
    >>> sorted(sample), len(sample["bin"]), len(sample["cls"])
    (['__key__', 'bin', 'cls', 'json'], 3000, 20)
    """
    rng = random.Random(seed)
    return [
        {
            "__key__": f"{number:09d}",
            "bin": rng.randbytes(3000).translate(_HALF),
            **_labels(number, 50, 60),
        }
        for number in range(num_samples)
    ]


def make_photo(rng: np.random.Generator, size: tuple[int, int] = PHOTO_SIZE) -> bytes:
    """Make a JPEG that costs a codec what a photograph of its size costs.

    Noise whose amplitude falls as 1/frequency, as that of natural pictures does.
    """
    import numpy as np
    from PIL import Image

    width, height = size
    down = np.fft.fftfreq(height)[:, None]
    across = np.fft.rfftfreq(width)[None, :]
    frequency = np.hypot(down, across)
    frequency[0, 0] = np.inf

    def plane() -> Any:
        noise = np.fft.rfft2(rng.standard_normal((height, width))) / frequency
        values = np.fft.irfft2(noise, s=(height, width))
        return 37 * values / values.std()

    light, warm, cold = 128 + plane(), 0.3 * plane(), 0.3 * plane()
    colours = [light + warm, light - (warm + cold) / 2, light + cold]
    pixels = np.stack(colours, axis=-1).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


@functools.cache
def _photos(num_photos: int, seed: int) -> list[bytes]:
    import numpy as np

    rng = np.random.default_rng(seed)
    return [make_photo(rng) for _ in range(num_photos)]


def make_photo_samples(
    num_samples: int, seed: int, num_distinct: int = 48
) -> list[Sample]:
    """Make samples of a 500x375 JPEG of about 102 KB, a .cls and a .json.

    Only the first ``num_distinct`` pictures differ; all bytes objects do, by a number
    after the end of the JPEG.

    >>> first, second = make_photo_samples(2, seed=0, num_distinct=1)
    >>> first["jpg"][:-8] == second["jpg"][:-8], first["jpg"] == second["jpg"]
    (True, False)
    >>> 90_000 < len(first["jpg"]) < 115_000
    True
    """
    photos = _photos(min(num_samples, num_distinct), seed)
    return [
        {
            "__key__": f"{number:09d}",
            "jpg": photos[number % len(photos)] + number.to_bytes(8, "big"),
            **_labels(number, *PHOTO_SIZE),
        }
        for number in range(num_samples)
    ]


def _same_key(key: str) -> str:
    return key


def _long_key(key: str) -> str:
    return f"a folder with a rather long name/{'x' * 80}/{int(key)}"


def _foreign_key(key: str) -> str:
    return f"Bilder für später/{'ä' * 40}/{int(key)}"


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of the ways in which tars are written."""

    tar_format: int
    mtime: float = 0
    rename: Callable[[str], str] = _same_key
    """What becomes of a sample's key."""


USTAR = Dialect(tarfile.USTAR_FORMAT)

DIALECTS = {
    "ustar": USTAR,
    # As webdataset writes by default: a pax header per member, for half a second.
    "pax-mtime": Dialect(tarfile.PAX_FORMAT, mtime=1_700_000_000.5),
    # Names of over 100 characters: ustar's prefix field, GNU's, and pax's own way.
    "long-ustar": Dialect(tarfile.USTAR_FORMAT, rename=_long_key),
    "long-gnu": Dialect(tarfile.GNU_FORMAT, rename=_long_key),
    "long-pax": Dialect(tarfile.PAX_FORMAT, 1_700_000_000.5, rename=_long_key),
    "foreign-pax": Dialect(tarfile.PAX_FORMAT, rename=_foreign_key),
}


def renamed(samples: Iterable[Sample], dialect: Dialect) -> Iterator[Sample]:
    """Give samples the keys that they have in shards of a dialect."""
    for sample in samples:
        yield {**sample, "__key__": dialect.rename(sample["__key__"])}


def open_large(path: Path) -> BinaryIO:
    """Open a new file that is written in large pieces, as data sets are copied.

    The page cache keeps it in pieces as large, and is read the faster for it.
    """
    return path.open("wb", buffering=1 << 22)


def write_tar(
    path: Path,
    samples: Iterable[Sample],
    dialect: Dialect = USTAR,
    file: BinaryIO | None = None,
) -> None:
    """Write samples by Python's ``tarfile``: a peer, and the source of all data."""
    with tarfile.open(path, "w", file, format=dialect.tar_format) as tar:
        for sample in samples:
            key = dialect.rename(sample["__key__"])
            for extension in sorted(sample):
                if extension == "__key__":
                    continue
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(sample[extension])
                member.mtime = dialect.mtime
                member.mode = 0o444
                member.uname = member.gname = "bigdata"
                tar.addfile(member, io.BytesIO(sample[extension]))
                # Or the tar remembers every header that it has written.
                tar.members = []  # type: ignore[attr-defined]


def write_compressed(source: Path, target: Path) -> None:
    """Compress a tar as the target's name says: ``.gz`` or ``.zst``."""
    with source.open("rb") as plain, open_large(target) as packed:
        if target.suffix == ".gz":
            with gzip.GzipFile("", "wb", 6, packed, mtime=0) as gz:
                shutil.copyfileobj(plain, gz, 1 << 22)
        else:
            zstandard.ZstdCompressor(level=3).copy_stream(plain, packed)
