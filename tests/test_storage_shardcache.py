"""Copies of shards: whole, of the right source, within their room, for all."""

from __future__ import annotations

import io
import logging
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shardbuild.errors import PipeError, StorageError
from shardbuild.storage import gopen, shardcache, write_bytes
from shardbuild.storage.claims import claim_file
from shardbuild.storage.gopen import gopen_schemes
from shardbuild.storage.shardcache import (
    CacheStream,
    ShardCache,
    cache_shards,
    guess_shard,
    shard_uuid,
)


@pytest.fixture
def opened(monkeypatch):
    """The urls of sources that were opened, in order."""
    urls = []

    def note(url, *arguments, **options):
        urls.append(url)
        return gopen(url, *arguments, **options)

    monkeypatch.setattr(shardcache, "gopen", note)
    return urls


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def put(tmp_path, name: str, data: bytes) -> str:
    url = f"{tmp_path}/{name}"
    write_bytes(url, data)
    return url


def read(cache: ShardCache, url: str) -> bytes:
    with cache.open(url) as file:
        return file.read()


def copies(folder: Path) -> dict[str, int]:
    """What people read of the copies' names, and sizes; nothing else may be there."""
    found = {}
    for path in folder.iterdir():
        digest, size, label = path.name.split("-", 2)
        assert len(digest) == 64
        assert int(size) == path.stat().st_size
        found[label] = int(size)
    return found


def test_a_second_reading_opens_no_source(tmp_path, folder, opened):
    url = put(tmp_path, "x.tar", b"12345")
    cache = ShardCache(str(folder))
    assert [read(cache, url), read(cache, url)] == [b"12345", b"12345"]
    assert opened == [url]
    assert copies(folder) == {"x.tar": 5}


def test_the_same_name_elsewhere_is_another_shard(tmp_path, folder):
    cache = ShardCache(str(folder))
    for name in ("train", "val"):
        assert read(cache, put(tmp_path, f"{name}/000.tar", name.encode()))
    assert read(cache, f"{tmp_path}/train/000.tar") == b"train"
    assert read(cache, f"{tmp_path}/val/000.tar") == b"val"
    assert len(list(folder.iterdir())) == 2


def test_a_source_that_changes_gets_a_new_copy(tmp_path, folder):
    url = put(tmp_path, "x.tar", b"before")
    cache = ShardCache(str(folder))
    assert read(cache, url) == b"before"
    put(tmp_path, "x.tar", b"after!")
    assert read(cache, url) == b"after!"


def test_stores_tell_by_their_marks_and_sizes(folder, shaped):
    shaped.put("x.tar", b"first")
    cache = ShardCache(str(folder))
    assert read(cache, shaped.url("x.tar")) == b"first"
    shaped.set()
    assert read(cache, shaped.url("x.tar")) == b"first"
    assert "GET" not in shaped.set() or shaped.set()["GET"] <= 1  # asked, not read
    shaped.put("x.tar", b"other")
    assert read(cache, shaped.url("x.tar")) == b"other"


def test_a_url_with_a_secret_shows_none_in_the_folder(folder, shaped):
    shaped.put("x.tar", b"data")
    read(ShardCache(str(folder)), shaped.url("x.tar") + "?token=secret")
    assert copies(folder) == {"x.tar": 4}


def test_commands_and_handlers_are_cached_when_they_end_well(folder, tmp_path):
    cache = ShardCache(str(folder))
    url = f"pipe:echo x >> {tmp_path}/runs; printf 12345"
    assert [read(cache, url), read(cache, url)] == [b"12345", b"12345"]
    assert (tmp_path / "runs").read_text() == "x\n"
    with pytest.raises(PipeError), cache.open("pipe:echo x; exit 3") as file:
        file.read()
    assert list(copies(folder).values()) == [5]
    gopen_schemes["obj"] = lambda url, mode: io.BytesIO(b"mine")
    try:
        assert [read(cache, "obj://x"), read(cache, "obj://x")] == [b"mine"] * 2
    finally:
        del gopen_schemes["obj"]
    assert sorted(copies(folder).values()) == [4, 5]


