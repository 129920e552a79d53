"""Samples at any places: the same as reading forward, or a clear error."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import random
import resource
import tarfile
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild import ShardWriter, TarWriter, read_samples
from shardbuild.cli.main import main
from shardbuild.errors import (
    ManifestError,
    ShardbuildError,
    StorageError,
    TruncatedShardError,
)
from shardbuild.shards.index import save_index
from shardbuild.shards.reader import read_indexed, scan_shard
from shardbuild.shards.writer import write_shard
from shardbuild.storage import metered, read_bytes, write_bytes
from shardbuild.storage.partcache import PartCache
from shardbuild.train.catalog import Catalog
from shardbuild.train.reading import SampleReader
from tests.tars import FORMATS, Entry, entries_of, make_samples, make_tar

if TYPE_CHECKING:
    from shardbuild.shards.samples import Sample

RNG = random.Random(4)


def mixed_samples(count: int = 60) -> list[Sample]:
    """Samples of several kinds: large and small members, some without a field."""
    samples = []
    for number in range(count):
        key = f"d/ü{number:03d}" if number % 7 else f"d/{number:03d}"
        sample: Sample = {"__key__": key}
        sample["cls"] = b"%d" % number
        if number % 5:
            sample["id"] = b"%d" % (number * 1001)
        if number % 3:
            sample["json"] = b"{}" * (number % 5)
        sample["jpg"] = RNG.randbytes((100, 3000, 40_000, 90_000)[number % 4])
        samples.append(sample)
    return samples


MIXED = mixed_samples()


def written(folder: Path | str, samples=MIXED, per_shard: int = 13, **more) -> str:
    with ShardWriter(f"{folder}/x-%02d.tar", maxcount=per_shard, **more) as writer:
        for sample in samples:
            writer.write(sample)
    return f"{folder}/x.json"


def found(urls, **more) -> Catalog:
    catalog = Catalog.find(urls, **more)
    assert catalog is not None
    return catalog


def num_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def samples_alike(url, num_fields, sizes):
    """Write twelve samples of the same fields, the first of two sizes in turns."""
    names = [f"f{k:03d}" for k in range(num_fields)]
    samples = []
    for i in range(12):
        fields = {name: RNG.randbytes(k % 7 + i) for k, name in enumerate(names)}
        fields["f000"] = RNG.randbytes(sizes[i % 3 > 0])
        samples.append({"__key__": f"{i}", **fields})
    with TarWriter(url) as writer:
        for sample in samples:
            writer.write(sample)
    save_index(writer.index, url)
    return samples


def all_places(catalog: Catalog) -> tuple[np.ndarray, np.ndarray]:
    counts = catalog.counts
    shards = np.repeat(np.arange(len(counts)), counts)
    rows = np.concatenate([np.arange(count) for count in counts.tolist()])
    return shards, rows


def forward(catalog: Catalog, **options) -> list[Sample]:
    return [
        {**sample, "__url__": url}
        for url in catalog.urls
        for sample in read_samples(url, **options)
    ]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    return found(written(tmp_path_factory.mktemp("reading")))


@pytest.fixture(scope="module")
def remote(catalog) -> Catalog:
    for url in catalog.urls:
        name = url.rpartition("/")[2]
        write_bytes(f"memory://reading/{name}", Path(url).read_bytes())
        write_bytes(f"memory://reading/{name}.npz", Path(f"{url}.npz").read_bytes())
    return found("memory://reading/x-*.tar")


@pytest.fixture(params=["local", "store", "store with a cache"])
def reader(request, catalog, remote, tmp_path) -> SampleReader:
    if request.param == "local":
        return SampleReader(catalog)
    cache = PartCache(f"{tmp_path}/cache", 1 << 24, 5000)
    return SampleReader(remote, cache=cache if "cache" in request.param else None)


class TestPlaces:
    def test_forward(self, reader):
        expected = forward(reader.catalog)
        assert reader.read(*all_places(reader.catalog)) == expected
        assert [list(s) for s in reader.read([1], [2])] == [
            ["__key__", "__url__", "cls", "jpg"]
        ]

    def test_at_random_one_by_one_and_many_times(self, reader):
        expected = forward(reader.catalog)
        shards, rows = all_places(reader.catalog)
        order = np.random.default_rng(1).integers(0, len(rows), 300)
        samples = reader.read(shards[order], rows[order])
        assert samples == [expected[i] for i in order.tolist()]
        for i in order[:20].tolist():
            assert reader.read(shards[i : i + 1], rows[i : i + 1]) == [expected[i]]
        assert reader.read([], []) == []

    def test_of_a_selection(self, reader):
        expected = forward(reader.catalog)
        selected = reader.catalog.where(lambda c: c.has("json"))[::-1]
        again = SampleReader(selected)
        samples = again.read(*all_places(selected))
        assert samples == [s for s in expected if "json" in s][::-1]

    @pytest.mark.parametrize(
        "fields", [["cls"], ["json", "cls"], ["jpg"], ["none"], []]
    )
    def test_of_some_fields(self, reader, fields):
        expected = [
            {n: v for n, v in sample.items() if n.startswith("__") or n in fields}
            for sample in forward(reader.catalog)
        ]
        chosen = SampleReader(reader.catalog, fields=fields)
        shards, rows = all_places(reader.catalog)
        assert chosen.read(shards, rows) == expected
        assert chosen.read(shards[::-1], rows[::-1]) == expected[::-1]

    def test_what_is_not_wanted_is_not_read(self, catalog):
        with metered() as meter:
            SampleReader(catalog, fields=["cls"]).read(*all_places(catalog))
        small = meter.read_bytes
        with metered() as meter:
            SampleReader(catalog).read(*all_places(catalog))
        assert small < meter.read_bytes / 10

    @pytest.mark.parametrize("place", [(9, 0), (0, 13), (-1, 0), (0, -1)])
    def test_there_have_to_be_such_places(self, reader, place):
        with pytest.raises(IndexError):
            reader.read([0, place[0]], [0, place[1]])

    @settings(deadline=None)
    @given(st.lists(st.integers(0, len(MIXED) - 1), max_size=40), st.integers(1, 3))
    def test_any_places_with_few_open_files(self, catalog, order, max_open):
        expected = forward(catalog)
        shards, rows = all_places(catalog)
        with SampleReader(catalog, max_open=max_open) as reader:
            samples = reader.read(shards[order], rows[order])
            assert len(reader._open) <= max_open
        assert samples == [expected[i] for i in order]

    @pytest.mark.parametrize("sizes", [(5, 10), (5, 40_000), (39_000, 40_000)])
    @pytest.mark.parametrize("num_fields", [1, 2, 3, 4, 64, 65, 150])
    def test_samples_with_the_same_fields(
        self, tmp_path, monkeypatch, num_fields, sizes
    ):
        url = f"{tmp_path}/alike.tar"
        samples = samples_alike(url, num_fields, sizes)
        order = [7, 3, 11, 0, 3, 9]
        expected = [{**samples[i], "__url__": url} for i in order]
        with SampleReader(found(url)) as reader:
            assert reader.read([0] * 6, order) == expected
            assert [reader.read([0], [i])[0] for i in order] == expected
            # A system may give less than it was asked for.
            pread = os.pread
            monkeypatch.setattr(
                os, "pread", lambda fd, n, at: pread(fd, min(n, 999), at)
            )
            assert reader.read([0] * 6, order) == expected

    def test_what_is_read_is_not_held_beside_its_samples(self, tmp_path):
        url = f"{tmp_path}/alike.tar"
        fields = {"bin": bytes(20_000), "cls": b"7"}
        write_shard(url, ({"__key__": f"{i}", **fields} for i in range(1500)))
        with SampleReader(found(url)) as reader:
            reader.read([0, 0], [0, 2])
            tracemalloc.start()
            try:
                read = reader.read([0] * 1500, range(1499, -1, -1))
                num_bytes, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert len(read) == 1500
        assert num_bytes > 30_000_000
        assert peak < num_bytes + 3_000_000

    @pytest.mark.parametrize("sizes", [(5, 10), (5, 40_000), (39_000, 40_000)])
    def test_what_fails_is_told_with_its_place(self, tmp_path, monkeypatch, sizes):
        url = f"{tmp_path}/alike.tar"
        samples_alike(url, 3, sizes)
        with SampleReader(found(url)) as reader:
            _, begin, _ = reader.catalog.index(0).members(9)[0]
            failing = OSError(errno.EIO, os.strerror(errno.EIO))
            pread = os.pread

            def read(descriptor, num_bytes, offset):
                if offset == begin:
                    raise failing
                return pread(descriptor, num_bytes, offset)

            reader.read([0, 0, 0], [7, 3, 9])
            monkeypatch.setattr(os, "pread", read)
            with pytest.raises(StorageError, match=f"at byte {begin}: Input") as caught:
                reader.read([0, 0, 0], [7, 3, 9])
            assert caught.value.url == url
            assert caught.value.__cause__ is failing

    def test_what_fails_without_a_byte_to_read_is_told(self, tmp_path, monkeypatch):
        url = f"{tmp_path}/alike.tar"
        samples_alike(url, 1, (0, 0))
        with SampleReader(found(url)) as reader:
            reader.read([0, 0], [7, 3])

            def fail(descriptor, num_bytes, offset):
                raise OSError(errno.EIO, os.strerror(errno.EIO))

            monkeypatch.setattr(os, "pread", fail)
            with pytest.raises(StorageError, match=r"at byte \d+: Input"):
                reader.read([0, 0], [7, 3])


class TestTarsOfOthers:
    @pytest.mark.parametrize("form", FORMATS)
    def test_long_names_gaps_and_any_order_of_members(self, tmp_path, form):
        entries = []
        for i, sample in enumerate(make_samples(40, num_bytes=2000)):
            members = list(entries_of([sample | {"__key__": f"{'ä' * (i * 4)}/{i}"}]))
            RNG.shuffle(members)
            if i % 3 == 0:
                members.insert(1, Entry("README", b"r" * 50_000))
            if i % 5 == 0:
                members.insert(0, Entry("folder/", kind=tarfile.DIRTYPE))
            entries += members
        path = tmp_path / "others.tar"
        names = {"ustar": [e for e in entries if len(e.name.encode()) < 90]}
        path.write_bytes(make_tar(names.get(form, entries), FORMATS[form]))
        save_index(scan_shard(str(path)), str(path))
        catalog = found(str(path))
        expected = forward(catalog)
        shards, rows = all_places(catalog)
        with SampleReader(catalog) as reader:
            assert reader.read(shards, rows) == expected
            assert reader.read(shards[::-1], rows[::-1]) == expected[::-1]

    def test_a_learned_index(self, tmp_path):
        path = tmp_path / "plain.tar"
        path.write_bytes(make_tar(entries_of(make_samples(9))))
        catalog = Catalog.of_indexes([str(path)], [scan_shard(str(path))])
        assert catalog is not None
        with SampleReader(catalog) as reader:
            assert reader.read(*all_places(catalog)) == forward(catalog)

    def test_the_same_as_read_indexed(self, catalog):
        index = catalog.index(1)
        order = [5, 5, 0, *range(13), 12, 3, 4]
        samples = list(read_indexed(catalog.urls[1], index, order))
        shards = np.full(len(order), 1)
        named = [{**sample, "__url__": catalog.urls[1]} for sample in samples]
        assert SampleReader(catalog).read(shards, np.array(order)) == named


def _read_in_child(reader, shards, rows, pipe) -> None:
    pipe.send(reader.read(shards, rows))
    pipe.close()


class TestProcesses:
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_children_read_the_same(self, reader, method, tmp_path, catalog):
        if method == "spawn" and reader.catalog.urls != catalog.urls:
            reader = SampleReader(catalog)  # memory:// is its own in each process
        shards, rows = all_places(reader.catalog)
        expected = reader.read(shards, rows)
        context = multiprocessing.get_context(method)
        here, there = context.Pipe(duplex=False)
        child = context.Process(
            target=_read_in_child, args=(reader, shards, rows, there)
        )
        child.start()
        there.close()
        assert here.recv() == expected
        child.join()
        assert child.exitcode == 0
        assert reader.read(shards[::-1], rows[::-1]) == expected[::-1]

    def test_a_fork_while_the_locks_are_held_does_not_hang(self, catalog):
        reader = SampleReader(catalog)
        shards, rows = all_places(catalog)
        reader.read(shards, rows)
        with reader._lock, catalog._shards._lock:
            pid = os.fork()
            if pid == 0:
                got = reader.read(shards[:1], rows[:1])
                reader.close()
                os._exit(0 if got[0]["cls"] == b"0" else 1)
        assert os.waitpid(pid, 0)[1] == 0

    def test_a_pickle_has_nothing_open(self, catalog):
        reader = SampleReader(catalog)
        before = len(pickle.dumps(reader))
        reader.read([0], [0])
        data = pickle.dumps(reader)
        assert abs(len(data) - before) < 50
        again = pickle.loads(data)  # noqa: S301  # our own
        assert again.read([0], [1]) == reader.read([0], [1])

    def test_threads_share_one_reader_with_few_open_files(self, reader):
        few = SampleReader(reader.catalog, cache=reader._cache, max_open=2)
        expected = forward(reader.catalog)
        shards, rows = all_places(reader.catalog)

        def read(seed: int) -> bool:
            order = np.random.default_rng(seed).permutation(len(rows))
            samples = few.read(shards[order], rows[order])
            return samples == [expected[i] for i in order.tolist()]

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, range(40)))

    def test_files_are_closed_when_they_are_forgotten(self, tmp_path):
        catalog = found(written(tmp_path, make_samples(40, 10), 1))
        shards, rows = all_places(catalog)
        before = num_open()
        with SampleReader(catalog, max_open=7) as reader:
            for _ in range(3):
                reader.read(shards, rows)
                assert num_open() <= before + 7
        assert num_open() == before

    def test_as_many_shards_as_there_are_files_a_process_may_open(self, tmp_path):
        catalog = found(written(tmp_path, make_samples(700, 1), 1))
        expected = forward(catalog)
        shards, rows = all_places(catalog)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        try:
            reader = SampleReader(catalog)
            with ThreadPoolExecutor(4) as pool:
                answers = pool.map(reader.read, [shards] * 4, [rows] * 4)
                assert all(answer == expected for answer in answers)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_indexes_of_open_shards_are_kept_within_their_memory(
        self, catalog, monkeypatch
    ):
        monkeypatch.setattr("shardbuild.train.reading.INDEX_BYTES", 3000)
        reader = SampleReader(catalog)
        assert reader.read(*all_places(catalog)) == forward(catalog)
        assert reader._num_index_bytes <= 3000
        assert sum(s.places.num_bytes for s in reader._open.values()) <= 3000


class TestDamage:
    def test_a_truncated_shard(self, tmp_path):
        catalog = found(written(tmp_path))
        os.truncate(catalog.urls[1], 100_000)
        with pytest.raises(TruncatedShardError) as caught:
            SampleReader(catalog).read([1], [0])
        assert (caught.value.url, caught.value.offset) == (catalog.urls[1], 100_000)

    def test_a_shard_that_is_truncated_while_it_is_open(self, tmp_path):
        catalog = found(written(tmp_path))
        reader = SampleReader(catalog)
        (first,) = reader.read([1], [0])
        os.truncate(catalog.urls[1], 100_000)
        assert reader.read([1], [0]) == [first]
        for rows in ([12], list(range(13))):
            with pytest.raises(TruncatedShardError) as caught:
                reader.read([1] * len(rows), rows)
            assert caught.value.url == catalog.urls[1]
            assert caught.value.offset <= 100_000

    def test_a_shard_that_grew(self, tmp_path):
        catalog = found(written(tmp_path))
        with Path(catalog.urls[1]).open("ab") as file:
            file.write(bytes(512))
        with pytest.raises(ManifestError, match="its index is of"):
            SampleReader(catalog).read([1], [0])

    def test_a_missing_shard(self, tmp_path):
        catalog = found(written(tmp_path))
        Path(catalog.urls[1]).unlink()
        with pytest.raises(StorageError, match=r"x-01\.tar"):
            SampleReader(catalog).read([0, 1], [0, 0])

    def test_other_samples_of_the_same_size_are_told_by_the_first_name(self, tmp_path):
        samples = make_samples(20)
        catalog = found(written(tmp_path, samples, 10))
        others = [{**s, "__key__": s["__key__"].replace("dir", "Dir")} for s in samples]
        before = Path(catalog.urls[0]).read_bytes()
        (tmp_path / "b").mkdir()
        written(tmp_path / "b", others, 10)
        after = (tmp_path / "b" / "x-00.tar").read_bytes()
        assert len(before) == len(after)
        Path(catalog.urls[0]).write_bytes(after)
        with pytest.raises(ManifestError, match="was replaced"):
            SampleReader(catalog).read([0], [0])

    def test_a_shard_that_is_replaced_under_the_reader(self, tmp_path):
        samples = make_samples(20)
        catalog = found(written(tmp_path, samples, 10))
        reader = SampleReader(catalog, max_open=1)
        expected = reader.read([0, 1], [3, 3])
        copy = tmp_path / "copy"
        copy.write_bytes(Path(catalog.urls[0]).read_bytes()[::-1])
        copy.replace(catalog.urls[0])
        with pytest.raises(ShardbuildError, match=r"changed|replaced"):
            reader.read([0], [3])
        assert reader.read([1], [3]) == expected[1:]

    def test_the_same_bytes_written_again_are_a_change_too(self, tmp_path):
        catalog = found(written(tmp_path))
        reader = SampleReader(catalog)
        reader.read([0], [0])
        data = Path(catalog.urls[0]).read_bytes()
        Path(catalog.urls[0]).write_bytes(data)
        reader.close()
        with pytest.raises(StorageError, match="has changed since"):
            reader.read([0], [0])


class TestStores:
    def put(self, shaped, catalog) -> Catalog:
        """The catalog's shards on the shaped server."""
        for url in catalog.urls:
            name = url.rpartition("/")[2]
            shaped.put(f"train/{name}", Path(url).read_bytes())
        urls = [
            shaped.s3_url(f"train/{url.rpartition('/')[2]}") for url in catalog.urls
        ]
        indexes = [catalog.index(i) for i in range(len(urls))]
        made = Catalog.of_indexes(urls, indexes, shaped.s3_options)
        assert made is not None
        return made

    def test_all_s3(self, s3_bucket, catalog, tmp_path):
        for url in catalog.urls:
            for name in (url, f"{url}.npz"):
                write_bytes(
                    s3_bucket.join(name.rpartition("/")[2]),
                    Path(name).read_bytes(),
                    storage_options=s3_bucket.storage_options,
                )
        options = {"storage_options": s3_bucket.storage_options}
        there = found(s3_bucket.join("x-*.tar"), **options)
        assert there.counts.tolist() == catalog.counts.tolist()
        expected = forward(there, **options)
        shards, rows = all_places(there)
        order = np.random.default_rng(1).permutation(len(rows))
        cache = PartCache(f"{tmp_path}/cache", 1 << 24, 1 << 16)
        moved = []
        for one in (None, cache, cache):
            with metered() as meter, SampleReader(there, cache=one) as reader:
                samples = reader.read(shards[order], rows[order])
            assert samples == [expected[i] for i in order.tolist()]
            moved.append(meter.read_bytes)
        assert min(moved[:2]) > 1_000_000
        assert moved[2] < 20_000  # all came out of the cache

    def test_a_slow_store_that_fails_now_and_then(self, shaped, catalog):
        there = self.put(shaped, catalog)
        expected = forward(catalog)
        shards, rows = all_places(there)
        order = np.random.default_rng(2).permutation(len(rows))
        reader = SampleReader(there)
        for ways in ({"fail": 2}, {"cut": 2}, {"short": 2}, {"latency": 0.01}):
            shaped.reset()
            shaped.set(**ways)
            samples = reader.read(shards[order], rows[order])
            assert [s["jpg"] for s in samples] == [
                expected[i]["jpg"] for i in order.tolist()
            ]

    def test_shards_are_looked_at_and_ranges_asked_for_in_parallel(
        self, shaped, catalog
    ):
        there = self.put(shaped, catalog)
        shards, rows = all_places(there)
        shaped.set(latency=0.02)
        SampleReader(there).read(shards[::2], rows[::2])
        counts = shaped.set(latency=0.0)
        assert counts["HEAD"] == len(there.urls)
        assert 4 <= counts["peak"] <= 32

    def test_a_store_that_always_fails_is_an_error_that_names_the_shard(
        self, shaped, catalog
    ):
        there = self.put(shaped, catalog)
        shaped.set(fail=10_000, status=403)
        with pytest.raises(StorageError, match=r"train/x-02\.tar"):
            SampleReader(there).read([2], [0])

    @pytest.mark.parametrize("is_cached", [False, True])
    def test_a_shard_that_changes_between_two_reads(
        self, shaped, catalog, tmp_path, is_cached
    ):
        there = self.put(shaped, catalog)
        cache = PartCache(f"{tmp_path}/c", 1 << 24, 1 << 14) if is_cached else None
        reader = SampleReader(there, cache=cache, max_open=1)
        (before,) = reader.read([0], [0])
        data = Path(catalog.urls[0]).read_bytes()
        shaped.put("train/x-00.tar", data[::-1])
        with pytest.raises(StorageError, match=r"train/x-00\.tar"):
            reader.read([0], [12])  # still open: another version is not read
        reader.read([1], [0])
        with pytest.raises(StorageError, match="has changed since"):
            reader.read([0], [0])
        shaped.put("train/x-00.tar", data)
        assert reader.read([0], [0]) == [before]

    def test_a_shard_that_was_replaced_since_the_manifest_was_made(
        self, bucket, catalog
    ):
        there = {"storage_options": bucket.storage_options}
        pairs = [f"{key}={value}" for key, value in bucket.storage_options.items()]
        options = [word for pair in pairs for word in ("--storage-option", pair)]
        names = [url.rpartition("/")[2] for url in catalog.urls]
        for name, url in zip(names, catalog.urls, strict=True):
            write_bytes(bucket.join(name), Path(url).read_bytes(), **there)
        manifest = bucket.join("x.json")
        index = ["index", *map(bucket.join, names), "--manifest", manifest, *options]
        assert main(index) == 0
        with SampleReader(found(manifest, **there)) as reader:
            before = reader.read([0, 1], [3, 3])
        data = bytearray(Path(catalog.urls[0]).read_bytes())
        at = data.rindex(b"}")
        data[at : at + 1] = b"x"  # as long as it was, and as well a tar
        write_bytes(bucket.join(names[0]), bytes(data), **there)
        with SampleReader(found(manifest, **there)) as reader:
            assert reader.read([1], [3]) == before[1:]
            with pytest.raises(ManifestError, match=rf"{names[0]}: is .*--overwrite"):
                reader.read([0], [3])
        # Elsewhere the same bytes have other versions: there nothing is known of them.
        copy = bucket.join("copy.json")
        write_bytes(copy, read_bytes(manifest, **there), **there)
        with SampleReader(found(copy, **there)) as reader:
            assert reader.read([0], [3]) == before[:1]
        assert main([*index, "--overwrite"]) == 0
        with SampleReader(found(manifest, **there)) as reader:
            assert reader.read([0, 1], [3, 3]) == before

    def test_a_truncated_shard(self, shaped, catalog):
        there = self.put(shaped, catalog)
        data = Path(catalog.urls[0]).read_bytes()
        shaped.put("train/x-00.tar", data[:50_000])
        with pytest.raises(TruncatedShardError) as caught:
            SampleReader(there).read([0], [0])
        assert caught.value.offset == 50_000

    def test_a_fork_while_a_store_is_read(self, shaped, catalog):
        there = self.put(shaped, catalog)
        reader = SampleReader(there)
        shards, rows = all_places(there)
        expected = reader.read(shards, rows)
        ended = threading.Event()

        def go_on() -> None:
            while not ended.is_set():
                reader.read(shards[:5], rows[:5])

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            here, there_ = multiprocessing.get_context("fork").Pipe(duplex=False)
            child = multiprocessing.get_context("fork").Process(
                target=_read_in_child, args=(reader, shards, rows, there_)
            )
            child.start()
            there_.close()
            assert here.recv() == expected
            child.join()
        finally:
            ended.set()
            thread.join()


