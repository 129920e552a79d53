"""Google's resumable uploads: what the store did not keep is sent again."""

from __future__ import annotations

import os
from typing import Any

import pytest

from shardbuild.errors import StorageError
from shardbuild.storage import metered, open_atomic, read_bytes, write_bytes
from shardbuild.storage.multipart import PART_BYTES
from shardbuild.storage.resumable import is_zonal


@pytest.fixture
def tamper(monkeypatch):
    """Change what goes to the server, or what comes back, by a function."""
    from gcsfs.core import GCSFileSystem

    request = GCSFileSystem._request

    def with_way(way):
        async def changed(self, method, path, *args, **kwargs):
            return await way(request, self, method, path, *args, **kwargs)

        monkeypatch.setattr(GCSFileSystem, "_request", changed)

    return with_way


def test_a_store_that_keeps_less_than_a_part_gets_the_rest(gcs_bucket, tamper):
    """It may keep any multiple of 256 KiB of what it was sent."""
    import io

    asked: list[str] = []

    async def keep_less(request, fs, method, path, *args, **kwargs):
        where = kwargs.get("headers", {}).get("Content-Range", "")
        asked.append(where)
        if method == "PUT" and len(asked) == 2:
            start = int(where.removeprefix("bytes ").partition("-")[0])
            kept = kwargs["data"].getvalue()[: 1 << 20]
            kwargs["data"] = io.BytesIO(kept)
            stop = start + len(kept) - 1
            kwargs["headers"] = {
                **kwargs["headers"],
                "Content-Range": f"bytes {start}-{stop}/*",
            }
        return await request(fs, method, path, *args, **kwargs)

    tamper(keep_less)
    url, options = gcs_bucket.join("x"), gcs_bucket.storage_options
    data = os.urandom(2 * PART_BYTES + 7)
    write_bytes(url, data, storage_options=options)
    assert asked[1] == f"bytes 0-{PART_BYTES - 1}/*"
    assert asked[2] == f"bytes {1 << 20}-{PART_BYTES - 1}/*"
    assert asked[-1].endswith(f"-{len(data) - 1}/{len(data)}")
    assert read_bytes(url, storage_options=options) == data


def test_a_store_that_keeps_nothing_is_an_error(gcs_bucket, tamper):
    async def keep_nothing(request, fs, method, path, *args, **kwargs):
        if method == "PUT":
            return 308, {}, None, b""
        return await request(fs, method, path, *args, **kwargs)

    tamper(keep_nothing)
    url, options = gcs_bucket.join("x"), gcs_bucket.storage_options
    with pytest.raises(StorageError, match="keeps no byte from 0 on"):
        write_bytes(url, bytes(PART_BYTES + 1), storage_options=options)
    assert gcs_bucket.keys() == []


def test_a_lost_connection_is_asked_for_again(gcs_bucket, tamper):
    lost: list[str] = []

    async def lose(request, fs, method, path, *args, **kwargs):
        if len(lost) < 3:
            lost.append(method)
            raise ConnectionResetError("connection lost")
        return await request(fs, method, path, *args, **kwargs)

    tamper(lose)
    url, options = gcs_bucket.join("x"), gcs_bucket.storage_options
    write_bytes(url, b"12345", storage_options=options)
    assert lost == ["POST"] * 3
    assert read_bytes(url, storage_options=options) == b"12345"


def test_small_is_one_request_and_large_one_for_each_part(gcs_bucket):
    options = gcs_bucket.storage_options
    for num_bytes, num_requests in (
        (0, 1),
        (5, 1),
        (PART_BYTES, 1),
        (PART_BYTES + 1, 2),
    ):
        with metered() as meter:
            url = gcs_bucket.join(f"{num_bytes}")
            write_bytes(url, bytes(num_bytes), storage_options=options)
        assert (meter.write_requests, meter.written_bytes) == (num_requests, num_bytes)


def test_discarding_twice_and_after_others_did(gcs_bucket):
    options = gcs_bucket.storage_options
    file: Any = open_atomic(gcs_bucket.join("x"), storage_options=options)
    file.write(bytes(PART_BYTES + 1))
    file._in_flight.result()
    file._run_to_discard(file._requests.abort(file._location))
    file.discard()
    file.discard()
    assert gcs_bucket.keys() == []


def test_a_bucket_alone_is_no_object(gcs_bucket):
    with pytest.raises(StorageError, match="names no object"):
        open_atomic(gcs_bucket.url, storage_options=gcs_bucket.storage_options)


def test_zonal_buckets_are_left_to_gcsfs(gcs_bucket):
    fs, name = gcs_bucket.filesystem()

    class Zonal:
        loop = fs.loop

        def split_path(self, path):
            return path.split("/", 1)

        async def _is_zonal_bucket(self, bucket):
            if bucket == "unknown":
                raise FileNotFoundError(bucket)
            return bucket == "zonal"

    assert is_zonal(Zonal(), "zonal/x")
    assert not is_zonal(Zonal(), "regional/x")
    assert not is_zonal(object(), f"{name}/x")
    with pytest.raises(StorageError, match="no such file"):
        is_zonal(Zonal(), "unknown/x")
