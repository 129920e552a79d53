"""A cache of samples: whole epochs only, for several processes, and no pickle."""

from __future__ import annotations

import os
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
from typing import Any

import pytest

from shardbuild.errors import EncodeError, StorageError, UsageError
from shardbuild.streams import dbcache
from shardbuild.streams.dbcache import DBCache


class Source:
    """Samples, and how often they were begun and given."""

    def __init__(self, num_samples: int, start: int = 0) -> None:
        self.samples = [make(n) for n in range(start, start + num_samples)]
        self.num_begun = 0
        self.num_given = 0

    def __iter__(self):
        self.num_begun += 1
        for sample in self.samples:
            self.num_given += 1
            yield sample


def whole(cache: DBCache) -> bool:
    return cache.is_whole


def make(number: int) -> dict[str, Any]:
    data = random.Random(number).randbytes(number % 500)
    return {"__key__": f"{number:06d}", "bin": data, "cls": number}


@pytest.fixture
def path(tmp_path):
    return f"{tmp_path}/d/cache.db"


def test_the_source_is_read_once_and_every_epoch_is_whole(path):
    source = Source(300)
    cache = DBCache(path, 1000, source)
    assert not whole(cache)
    for _ in range(3):
        assert list(cache) == source.samples
    assert whole(cache)
    assert len(cache) == 300
    assert source.num_begun == 1
    again = DBCache(path, 1000)  # another process, another day: no source is needed
    assert list(again) == source.samples
    assert list(again.dbiter()) == source.samples


def test_nothing_stays_beside_the_file(path, tmp_path):
    list(DBCache(path, 10, Source(5)))
    assert os.listdir(tmp_path / "d") == ["cache.db"]  # noqa: PTH208


def test_equal_keys_and_no_keys_are_kept(path):
    samples: list[dict[str, Any]]
    samples = [{"__key__": "a", "n": 1}, {"__key__": "a", "n": 2}, {"n": 3}, {}]
    cache = DBCache(path, 10, samples)
    assert [list(cache), list(cache)] == [samples, samples]
    assert cache.key_exists("a")
    assert not cache.key_exists("b")


@pytest.mark.parametrize("limit", [{"size": 100}, {"size": 1000, "max_bytes": 20_000}])
def test_a_limit_ends_the_writing_and_never_the_epoch(path, limit):
    source = Source(300)
    cache = DBCache(path, source=source, **limit)
    for _ in range(2):
        assert list(cache) == source.samples
        assert not whole(cache)
    kept = list(cache.dbiter())
    assert 0 < len(kept) <= limit["size"]
    assert kept == source.samples[: len(kept)]
    database = sqlite3.connect(path)
    (num_bytes,) = database.execute("select sum(length(data)) from samples").fetchone()
    database.close()
    assert num_bytes <= limit.get("max_bytes", 10**9)
    larger = DBCache(path, 300, source)
    assert [list(larger), list(larger)] == [source.samples] * 2
    assert whole(larger)
    assert source.num_begun == 3


@pytest.mark.parametrize("num_samples", [0, 1, 63, 64, 65, 128, 129])
def test_an_epoch_of_just_the_size_is_whole(path, num_samples):
    cache = DBCache(path, num_samples, Source(num_samples))
    assert list(cache) == list(cache) == Source(num_samples).samples
    assert whole(cache) == (num_samples > 0)
    assert not whole(DBCache(path + "2", num_samples - 1, Source(num_samples)))


def test_a_pass_that_was_left_is_no_epoch(path):
    source = Source(300)
    cache = DBCache(path, 1000, source)
    for stop in (0, 1, 100, 299):
        samples = iter(cache)
        assert [next(samples) for _ in range(stop)] == source.samples[:stop]
        samples.close()  # type: ignore[attr-defined]
        assert not whole(cache)
    assert list(cache) == source.samples
    assert whole(cache)


def test_an_error_of_the_source_is_no_end(path):
    def failing():
        yield from Source(100)
        raise KeyError("of the source")

    class Failing:
        def __iter__(self):
            return failing()

    cache = DBCache(path, 1000, Failing())
    for _ in range(2):
        with pytest.raises(KeyError, match="of the source"):
            list(cache)
        assert not whole(cache)