def test_our_own_input_is_never_cached(folder):
    assert ShardCache(str(folder)).open("-").name == "-"
    assert not folder.exists()


def test_what_is_not_read_to_its_end_leaves_nothing(tmp_path, folder):
    url = put(tmp_path, "x.tar", bytes(3 << 20))
    cache = ShardCache(str(folder))
    with cache.open(url) as file:
        assert len(file.read(100)) == 100
    assert list(folder.iterdir()) == []
    forgotten = cache.open(url)
    forgotten.read(100)
    del forgotten
    assert list(folder.iterdir()) == []
    with pytest.raises(KeyError), cache.open(url):
        raise KeyError
    assert list(folder.iterdir()) == []


def test_a_reader_that_stops_near_the_end_keeps_the_copy(tmp_path, folder):
    url = put(tmp_path, "x.tar", bytes(3 << 20))
    cache = ShardCache(str(folder))
    with cache.open(url) as file:
        file.read(3 << 20)  # all, and not its end
    assert copies(folder) == {"x.tar": 3 << 20}


@pytest.mark.parametrize("num_bytes", [0, 99, 101])
def test_a_copy_of_another_size_is_never_served(tmp_path, folder, num_bytes, caplog):
    data = random.Random(0).randbytes(100)
    url = put(tmp_path, "x.tar", data)
    cache = ShardCache(str(folder))
    assert read(cache, url) == data
    (copy,) = folder.iterdir()
    os.truncate(copy, num_bytes)
    assert not cache.has(url)
    assert "another size" in caplog.text
    assert read(cache, url) == data
    assert copies(folder) == {"x.tar": 100}


def test_a_source_that_changes_while_it_is_read_is_not_kept(tmp_path, folder, caplog):
    url = put(tmp_path, "x.tar", bytes(1 << 20))
    cache = ShardCache(str(folder))
    with cache.open(url) as file:
        file.read(100)
        with Path(url).open("r+b") as changed:
            changed.write(b"new")
        os.utime(url, ns=(1, 1))
        file.read()
    assert list(folder.iterdir()) == []
    assert "its source has changed" in caplog.text


def test_the_room_is_kept_and_the_oldest_go(tmp_path, folder):
    urls = [put(tmp_path, f"{n}.tar", bytes([n]) * 100) for n in range(5)]
    cache = ShardCache(str(folder), cache_size=300)
    for url in urls[:3]:
        read(cache, url)
    age(folder)
    read(cache, urls[0])  # used: now 1 is the oldest
    read(cache, urls[3])
    assert set(copies(folder)) == {"0.tar", "2.tar", "3.tar"}
    assert sum(copies(folder).values()) <= 300
    small = ShardCache(str(folder), cache_size=100)
    assert read(small, urls[4]) == b"\4" * 100
    assert copies(folder) == {"4.tar": 100}


def age(folder: Path) -> None:
    """Make all copies older, in the order of their names."""
    for number, path in enumerate(sorted(folder.iterdir(), key=lambda p: p.name[-5:])):
        os.utime(path, (1000 + number, 1000 + number))


def test_what_is_open_is_not_removed(tmp_path, folder):
    urls = [put(tmp_path, f"{n}.tar", bytes([n]) * 100) for n in range(3)]
    cache = ShardCache(str(folder), cache_size=200)
    read(cache, urls[0])
    read(cache, urls[1])
    age(folder)
    with cache.open(urls[0]) as oldest:
        os.utime(oldest.fileno(), (1, 1))
        assert read(cache, urls[2]) == b"\2" * 100
        assert set(copies(folder)) == {"0.tar", "2.tar"}
        with cache.open(urls[2]) as newest:
            assert read(cache, urls[1]) == b"\1" * 100  # no room: from its source
            assert set(copies(folder)) == {"0.tar", "2.tar"}
            assert newest.read() == b"\2" * 100
        assert oldest.read() == b"\0" * 100


