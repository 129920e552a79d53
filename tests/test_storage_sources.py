"""One object of a store by ranges: pinned, checked, asked for again."""

from __future__ import annotations

import os

import pytest

from shardbuild.errors import StorageError
from shardbuild.storage import RangeSource, gopen, metered, read_bytes, write_bytes
from shardbuild.storage.sources import open_source
from shardbuild.storage.stores import stat_url

DATA = os.urandom(1 << 20)
BLOCK = 4 << 20


@pytest.fixture(params=["s3", "http"])
def faulty(request, shaped):
    """An object behind a server of many ways: the server, url and options."""
    shaped.put("faulty.bin", DATA)
    if request.param == "http":
        return shaped, shaped.url("faulty.bin"), None
    return shaped, shaped.s3_url("faulty.bin"), shaped.s3_options


def test_the_first_answer_tells_the_size(faulty):
    _, url, options = faulty
    source = open_source(url, options)
    size, first = source.begin(BLOCK)
    assert size == len(DATA)
    assert first is not None
    assert b"".join(first.result()) == DATA
    assert b"".join(source.start(10, 20).result()) == DATA[10:20]
    with metered() as meter:
        source.count(meter)
        source.count(meter)
    assert (meter.read_requests, meter.read_bytes) == (2, len(DATA) + 10)


def test_sizes_in_every_store(bucket):
    options = bucket.storage_options
    for num_bytes in (0, 1, 1000):
        url = bucket.join(f"{num_bytes}")
        write_bytes(url, DATA[:num_bytes], storage_options=options)
        source = open_source(url, options)
        size, first = source.begin(100)
        assert size == num_bytes
        expected = DATA[: min(100, num_bytes)]
        assert first is None or b"".join(first.result()) == expected
        assert source.fetch_all() == DATA[:num_bytes]


@pytest.mark.parametrize("ways", [{"cut": 2}, {"fail": 2}, {"fail": 1, "cut": 1}])
def test_an_answer_that_breaks_off_is_asked_for_again(faulty, ways):
    server, url, options = faulty
    server.set(**ways)
    assert gopen(url, storage_options=options).read() == DATA
    server.set(**ways)
    assert read_bytes(url, storage_options=options) == DATA
    server.set(**ways)
    assert (
        b"".join(open_source(url, options).start(5, 500_000).result())
        == DATA[5:500_000]
    )


def test_a_short_answer_is_not_taken(faulty):
    server, url, options = faulty
    server.set(short=1)
    assert b"".join(open_source(url, options).start(0, 100).result()) == DATA[:100]
    server.set(short=1)
    assert gopen(url, storage_options=options).read() == DATA


def test_what_stays_short_is_an_error_with_its_place(faulty, monkeypatch):
    from shardbuild.storage import retries

    monkeypatch.setattr(retries, "_FIRST_WAIT_SECONDS", 0.001)
    server, url, options = faulty
    server.set(short=100)
    with pytest.raises(StorageError, match=r"at byte 7: the store sent 92 of 93 bytes"):
        open_source(url, options).start(7, 100).result()
    server.set(short=0)


def test_a_range_beyond_the_end_is_an_error(bucket):
    options = bucket.storage_options
    url = bucket.join("x")
    write_bytes(url, b"12345", storage_options=options)
    with pytest.raises(StorageError, match="at byte 100: "):
        open_source(url, options).start(100, 110).result()


def test_two_versions_are_never_mixed(bucket):
    url, options = bucket.join("x"), bucket.storage_options
    write_bytes(url, DATA, storage_options=options)
    source = open_source(url, options)
    size, _ = source.begin(100)
    assert size == len(DATA)
    write_bytes(url, DATA[::-1], storage_options=options)
    with pytest.raises(StorageError, match=r"changed while it was read|no such file"):
        source.start(100, 200).result()


def test_an_http_object_that_changes_is_noticed(shaped):
    shaped.put("changing.bin", DATA)
    source = open_source(shaped.url("changing.bin"))
    source.begin(100)
    shaped.put("changing.bin", DATA[::-1])
    with pytest.raises(StorageError, match="changed while it was read"):
        source.start(100, 200).result()