def test_the_file_can_be_read_while_it_is_filled(path):
    source = Source(300)
    samples = iter(DBCache(path, 1000, source))
    for _ in range(200):
        next(samples)
    found = list(DBCache(path, 1000).dbiter())
    assert len(found) >= 128
    assert found == source.samples[: len(found)]
    assert len(list(samples)) == 100
    assert list(DBCache(path, 1000).dbiter()) == source.samples
    assert list(DBCache(path + "2", 1000).dbiter()) == []


def test_one_fills_and_the_others_read_their_source(path):
    sources = Source(200), Source(200)
    first, second = (DBCache(path, 1000, source) for source in sources)
    one = iter(first)
    next(one)
    assert list(second) == sources[1].samples  # it writes nothing, and waits for none
    assert not whole(second)
    list(one)
    assert whole(second)
    assert list(second) == sources[1].samples
    assert sources[1].num_begun == 1


def test_parts_are_cached_by_themselves(path):
    caches = [DBCache(path, 100, Source(50, 50 * n), part=f"{n}/2") for n in range(2)]
    for _ in range(2):
        both = zip(*caches, strict=True)  # filled at the same time
        assert [(a["cls"], b["cls"]) for a, b in both] == [
            (n, n + 50) for n in range(50)
        ]
    assert [len(cache) for cache in caches] == [50, 50]
    assert not whole(DBCache(path, 100))


def test_each_epoch_has_an_order_of_its_own_by_the_seed(path):
    source = Source(100)
    cache = DBCache(path, 1000, source, shuffle=True, seed=7)
    epochs = [[sample["cls"] for sample in cache] for _ in range(4)]
    assert epochs[0] == list(range(100))  # as it came
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    again = DBCache(path, 1000, shuffle=True, seed=7)
    again.epoch = 2
    assert [sample["cls"] for sample in again] == epochs[2]
    other = DBCache(path, 1000, shuffle=True, seed=8)
    other.epoch = 2
    assert [sample["cls"] for sample in other] != epochs[2]


def test_without_a_name_it_passes_all_on():
    source = Source(10)
    cache = DBCache(None, 5, source)
    assert [list(cache), list(cache)] == [source.samples] * 2
    assert not whole(cache)
    assert bool(cache)
    with pytest.raises(TypeError):
        len(cache)
    with pytest.raises(UsageError, match="dbname is None"):
        list(cache.dbiter())


def test_a_pipeline_gives_it_its_source(path):
    cache = DBCache(path, 100)
    for _ in range(2):
        assert list(cache(make(n) for n in range(10))) == Source(10).samples
    with pytest.raises(TypeError, match="no epoch is whole"):
        len(DBCache(path + "2", 100))


def test_a_source_that_is_used_up_is_no_epoch(path):
    cache = DBCache(path, 100, iter(Source(10)))
    samples = iter(cache)
    next(samples)
    samples.close()  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="read only once"):
        list(cache)
    assert not whole(cache)
    with pytest.raises(UsageError, match="has no source"):
        list(DBCache(path, 100))


def test_what_cannot_be_cached_is_refused_with_its_key(path):
    cache = DBCache(path, 10, [{"__key__": "k", "img": object()}])
    with pytest.raises(EncodeError, match="'k': field 'img' cannot be cached"):
        list(cache)


def test_what_is_changed_after_it_was_given_is_not_cached_so(path):
    source = Source(100)
    for sample in DBCache(path, 1000, source):
        sample.clear()
    assert list(DBCache(path, 1000)) == Source(100).samples


def test_damage_is_an_error(path):
    list(DBCache(path, 100, Source(10)))
    database = sqlite3.connect(path)
    with database:
        database.execute("update samples set data = zeroblob(20) where place = 3")
    with pytest.raises(StorageError, match=r"sample 3: .* not what was written"):
        list(DBCache(path, 100))
    with database:
        database.execute("delete from samples where place = 2")
    database.close()
    with pytest.raises(StorageError, match="sample 2 went"):
        list(DBCache(path, 100))


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "text").write_text("no database at all, but long enough to look" * 50)
    with pytest.raises(StorageError, match="not a database"):
        list(DBCache(f"{tmp_path}/text", 10, Source(1)))
    database = sqlite3.connect(tmp_path / "old")
    database.execute("create table cache (key text primary key, data blob)")
    database.close()
    with pytest.raises(StorageError, match="something else"):
        list(DBCache(f"{tmp_path}/old", 10, Source(1)))
    with pytest.raises(StorageError, match="text/x"):
        list(DBCache(f"{tmp_path}/text/x", 10, Source(1)))


