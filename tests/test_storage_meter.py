"""Storage counts what it moves."""

from __future__ import annotations

import os
import threading

from shardbuild.storage import (
    RangeSource,
    gopen,
    metered,
    open_atomic,
    read_bytes,
    write_bytes,
)
from shardbuild.storage.meter import Meter, current_meter


def counts(meter: Meter) -> tuple[int, int, int, int]:
    return (
        meter.read_bytes,
        meter.read_requests,
        meter.written_bytes,
        meter.write_requests,
    )


def test_local_reads_and_writes_count_one_a_call(tmp_path):
    url = f"{tmp_path}/x.bin"
    with metered() as meter:
        with open_atomic(url) as file:
            file.write(b"12345")
            file.writev([b"678", b"90"])
        buffer = bytearray(4)
        with gopen(url) as opened:
            while opened.readinto(buffer):  # type: ignore[attr-defined]
                pass
    assert counts(meter) == (10, 4, 10, 2)


def test_range_reads_count_the_calls_after_merging(tmp_path):
    url = f"{tmp_path}/x.bin"
    write_bytes(url, bytes(100))
    with metered() as meter, RangeSource(url) as source:
        views = [memoryview(bytearray(5)) for _ in range(3)]
        source.read_into([10, 15, 50], views)
    assert counts(meter) == (15, 2, 0, 0)


def test_nested_meters_add_up(tmp_path):
    url = f"{tmp_path}/x.bin"
    with metered() as outer:
        write_bytes(url, b"123")
        with metered() as inner:
            write_bytes(url, b"45")
    assert counts(inner) == (0, 0, 2, 1)
    assert counts(outer) == (0, 0, 5, 2)


def test_a_meter_counts_its_own_thread_only(tmp_path):
    started, go_on = threading.Event(), threading.Event()
    inside = []

    def other() -> None:
        started.wait()
        with metered() as meter:
            write_bytes(f"{tmp_path}/other.bin", b"123")
            inside.append(meter)
        go_on.set()

    thread = threading.Thread(target=other)
    thread.start()
    with metered() as meter:
        started.set()
        go_on.wait()
        write_bytes(f"{tmp_path}/mine.bin", b"12")
    thread.join()
    assert counts(meter) == (0, 0, 2, 1)
    assert counts(inside[0]) == (0, 0, 3, 1)


def test_a_file_counts_for_the_meter_it_was_opened_under(tmp_path):
    url = f"{tmp_path}/x.bin"
    with metered() as first:
        file = open_atomic(url)
    with metered() as second:
        file.write(b"123")
        file.close()
    assert counts(first) == (0, 0, 3, 1)
    assert counts(second) == (0, 0, 0, 0)


def test_objects_of_a_store_count_by_request(shaped):
    data = os.urandom(10 << 20)
    url, options = shaped.s3_url("metered.bin"), shaped.s3_options
    with metered() as written:
        write_bytes(url, data, storage_options=options)
    assert counts(written) == (0, 0, len(data), 2)
    with metered() as read, gopen(url, storage_options=options) as file:
        assert file.read() == data
    assert counts(read) == (len(data), 3, 0, 0)


def test_requests_that_were_asked_again_count(shaped):
    url, options = shaped.s3_url("again.bin"), shaped.s3_options
    write_bytes(url, b"12345", storage_options=options)
    shaped.set(cut=1)
    with metered() as meter:
        assert read_bytes(url, storage_options=options) == b"12345"
    assert counts(meter) == (5, 2, 0, 0)


def test_without_a_meter_counting_goes_nowhere():
    assert current_meter() is current_meter()
    with metered() as meter:
        assert current_meter() is meter
    assert current_meter() is not meter
    assert repr(meter).startswith("Meter(read_bytes=0")