def test_what_is_larger_than_the_cache_is_read_from_its_source(
    tmp_path, folder, opened
):
    url = put(tmp_path, "x.tar", bytes(101))
    cache = ShardCache(str(folder), cache_size=100)
    assert len(read(cache, url)) == len(read(cache, url)) == 101
    assert opened == [url, url]
    assert len(read(cache, "pipe:head -c 101 /dev/zero")) == 101
    assert copies(folder) == {}


def test_a_copy_that_is_being_made_takes_its_room_at_once(tmp_path, folder):
    urls = [put(tmp_path, f"{n}.tar", bytes(3 << 20)) for n in range(2)]
    cache = ShardCache(str(folder), cache_size=5 << 20)
    with cache.open(urls[0]) as first:
        first.read(1)
        with cache.open(urls[1]) as second:
            assert not isinstance(second, CacheStream)
        first.read()
    assert set(copies(folder)) == {"0.tar"}


def test_who_comes_second_reads_the_source(tmp_path, folder, opened):
    url = put(tmp_path, "x.tar", b"12345")
    cache = ShardCache(str(folder))
    with cache.open(url) as first, cache.open(url) as second:
        assert first.read(2) + second.read(2) == b"1212"
        assert first.read() + second.read() == b"345345"
    assert opened == [url, url]
    assert copies(folder) == {"x.tar": 5}


def test_waiting_gives_a_copy_that_is_whole(tmp_path, folder, opened):
    url = put(tmp_path, "x.tar", b"12345")
    cache = ShardCache(str(folder), wait=True)
    with cache.open(url) as file:
        assert copies(folder) == {"x.tar": 5}
        assert str(file.name).startswith(str(folder))
        assert file.read() == b"12345"
    assert read(cache, url) == b"12345"
    assert opened == [url]
    failing = "pipe:echo x; exit 3"
    for _ in range(2):  # the claim was given back
        with pytest.raises(PipeError):
            cache.open(failing)


def test_a_source_that_is_not_there_is_an_error_and_leaves_no_claim(folder, tmp_path):
    for url in (f"{tmp_path}/none", "memory://none/x", "nosuch://x"):
        with pytest.raises(StorageError, match=r"no such|nosuch"):
            ShardCache(str(folder)).open(url)
    assert not folder.exists() or not list(folder.iterdir())


def test_a_folder_that_cannot_be_is_an_error_that_names_it(tmp_path):
    url = put(tmp_path, "x.tar", b"12345")
    for wait in (False, True):
        with pytest.raises(StorageError, match=r"x\.tar/cache"):
            ShardCache(f"{url}/cache", wait=wait).open(url)


def test_closing_near_the_end_of_a_source_that_fails_is_no_error(tmp_path, caplog):
    class Failing(io.BytesIO):
        def readinto(self, buffer):
            if self.tell() == 10:
                raise StorageError("far", "the connection broke")
            return super().readinto(buffer)

    path = str(tmp_path / "copy")
    stream = CacheStream(path, Failing(bytes(20)), num_bytes=20)
    assert len(stream.read(10)) == 10
    stream.close()
    assert "the connection broke" in caplog.text
    stream = CacheStream(path, Failing(bytes(20)), num_bytes=20)
    stream.read(10)
    with pytest.raises(StorageError, match="the connection broke"):
        stream.close(complete=True)
    assert stream.closed
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_takes_the_copy_and_not_the_bytes(tmp_path, caplog):
    """/dev/full is a file that takes nothing."""
    data = random.Random(0).randbytes(100_000)
    with CacheStream("/dev/full", io.BytesIO(data)) as stream:
        assert stream.read() == data
    assert "no copy was kept: no space left" in caplog.text


