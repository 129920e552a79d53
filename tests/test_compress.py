"""Compressing: which way a name says, and the same bytes every time."""

from __future__ import annotations

import bz2
import lzma
import zlib

import pytest
import zstandard

from shardbuild.shards.compress import COMPRESSIONS, compression_of, make_compressor

UNPACK = {
    "gz": lambda data: zlib.decompress(data, 31),
    "bz2": bz2.decompress,
    "xz": lzma.decompress,
    "zst": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}
DATA = [b"a tar" * 1000, b"", b"its end"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_is_compressed_comes_back_and_has_the_same_bytes_every_time(compression):
    def pack() -> bytes:
        compressor = make_compressor(compression)
        return b"".join(map(compressor.compress, DATA)) + compressor.flush()

    assert UNPACK[compression](pack()) == b"".join(DATA)
    assert pack() == pack()


def test_gzip_has_no_time_in_its_header():
    compressor = make_compressor("gz")
    assert (compressor.compress(b"x") + compressor.flush())[3:8] == bytes(5)


@pytest.mark.parametrize(
    ("name", "compression"),
    [
        *(("a.tar", None), ("a.gz", None), ("tgz", None), ("a.tar.gz.tmp", None)),
        *(("a.tgz", "gz"), ("s3://b/a.tar.gz", "gz"), ("a.tar.zst", "zst")),
        *(("a.tar.bz2", "bz2"), ("a.tar.xz", "xz")),
    ],
)
def test_the_name_says_how(name, compression):
    assert compression_of(name) == compression


def test_there_is_no_other_way():
    with pytest.raises(ValueError, match="'rar'"):
        make_compressor("rar")
