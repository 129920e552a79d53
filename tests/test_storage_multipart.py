"""S3's multipart uploads: parts of allowed sizes, in bounded memory, surely ended."""

from __future__ import annotations

import os
from typing import Any

import pytest

from shardbuild.errors import StorageError
from shardbuild.storage import open_atomic, read_bytes, write_bytes
from shardbuild.storage.multipart import PART_BYTES


@pytest.fixture
def requests(monkeypatch):
    """Every request that s3fs makes from here on: method and arguments."""
    import s3fs

    call = s3fs.S3FileSystem._call_s3
    made: list[tuple[str, dict[str, Any]]] = []

    async def note(self, method, *akwarglist, **kwargs):
        made.append((method, kwargs))
        return await call(self, method, *akwarglist, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", note)
    return made


def part_sizes(requests) -> list[int]:
    return [
        kwargs["Body"].getbuffer().nbytes
        for method, kwargs in requests
        if method == "upload_part"
    ]


@pytest.mark.parametrize("step", [PART_BYTES * 3 + 5, 3_000_001, 1_000_000])
def test_parts_are_full_but_for_the_last(moto_bucket, requests, step):
    url, options = moto_bucket.join("x"), moto_bucket.storage_options
    data = os.urandom(3 * PART_BYTES + 5)
    with open_atomic(url, storage_options=options) as file:
        for start in range(0, len(data), step):
            file.write(data[start : start + step])
    assert sorted(part_sizes(requests)) == [5, PART_BYTES, PART_BYTES, PART_BYTES]
    assert read_bytes(url, storage_options=options) == data


def test_what_fits_in_one_part_is_one_request(moto_bucket, requests):
    url, options = moto_bucket.join("x"), moto_bucket.storage_options
    write_bytes(url, bytes(PART_BYTES), storage_options=options)
    assert [method for method, _ in requests] == ["put_object"]


def test_a_store_that_wants_parts_of_one_size_gets_them(moto_bucket):
    options = {**moto_bucket.storage_options, "fixed_upload_size": True}
    file: Any = open_atomic(moto_bucket.join("x"), storage_options=options)
    sizes = set()
    for number in (0, 999, 5000, 9999):
        file._num_parts = number
        sizes.add(file._part_bytes())
    file.discard()
    assert len(sizes) == 1
    assert sizes.pop() * 10_000 >= 500 << 30


def test_no_more_parts_are_kept_than_travel_at_once(moto_bucket, requests, monkeypatch):
    from shardbuild.storage import multipart

    monkeypatch.setattr(multipart, "_MAX_IN_FLIGHT", 2)
    url, options = moto_bucket.join("x"), moto_bucket.storage_options
    file: Any = open_atomic(url, storage_options=options)
    for _ in range(12):
        file.write(bytes(PART_BYTES // 2))
        assert len(file._in_flight) <= 2
    file.close()
    assert len(part_sizes(requests)) == 6


def test_the_user_s_own_arguments_go_with_every_upload(moto_bucket, requests):
    options = {
        **moto_bucket.storage_options,
        "s3_additional_kwargs": {"StorageClass": "STANDARD_IA"},
    }
    for name, num_bytes in (("small", 5), ("large", PART_BYTES + 1)):
        url = moto_bucket.join(name)
        write_bytes(url, bytes(num_bytes), storage_options=options)
    fs, bucket = moto_bucket.filesystem()
    for name in ("small", "large"):
        assert fs.info(f"{bucket}/{name}")["StorageClass"] == "STANDARD_IA"


def test_a_lost_completion_is_not_taken_for_another_object(seaweed_bucket, monkeypatch):
    """The upload is gone, and what lies at the key is not what we sent."""
    import s3fs

    call = s3fs.S3FileSystem._call_s3

    async def gone(self, method, *akwarglist, **kwargs):
        if method == "complete_multipart_upload":
            raise FileNotFoundError("NoSuchUpload")
        return await call(self, method, *akwarglist, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", gone)
    url, options = seaweed_bucket.join("x"), seaweed_bucket.storage_options
    num_bytes = PART_BYTES + 1
    fs, name = seaweed_bucket.filesystem()
    fs.pipe_file(f"{name}/x", bytes(num_bytes))
    with pytest.raises(StorageError):
        write_bytes(url, bytes(num_bytes), storage_options=options)
    assert seaweed_bucket.pending_uploads() == []


def test_a_checksum_that_the_store_gives_is_given_back(
    moto_bucket, requests, monkeypatch
):
    import s3fs

    call = s3fs.S3FileSystem._call_s3

    async def checked(self, method, *akwarglist, **kwargs):
        answer = await call(self, method, *akwarglist, **kwargs)
        return {**answer, "ChecksumSHA256": "c"} if method == "upload_part" else answer

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", checked)
    url, options = moto_bucket.join("x"), moto_bucket.storage_options
    write_bytes(url, bytes(PART_BYTES + 1), storage_options=options)
    (parts,) = (
        kw["MultipartUpload"]["Parts"] for _, kw in requests if "MultipartUpload" in kw
    )
    assert [part["ChecksumSHA256"] for part in parts] == ["c", "c"]
