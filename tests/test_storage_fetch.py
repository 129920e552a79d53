"""Given ranges go into given buffers, exactly."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild.errors import StorageError
from shardbuild.storage import RangeSource, metered, read_range, write_bytes
from shardbuild.storage.ranges import BLOCK_BYTES

DATA = random.Random(1).randbytes(2 * BLOCK_BYTES + 100)

_ranges = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 60)), max_size=40).map(
    lambda pairs: [(start, min(size, 1000 - start)) for start, size in pairs]
)


def fetched(url, wanted, options=None, **more) -> list[bytes]:
    buffers = [bytearray(size) for _, size in wanted]
    with RangeSource(url, options, **more) as source:
        source.read_into(
            [start for start, _ in wanted], [memoryview(buffer) for buffer in buffers]
        )
    return [bytes(buffer) for buffer in buffers]


def expected(wanted) -> list[bytes]:
    return [DATA[start : start + size] for start, size in wanted]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    path = tmp_path_factory.mktemp("fetch") / "x.bin"
    path.write_bytes(DATA)
    return str(path)


@given(_ranges)
def test_any_ranges_of_a_local_file(local, wanted):
    assert fetched(local, wanted) == expected(wanted)


@given(_ranges, st.integers(0, 100), st.integers(1, 100))
def test_any_ranges_gaps_and_blocks_of_a_store(wanted, max_gap, block):
    write_bytes("memory://fetch/x.bin", DATA[:1000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shardbuild.storage.ranges.BLOCK_BYTES", block)
        found = fetched("memory://fetch/x.bin", wanted, max_gap=max_gap)
    assert found == expected(wanted)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 9)), max_size=50))
def test_touching_ranges_are_one_call_whatever_their_number(local, pairs):
    wanted, at = [], 0
    for gap, size in pairs:
        wanted.append((at + gap, size))
        at += gap + size
    with metered() as meter:
        assert fetched(local, wanted) == expected(wanted)
    gaps = sum(gap > 0 for gap, _ in pairs[1:])
    assert meter.read_requests == (gaps + 1 if pairs else 0)
    assert meter.read_bytes == sum(size for _, size in pairs)


def test_more_touching_ranges_than_the_kernel_takes_at_once(local):
    wanted = [(3 * n, 3) for n in range(5000)]
    with metered() as meter:
        assert fetched(local, wanted) == expected(wanted)
    assert meter.read_requests == 5


def test_short_reads_are_gone_on_with(local, monkeypatch):
    preadv = os.preadv

    def short(fd, views, offset):
        return preadv(fd, [views[0][:7]], offset)

    monkeypatch.setattr(os, "preadv", short)
    wanted = [(0, 20), (20, 3), (23, 30), (500, 5)]
    assert fetched(local, wanted) == expected(wanted)


def test_every_store_gives_the_same(bucket):
    url, options = bucket.join("x"), bucket.storage_options
    write_bytes(url, DATA, storage_options=options)
    rng = random.Random(2)
    starts = [rng.randrange(len(DATA)) for _ in range(40)]
    wanted = [(s, min(rng.randrange(5000), len(DATA) - s)) for s in starts]
    wanted += [(10, len(DATA) - 20), (0, 0), (5, 1)]
    assert fetched(url, wanted, options) == expected(wanted)
    assert read_range(url, 5, 10, storage_options=options) == DATA[5:10]
    with pytest.raises(StorageError, match="at byte") as caught:
        fetched(url, [(len(DATA) - 5, 10)], options)
    assert caught.value.url == url


def test_near_ranges_of_a_store_are_one_request(shaped):
    shaped.put("near.bin", DATA[:300_000])
    url, options = shaped.s3_url("near.bin"), shaped.s3_options
    wanted = [(200_000, 10), (0, 100), (60_000, 100), (150_000, 10)]
    with metered() as meter:
        assert fetched(url, wanted, options) == expected(wanted)
    assert (meter.read_requests, meter.read_bytes) == (2, 60_100 + 50_010)
    with metered() as meter:
        assert fetched(url, wanted, options, max_gap=0) == expected(wanted)
    assert (meter.read_requests, meter.read_bytes) == (4, 220)


def test_requests_run_in_parallel_under_the_budget(shaped):
    shaped.put("parallel.bin", DATA[:300_000])
    shaped.set(latency=0.05)
    wanted = [(1000 * n, 10) for n in range(100)]
    url, options = shaped.s3_url("parallel.bin"), shaped.s3_options
    assert fetched(url, wanted, options, max_gap=0) == expected(wanted)
    counts = shaped.set(latency=0.0)
    assert counts["GET"] == 101  # with the one of set itself
    assert 8 <= counts["peak"] <= 16


@pytest.mark.parametrize("offset", [0, 95, 100, 500])
def test_beyond_the_end_is_an_error_that_names_the_place(tmp_path, offset):
    url = f"{tmp_path}/x"
    write_bytes(url, bytes(100))
    with pytest.raises(StorageError, match=f"ends at byte {max(100, offset)}"):
        fetched(url, [(offset, 101)])
    write_bytes("memory://fetch/end", bytes(100))
    with pytest.raises(StorageError, match=f"at byte {offset}: got"):
        fetched("memory://fetch/end", [(offset, 101)])


def test_one_source_in_many_threads(local, shaped):
    shaped.put("threads.bin", DATA[:100_000])
    for url, options in (
        (local, None),
        (shaped.s3_url("threads.bin"), shaped.s3_options),
    ):
        with RangeSource(url, options) as source:

            def read(start, source=source):
                buffer = bytearray(50)
                source.read_into([start], [memoryview(buffer)])
                return bytes(buffer)

            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(read, range(0, 20_000, 100)))
        assert found == [DATA[at : at + 50] for at in range(0, 20_000, 100)]


def test_a_forked_child_opens_its_own(moto_bucket):
    """The clients of the parent are of no use there, and are not used."""
    url, options = moto_bucket.join("x"), moto_bucket.storage_options
    write_bytes(url, DATA[:1000], storage_options=options)
    with RangeSource(url, options) as source:
        buffer = bytearray(10)
        source.read_into([5], [memoryview(buffer)])
        pid = os.fork()
        if pid == 0:
            os._exit(_read_in_child(source, url, options))
        assert os.waitpid(pid, 0)[1] == 0
        source.read_into([7], [memoryview(buffer)])
        assert bytes(buffer) == DATA[7:17]


def _read_in_child(source, url, options) -> int:
    try:
        source.read_into([5], [memoryview(bytearray(10))])
    except StorageError as error:
        if "before a fork" not in str(error):
            return 2
        return 0 if read_range(url, 5, 15, storage_options=options) == DATA[5:15] else 3
    return 1


@pytest.mark.parametrize("url", ["-", "pipe:cat x"])
def test_a_stream_has_no_ranges(url):
    with pytest.raises(StorageError, match="is a stream"):
        RangeSource(url)


def test_what_is_not_there(tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        RangeSource(f"{tmp_path}/none")
    with pytest.raises(StorageError, match="no such file"):
        read_range("memory://fetch/none", 0, 1)
    assert read_range("memory://fetch/none", 5, 5) == b""


def test_closing_twice_is_safe(local):
    source = RangeSource(local)
    source.close()
    source.close()
    with pytest.raises(ValueError, match="closed"):
        source.read_into([0], [memoryview(bytearray(1))])
    with RangeSource(local) as source, pytest.raises(ValueError, match="zip"):
        source.read_into([0, 1], [memoryview(bytearray(1))])


def test_a_directory_is_an_error(tmp_path):
    url = str(tmp_path)
    with pytest.raises(StorageError, match="at byte 0: Is a directory"):
        read_range(url, 0, 1)