def test_torsos_of_dead_processes_are_removed(tmp_path, folder):
    url = put(tmp_path, "x.tar", bytes(3 << 20))
    code = (
        "import sys, os, signal\n"
        "from shardbuild.storage.shardcache import ShardCache\n"
        "file = ShardCache(sys.argv[1]).open(sys.argv[2])\n"
        "file.read(5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    argv = [sys.executable, "-c", code, str(folder), url]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    (torso,) = [path for path in folder.iterdir() if path.name.endswith(".tmp")]
    assert torso.stat().st_size == 3 << 20  # its size alone says nothing
    cache = ShardCache(str(folder))
    assert not cache.has(url)
    with cache.open(url) as file:
        assert not torso.exists()
        assert file.read() == bytes(3 << 20)
    assert copies(folder) == {"x.tar": 3 << 20}


def test_what_another_process_is_making_stays(tmp_path, folder):
    url = put(tmp_path, "x.tar", bytes(3 << 20))
    making = ShardCache(str(folder)).open(url)
    making.read(5)
    other = ShardCache(str(folder), cache_size=100)
    read(other, put(tmp_path, "y.tar", bytes(50)))
    making.read()
    making.close()
    assert "x.tar" in copies(folder)


def test_files_that_are_not_ours_stay_and_do_not_count(tmp_path, folder):
    folder.mkdir()
    (folder / "notes.txt").write_bytes(bytes(1000))
    (folder / ".notes.tmp").write_bytes(bytes(1000))
    cache = ShardCache(str(folder), cache_size=100)
    read(cache, put(tmp_path, "x.tar", bytes(80)))
    read(cache, put(tmp_path, "y.tar", bytes(80)))
    names = {path.name.rpartition("-")[2] for path in folder.iterdir()}
    assert names == {"notes.txt", ".notes.tmp", "y.tar"}


def test_a_cache_goes_to_other_processes(folder, tmp_path):
    import pickle

    url = put(tmp_path, "x.tar", b"12345")
    cache = pickle.loads(pickle.dumps(ShardCache(str(folder))))  # noqa: S301
    assert read(cache, url) == b"12345"


# --- CacheStream, cache_shards, names -----------------------------------------


def test_a_stream_is_copied_when_it_ends(tmp_path):
    class Dribbling(io.RawIOBase):
        """Gives a byte at a time: a short read is no end."""

        left = b"12345"

        def readinto(self, buffer):
            piece, self.left = self.left[:1], self.left[1:]
            buffer[: len(piece)] = piece
            return len(piece)

    path = tmp_path / "d" / "copy"
    stream = CacheStream(str(path), Dribbling())
    assert stream.readable()
    assert stream.read(3) == b"1"
    assert not path.exists()
    assert (stream.read(), stream.tell()) == (b"2345", 5)
    assert path.read_bytes() == b"12345"
    stream.close()
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.readinto(bytearray(1))


def test_closing_completely_reads_the_rest(tmp_path):
    data = random.Random(0).randbytes(3 << 20)
    source = io.BytesIO(data)
    stream = CacheStream(str(tmp_path / "copy"), source)
    stream.read(5)
    stream.close(complete=True)
    assert (tmp_path / "copy").read_bytes() == data
    assert source.closed


@pytest.mark.parametrize("num_bytes", [4, 6])
def test_another_number_of_bytes_than_told_is_no_copy(tmp_path, num_bytes, caplog):
    path = str(tmp_path / "copy")
    with CacheStream(path, io.BytesIO(b"12345"), num_bytes=num_bytes) as stream:
        assert stream.read() == b"12345"
    assert list(tmp_path.iterdir()) == []
    assert "no copy was kept" in caplog.text


def test_shards_come_with_their_streams(tmp_path, folder, opened, caplog):
    urls = [put(tmp_path, f"{n}.tar", b"%d" % n) for n in range(3)]
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            shards = cache_shards(
                [urls[0], {"url": urls[1], "rank": 1}, urls[2]],
                str(folder),
                1000,
                lambda url: "shard/" + guess_shard(url),
                True,
            )
            found = [(s["url"], s.get("rank"), s["stream"].read()) for s in shards]
            ranks = [None, 1, None]
            assert found == [(urls[n], ranks[n], b"%d" % n) for n in range(3)]
    assert opened == urls
    assert set(copies(folder)) == {f"shard_{n}.tar" for n in range(3)}
    assert "0.tar: 1 bytes" in caplog.text


def test_a_stream_is_open_as_long_as_its_shard_is_looked_at(tmp_path, folder):
    urls = [put(tmp_path, f"{n}.tar", b"x") for n in range(2)]
    given = io.BytesIO(b"opened before the cache was asked")
    shards = cache_shards([{"url": urls[0], "stream": given}, urls[1]], str(folder))
    first = next(shards)["stream"]
    assert given.closed
    assert not first.closed
    second = next(shards)["stream"]
    assert first.closed
    shards.close()  # type: ignore[attr-defined]
    assert second.closed


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x.tar", "x.tar"),
        ("/d/x.tar", "x.tar"),
        ("pipe:curl -s http://h/x.tar", "x.tar"),
        ("s3://b/d/", ""),
        ("", ""),
    ],
)
def test_a_shard_s_name_is_guessed(path, name):
    assert guess_shard(path) == name


