"""Objects of every kind of store appear whole, at close."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from shardbuild.errors import StorageError
from shardbuild.storage import (
    exists,
    gopen,
    list_names,
    metered,
    open_atomic,
    read_bytes,
    remove_leftovers,
    write_bytes,
)
from shardbuild.storage.multipart import PART_BYTES

# With s3fs a part is sent when it is full: none, one, and more are different ways.
SIZES = [0, 1, 1000, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 7]


def write_and_fail(url: str, options, num_bytes: int) -> None:
    with open_atomic(url, storage_options=options) as file:
        file.write(bytes(num_bytes))
        raise KeyError


@pytest.mark.parametrize("num_bytes", SIZES)
def test_an_object_appears_whole_at_close(bucket, num_bytes):
    url, options = bucket.join("out/x.tar"), bucket.storage_options
    data = os.urandom(num_bytes)
    with open_atomic(url, storage_options=options) as file:
        for start in range(0, num_bytes, 3_000_000):
            file.write(data[start : start + 3_000_000])
        assert not exists(url, options)
        assert bucket.keys() == []
    assert read_bytes(url, storage_options=options) == data
    with gopen(url, storage_options=options) as opened:
        assert opened.read() == data
    assert bucket.pending_uploads() == []


@pytest.mark.parametrize("num_bytes", [0, 1000, 2 * PART_BYTES + 7])
def test_an_exception_leaves_no_object_and_no_upload(bucket, num_bytes):
    url, options = bucket.join("out/x.tar"), bucket.storage_options
    with pytest.raises(KeyError):
        write_and_fail(url, options, num_bytes)
    file = open_atomic(url, storage_options=options)
    file.write(bytes(num_bytes))
    del file
    gc.collect()
    file = open_atomic(url, storage_options=options)
    file.write(bytes(num_bytes))
    file.discard()
    with pytest.raises(ValueError, match="closed"):
        file.write(b"1")
    assert bucket.keys() == []
    assert bucket.pending_uploads() == []


def test_an_exception_leaves_the_object_that_was_there(bucket):
    url, options = bucket.join("x.tar"), bucket.storage_options
    write_bytes(url, b"old", storage_options=options)
    with pytest.raises(KeyError):
        write_and_fail(url, options, 2 * PART_BYTES)
    assert read_bytes(url, storage_options=options) == b"old"
    write_bytes(url, b"new", storage_options=options)
    assert read_bytes(url, storage_options=options) == b"new"


@pytest.mark.parametrize(
    "key", ["a b+c/x%20y.tar", "é/ü.tar", "a:b/c=d&e.tar", "[x]{y}*"]
)
def test_keys_with_odd_signs(bucket, key):
    url, options = bucket.join(key), bucket.storage_options
    write_bytes(url, b"123", storage_options=options)
    assert bucket.keys() == [key]
    with gopen(url, storage_options=options) as file:
        assert file.read() == b"123"


KILLED = """
import json, sys
from shardbuild.storage import open_atomic
url, options = sys.argv[1], json.loads(sys.argv[2])
file = open_atomic(url, storage_options=options)
file.write(bytes(20_000_000))
print("writing", flush=True)
sys.stdin.read()
"""


def test_a_killed_writer_leaves_only_what_remove_leftovers_removes(s3_bucket):
    import json

    options = s3_bucket.storage_options
    write_bytes(s3_bucket.join("out/train-000001.tar"), b"1", storage_options=options)
    other = open_atomic(s3_bucket.join("out/other.tar"), storage_options=options)
    deeper = open_atomic(s3_bucket.join("out/train-x/y"), storage_options=options)
    for file in (other, deeper):
        file.write(bytes(PART_BYTES + 1))
    argv = [sys.executable, "-c", KILLED, s3_bucket.join("out/train-000000.tar")]
    child = subprocess.Popen(
        [*argv, json.dumps(options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"writing\n"
        child.send_signal(signal.SIGKILL)
    left = {"out/train-000000.tar", "out/other.tar", "out/train-x/y"}
    assert set(s3_bucket.pending_uploads()) == left
    remove_leftovers(
        s3_bucket.join("out"),
        lambda name: name.startswith("train-"),
        storage_options=options,
    )
    assert set(s3_bucket.pending_uploads()) == {"out/other.tar", "out/train-x/y"}
    other.close()
    deeper.discard()
    assert s3_bucket.pending_uploads() == []
    assert s3_bucket.keys() == ["out/other.tar", "out/train-000001.tar"]


def test_many_leftovers_are_found_on_all_pages(moto_bucket, monkeypatch):
    fs, name = moto_bucket.filesystem()
    for number in range(30):
        fs.call_s3("create_multipart_upload", Bucket=name, Key=f"o/t-{number}")
    import s3fs

    call = s3fs.S3FileSystem._call_s3

    async def two_a_page(self, method, *akwarglist, **kwargs):
        if method == "list_multipart_uploads":
            kwargs["MaxUploads"] = 7
        return await call(self, method, *akwarglist, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", two_a_page)
    monkeypatch.setattr(
        s3fs.S3FileSystem,
        "call_s3",
        lambda self, *args, **kwargs: fsspec.asyn.sync(
            self.loop, self._call_s3, *args, **kwargs
        ),
    )
    options = moto_bucket.storage_options
    remove_leftovers(
        moto_bucket.join("o"),
        lambda name: name.startswith("t-"),
        storage_options=options,
    )
    monkeypatch.undo()
    assert moto_bucket.pending_uploads() == []


def test_a_missing_bucket_is_an_error_that_names_the_url(moto):
    options = moto.storage_options
    url = "s3://no-such-bucket-here/x.tar"
    with pytest.raises(StorageError, match="no such file") as caught:
        write_bytes(url, b"1", storage_options=options)
    assert caught.value.url == url
    with pytest.raises(StorageError, match="no such file"):
        write_bytes(url, bytes(PART_BYTES + 1), storage_options=options)
    remove_leftovers("s3://no-such-bucket-here/out", bool, storage_options=options)


def test_wrong_keys_are_an_error(seaweed_bucket):
    options = {**seaweed_bucket.storage_options, "secret": "wrong"}
    with pytest.raises(StorageError, match=r"x.tar: "):
        write_bytes(seaweed_bucket.join("x.tar"), b"1", storage_options=options)
    assert seaweed_bucket.keys() == []


def test_a_part_that_fails_for_good_leaves_nothing(moto_bucket, monkeypatch):
    import s3fs

    call = s3fs.S3FileSystem._call_s3

    async def failing(self, method, *akwarglist, **kwargs):
        if method == "upload_part" and kwargs["PartNumber"] == 2:
            raise PermissionError("denied")
        return await call(self, method, *akwarglist, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", failing)
    url, options = moto_bucket.join("x.tar"), moto_bucket.storage_options
    with pytest.raises(StorageError, match="permission denied"):
        write_bytes(url, bytes(4 * PART_BYTES), storage_options=options)
    assert moto_bucket.keys() == []
    assert moto_bucket.pending_uploads() == []


@pytest.mark.parametrize("method", ["upload_part", "complete_multipart_upload"])
def test_a_lost_answer_is_asked_for_again(s3_bucket, monkeypatch, method):
    """The request was done, but the connection broke before its answer."""
    import s3fs

    call = s3fs.S3FileSystem._call_s3
    lost: list[str] = []

    async def losing(self, name, *akwarglist, **kwargs):
        answer = await call(self, name, *akwarglist, **kwargs)
        if name == method and not lost:
            lost.append(name)
            raise ConnectionResetError("connection lost")
        return answer

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", losing)
    url, options = s3_bucket.join("x.tar"), s3_bucket.storage_options
    data = os.urandom(2 * PART_BYTES + 5)
    write_bytes(url, data, storage_options=options)
    assert lost == [method]
    assert read_bytes(url, storage_options=options) == data
    assert s3_bucket.pending_uploads() == []


def test_an_upload_that_was_aborted_by_others_is_an_error(seaweed_bucket):
    url, options = seaweed_bucket.join("x.tar"), seaweed_bucket.storage_options
    file = open_atomic(url, storage_options=options)
    file.write(bytes(PART_BYTES + 1))
    fs, name = seaweed_bucket.filesystem()
    file._collect()  # type: ignore[attr-defined]
    fs.clear_multipart_uploads(name)
    with pytest.raises(StorageError):
        file.close()
    assert seaweed_bucket.keys() == []


def test_a_file_collected_on_the_loop_s_own_thread_does_not_hang(moto_bucket):
    url, options = moto_bucket.join("x.tar"), moto_bucket.storage_options
    files = [open_atomic(url, storage_options=options)]
    files[0].write(bytes(PART_BYTES + 1))
    loop = files[0]._fs.loop  # type: ignore[attr-defined]

    async def forget() -> None:
        files.clear()
        gc.collect()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)

    asyncio.run_coroutine_threadsafe(forget(), loop).result(60)
    assert moto_bucket.pending_uploads() == []


def test_parts_grow_so_that_ten_thousand_are_enough(moto_bucket):
    options = moto_bucket.storage_options
    file = open_atomic(moto_bucket.join("x"), storage_options=options)
    total, sizes = 0, set()
    for number in range(10_000):
        file._num_parts = number  # type: ignore[attr-defined]
        size = file._part_bytes()  # type: ignore[attr-defined]
        assert size * file._max_in_flight() <= max(size, 64 << 20)  # type: ignore[attr-defined]
        sizes.add(size)
        total += size
    file.discard()
    assert total >= 5 << 40
    assert max(sizes) <= 5 << 30


def test_memory_has_no_half_object():
    url = "memory://uploads/x.tar"
    with pytest.raises(KeyError):
        write_and_fail(url, None, 100)
    assert not exists(url)
    with open_atomic(url) as file:
        file.write(b"123")
        file.writev([b"4", b"5"])
        assert not exists(url)
    assert read_bytes(url) == b"12345"


class ShelfFileSystem(LocalFileSystem):
    """A store without ``autocommit``, as far as we can know."""

    protocol = "shelf"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("shelf://"))


@pytest.fixture
def shelf(tmp_path):
    fsspec.register_implementation("shelf", ShelfFileSystem, clobber=True)
    return f"shelf://{tmp_path}"


def test_any_other_store_moves_a_temporary_object(shelf, tmp_path):
    url = f"{shelf}/out/x.tar"
    with open_atomic(url) as file:
        file.write(b"12345")
        assert not exists(url)
    assert read_bytes(url) == b"12345"
    with pytest.raises(KeyError):
        write_and_fail(url, None, 100)
    assert read_bytes(url) == b"12345"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.tar"]


def test_signs_of_a_glob_are_no_glob_when_moved(tmp_path, shelf):
    for name in ("[ab].tar", "*.tar", "a.tar"):
        write_bytes(f"{shelf}/{name}", name.encode())
    write_bytes(f"dir://[cd].tar::{shelf}", b"copied", storage_options=None)
    assert list_names(shelf) == ["*.tar", "[ab].tar", "[cd].tar", "a.tar"]
    assert read_bytes(f"{shelf}/[cd].tar") == b"copied"
    assert (tmp_path / "*.tar").read_bytes() == b"*.tar"


def test_leftovers_in_any_other_store(shelf, tmp_path):
    file = open_atomic(f"{shelf}/train-0.tar")
    file.write(b"1")
    other = open_atomic(f"{shelf}/other.tar")
    remove_leftovers(shelf, lambda name: name.startswith("train-"))
    assert [name[:7] for name in list_names(shelf)] == [".other."]
    remove_leftovers(f"{shelf}/none", bool)
    other.discard()
    with pytest.raises(StorageError):
        file.close()


def test_a_cache_in_front_is_passed_by(moto_bucket):
    options = {"s3": moto_bucket.storage_options, "same_names": True}
    url = "simplecache::" + moto_bucket.join("x.tar")
    with open_atomic(url, storage_options=options) as file:
        file.write(b"12345")
        assert moto_bucket.keys() == []
    assert moto_bucket.keys() == ["x.tar"]
    assert read_bytes(url, storage_options=options) == b"12345"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("zip://x.tar::{folder}/x.zip", "archive"),
        ("s3://bucket-only", "names no object"),
    ],
)
def test_what_cannot_be_published_is_refused(tmp_path, moto, url, problem):
    (tmp_path / "x.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    options = moto.storage_options if url.startswith("s3") else None
    with pytest.raises(StorageError, match=problem):
        open_atomic(url.format(folder=tmp_path), storage_options=options)


def test_a_small_object_is_one_request(moto_bucket):
    with metered() as meter:
        write_bytes(
            moto_bucket.join("x"), b"1", storage_options=moto_bucket.storage_options
        )
    assert meter.write_requests == 1


def test_parts_travel_together(shaped):
    shaped.set(latency=0.2)
    data = os.urandom(4 * PART_BYTES)
    url, options = shaped.s3_url("parts.bin"), shaped.s3_options
    with metered() as meter:
        write_bytes(url, data, storage_options=options)
    assert meter.write_requests == 4
    assert shaped.set(latency=0.0)["peak"] == 4
    assert read_bytes(url, storage_options=options) == data
