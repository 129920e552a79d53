"""Parts of objects: exact, within their room, for all processes, also killed ones."""

from __future__ import annotations

import logging
import os
import pickle
import random
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild.errors import StorageError, UsageError
from shardbuild.storage import RangeSource, metered, write_bytes
from shardbuild.storage.cachefolder import Copy, evict
from shardbuild.storage.claims import claim_file
from shardbuild.storage.partcache import PartCache, Wanted

PART = 1000
DATA = random.Random(7).randbytes(50_300)
URL = "memory://partcache/x.bin"


@pytest.fixture(autouse=True)
def stored():
    write_bytes(URL, DATA)


@pytest.fixture
def folder(tmp_path) -> str:
    return f"{tmp_path}/cache"


def read(
    cache: PartCache, ranges, *, url=URL, version="1", options=None, data=DATA
) -> int:
    """What a cache gives for ranges, and how many bytes came from the store."""
    buffers = [bytearray(stop - start) for start, stop in ranges]
    views = [memoryview(buffer) for buffer in buffers]
    offsets = [start for start, _ in ranges]
    with metered() as meter, RangeSource(url, options) as source:
        cache.read([Wanted(source, version, len(data), offsets, views)])
    assert [bytes(b) for b in buffers] == [data[a:b] for a, b in ranges]
    return meter.read_bytes


