"""Reading forward by parallel ranges, in bounded memory."""

from __future__ import annotations

import gc
import io
import random

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild.errors import StorageError
from shardbuild.storage import RangeSource, gopen, metered, ranges, write_bytes
from shardbuild.storage.gopen import gopen_at
from shardbuild.storage.ranges import BLOCK_BYTES, BUDGET_BYTES, StoreReader
from shardbuild.storage.sources import open_source

SIZES = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 5]
DATA = random.Random(0).randbytes(max(SIZES))


def read_by(file, size: int) -> bytes:
    buffer = memoryview(bytearray(size))
    pieces = []
    while num_bytes := file.readinto(buffer):
        pieces.append(bytes(buffer[:num_bytes]))
    assert file.readinto(buffer) == 0
    return b"".join(pieces)


@pytest.mark.parametrize("num_bytes", SIZES)
def test_every_store_gives_every_byte(bucket, num_bytes):
    url, options = bucket.join("x"), bucket.storage_options
    write_bytes(url, DATA[:num_bytes], storage_options=options)
    with metered() as meter, gopen(url, storage_options=options) as file:
        assert read_by(file, 4 << 20) == DATA[:num_bytes]
        assert file.tell() == num_bytes
    assert meter.read_bytes == num_bytes
    with gopen(url, storage_options=options) as file:
        assert file.read() == DATA[:num_bytes]


@pytest.mark.parametrize("start", [0, 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 9, len(DATA)])
def test_every_store_is_read_from_any_byte_on(bucket, start):
    url, options = bucket.join("from"), bucket.storage_options
    write_bytes(url, DATA, storage_options=options)
    with (
        metered() as meter,
        gopen_at(url, start, storage_options=options, budget_bytes=1 << 20) as file,
    ):
        assert file.tell() == start
        assert read_by(file, 4 << 20) == DATA[start:]
    # Some stores tell their size only with a byte.
    assert len(DATA) - start <= meter.read_bytes <= len(DATA) - start + 1


def test_a_store_without_ranges_is_read_up_to_the_byte(shaped):
    shaped.put("whole.bin", DATA[:50_000])
    shaped.set(ranges=0)
    for start in (0, 1, 49_999, 50_000, 60_000):
        with gopen_at(shaped.url("whole.bin"), start) as file:
            assert read_by(file, 999) == DATA[start:50_000]


def test_a_small_budget_is_kept(shaped):
    shaped.put("small.bin", bytes(8 << 20))
    url, options = shaped.s3_url("small.bin"), shaped.s3_options
    for budget, most in ((1, 1), (1 << 20, 2), (64 << 20, 2)):
        shaped.set(latency=0.05)
        with gopen_at(url, 5, storage_options=options, budget_bytes=budget) as file:
            assert len(file.read()) == (8 << 20) - 5
        assert shaped.set(latency=0.0)["peak"] <= most


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 50), st.integers(1, 6))
def test_any_block_window_and_step_give_the_same_bytes(size, block, step, window):
    url = f"memory://ranges/{size}"
    write_bytes(url, DATA[:size])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "BLOCK_BYTES", block)
        patch.setattr(ranges, "BUDGET_BYTES", block * window)
        source = open_source(url)
        with StoreReader(source, size) as file:
            assert read_by(file, step) == DATA[:size]
        with StoreReader(source, size) as file:
            first = file.read(step)
            assert first + file.read() == DATA[:size]


