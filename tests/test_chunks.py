"""Whole chunks at multiples of a chunk, whatever is put in."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.build.runs import RunWriter
from shardbuild.shards.chunks import CHUNK_BYTES, ChunkWriter, join_short
from shardbuild.shards.writer import TarWriter


@given(st.lists(st.lists(st.binary(max_size=40), max_size=5)), st.integers(1, 20))
def test_all_bytes_go_out_in_whole_chunks(puts, chunk_bytes):
    chunks, digest = [], hashlib.sha256()
    writer = ChunkWriter(
        lambda some: chunks.append(b"".join(some)), digest, chunk_bytes=chunk_bytes
    )
    whole = b""
    for some in puts:
        buffers = [bytearray(each) for each in some]
        writer.put(buffers)
        whole += b"".join(some)
        for buffer in buffers:  # its owner uses it again
            buffer[:] = bytes(len(buffer))
        assert len(whole) + writer.room == (len(chunks) + 1) * chunk_bytes
    writer.finish()
    assert b"".join(chunks) == whole
    assert writer.num_bytes == len(whole)
    assert digest.digest() == hashlib.sha256(whole).digest()
    assert {len(chunk) for chunk in chunks[:-1]} <= {chunk_bytes}
    assert all(chunks), "nothing is written that is empty"


def test_buffers_of_larger_items_count_by_bytes():
    chunks = []
    writer = ChunkWriter(lambda some: chunks.append(b"".join(some)), chunk_bytes=16)
    writer.put([np.arange(3)])
    writer.finish()
    assert chunks == [np.arange(2).tobytes(), np.array([2]).tobytes()]


def test_only_what_is_short_is_joined():
    short, long = [b"a"] * 9, [b"a", bytes(2 * CHUNK_BYTES)]
    assert join_short(short, 9) == [b"a" * 9]
    assert join_short(long, 2 * CHUNK_BYTES + 1) is long


class _Calls:
    """What goes out at once, by the calls of the system."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        for name in ("write", "writev"):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call):
        def counted(descriptor, data):
            self.sizes.append(call(descriptor, data))
            return self.sizes[-1]

        return counted


def _samples(payload_bytes: int, total: int):
    count = total // payload_bytes
    return [
        {"__key__": f"{i:06d}", "bin": os.urandom(payload_bytes), "cls": b"7"}
        for i in range(count)
    ]


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("payload_bytes", [3000, 100_000, 700_000, 2_500_000])
def test_a_shard_is_written_in_whole_chunks(
    tmp_path, monkeypatch, payload_bytes, checksum
):
    calls = _Calls(monkeypatch)
    with TarWriter(str(tmp_path / "a.tar"), checksum=checksum) as writer:
        for sample in _samples(payload_bytes, 10 * CHUNK_BYTES):
            writer.write(sample)
    num_bytes = (tmp_path / "a.tar").stat().st_size
    num_whole, rest = divmod(num_bytes, CHUNK_BYTES)
    assert calls.sizes == [CHUNK_BYTES] * num_whole + [rest] * (rest > 0)


def test_what_is_copied_as_it_is_goes_out_in_whole_chunks_too(tmp_path, monkeypatch):
    url = str(tmp_path / "source.tar")
    with TarWriter(url) as source:
        for sample in _samples(3000, 3 * CHUNK_BYTES):
            source.write(sample)
    index = source.index
    data = (tmp_path / "source.tar").read_bytes()[: index.end]
    calls = _Calls(monkeypatch)
    with TarWriter(str(tmp_path / "b.tar")) as writer:
        writer.write({"__key__": "first", "cls": b"1"})
        window = bytearray(data)
        writer.write_run([window], index)
        window[:] = bytes(len(window))
        writer.write({"__key__": "last", "cls": b"1"})
    assert set(calls.sizes[:-1]) == {CHUNK_BYTES}
    copy = (tmp_path / "b.tar").read_bytes()
    assert copy[1024 : 1024 + len(data)] == data
    assert writer.facts.sha256 == hashlib.sha256(copy).hexdigest()


def test_a_run_is_written_in_whole_chunks(tmp_path, monkeypatch):
    calls = _Calls(monkeypatch)
    parts = [bytes(512), b"x" * 2560]
    with RunWriter(str(tmp_path / "run.tar")) as run:
        for _ in range(1000):
            run.append(parts, 3072)
        run.write(memoryview(b"".join(parts) * 9))
    assert set(calls.sizes[:-1]) == {CHUNK_BYTES}
    assert (tmp_path / "run.tar").read_bytes()[: 1009 * 3072] == b"".join(parts) * 1009