def files(folder) -> dict[str, int]:
    """All files below a folder, by size, but for the marks."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            if not name.startswith("."):
                path = os.path.join(root, name)  # noqa: PTH118  # as it came
                found[path] = os.stat(path).st_size  # noqa: PTH116
    return found


ranges_of_all = st.lists(
    st.tuples(st.integers(0, len(DATA)), st.integers(0, 5000)).map(
        lambda pair: (pair[0], min(len(DATA), sum(pair)))
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=50)
@given(st.lists(ranges_of_all, max_size=4), st.integers(1, 60), st.integers(400, 9000))
def test_any_ranges_whatever_the_room_and_the_parts(
    tmp_path_factory, reads, room, part
):
    folder = tmp_path_factory.mktemp("any")
    cache = PartCache(str(folder), room * 1000, part)
    for ranges in reads:
        read(cache, ranges)
        assert cache.num_bytes <= room * 1000
        assert sum(files(folder).values()) <= room * 1000


def test_a_part_is_fetched_once(folder):
    cache = PartCache(folder, 1 << 20, PART)
    assert read(cache, [(1500, 1600), (1700, 2500), (50_200, 50_300)]) == 2300
    assert read(cache, [(1000, 3000), (50_000, 50_300)]) == 0
    assert read(PartCache(folder, 1 << 20, PART), [(2999, 3001)]) == 1000
    assert cache.num_bytes == 3300
    assert read(cache, []) == read(cache, [(5, 5)]) == 0


def test_other_urls_versions_and_part_sizes_share_nothing(folder):
    write_bytes("memory://partcache/y.bin", DATA[::-1])
    cache = PartCache(folder, 1 << 20, PART)
    assert read(cache, [(0, 10)]) == PART
    assert read(cache, [(0, 10)], version="2") == PART
    other = "memory://partcache/y.bin"
    assert read(cache, [(0, 10)], url=other, data=DATA[::-1]) == PART
    assert read(PartCache(folder, 1 << 20, 2 * PART), [(0, 10)]) == 2 * PART


def test_several_objects_at_once(folder):
    write_bytes("memory://partcache/y.bin", DATA[::-1])
    cache = PartCache(folder, 1 << 20, PART)
    first, second = bytearray(2500), bytearray(2500)
    with RangeSource(URL) as x, RangeSource("memory://partcache/y.bin") as y:
        for _ in range(2):
            cache.read(
                [
                    Wanted(x, "1", len(DATA), [700], [memoryview(first)]),
                    Wanted(y, "1", len(DATA), [700], [memoryview(second)]),
                ]
            )
            assert first == DATA[700:3200]
            assert second == DATA[::-1][700:3200]
            first[:] = second[:] = bytes(2500)


def test_a_range_beyond_the_end_is_an_error(folder):
    cache = PartCache(folder, 1 << 20, PART)
    with pytest.raises(StorageError, match="ends at byte 50300, before 50301"):
        read(cache, [(50_000, 50_301)])


def test_an_object_that_is_shorter_than_it_was_leaves_nothing(folder):
    cache = PartCache(folder, 1 << 20, PART)
    write_bytes(URL, DATA[:3500])
    with pytest.raises(StorageError, match=URL):
        read(cache, [(0, 10), (3000, 3800)])
    assert files(folder) == {}
    write_bytes(URL, DATA)
    assert read(cache, [(0, 10), (3000, 3800)]) == 2 * PART


@pytest.mark.parametrize(("room", "part"), [(0, 1), (1, 0), (-5, 5)])
def test_sizes_have_to_be_positive(folder, room, part):
    with pytest.raises(UsageError, match="positive"):
        PartCache(folder, room, part)


class TestRoom:
    def test_what_was_used_longest_ago_goes_first(self, folder):
        cache = PartCache(folder, 10 * PART, PART)
        for number in range(10):
            read(cache, [(number * PART, number * PART + 1)])
        assert read(cache, [(0, 1), (2 * PART, 2 * PART + 1)]) == 0
        read(cache, [(20 * PART, 20 * PART + 1)])
        assert cache.num_bytes <= 10 * PART
        kept = [0, 2, *range(4, 10), 20]
        assert read(cache, [(n * PART, n * PART + 1) for n in kept]) == 0
        assert read(cache, [(PART, PART + 1)]) == PART

    def test_what_does_not_fit_is_read_and_no_more_of_it_than_is_wanted(self, folder):
        cache = PartCache(folder, PART - 1, PART)
        assert read(cache, [(500, 510), (1500, 1520)]) == 30
        assert files(folder) == {}
        assert read(cache, [(50_000, 50_300)]) == 300  # a short part fits
        assert read(cache, [(50_000, 50_300)]) == 0

    def test_more_at_once_than_there_is_room_for(self, folder):
        cache = PartCache(folder, 5 * PART, PART)
        read(cache, [(0, len(DATA))])
        assert 0 < cache.num_bytes <= 5 * PART

    def test_the_folder_is_looked_through_only_when_it_is_full(
        self, folder, monkeypatch
    ):
        cache = PartCache(folder, 32 * PART, PART)
        looks = []
        copies = PartCache._copies

        def look(self):
            looks.append(1)
            return copies(self)

        monkeypatch.setattr(PartCache, "_copies", look)
        read(cache, [(0, 1)])
        looks.clear()
        for number in range(1, 32):
            read(cache, [(number * PART, number * PART + 1)])
        assert not looks
        for number in range(32, 40):
            read(cache, [(number * PART, number * PART + 1)])
        assert 1 <= len(looks) <= 4

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"0" * 20, None])
    def test_a_mark_that_is_wrong_does_no_harm_for_long(self, folder, content):
        cache = PartCache(folder, 10 * PART, PART)
        read(cache, [(0, 10 * PART)])
        mark = os.path.join(folder, ".usage")  # noqa: PTH118  # as it was made
        os.unlink(mark)  # noqa: PTH108
        if content is not None and content != b"0" * 20:
            with open(mark, "wb") as file:  # noqa: PTH123
                file.write(content)
        read(cache, [(20 * PART, 25 * PART)])
        assert cache.num_bytes <= 10 * PART

    def test_a_full_disk_only_keeps_nothing(self, folder, monkeypatch, caplog):
        cache = PartCache(folder, 10 * PART, PART)

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fdatasync", full)
        assert read(cache, [(0, 10)]) == PART
        assert files(folder) == {}
        assert "No space left" in caplog.text

    def test_eviction_goes_on_where_something_cannot_go(self):
        copies = [Copy("a", 10, 1), Copy("b", 10, 2), Copy("c", 10, 3)]
        asked = []

        def remove(path: str) -> bool:
            asked.append(path)
            return path != "a"

        assert evict(copies, 11, remove) == 20
        assert asked == ["a", "b", "c"]
        assert evict(copies, 0, remove) == 0


class TestDamage:
    def test_a_part_of_another_size_is_never_served(self, folder, caplog):
        cache = PartCache(folder, 1 << 20, PART)
        read(cache, [(0, 3 * PART)])
        for path in files(folder):
            os.truncate(path, 400)
        with caplog.at_level(logging.WARNING):
            assert read(cache, [(0, 3 * PART)]) == 3 * PART
        assert "another size" in caplog.text
        assert read(cache, [(0, 3 * PART)]) == 0

    def test_parts_that_vanish_are_fetched_again(self, folder):
        cache = PartCache(folder, 1 << 20, PART)
        read(cache, [(0, 3 * PART)])
        for path in list(files(folder))[:2]:
            os.unlink(path)  # noqa: PTH108
        assert read(cache, [(0, 3 * PART)]) == 2 * PART

    def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_stay(self, folder):
        making = os.path.join(folder, "making")  # noqa: PTH118
        os.makedirs(making)  # noqa: PTH103
        for name in ("dead", "dead.claim", "living"):
            with open(f"{making}/{name}", "wb") as file:  # noqa: PTH123
                file.write(b"half a part")
        claim = claim_file(f"{making}/living.claim")
        assert claim is not None
        with claim:
            read(PartCache(folder, 1 << 20, PART), [(0, 1)])
            assert sorted(os.listdir(making)) == ["living", "living.claim"]  # noqa: PTH208
        read(PartCache(folder, 1 << 20, PART), [(0, 1)])
        assert os.listdir(making) == []  # noqa: PTH208

    def test_a_folder_that_cannot_be_is_an_error(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match="file"):
            read(PartCache(f"{tmp_path}/file", 1 << 20, PART), [(0, 1)])


class TestTogether:
    def test_threads_fetch_each_part_once(self, folder):
        cache = PartCache(folder, 1 << 20, PART)
        starts = list(range(0, 50_000, 250))

        def go(seed: int) -> int:
            order = random.Random(seed).sample(starts, len(starts))
            return sum(
                read(cache, [(start, start + 300) for start in order[i : i + 20]])
                for i in range(0, len(order), 20)
            )

        with ThreadPoolExecutor(6) as pool:
            fetched = sum(pool.map(go, range(6)))
        assert fetched == len(DATA)
        assert files(f"{folder}/making") == {}

    def test_who_waits_for_a_part_goes_on_when_it_is_made(self, folder):
        cache = PartCache(folder, 1 << 20, PART)
        name = cache._name(URL, "1", 3)
        claim = claim_file(f"{folder}/making/{name}.claim")
        assert claim is not None
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(read, cache, [(100, 200), (3100, 3200)])
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            claim.release()
            assert waiting.result() == 2 * PART

    def test_two_that_want_the_same_parts_in_other_orders_do_not_lock(self, folder):
        cache = PartCache(folder, 1 << 20, PART)
        parts = [(n * PART, n * PART + 5) for n in range(40)]
        gate = threading.Barrier(2)

        def go(ranges) -> int:
            gate.wait()
            return read(cache, ranges)

        with ThreadPoolExecutor(2) as pool:
            fetched = pool.map(go, [parts, parts[::-1]])
        assert sum(fetched) == 40 * PART

    def test_it_is_pickled_by_its_three_values(self, folder):
        cache = PartCache(folder, 1 << 20, PART)
        read(cache, [(0, 1)])
        again = pickle.loads(pickle.dumps(cache))  # noqa: S301  # our own
        assert (again.folder, again.max_bytes, again.part_bytes) == (
            folder,
            1 << 20,
            PART,
        )
        assert read(again, [(0, 1)]) == 0


KILLED = """
import os, random, signal, sys
from shardbuild.storage import RangeSource, write_bytes
from shardbuild.storage.partcache import PartCache, Wanted

