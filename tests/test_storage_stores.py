"""What is there, and taking it away, on disk and in every kind of store."""

from __future__ import annotations

import shutil

import pytest

from shardbuild.errors import StorageError
from shardbuild.storage import (
    exists,
    free_bytes,
    list_names,
    remove,
    remove_tree,
    stat_url,
    stat_urls,
    write_bytes,
)


@pytest.fixture(params=["local", "memory", "moto", "seaweed", "gcs"])
def place(request, tmp_path):
    """A clean folder: its url and options."""
    if request.param == "local":
        return str(tmp_path), None
    if request.param == "memory":
        return f"memory://{request.node.name}", None
    bucket = request.getfixturevalue(f"{request.param}_bucket")
    return bucket.join("folder"), bucket.storage_options


def put(place, *names: str) -> None:
    url, options = place
    for name in names:
        write_bytes(f"{url}/{name}", name.encode(), storage_options=options)


def test_a_fingerprint_follows_the_content(place):
    url, options = place
    file = f"{url}/x.tar"
    write_bytes(file, b"12345", storage_options=options)
    first = stat_url(file, options)
    assert (first.url, first.num_bytes) == (file, 5)
    assert stat_url(file, options) == first
    assert stat_urls([file, file], options) == [first, first]
    write_bytes(file, b"54321", storage_options=options)
    second = stat_url(file, options)
    assert second.num_bytes == 5
    assert second.fingerprint != first.fingerprint


def test_what_is_not_there(place):
    url, options = place
    missing = f"{url}/none.tar"
    assert not exists(missing, options)
    with pytest.raises(StorageError, match="no such file") as caught:
        stat_url(missing, options)
    assert caught.value.url == missing
    put(place, "x.tar")
    with pytest.raises(StorageError, match="no such file"):
        stat_urls([f"{url}/x.tar", missing], options)
    assert list_names(f"{url}/none", options) == []
    remove(missing, options)
    remove_tree(f"{url}/none", options)


def test_a_folder_has_no_size(place):
    url, options = place
    put(place, "sub/x.tar")
    assert exists(f"{url}/sub", options)
    with pytest.raises(StorageError, match=r"is a folder|no such file"):
        stat_url(f"{url}/sub", options)


def test_names_are_those_directly_inside_and_never_old(place):
    url, options = place
    put(place, "b.tar", "a.tar", "sub/c.tar")
    assert list_names(url, options) == ["a.tar", "b.tar", "sub"]
    assert list_names(f"{url}/", options) == ["a.tar", "b.tar", "sub"]
    remove(f"{url}/a.tar", options)
    assert list_names(url, options) == ["b.tar", "sub"]
    put(place, "d.tar")
    assert list_names(url, options) == ["b.tar", "d.tar", "sub"]
    assert not exists(f"{url}/a.tar", options)


def test_what_others_write_is_seen(bucket):
    options = bucket.storage_options
    assert list_names(bucket.join("f"), options) == []
    assert not exists(bucket.join("f/x"), options)
    fs, name = bucket.filesystem()
    fs.pipe_file(f"{name}/f/x", b"1")
    assert list_names(bucket.join("f"), options) == ["x"]
    assert exists(bucket.join("f/x"), options)


def test_a_tree_goes_and_its_neighbours_stay(place):
    url, options = place
    put(place, "t/a", "t/b/c", "t/b/d/e", "t2/a", "t.tar")
    remove_tree(f"{url}/t", options)
    assert list_names(url, options) == ["t.tar", "t2"]
    assert not exists(f"{url}/t", options)
    assert list_names(f"{url}/t", options) == []
    remove_tree(f"{url}/t2/", options)
    assert list_names(url, options) == ["t.tar"]


def test_uploads_into_a_tree_are_given_up_and_others_go_on(s3_bucket):
    fs, name = s3_bucket.filesystem()
    fs.pipe_file(f"{name}/t/a", b"1")
    for key in ("t/a", "t/b/c", "t2/a", "t.tar"):
        fs.call_s3("create_multipart_upload", Bucket=name, Key=key)
    remove_tree(s3_bucket.join("t"), s3_bucket.storage_options)
    assert sorted(s3_bucket.pending_uploads()) == ["t.tar", "t2/a"]
    assert s3_bucket.keys() == []


def test_a_tree_of_more_objects_than_one_request_deletes(moto_bucket, monkeypatch):
    import s3fs

    from shardbuild.storage import stores

    call = s3fs.S3FileSystem.call_s3
    pages = []

    def seven_a_page(self, method, *args, **kwargs):
        if method == "list_objects_v2":
            kwargs["MaxKeys"] = 7
            pages.append(method)
        return call(self, method, *args, **kwargs)

    fs, name = moto_bucket.filesystem()
    fs.pipe({f"{name}/t/{number % 3}/{number:04d}": b"" for number in range(30)})
    fs.pipe_file(f"{name}/t.tar", b"")
    monkeypatch.setattr(stores, "_DELETED_AT_ONCE", 3)
    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", seven_a_page)
    remove_tree(moto_bucket.join("t"), moto_bucket.storage_options)
    assert len(pages) == 5
    assert moto_bucket.keys() == ["t.tar"]