def test_a_large_member_is_read_once_into_its_own_bytes(tmp_path):
    big = RNG.randbytes(3 << 20)
    samples = [{"__key__": f"{i}", "bin": big, "cls": b"1"} for i in range(3)]
    catalog = found(written(tmp_path, samples))
    with metered() as meter:
        got = SampleReader(catalog).read([0, 0], [2, 0])
    assert [sample["bin"] for sample in got] == [big, big]
    assert meter.read_bytes < 2 * len(big) + 20_000


def test_a_member_of_no_bytes(tmp_path):
    samples = [{"__key__": f"{i}", "cls": b"", "txt": b""} for i in range(3)]
    catalog = found(written(tmp_path, samples))
    expected = [{**sample, "__url__": catalog.urls[0]} for sample in samples]
    assert SampleReader(catalog).read([0] * 3, range(3)) == expected
    assert SampleReader(catalog).read([0] * 2, [2, 0]) == expected[2::-2]


def test_a_stream_of_bytes_is_what_tarfile_finds(catalog):
    with tarfile.open(catalog.urls[0]) as tar:
        members = {
            member.name: cast("BinaryIO", tar.extractfile(member)).read()
            for member in tar
        }
    samples = SampleReader(catalog).read([0] * 13, range(13))
    assert members == {
        f"{sample['__key__']}.{name}": value
        for sample in samples
        for name, value in sample.items()
        if not name.startswith("__")
    }