folder, num_children = sys.argv[1], int(sys.argv[2])
data = random.Random(7).randbytes(50_300)
write_bytes("memory://partcache/x.bin", data)


def fill(seed, told):
    cache, rng = PartCache(folder, 20_000, 1000), random.Random(seed)
    with RangeSource("memory://partcache/x.bin") as source:
        while True:
            starts = [rng.randrange(49_000) for _ in range(4)]
            views = [memoryview(bytearray(900)) for _ in starts]
            cache.read([Wanted(source, "1", len(data), starts, views)])
            right = all(
                view == data[start : start + 900] for start, view in zip(starts, views)
            )
            os.write(told, b"." if right else b"X")


def start(seed):
    heard, told = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            fill(seed, told)
        finally:
            os._exit(1)
    os.close(told)
    return pid, heard


rng, children = random.Random(1), []
for seed in range(num_children + 3):
    if seed < num_children:
        children.append(start(seed))
    if len(children) == 4 or seed >= num_children:
        pid, heard = children.pop(rng.randrange(len(children)))
        for _ in range(rng.randrange(6)):
            assert os.read(heard, 1) == b".", f"child {seed}"
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        assert set(os.read(heard, 1000)) <= {ord(".")}
        os.close(heard)
        # Those that live may move or remove a file while it is counted.
        sizes = []
        for root, _, names in os.walk(folder):
            for name in names:
                try:
                    sizes.append(os.stat(os.path.join(root, name)).st_size)
                except FileNotFoundError:
                    pass
        print(seed, sum(sizes), flush=True)
"""


def test_a_hundred_processes_are_killed_while_they_fill(folder):
    argv = [sys.executable, "-c", KILLED, folder, "100"]
    child = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    lines = child.stdout.splitlines()
    assert len(lines) == 100
    assert max(int(line.split()[1]) for line in lines) <= 20_000 + 20  # and the mark
    cache = PartCache(folder, 20_000, PART)
    kept = cache.num_bytes
    assert 3_000 <= kept <= 20_000
    for path, size in files(folder).items():
        assert size in (PART, 300) or "making" in path
    # Each part that is there is exact; the others come from the store.
    fetched = sum(
        read(cache, [(start, min(start + PART, len(DATA)))])
        for start in range(0, len(DATA), PART)
    )
    assert fetched < len(DATA)
    assert cache.num_bytes <= 20_000
    assert files(f"{folder}/making") == {}


def test_neither_memory_nor_files_grow(folder):
    cache = PartCache(folder, 20 * PART, PART)
    ranges = [(start, start + 700) for start in range(0, 49_000, 777)]
    read(cache, ranges)
    open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    tracemalloc.start()
    read(cache, ranges)
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20):
        read(cache, ranges)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 50_000
    assert len(os.listdir("/proc/self/fd")) <= open_before  # noqa: PTH208
