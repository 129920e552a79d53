"""From what a user writes to a list of urls."""

from __future__ import annotations

import json

import pytest

from shardbuild.errors import ManifestError, StorageError
from shardbuild.storage import (
    expand_urls,
    local_path,
    protocol_of,
    resolve_listed,
    write_bytes,
)


@pytest.fixture(params=["local", "relative", "file", "memory", "moto", "gcs", "shelf"])
def place(request, tmp_path, monkeypatch):
    """A clean folder, in the form in which a user names it: url and options."""
    if request.param in ("moto", "gcs"):
        bucket = request.getfixturevalue(f"{request.param}_bucket")
        return bucket.join("d"), bucket.storage_options
    if request.param == "relative":
        monkeypatch.chdir(tmp_path)
    places = {
        "local": f"{tmp_path}/d",
        "relative": "d",
        "file": f"file://{tmp_path}/d",
        "memory": f"memory://urls/{tmp_path.name}/d",
        "shelf": f"dir://d::file://{tmp_path}",
    }
    if request.param == "shelf":
        return places["file"], None
    return places[request.param], None


def put(place, *names: str) -> None:
    url, options = place
    for name in names:
        write_bytes(f"{url}/{name}", b"", storage_options=options)


def test_globs_are_sorted_and_keep_the_user_s_form(place):
    url, options = place
    put(place, "x-10.tar", "x-9.tar", "x-1.tar", "y.tar", ".x-3.tar", "sub/x-4.tar")
    expected = [f"{url}/x-1.tar", f"{url}/x-10.tar", f"{url}/x-9.tar"]
    assert expand_urls(f"{url}/x-*.tar", options) == expected
    assert expand_urls(f"{url}/x-?.tar", options) == [expected[0], expected[2]]
    assert expand_urls(f"{url}/x-[0-8]*.tar", options) == expected[:2]
    assert expand_urls(f"{url}/*", options) == [*expected, f"{url}/y.tar"]
    assert expand_urls(f"{url}/*/x-4.tar", options) == [f"{url}/sub/x-4.tar"]
    assert f"{url}/sub/x-4.tar" in expand_urls(f"{url}/**/*.tar", options)
    assert expand_urls(f"{url}/{{y,x-[19]}}.tar", options) == [
        f"{url}/y.tar",
        f"{url}/x-1.tar",
        f"{url}/x-9.tar",
    ]
    with pytest.raises(StorageError, match="matches no file") as caught:
        expand_urls(f"{url}/z*.tar", options)
    assert caught.value.url == f"{url}/z*.tar"
    with pytest.raises(StorageError, match="matches no file"):
        expand_urls(f"{url}/none/*.tar", options)


def test_new_files_are_seen(place):
    url, options = place
    put(place, "x-1.tar")
    assert len(expand_urls(f"{url}/x-*.tar", options)) == 1
    put(place, "x-2.tar")
    assert len(expand_urls(f"{url}/x-*.tar", options)) == 2


def test_a_list_file_is_relative_to_itself(place):
    url, options = place
    put(place, "x-1.tar", "x-2.tar", "sub/y.tar")
    text = "# shards\n\nx-{1..2}.tar\r\n  sub/y.tar  \ns3://b/k.tar\n/abs.tar\nx-*\n"
    write_bytes(f"{url}/list.txt", text.encode(), storage_options=options)
    shards = [f"{url}/x-1.tar", f"{url}/x-2.tar"]
    others = [f"{url}/sub/y.tar", "s3://b/k.tar", "/abs.tar"]
    found = expand_urls(f"@{url}/list.txt", options)
    assert found == [*shards, *others, *shards]


def test_a_manifest_is_relative_to_itself(place):
    url, options = place
    shards = [{"url": "x-1.tar", "nsamples": 3}, {"url": "sub/[y]{1..2}.tar"}]
    text = json.dumps({"__kind__": "wids-shard-index-v1", "shardlist": shards})
    write_bytes(f"{url}/train.json", text.encode(), storage_options=options)
    expected = [f"{url}/x-1.tar", f"{url}/sub/[y]{{1..2}}.tar"]
    assert expand_urls(f"{url}/train.json", options) == expected
    assert expand_urls([f"{url}/train.json", "a"], options) == [*expected, "a"]


@pytest.mark.parametrize(
    "name", ["{a,b}.tar", "x*.tar", "x[1].tar", "@x", "x?.tar", "a:{1..2}"]
)
def test_a_local_file_with_such_a_name_is_that_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_bytes(name, b"")
    write_bytes("x1.tar", b"")
    assert expand_urls(name) == [name]
    assert expand_urls(f"{tmp_path}/{name}") == [f"{tmp_path}/{name}"]


