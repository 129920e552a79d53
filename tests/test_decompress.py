"""Compressed shards: known by their first bytes, read whole or not at all."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import random
import subprocess
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild.errors import ShardError, TruncatedShardError
from shardbuild.shards.decompress import Source, compression_of, decompressed
from shardbuild.shards.reader import ReadFacts, read_samples, read_stream, scan_shard
from tests.tars import Entry, Trickle, entries_of, make_samples, make_tar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shardbuild.shards.samples import Sample


def _zstd(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def _gzip_with_name(data: bytes) -> bytes:
    stream = io.BytesIO()
    with gzip.GzipFile("name.tar", "wb", 1, stream) as file:
        file.write(data)
    return stream.getvalue()


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "gzip with a name": _gzip_with_name,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "xz without check": lambda data: lzma.compress(data, check=lzma.CHECK_NONE),
    "zstd": lambda data: _zstd(data, write_checksum=True),
    "zstd without sizes": lambda data: _zstd(data, write_content_size=False),
}


def unpack(packed: bytes, kind: str, step: int = 70_000) -> bytes:
    stream = decompressed(Source(io.BytesIO(packed)), kind, "u")
    buffer = memoryview(bytearray(step))
    plain = bytearray()
    while count := stream.readinto(buffer):
        plain += buffer[:count]
    return bytes(plain)


RANDOM = random.Random(0)
PLAIN = RANDOM.randbytes(300_000) + bytes(500_000) + b"abc" * 70_000
PACKED = {name: pack(PLAIN) for name, pack in CODECS.items()}

codecs = pytest.mark.parametrize("codec", CODECS)


def kind_of(codec: str) -> str:
    return codec.split(maxsplit=1)[0]


class TestMagic:
    @codecs
    def test_tells_the_codec(self, codec: str) -> None:
        assert compression_of(PACKED[codec]) == kind_of(codec)
        assert compression_of(CODECS[codec](b"")) == kind_of(codec)

    @pytest.mark.parametrize(
        "head", [b"", b"\x1f\x8b", b"BZh91", b"BZh9.jpg", b"0001.jpg", bytes(512)]
    )
    def test_takes_nothing_else_for_one(self, head: bytes) -> None:
        assert compression_of(head) is None

    def test_a_tar_whose_first_name_is_like_a_magic_is_a_tar(self) -> None:
        data = make_tar([Entry("BZh91AY&SY.txt", b"x")])
        assert compression_of(data) == "bzip2"
        [sample] = read_stream(io.BytesIO(data), "u")
        assert sample == {"__key__": "BZh91AY&SY", "txt": b"x"}


@codecs
class TestStreams:
    @pytest.mark.parametrize("step", [511, 1 << 20])
    def test_come_out_as_they_went_in(self, codec: str, step: int) -> None:
        assert unpack(PACKED[codec], kind_of(codec), step) == PLAIN

    def test_may_be_several_in_a_row(self, codec: str) -> None:
        three = PACKED[codec] + CODECS[codec](b"") + PACKED[codec]
        assert unpack(three, kind_of(codec)) == PLAIN * 2

    def test_cut_anywhere_are_errors(self, codec: str) -> None:
        packed = PACKED[codec]
        cuts = {*range(24), *range(len(packed) - 40, len(packed))}
        cuts |= {RANDOM.randrange(len(packed)) for _ in range(20)}
        for cut in cuts - {0}:
            with pytest.raises(TruncatedShardError) as caught:
                unpack(packed[:cut], kind_of(codec))
            assert caught.value.offset <= len(PLAIN)
            with pytest.raises(TruncatedShardError):
                unpack(packed + packed[:cut], kind_of(codec))

    def test_followed_by_something_else_are_errors(self, codec: str) -> None:
        with pytest.raises(ShardError, match="damaged"):
            unpack(PACKED[codec] + b"something else", kind_of(codec))

    def test_changed_are_errors_or_the_same(self, codec: str) -> None:
        # Of bytes that no checksum covers nobody can tell; none may be a crash.
        packed = PACKED[codec]
        for _ in range(60):
            at = RANDOM.randrange(len(packed))
            changed = bytearray(packed)
            changed[at] ^= 1 << RANDOM.randrange(8)
            with contextlib.suppress(ShardError):
                plain = unpack(bytes(changed), kind_of(codec))
                assert plain == PLAIN or codec.endswith(("check", "sizes"))


def test_xz_may_be_padded_by_whole_words() -> None:
    packed = PACKED["xz"]
    assert unpack(packed + bytes(8) + packed + bytes(4), "xz") == PLAIN * 2
    for padding in (1, 6):
        with pytest.raises(ShardError, match="padding"):
            unpack(packed + bytes(padding) + packed, "xz")
        with pytest.raises(ShardError, match="padding"):
            unpack(packed + bytes(padding), "xz")


def test_zstd_may_have_frames_to_skip() -> None:
    skip = b"\x53\x2a\x4d\x18" + (300_000).to_bytes(4, "little") + bytes(300_000)
    packed = skip + PACKED["zstd"] + skip + skip + PACKED["zstd without sizes"] + skip
    assert compression_of(packed) == "zstd"
    assert unpack(packed, "zstd") == PLAIN * 2
    for cut in (3, 7, 8, 9, 200_000, len(skip) - 1):
        with pytest.raises(TruncatedShardError):
            unpack(PACKED["zstd"] + skip[:cut], "zstd")


@given(
    pieces=st.lists(st.binary(max_size=300), max_size=4),
    options=st.fixed_dictionaries(
        {
            "write_checksum": st.booleans(),
            "write_content_size": st.booleans(),
            "level": st.integers(1, 9),
        }
    ),
    step=st.integers(1, 99),
)
@settings(deadline=None)
def test_zstd_frames_of_every_form_are_followed(
    pieces: list[bytes], options: dict[str, bool], step: int
) -> None:
    packed = b"".join(_zstd(piece * 9, **options) for piece in pieces)
    source = Source(Trickle(packed, [step]))
    stream = decompressed(source, "zstd", "u")
    buffer = memoryview(bytearray(100))
    plain = b""
    while count := stream.readinto(buffer):
        plain += bytes(buffer[:count])
    assert plain == b"".join(piece * 9 for piece in pieces)


class TestShards:
    SAMPLES = make_samples(2000, num_bytes=900)

    @codecs
    def test_are_read_whatever_their_name(self, codec: str, tmp_path: Path) -> None:
        data = make_tar(entries_of(self.SAMPLES))
        packed = CODECS[codec](data)
        path = tmp_path / "plain.tar"
        path.write_bytes(packed)
        facts = ReadFacts()
        assert list(read_samples(str(path), facts=facts)) == self.SAMPLES
        assert facts.compression == kind_of(codec)
        assert facts.num_bytes == len(data)
        assert list(read_stream(Trickle(packed, [5000]), "u")) == self.SAMPLES
        index = scan_shard(str(path))
        assert (index.num_bytes, index.file_bytes) == (len(data), len(packed))
        assert index.keys() == [sample["__key__"] for sample in self.SAMPLES]

    @codecs
    def test_that_end_early_give_whole_samples_and_an_error(
        self, codec: str, tmp_path: Path
    ) -> None:
        data = make_tar(entries_of(self.SAMPLES))
        packed = CODECS[codec](data)
        path = tmp_path / "cut.tar.gz"
        for cut in (100, len(packed) // 3, len(packed) - 9, len(packed) - 1):
            path.write_bytes(packed[:cut])
            found: list[Sample] = []
            with pytest.raises(TruncatedShardError) as caught:
                found.extend(read_samples(str(path)))
            assert caught.value.url == str(path)
            assert found == self.SAMPLES[: len(found)]

    @pytest.mark.parametrize("tool", ["gzip", "bzip2", "xz"])
    def test_by_the_tools_themselves(self, tool: str, tmp_path: Path) -> None:
        path = tmp_path / "a.tar"
        path.write_bytes(make_tar(entries_of(self.SAMPLES)))
        subprocess.run([tool, path], check=True)
        [packed] = tmp_path.iterdir()
        assert list(read_samples(str(packed))) == self.SAMPLES

    @codecs
    def test_bombs_are_read_in_small_memory(self, codec: str) -> None:
        bomb = CODECS[codec](make_tar([Entry("no extension", bytes(64 << 20))]))
        tracemalloc.start()
        try:
            assert list(read_stream(io.BytesIO(bomb), "u")) == []
            assert tracemalloc.get_traced_memory()[1] < 14 << 20
        finally:
            tracemalloc.stop()


def test_a_damaged_deflate_stream_is_an_error() -> None:
    packed = bytearray(zlib.compress(PLAIN, wbits=31))
    packed[10:40] = bytes(range(30))
    with pytest.raises(ShardError, match="gzip") as caught:
        unpack(bytes(packed), "gzip")
    assert caught.value.offset == 0
