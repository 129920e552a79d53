"""The main job on S3 and GCS: the same bytes as on disk, whatever happens."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fsspec.asyn import sync_wrapper

import shardbuild as sb
from shardbuild.storage import list_names, metered, read_bytes, write_bytes
from shardbuild.storage.multipart import PART_BYTES
from tests.building import (
    PHOTOS,
    assert_conserved,
    digests,
    make_shards,
)
from tests.servers import Bucket
from tests.stores_runs import ROOT, Runs

OnDisk = Callable[..., dict[str, str]]

NUM_KILLS = {"seaweed": 10, "gcs": 5}
SHUFFLE: dict[str, Any] = {"order": "shuffle", "seed": 7, "maxcount": 12}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The real data set as shards of ten samples."""
    out = tmp_path_factory.mktemp("photos")
    sb.convert(str(PHOTOS), f"{out}/p-%06d.tar", label_from="folder", maxcount=10)
    return f"{out}/p.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """2 MB in five shards."""
    return make_shards(tmp_path_factory.mktemp("made"), 60, 12, max_bytes=60_000)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three shards, each of more than one part of an upload."""
    folder = tmp_path_factory.mktemp("large")
    rng = random.Random(0)
    with sb.ShardWriter(f"{folder}/in-%06d.tar", maxcount=30) as writer:
        for i in range(90):
            size = 280_000 + rng.randrange(20_000)
            writer.dwrite(f"{i:03d}", bin=rng.randbytes(size), cls=i % 5)
    shards = list(folder.glob("*.tar"))
    assert len(shards) == 3
    assert all(path.stat().st_size > PART_BYTES for path in shards)
    return f"{folder}/in.json"


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> OnDisk:
    """What the same call gives on the local disk: asked once for each call."""
    known: dict[str, dict[str, str]] = {}

    def convert(src: str, **options: Any) -> dict[str, str]:
        call = json.dumps([src, options])
        if call not in known:
            out = tmp_path_factory.mktemp("on-disk")
            sb.convert(src, f"{out}/s-%06d.tar", scheduler="sync", **options)
            known[call] = digests(out)
        return known[call]

    return convert


