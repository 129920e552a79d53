"""Compressing shards, so that the same tar gives the same file.

One fixed level each, one thread, and no clock or name in any header.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from typing import Protocol

__all__ = ["COMPRESSIONS", "Compressor", "compression_of", "make_compressor"]

COMPRESSIONS = ("gz", "zst", "bz2", "xz")

_NAME = re.compile(r"\.(?:t(gz)|tar\.(gz|zst|bz2|xz))$")


class Compressor(Protocol):
    """What bytes go through on their way to a file."""

    def compress(self, data: bytes, /) -> bytes:
        """Take more; give what is ready."""

    def flush(self) -> bytes:
        """End; give the rest."""


def compression_of(url: str) -> str | None:
    """How a shard of this name is compressed; None if it is not.

    >>> compression_of("a.tar"), compression_of("a.tgz"), compression_of("a.tar.zst")
    (None, 'gz', 'zst')
    """
    match = _NAME.search(url)
    return match[1] or match[2] if match else None


def make_compressor(compression: str) -> Compressor:
    """A new compressor of one of ``COMPRESSIONS``.

    Raises:
        ValueError: there is no such compression.

    >>> data = make_compressor("gz")
    >>> zlib.decompress(data.compress(b"a tar") + data.flush(), 31)
    b'a tar'
    """
    if compression == "gz":
        return zlib.compressobj(6, zlib.DEFLATED, 31)
    if compression == "bz2":
        return bz2.BZ2Compressor(9)
    if compression == "xz":
        return lzma.LZMACompressor(lzma.FORMAT_XZ, lzma.CHECK_CRC64, 6)
    if compression == "zst":
        import zstandard

        settings = zstandard.ZstdCompressor(level=3, threads=0, write_checksum=True)
        return settings.compressobj()
    problem = f"a compression is one of {COMPRESSIONS}, not {compression!r}"
    raise ValueError(problem)