def test_a_server_without_ranges_is_known(shaped):
    shaped.put("plain.bin", DATA)
    shaped.set(ranges=0)
    source = open_source(shaped.url("plain.bin"))
    assert source.begin(100) == (None, None)
    with pytest.raises(StorageError, match="does not answer ranges"):
        source.start(0, 100).result()
    assert source.fetch_all() == DATA


@pytest.mark.parametrize("kind", ["s3", "http"])
def test_what_is_not_there_is_not_asked_for_again(shaped, kind):
    url = shaped.s3_url("none") if kind == "s3" else shaped.url("none")
    options = shaped.s3_options if kind == "s3" else None
    source = open_source(url, options)
    shaped.set(latency=0.0)
    with pytest.raises(StorageError, match="no such file"):
        source.begin(100)
    with pytest.raises(StorageError, match="no such file"):
        source.fetch_all()
    assert shaped.set(latency=0.0)["GET"] == 3  # with the one of set itself


def test_a_source_of_the_parent_is_refused_after_a_fork(shaped):
    shaped.put("fork.bin", DATA)
    source = open_source(shaped.url("fork.bin"))
    source.check_process()
    source._pid += 1
    with pytest.raises(StorageError, match="was opened before a fork"):
        source.check_process()


def test_an_ordinary_file_system_gives_ranges_too(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/x.bin", DATA)
    url = f"zip://a/x.bin::{tmp_path}/x.zip"
    source = open_source(url)
    assert source.begin(100) == (len(DATA), None)
    assert b"".join(source.start(100, 200).result()) == DATA[100:200]
    assert source.fetch_all() == DATA
    with pytest.raises(StorageError, match="of 100 bytes"):
        source.start(len(DATA) - 50, len(DATA) + 50).result()
    missing = open_source(f"zip://a/y.bin::{tmp_path}/x.zip")
    with pytest.raises(StorageError, match="no such file"):
        missing.begin(100)
    with pytest.raises(StorageError, match="no such file"):
        missing.start(0, 1).result()
    with pytest.raises(StorageError, match="no such file"):
        missing.fetch_all()
    with pytest.raises(StorageError, match="is a folder"):
        open_source(f"zip://a::{tmp_path}/x.zip").begin(100)


def test_an_error_keeps_what_the_store_s_client_said(bucket):
    url, options = bucket.join("none.tar"), bucket.storage_options
    with RangeSource(url, options) as source:
        reads = {
            "whole": lambda: read_bytes(url, storage_options=options),
            "range": lambda: source.read_into([0], [memoryview(bytearray(9))]),
            "stream": lambda: gopen(url, storage_options=options),
        }
        for read in reads.values():
            with pytest.raises(StorageError, match="no such file") as caught:
                read()
            assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_what_was_looked_at_is_the_only_version_that_is_read(faulty):
    server, url, options = faulty
    with RangeSource(url, options) as source:
        facts = source.look()
        again = RangeSource(url, options)
        assert (facts.url, facts.num_bytes) == (url, len(DATA))
        assert again.look() == facts
        buffer = bytearray(10)
        again.read_into([5], [memoryview(buffer)])
        assert buffer == DATA[5:15]
        server.put("faulty.bin", DATA[::-1])
        with pytest.raises(StorageError, match="at byte 5"):
            source.read_into([5], [memoryview(buffer)])
        assert RangeSource(url, options).look() != facts


def test_a_look_at_any_store(bucket):
    url, options = bucket.join("looked.bin"), bucket.storage_options
    write_bytes(url, DATA[:1000], storage_options=options)
    with metered() as meter, RangeSource(url, options) as source:
        facts = source.look()
    assert facts == stat_url(url, options)
    assert (facts.num_bytes, meter.read_requests) == (1000, 1)
    with pytest.raises(StorageError, match="none"):
        RangeSource(bucket.join("none"), options).look()


@pytest.mark.parametrize("url", ["memory://sources/looked.bin", "{folder}/x.bin"])
def test_a_look_at_what_is_near(url, tmp_path):
    url = url.format(folder=tmp_path)
    write_bytes(url, DATA[:1000])
    with RangeSource(url) as source:
        assert source.look() == stat_url(url)
    with pytest.raises(StorageError, match="none"), RangeSource(url + "none") as source:
        source.look()