def put_folder(bucket: Bucket, folder: Path, name: str) -> str:
    """Copy a local folder into a bucket; its url, with a slash at the end."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]

    def put(path: Path) -> None:
        url = bucket.join(f"{name}/{path.relative_to(folder)}")
        write_bytes(url, path.read_bytes(), storage_options=bucket.storage_options)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, files))
    return bucket.join(f"{name}/")


def put_shards(bucket: Bucket, manifest: str, name: str = "in") -> str:
    """Copy a data set into a bucket; the url of its manifest."""
    path = Path(manifest)
    return put_folder(bucket, path.parent, name) + path.name


def keys_below(bucket: Bucket, prefix: str) -> list[str]:
    keys = bucket.keys()
    return [key for key in keys if key.startswith(prefix)]


def check_same(bucket: Bucket, out: str, expected: dict[str, str]) -> None:
    """A finished run left in ``out`` what it should, and nothing else anywhere."""
    # By its keys: SeaweedFS may list a folder for a while in which nothing is left.
    below = set(keys_below(bucket, f"{out}/"))
    assert below == {f"{out}/{name}" for name in [*expected, "s.report.json"]}
    for name, digest in expected.items():
        data = read_bytes(
            bucket.join(f"{out}/{name}"), storage_options=bucket.storage_options
        )
        assert hashlib.sha256(data).hexdigest() == digest, name
    assert bucket.pending_uploads() == []


@contextlib.contextmanager
def taken_port(port: int) -> Iterator[None]:
    """A port that nobody else can have, for we or another process has it."""
    with socket.socket() as sock:
        with contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            sock.listen()
        yield


class TestSameBytes:
    """As on the local disk, by every way, on every store."""

    def convert(self, bucket: Bucket, src: str, out: str, **options: Any) -> sb.Report:
        report = sb.convert(
            src,
            bucket.join(f"{out}/s-%06d.tar"),
            storage_options=bucket.storage_options,
            **options,
        )
        assert_conserved(report)
        return report

    def test_of_photographs_in_a_folder(self, bucket: Bucket, on_disk: OnDisk) -> None:
        # Moto takes its time for each file.
        folder = PHOTOS / "chelsea" if bucket.kind == "moto" else PHOTOS
        options = {**SHUFFLE, "label_from": "folder"}
        expected = on_disk(str(folder), **options)
        there = put_folder(bucket, folder, "photos")
        ways = {"spill": str(folder), "gather": there}
        for method, src in ways.items():
            report = self.convert(bucket, src, method, method=method, **options)
            assert report.num_written == len(list(folder.rglob("*.jpg")))
            check_same(bucket, method, expected)

    @pytest.mark.parametrize("method", ["stream", "gather", "spill"])
    def test_of_photographs_in_shards(
        self, bucket: Bucket, photos: str, on_disk: OnDisk, method: str
    ) -> None:
        options = {} if method == "stream" else SHUFFLE
        src = put_shards(bucket, photos)
        report = self.convert(bucket, src, "out", method=method, **options)
        assert report.num_written == 65
        check_same(bucket, "out", on_disk(photos, method=method, **options))
        found = sb.verify(
            bucket.join("out/s.json"), storage_options=bucket.storage_options
        )
        assert found.findings == ()
        assert found.num_samples == 65

    @pytest.mark.parametrize("bucket", ["seaweed", "gcs"], indirect=True)
    @pytest.mark.parametrize(
        ("order", "limits"),
        [
            ("keep", {"maxsize": 600_000}),
            ("sort:txt", {"maxcount": 25}),
            ("sort:cls", {"maxcount": 25, "maxsize": 600_000}),
        ],
    )
    def test_in_every_order_with_runs_merged(
        self,
        bucket: Bucket,
        made: str,
        on_disk: OnDisk,
        order: str,
        limits: dict[str, Any],
    ) -> None:
        src = put_shards(bucket, made)
        expected = on_disk(made, order=order, **limits)
        for method in ("gather", "spill"):
            options = {"order": order, "method": method, "memory": 1 << 20}
            report = self.convert(bucket, src, method, **options, **limits)
            check_same(bucket, method, expected)
            merged = {phase.name for phase in report.phases} & {"merge0", "merge1"}
            assert len(merged) == (2 if method == "spill" else 0)

    def test_of_shards_by_a_glob_without_an_index(
        self, bucket: Bucket, made: str, on_disk: OnDisk
    ) -> None:
        put_shards(bucket, made)
        clear(bucket, "in/", ".npz")
        expected = on_disk(made, **SHUFFLE)
        for method in ("gather", "spill"):
            src = bucket.join("in/in-*.tar")
            self.convert(bucket, src, method, method=method, **SHUFFLE)
            check_same(bucket, method, expected)

    @pytest.mark.parametrize("method", ["stream", "gather", "spill"])
    def test_of_shards_of_several_parts(
        self, bucket: Bucket, large: str, on_disk: OnDisk, method: str
    ) -> None:
        options: dict[str, Any] = {"method": method}
        if method != "stream":
            options |= {"order": "shuffle", "maxcount": 30}
        self.convert(bucket, put_shards(bucket, large), "out", **options)
        check_same(bucket, "out", on_disk(large, **options))
        found = sb.verify(
            bucket.join("out/s.json"), storage_options=bucket.storage_options
        )
        assert found.findings == ()

    def test_on_a_cluster_of_two(
        self, seaweed_bucket: Bucket, large: str, on_disk: OnDisk
    ) -> None:
        bucket = seaweed_bucket
        src = put_shards(bucket, large)
        with taken_port(8787):  # Dask's own choice: another cluster may have it
            options = {"order": "shuffle", "maxcount": 30, "method": "spill"}
            self.convert(bucket, src, "out", workers=2, **options)
        check_same(bucket, "out", on_disk(large, **options))


class TestCommandLine:
    """In a process that knows the store by the variables that users set."""

    def run(self, bucket: Bucket, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "shardbuild", *arguments],
            cwd=ROOT,
            env={**os.environ, **bucket.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @pytest.mark.parametrize("bucket", ["seaweed", "gcs"], indirect=True)
    def test_converts_and_verifies(
        self, bucket: Bucket, photos: str, on_disk: OnDisk
    ) -> None:
        src, dst = put_shards(bucket, photos), bucket.join("out/s-%06d.tar")
        order = ["--order", "shuffle", "--seed", "7", "--maxcount", "12"]
        self.run(bucket, "convert", src, dst, *order)
        check_same(bucket, "out", on_disk(photos, **SHUFFLE))
        assert "65 samples" in self.run(bucket, "verify", bucket.join("out/s.json"))

    def test_takes_storage_options(
        self, seaweed_bucket: Bucket, photos: str, on_disk: OnDisk
    ) -> None:
        bucket = seaweed_bucket
        src, dst = put_shards(bucket, photos), bucket.join("out/s-%06d.tar")
        pairs = [f"{key}={value}" for key, value in bucket.storage_options.items()]
        options = [word for pair in pairs for word in ("--storage-option", pair)]
        stranger = Bucket(bucket.url, {}, {}, bucket.kind)
        where = ["--scheduler", "processes", "--workers", "2"]
        self.run(stranger, "convert", src, dst, *options, *where)
        check_same(bucket, "out", on_disk(photos))


class Watched:
    """Shards that are committed, and whether they were written again since.

    S3 forgets an object's tags when it is written again; Google counts its
    generations. Times of S3 have seconds only, and an ETag is of the bytes.
    """

    def __init__(self, bucket: Bucket, out: str) -> None:
        self.bucket = bucket
        self.out = out
        self.marks: dict[str, str] = {}

    def note(self) -> int:
        """Mark what has been committed; the number of commit records."""
        fs, root = self.bucket.filesystem()
        url = self.bucket.join(f"{self.out}/.s.build/commits")
        names = list_names(url, storage_options=self.bucket.storage_options)
        for name in names:
            phase, _, number = name.removesuffix(".json").partition("-")
            path = f"{root}/{self.out}/s-{number}.tar"
            if phase in ("write", "stream") and path not in self.marks:
                self.marks[path] = self.mark(fs, path)
        return len(names)

    def mark(self, fs: Any, path: str) -> str:
        if self.bucket.kind == "gcs":
            return self.read_mark(fs, path)
        fs.put_tags(path, {"seen": "once"})
        return "once"

    def read_mark(self, fs: Any, path: str) -> str:
        if self.bucket.kind == "gcs":
            return str(fs.info(path)["generation"])
        return str(fs.get_tags(path).get("seen"))

    def check(self) -> None:
        """No committed shard was written again."""
        fs, _ = self.bucket.filesystem()
        assert {path: self.read_mark(fs, path) for path in self.marks} == self.marks


class TestKilled:
    """With all its threads and requests, at any moment."""

    @pytest.fixture(scope="class")
    @classmethod
    def runs(cls) -> Iterator[Runs]:
        with Runs() as runs:
            yield runs

    @pytest.mark.parametrize("method", ["stream", "gather", "spill"])
    @pytest.mark.parametrize("bucket", ["seaweed", "gcs"], indirect=True)
    def test_goes_on_to_the_same_bytes(
        self, runs: Runs, bucket: Bucket, large: str, on_disk: OnDisk, method: str
    ) -> None:
        num_kills = NUM_KILLS[bucket.kind]
        options = self.options_of(method)
        expected = on_disk(large, **options)
        src = put_shards(bucket, large)
        rng = random.Random(f"{method} {bucket.kind}")
        seconds = self.time_of_run(runs, bucket, src, options)
        killed = 0
        watched = Watched(bucket, "out")
        while killed < num_kills:
            self.start(runs, bucket, src, "out", options)
            if not runs.is_done(rng.random() * 0.7 * seconds) and runs.kill():
                killed += 1
                watched.check()
                watched.note()
                self.check_whole(bucket)
                continue
            watched.check()
            check_same(bucket, "out", expected)
            watched = Watched(bucket, "out")
            clear(bucket, "out/")
            seconds *= 0.9  # the machine is not as busy as when it was timed
        num_commits = watched.note()
        was_published = "s.json" in list_names(
            bucket.join("out"), bucket.storage_options
        )
        self.start(runs, bucket, src, "out", options)
        assert runs.is_done(600)
        watched.check()
        check_same(bucket, "out", expected)
        report = self.load_report(bucket)
        num_resumed = sum(phase["num_resumed"] for phase in report["phases"])
        # Killed while it cleaned up, the run that was killed is the one reported.
        assert num_resumed >= num_commits or was_published
        found = sb.verify(
            bucket.join("out/s.json"), storage_options=bucket.storage_options
        )
        assert found.findings == ()

    @pytest.mark.parametrize("method", ["stream", "gather", "spill"])
    def test_in_the_middle_of_an_upload(
        self,
        s3_bucket: Bucket,
        runs: Runs,
        large: str,
        on_disk: OnDisk,
        method: str,
    ) -> None:
        bucket = s3_bucket
        options = self.options_of(method)
        src = put_shards(bucket, large)
        for part in ("runs/", "s-"):
            if method != "spill" and part == "runs/":
                continue
            self.start(runs, bucket, src, "out", options)
            while not any(part in key for key in bucket.pending_uploads()):
                assert not runs.is_done(0)
            assert runs.kill()
            assert any(part in key for key in bucket.pending_uploads())
        self.start(runs, bucket, src, "out", options)
        assert runs.is_done(600)
        check_same(bucket, "out", on_disk(large, **options))

    def options_of(self, method: str) -> dict[str, Any]:
        if method == "stream":
            return {"method": method}
        return {"order": "shuffle", "maxcount": 30, "method": method}

    def start(
        self, runs: Runs, bucket: Bucket, src: str, out: str, options: dict[str, Any]
    ) -> None:
        runs.start(
            src,
            bucket.join(f"{out}/s-%06d.tar"),
            storage_options=bucket.storage_options,
            scheduler="threads",
            workers=2,
            **options,
        )

    def time_of_run(
        self, runs: Runs, bucket: Bucket, src: str, options: dict[str, Any]
    ) -> float:
        begin = time.perf_counter()
        self.start(runs, bucket, src, "timed", options)
        assert runs.is_done(600)
        seconds = time.perf_counter() - begin
        clear(bucket, "timed/")
        return seconds

    def check_whole(self, bucket: Bucket) -> None:
        """What has a final name is a whole shard; a manifest comes after them all."""
        options = bucket.storage_options
        names = list_names(bucket.join("out"), options)
        shards = [name for name in names if name.endswith(".tar")]
        for name in shards:
            url = bucket.join(f"out/{name}")
            samples = sb.read_samples(url, storage_options=options)
            assert sum(1 for _ in samples) == 30
        assert "s.json" not in names or len(shards) == 3

    def load_report(self, bucket: Bucket) -> dict[str, Any]:
        fs, root = bucket.filesystem()
        report: dict[str, Any] = json.loads(fs.cat_file(f"{root}/out/s.report.json"))
        return report


def clear(bucket: Bucket, prefix: str, suffix: str = "") -> None:
    fs, root = bucket.filesystem()
    for key in keys_below(bucket, prefix):
        if key.endswith(suffix):
            fs.rm_file(f"{root}/{key}")


class TestFinished:
    """What a later call finds where one has finished."""

    def test_the_same_call_writes_nothing(self, bucket: Bucket, made: str) -> None:
        src, options = put_shards(bucket, made), bucket.storage_options
        dst = bucket.join("out/s-%06d.tar")
        first = sb.convert(src, dst, storage_options=options, **SHUFFLE)
        before = stat_all(bucket)
        second = sb.convert(src, dst, storage_options=options, **SHUFFLE)
        assert stat_all(bucket) == before
        assert second == first

    def test_another_call_is_refused_or_replaces_all(
        self, bucket: Bucket, made: str, on_disk: OnDisk
    ) -> None:
        src, options = put_shards(bucket, made), bucket.storage_options
        dst = bucket.join("out/s-%06d.tar")
        sb.convert(src, dst, storage_options=options, maxcount=10)
        with pytest.raises(sb.DestinationError, match="overwrite") as caught:
            sb.convert(src, dst, storage_options=options, **SHUFFLE)
        assert bucket.join("out/s.json") in str(caught.value)
        sb.convert(src, dst, storage_options=options, overwrite=True, **SHUFFLE)
        check_same(bucket, "out", on_disk(made, **SHUFFLE))

    def test_input_that_has_changed_is_noticed(self, bucket: Bucket, made: str) -> None:
        src, options = put_shards(bucket, made), bucket.storage_options
        dst = bucket.join("out/s-%06d.tar")
        sb.convert(src, dst, storage_options=options, **SHUFFLE)
        fs, root = bucket.filesystem()
        data = bytearray(fs.cat_file(f"{root}/in/in-000001.tar"))
        data[700] ^= 1
        write_bytes(bucket.join("in/in-000001.tar"), data, storage_options=options)
        with pytest.raises(sb.DestinationError, match=r"in-000001.tar has changed"):
            sb.convert(src, dst, storage_options=options, **SHUFFLE)


def stat_all(bucket: Bucket) -> list[Any]:
    fs, root = bucket.filesystem()
    marks = ("LastModified", "ETag", "generation", "size")
    return [
        (path, *(info.get(mark) for mark in marks))
        for path, info in sorted(fs.find(root, detail=True).items())
    ]


class TestFailures:
    """Each names the url, and leaves no upload."""

    def test_of_a_job_in_the_middle_of_an_upload(
        self, s3_bucket: Bucket, large: str
    ) -> None:
        bucket = s3_bucket

        def fail_late(sample: sb.Sample) -> sb.Sample:
            if sample["__key__"] == "029":
                raise ArithmeticError("no 029")
            return sample

        with pytest.raises(sb.TransformError, match="no 029"):
            sb.convert(
                large,
                bucket.join("out/in-%06d.tar"),
                fail_late,
                storage_options=bucket.storage_options,
            )
        assert bucket.pending_uploads() == []
        assert keys_below(bucket, "out/in-000000.tar") == []

    def test_of_a_bucket_that_is_missing(self, bucket: Bucket, made: str) -> None:
        options = bucket.storage_options
        nowhere = f"{bucket.url}-none"
        for src in ("in/in.json", "in/in-000000.tar", "in/*.tar", "in/"):
            with pytest.raises(sb.StorageError) as caught:
                sb.convert(
                    f"{nowhere}/{src}",
                    bucket.join("out/s-%06d.tar"),
                    storage_options=options,
                )
            assert str(caught.value).startswith(f"{nowhere}/{src}: ")
        assert bucket.keys() == []
        if bucket.kind == "seaweed":  # makes a bucket when something is put there
            return
        with pytest.raises(sb.StorageError) as caught:
            sb.convert(made, f"{nowhere}/out/s-%06d.tar", storage_options=options)
        assert str(caught.value).startswith(f"{nowhere}/out")

    def test_of_a_missing_object(self, bucket: Bucket, made: str) -> None:
        src, options = put_shards(bucket, made), bucket.storage_options
        gone = bucket.join("in/in-000003.tar")
        fs, _ = bucket.filesystem()
        fs.rm_file(gone.partition("://")[2])
        dst = bucket.join("out/s-%06d.tar")
        with pytest.raises(sb.StorageError, match="no such file") as caught:
            sb.convert(src, dst, storage_options=options, **SHUFFLE)
        assert str(caught.value).startswith(f"{gone}: ")
        report = sb.convert(src, dst, storage_options=options, errors="skip", **SHUFFLE)
        assert report.num_written == 48
        (loss,) = report.losses
        assert (loss.url, loss.num_samples) == (gone, 12)

    def test_of_a_shard_that_ends_too_early(self, bucket: Bucket, made: str) -> None:
        options = bucket.storage_options
        data = Path(made).with_name("in-000000.tar").read_bytes()[:200_000]
        src = bucket.join("in/cut.tar")
        write_bytes(src, data, storage_options=options)
        limits: dict[str, Any] = {"maxcount": 5, "storage_options": options}
        dst = bucket.join("out/s-%06d.tar")
        for method in ("gather", "spill"):
            with pytest.raises(sb.TruncatedShardError) as caught:
                sb.convert(src, dst, method=method, overwrite=True, **limits)
            assert str(caught.value).startswith(f"{src}: at byte 200000: ")
        report = sb.convert(src, dst, overwrite=True, errors="skip", **limits)
        assert 0 < report.num_written < 12
        (loss,) = report.losses
        assert (loss.url, loss.offset) == (src, 200_000)

    def test_of_a_wrong_key(self, seaweed_bucket: Bucket, made: str) -> None:
        bucket = seaweed_bucket
        src = put_shards(bucket, made)
        wrong = {**bucket.storage_options, "secret": "another"}
        places = [(src, bucket.join("out/s-%06d.tar"), src)]
        places += [(made, bucket.join("out/s-%06d.tar"), bucket.join("out"))]
        for one, dst, named in places:
            with pytest.raises(sb.StorageError, match="permission denied") as caught:
                sb.convert(one, dst, storage_options=wrong)
            assert str(caught.value).startswith(named)


class TestRequests:
    @pytest.mark.parametrize("method", ["stream", "gather", "spill"])
    def test_are_all_counted_and_as_the_plan_said(
        self,
        seaweed_bucket: Bucket,
        large: str,
        monkeypatch: pytest.MonkeyPatch,
        method: str,
    ) -> None:
        """The plan is an upper bound, and at most twice what is asked for."""
        src, store = put_shards(seaweed_bucket, large), seaweed_bucket.storage_options
        options: dict[str, Any] = {"method": method, "storage_options": store}
        if method != "stream":
            options |= {"order": "shuffle", "maxcount": 30}
        dst = seaweed_bucket.join("out/s-%06d.tar")
        plan = sb.make_plan(src, dst, **options)
        asked = count_requests(monkeypatch)
        with metered() as meter:
            report = sb.convert(src, dst, scheduler="sync", **options)
        assert meter.read_requests == asked["get_object"]
        assert meter.write_requests == asked["put_object"] + asked["upload_part"]
        phases = {phase.name: phase for phase in report.phases}
        for step in plan.steps:
            if step.name in phases:
                assert phases[step.name].read_requests <= step.read_requests
                assert phases[step.name].write_requests <= step.write_requests
        num_read = sum(phase.read_requests for phase in report.phases)
        num_written = sum(phase.write_requests for phase in report.phases)
        assert plan.read_requests <= 2 * num_read
        assert plan.write_requests <= 2 * num_written

    def test_of_a_plan_are_few(
        self, seaweed_bucket: Bucket, large: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The head of each shard that has no index, and the start of one more."""
        src, store = put_shards(seaweed_bucket, large), seaweed_bucket.storage_options
        clear(seaweed_bucket, "in/", ".npz")
        asked = count_requests(monkeypatch)
        with metered() as meter:
            plan = sb.make_plan(
                src.replace("in.json", "in-00000{0..2}.tar"),
                seaweed_bucket.join("out/s-%06d.tar"),
                storage_options=store,
                maxcount=30,
            )
        assert plan.num_samples in range(88, 93)
        assert asked["get_object"] == 3 + 1
        assert meter.read_bytes <= 4 << 20

    @pytest.mark.parametrize("method", ["gather", "spill"])
    def test_of_a_folder_are_counted(self, bucket: Bucket, method: str) -> None:
        options: dict[str, Any] = {"storage_options": bucket.storage_options}
        for i in range(20):
            write_bytes(bucket.join(f"in/{i:02d}.bin"), bytes(10_000), **options)
        options |= {"method": method, "maxcount": 10}
        src, dst = bucket.join("in/"), bucket.join("out/s-%06d.tar")
        report = sb.convert(src, dst, **options)
        phase = {"gather": "write", "spill": "map"}[method]
        (moved,) = [one for one in report.phases if one.name == phase]
        assert moved.read_bytes in range(200_000, 210_000)
        assert moved.read_requests in range(20, 27)


def count_requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what is asked of S3 from here on, by the name of the call."""
    import s3fs

    asked: Counter[str] = Counter()
    call = s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        asked[method] += 1
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", sync_wrapper(counted))
    return asked