def test_ranges_travel_together_and_within_the_budget(shaped, monkeypatch):
    monkeypatch.setattr(ranges, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(ranges, "BUDGET_BYTES", 8000)
    shaped.put("together.bin", DATA[:100_000])
    shaped.set(latency=0.05)
    url, options = shaped.s3_url("together.bin"), shaped.s3_options
    with gopen(url, storage_options=options) as file:
        assert file.read() == DATA[:100_000]
    counts = shaped.set(latency=0.0)
    assert 4 <= counts["peak"] <= 8
    assert counts["GET"] == 101  # with the one of set itself


def test_memory_stays_within_the_budget(shaped):
    """The reader keeps no more blocks than its window, whatever the size."""
    shaped.put("budget.bin", bytes(40 * BLOCK_BYTES))
    url, options = shaped.s3_url("budget.bin"), shaped.s3_options
    with gopen(url, storage_options=options) as file:
        while file.read(1 << 20):
            kept = len(file._ahead) * BLOCK_BYTES  # type: ignore[attr-defined]
            assert kept <= BUDGET_BYTES
    assert shaped.set(latency=0.0)["peak"] <= 16


def test_closing_early_stops_what_is_on_its_way(shaped):
    shaped.put("early.bin", DATA)
    shaped.set(latency=0.2)
    url, options = shaped.s3_url("early.bin"), shaped.s3_options
    file = gopen(url, storage_options=options)
    futures = list(file._ahead)  # type: ignore[attr-defined]
    file.close()
    file.close()
    assert all(future.cancelled() or future.done() for future in futures)
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
    forgotten = gopen(url, storage_options=options)
    del forgotten
    gc.collect()
    shaped.reset()


def test_an_error_in_the_middle_names_its_place(shaped, monkeypatch):
    from shardbuild.storage import retries

    monkeypatch.setattr(retries, "_FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(ranges, "BLOCK_BYTES", 1000)
    shaped.put("middle.bin", DATA[:100_000])
    url, options = shaped.url("middle.bin"), None
    file = gopen(url, storage_options=options)
    assert file.read(500) == DATA[:500]
    shaped.put("middle.bin", DATA[1:100_001])
    with pytest.raises(
        StorageError, match=r"at byte \d+000: changed while it was read"
    ):
        file.read()


@pytest.mark.parametrize("ways", [{"ranges": 0}, {"ranges": 0, "sized": 0}])
def test_a_server_without_ranges_is_streamed(shaped, ways):
    shaped.put("stream.bin", DATA)
    shaped.set(**ways)
    with metered() as meter, gopen(shaped.url("stream.bin")) as file:
        assert read_by(file, 1 << 20) == DATA
        assert file.tell() == len(DATA)
    assert meter.read_bytes == len(DATA)
    assert gopen(shaped.url("stream.bin")).read() == DATA
    shaped.reset()


def test_a_stream_that_breaks_off_is_an_error(shaped):
    shaped.put("broken.bin", DATA)
    shaped.set(ranges=0)
    shaped.set(cut=2)  # the probe for ranges, and the stream
    with (
        gopen(shaped.url("broken.bin")) as file,
        pytest.raises(StorageError, match=r"broken.bin: at byte \d+: "),
    ):
        read_by(file, 1 << 20)
    shaped.reset()


def test_other_file_systems_are_read_as_they_are(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/x.bin", DATA[:100_000])
    url = f"zip://a/x.bin::{tmp_path}/x.zip"
    with metered() as meter, gopen(url) as file:
        assert file.readable()
        assert read_by(file, 3000) == DATA[:100_000]
    assert meter.read_bytes == 100_000
    with gopen(url) as file:
        assert io.BufferedReader(file).read() == DATA[:100_000]  # type: ignore[type-var]
    with pytest.raises(StorageError, match="no such file"):
        gopen(f"zip://a/y.bin::{tmp_path}/x.zip")


def test_a_file_that_is_shorter_than_its_size_is_an_error(tmp_path):
    write_bytes(f"{tmp_path}/x", b"12345")
    fs = fsspec.filesystem("file")
    file = ranges.StreamReader("u", fs, f"{tmp_path}/x")
    file._num_bytes = 9
    assert file.read(5) == b"12345"
    with pytest.raises(StorageError, match="u: ended at byte 5 of 9"):
        file.read(5)


def test_two_readers_of_one_object_in_memory_do_not_disturb_each_other():
    write_bytes("memory://ranges/two", DATA)
    first, second = gopen("memory://ranges/two"), gopen("memory://ranges/two")
    assert first.read(1000) == DATA[:1000]
    assert second.read(1000) == DATA[:1000]
    assert first.read() == DATA[1000:]


@pytest.mark.parametrize("cache", ["simplecache", "filecache"])
def test_a_cache_of_fsspec_in_front_is_used(moto_bucket, tmp_path, cache):
    options = {
        "s3": moto_bucket.storage_options,
        cache: {"cache_storage": str(tmp_path)},
    }
    plain = moto_bucket.join("x")
    write_bytes(plain, DATA, storage_options=options)
    for _ in range(2):
        with gopen(f"{cache}::{plain}", storage_options=options) as file:
            assert isinstance(file, ranges.StreamReader)
            assert file.read() == DATA
        with RangeSource(f"{cache}::{plain}", options) as source:
            buffer = bytearray(100)
            source.read_into([5], [memoryview(buffer)])
            assert bytes(buffer) == DATA[5:105]
    (copy,) = [path for path in tmp_path.iterdir() if path.name != "cache"]
    assert copy.read_bytes() == DATA


@pytest.mark.parametrize("cache", ["simplecache", "filecache"])
def test_a_copy_that_a_killed_process_left_short_is_an_error(
    moto_bucket, tmp_path, cache
):
    options = {
        "s3": moto_bucket.storage_options,
        cache: {"cache_storage": str(tmp_path)},
    }
    url = f"{cache}::{moto_bucket.join('x')}"
    write_bytes(url, DATA[:1000], storage_options=options)
    with gopen(url, storage_options=options) as file:
        assert file.read() == DATA[:1000]
    (copy,) = [path for path in tmp_path.iterdir() if path.name != "cache"]
    copy.write_bytes(DATA[:512])
    with (
        gopen(url, storage_options=options) as file,
        pytest.raises(StorageError, match="ended at byte 512 of 1000"),
    ):
        file.read()