def test_a_full_disk_ends_the_writing_and_not_the_epoch(path, monkeypatch, caplog):
    """SQLite's own limit of pages answers as a full disk does."""

    def connect(*arguments, **options):
        connection = sqlite3.Connection(*arguments, **options)
        connection.execute("pragma max_page_count = 30")
        return connection

    source = Source(1000)
    with monkeypatch.context() as patched:
        patched.setattr(dbcache.sqlite3, "connect", connect)  # type: ignore[attr-defined]
        assert list(DBCache(path, 10_000, source)) == source.samples
    assert "caches no more" in caplog.text
    cache = DBCache(path, 10_000, source)
    assert not whole(cache)
    assert [list(cache), list(cache)] == [source.samples] * 2
    assert whole(cache)


def test_texts_of_the_user_s_are_kept(path):
    cache = DBCache(path, 10)
    assert cache.getmeta("note") is None
    cache.setmeta("note", "one")
    cache.setmeta("note", "two")
    assert DBCache(path, 10).getmeta("note") == "two"


def test_it_goes_to_other_processes(path):
    cache = DBCache(path, 100, Source(10), shuffle=True, seed=3)
    list(cache)
    copy = pickle.loads(pickle.dumps(cache))  # noqa: S301
    assert list(copy) == list(cache)


# --- many processes -------------------------------------------------------------

CLIENT = """
import hashlib, random, sys
from shardbuild.streams.dbcache import DBCache

path, seed = sys.argv[1:]

class Source:
    def __iter__(self):
        for n in range(1500):
            if n % 250 == 249:
                print("at", n, flush=True)
            data = random.Random(n).randbytes(200)
            yield {"__key__": f"{n % 700}", "bin": data, "cls": n}

cache = DBCache(path, 2000, Source(), shuffle=int(seed) % 2 == 1, seed=int(seed))
while True:
    digests = sorted(
        hashlib.sha256(repr(sorted(sample.items())).encode()).digest()
        for sample in cache
    )
    whole = hashlib.sha256(b"".join(digests)).hexdigest()
    print(whole, len(digests), cache.is_whole, flush=True)
"""


def start(path: str, seed: int) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", CLIENT, path, str(seed)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def lines_of(child: subprocess.Popen[str], count: int) -> list[str]:
    assert child.stdout is not None
    return [child.stdout.readline() for _ in range(count)]


def kill(child: subprocess.Popen[str]) -> list[str]:
    """End a process where it is; what it had said until then."""
    child.kill()
    said = child.communicate()[0].splitlines(keepends=True)
    assert child.returncode == -signal.SIGKILL
    return said


def test_four_processes_share_a_cache_while_some_are_killed(path):
    """Every epoch that ends is whole, with all samples as they are in the source."""
    rng = random.Random(11)
    said: list[str] = []
    for seed in range(2):  # in the middle of filling it
        child = start(path, seed)
        said += lines_of(child, rng.randrange(1, 6)) + kill(child)
    children = [start(path, seed) for seed in range(4)]
    try:
        for victim in range(6):
            child = children[victim % 4]
            said += lines_of(child, rng.randrange(1, 8)) + kill(child)
            children[victim % 4] = start(path, 10 + victim)
        for child in children:
            said += lines_of(child, 9)
    finally:
        for child in children:
            said += kill(child)
    epochs = [line.split() for line in said if line.endswith("\n")]
    epochs = [words for words in epochs if words[0] != "at"]
    assert len(epochs) >= 12
    assert {tuple(words[:2]) for words in epochs} == {(epochs[0][0], "1500")}
    assert "True" in {words[2] for words in epochs}
    assert len(DBCache(path, 2000)) == 1500
    database = sqlite3.connect(path)
    assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    assert database.execute("select count(*) from samples").fetchone() == (1500,)
    database.close()