def test_signs_of_a_glob_in_a_folder_s_name_are_no_glob(place):
    url, options = place
    put(place, "t[ab]/x", "ta/x", "t*/x", "t?/x")
    for name in ("t[ab]", "t*", "t?"):
        remove_tree(f"{url}/{name}", options)
    assert list_names(url, options) == ["ta"]


def test_a_delete_that_the_store_refuses_is_an_error(moto_bucket, monkeypatch):
    import s3fs

    call = s3fs.S3FileSystem.call_s3

    def refusing(self, method, *args, **kwargs):
        if method == "delete_objects":
            return {"Errors": [{"Key": "t/a", "Message": "Access Denied"}]}
        return call(self, method, *args, **kwargs)

    options = moto_bucket.storage_options
    write_bytes(moto_bucket.join("t/a"), b"1", storage_options=options)
    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", refusing)
    with pytest.raises(StorageError, match="'t/a' was not deleted: Access Denied"):
        remove_tree(moto_bucket.join("t"), options)


@pytest.mark.parametrize("tail", ["", "/"])
def test_a_whole_bucket_or_disk_is_not_removed(bucket, tail):
    options = bucket.storage_options
    write_bytes(bucket.join("x"), b"1", storage_options=options)
    with pytest.raises(StorageError, match="no folder that may be removed"):
        remove_tree(bucket.url + tail, options)
    assert bucket.keys() == ["x"]


@pytest.mark.parametrize("url", ["/", "file:///", "", "memory://", "/tmp/.."])
def test_a_root_is_not_removed(url):
    with pytest.raises(StorageError, match="no folder that may be removed"):
        remove_tree(url)


def test_a_store_that_cannot_be_asked_is_not_a_no(moto):
    options = {**moto.storage_options, "endpoint_url": "http://127.0.0.1:9"}
    options["config_kwargs"] = {"retries": {"max_attempts": 0}}
    with pytest.raises(StorageError, match=r"s3://b/k: .*127.0.0.1:9"):
        exists("s3://b/k", options)


def test_an_http_server_that_cannot_be_asked_is_not_a_no(shaped):
    shaped.put("there.bin", b"12345")
    assert exists(shaped.url("there.bin"))
    assert not exists(shaped.url("not-there.bin"))
    with pytest.raises(StorageError, match="no such file"):
        stat_url(shaped.url("not-there.bin"))
    with pytest.raises(StorageError):
        exists("http://127.0.0.1:9/x.bin")


def test_facts_of_an_http_url(shaped):
    shaped.put("facts.bin", b"12345")
    first = stat_url(shaped.url("facts.bin"))
    assert first.num_bytes == 5
    shaped.put("facts.bin", b"54321")
    assert stat_url(shaped.url("facts.bin")).fingerprint != first.fingerprint


def test_many_urls_come_back_in_order(moto_bucket, tmp_path):
    options = moto_bucket.storage_options
    urls = []
    for number in range(12):
        urls.append(moto_bucket.join(f"{number}"))
        write_bytes(urls[-1], bytes(number), storage_options=options)
    write_bytes(f"{tmp_path}/x", bytes(99))
    urls[5:5] = [f"{tmp_path}/x", "-", "pipe:cat x"]
    found = stat_urls(urls, options)
    assert [facts.url for facts in found] == urls
    sizes = [facts.num_bytes for facts in found]
    assert sizes == [0, 1, 2, 3, 4, 99, None, None, *range(5, 12)]


@pytest.mark.parametrize("url", ["-", "pipe:cat x.tar", "/dev/null"])
def test_a_stream_has_no_size(url):
    assert stat_url(url).num_bytes is None
    assert exists(url)


def test_local_errors_name_the_url(tmp_path):
    write_bytes(f"{tmp_path}/file", b"")
    for call in (list_names, stat_url, remove, remove_tree):
        with pytest.raises(StorageError, match="Not a directory") as caught:
            call(f"{tmp_path}/file/x")
        assert caught.value.url == f"{tmp_path}/file/x"
    with pytest.raises(StorageError, match=r"Is a directory|Operation not permitted"):
        remove(str(tmp_path))


def test_free_space_of_a_place_that_is_still_to_be_made(tmp_path):
    free = free_bytes(f"{tmp_path}/a/b/c.tar")
    assert free is not None
    usage = shutil.disk_usage(tmp_path)
    assert abs(free - usage.free) < usage.total // 100
    assert free_bytes("file:x") is not None
    assert free_bytes("s3://b/k") is None


def test_names_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_bytes("a:b.tar", b"1")
    assert list_names("") == list_names(".") == list_names("file:") == ["a:b.tar"]