def test_an_object_with_such_a_name_is_that_object(moto_bucket):
    options = moto_bucket.storage_options
    url = moto_bucket.join("x[1].tar")
    write_bytes(url, b"", storage_options=options)
    assert expand_urls(url, options) == [url]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("x.tar", ["x.tar"]),
        ("-", ["-"]),
        ([], []),
        (["a", "b-{0..1}"], ["a", "b-0", "b-1"]),
        (("a", ["b"]), ["a", "b"]),
        ("s3://b/x-{00..01}.tar", ["s3://b/x-00.tar", "s3://b/x-01.tar"]),
        ("pipe:cat {a,b}/*.tar?", ["pipe:cat a/*.tar?", "pipe:cat b/*.tar?"]),
        ("pipe:awk '{print $1}' x.json", ["pipe:awk '{print $1}' x.json"]),
        ("http://h/x.tar?a=[1]&b=2", ["http://h/x.tar?a=[1]&b=2"]),
        (
            "zip://x.tar::s3://b/z-{1..2}.zip",
            [f"zip://x.tar::s3://b/z-{n}.zip" for n in (1, 2)],
        ),
    ],
)
def test_what_needs_no_look_at_storage(spec, expected):
    assert expand_urls(spec) == expected


def test_globs_through_a_chain(moto_bucket, tmp_path):
    import zipfile

    options = {"s3": moto_bucket.storage_options}
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a-1.tar", "a-2.tar", "b.tar"):
            archive.writestr(name, b"")
    tail = f"::{tmp_path}/x.zip"
    assert expand_urls(f"zip://a-*.tar{tail}") == [
        f"zip://a-{n}.tar{tail}" for n in (1, 2)
    ]
    write_bytes(moto_bucket.join("d/x.tar"), b"", storage_options=options)
    chained = f"simplecache::{moto_bucket.url}/d/"
    assert expand_urls(f"{chained}*.tar", options) == [f"{chained}x.tar"]


def test_temporary_files_are_never_matched(tmp_path):
    write_bytes(f"{tmp_path}/.x-0.tar.0123456789abcdef.tmp", b"")
    write_bytes(f"{tmp_path}/x-0.tar", b"")
    assert expand_urls(f"{tmp_path}/*x-0*") == [f"{tmp_path}/x-0.tar"]
    assert expand_urls(f"file://{tmp_path}/.x*")[0].endswith(".tmp")


@pytest.mark.parametrize("line", ["@other.txt", "pipe:rm -rf /", "-"])
def test_a_list_is_data_and_runs_nothing(tmp_path, line):
    write_bytes(f"{tmp_path}/list.txt", f"x.tar\n{line}\n".encode())
    with pytest.raises(StorageError, match="a list may not name"):
        expand_urls(f"@{tmp_path}/list.txt")


def test_a_list_of_nothing_is_an_error(tmp_path):
    write_bytes(f"{tmp_path}/list.txt", b"# nothing\n\n")
    with pytest.raises(StorageError, match="names no urls"):
        expand_urls(f"@{tmp_path}/list.txt")
    with pytest.raises(StorageError, match="no such file"):
        expand_urls(f"@{tmp_path}/none.txt")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"shardlist": 3}',
        b'{"shardlist": [3]}',
        b'{"shardlist": [{"nsamples": 3}]}',
        b'{"shardlist": [{"url": 3}]}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_what_is_no_manifest_is_an_error(tmp_path, text):
    write_bytes(f"{tmp_path}/train.json", text)
    with pytest.raises(ManifestError, match=r"train.json: "):
        expand_urls(f"{tmp_path}/train.json")


@pytest.mark.parametrize("url", ["pipe:rm -rf /", "-", ""])
def test_a_manifest_names_no_commands(url):
    for manifest in ("train.json", "s3://b/train.json"):
        with pytest.raises(ManifestError, match="which is no shard"):
            resolve_listed(manifest, url)


@pytest.mark.parametrize("url", ["/etc/passwd", "file:///etc/passwd", "file:x"])
def test_a_manifest_from_elsewhere_names_no_local_files(url):
    with pytest.raises(ManifestError, match="names the local file"):
        resolve_listed("https://h/train.json", url)
    assert resolve_listed("train.json", url) == url


def test_a_manifest_may_name_other_stores():
    assert resolve_listed("d/train.json", "s3://b/x.tar") == "s3://b/x.tar"
    assert resolve_listed("s3://b/train.json", "gs://c/x.tar") == "gs://c/x.tar"
    assert resolve_listed("s3://b/d/train.json", "../x.tar") == "s3://b/d/../x.tar"


def test_a_glob_never_makes_a_command_of_a_file_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["pipe:touch broken.tar", "s3:x.tar", "a.tar"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = expand_urls("*.tar")
    assert sorted(local_path(url) is not None for url in found) == [True] * 3
    for url in found:
        assert protocol_of(url) == "file"