def test_names_by_url_are_distinct():
    assert len({shard_uuid(f"http://h/{n}/x.tar") for n in range(100)}) == 100


# --- many processes -------------------------------------------------------------

NUM_URLS = 12
CLIENT = """
import hashlib, random, sys
from shardbuild.storage.shardcache import ShardCache
folder, base, seed = sys.argv[1:]
rng = random.Random(int(seed))
cache = ShardCache(folder, cache_size=900_000, wait=rng.random() < 0.5)
print("ready", flush=True)
while True:
    number = rng.randrange(12)
    with cache.open(f"{base}/{number}.tar") as file:
        stop = rng.choice([None, None, None, 1000])
        data = file.read() if stop is None else file.read(stop)
    whole = hashlib.sha256(data).hexdigest() if stop is None else "part"
    print(number, whole, len(data), flush=True)
"""


def start(folder, base, seed) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", CLIENT, str(folder), str(base), str(seed)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def lines_of(child: subprocess.Popen[str], count: int) -> list[str]:
    assert child.stdout is not None
    return [child.stdout.readline() for _ in range(count)]


def test_four_processes_share_a_cache_while_some_are_killed(tmp_path, folder):
    """At random moments, without being asked; what is served is always the source."""
    import hashlib

    rng = random.Random(7)
    digests = {}
    for number in range(NUM_URLS):
        data = rng.randbytes(rng.randrange(100_000, 300_000))
        write_bytes(f"{tmp_path}/{number}.tar", data)
        digests[str(number)] = hashlib.sha256(data).hexdigest()
    children = [start(folder, tmp_path, seed) for seed in range(4)]
    said: list[str] = []
    try:
        for victim in range(8):
            child = children[victim % 4]
            said += lines_of(child, rng.randrange(2, 40))
            child.kill()  # in the middle of whatever it does now
            said += (child.communicate()[0] or "").splitlines(keepends=True)
            children[victim % 4] = start(folder, tmp_path, 100 + victim)
        for child in children:
            said += lines_of(child, 60)
    finally:
        for child in children:
            child.kill()
            said += (child.communicate()[0] or "").splitlines(keepends=True)
    served = [line.split() for line in said if line.endswith("\n")]
    served = [words for words in served if len(words) == 3]
    assert len(served) > 300
    wrong = [w for w in served if w[1] not in ("part", digests[w[0]])]
    assert wrong == []
    cache = ShardCache(str(folder), cache_size=900_000)
    for number in range(NUM_URLS):  # what is there now is whole, and has its room
        found = hashlib.sha256(read(cache, f"{tmp_path}/{number}.tar")).hexdigest()
        assert found == digests[str(number)]
    assert sum(copies_of_all(folder)) <= 900_000
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def copies_of_all(folder: Path) -> list[int]:
    return [p.stat().st_size for p in folder.iterdir() if not p.name.startswith(".")]


def test_a_claim_that_nobody_holds_is_no_obstacle(tmp_path, folder):
    url = put(tmp_path, "x.tar", b"12345")
    cache = ShardCache(str(folder))
    read(cache, url)
    (copy,) = folder.iterdir()
    digest = copy.name.partition("-")[0]
    copy.unlink()
    (folder / f".{digest}.claim").touch()  # as a killed process leaves it
    assert read(cache, url) == b"12345"
    assert copies(folder) == {"x.tar": 5}
    held = claim_file(f"{folder}/.{digest}.claim")
    assert held is not None
    held.release()
