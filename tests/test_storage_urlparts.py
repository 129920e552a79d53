"""What a url says, without opening it."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shardbuild.errors import StorageError
from shardbuild.storage.urlparts import (
    is_remote,
    join_url,
    local_path,
    protocol_of,
    split_url,
)


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("x.tar", "file"),
        ("/d/x.tar", "file"),
        ("a:b.tar", "file"),
        ("C:x", "file"),
        ("C:/x/y.tar", "file"),
        ("s3:x", "file"),
        ("a::b.tar", "file"),
        ("file:x.tar", "file"),
        ("file:///d/x.tar", "file"),
        ("FILE:///d/x.tar", "file"),
        ("local:///d/x.tar", "file"),
        ("s3://b/k", "s3"),
        ("S3://b/k", "s3"),
        ("memory://k", "memory"),
        ("abfs+x://c/k", "abfs+x"),
        ("pipe:cat s3://b/k", "pipe"),
        ("pipe:", "pipe"),
        ("-", None),
        ("simplecache::s3://b/k", "simplecache"),
        ("filecache::gs://b/k", "filecache"),
        ("zip://x.tar::/d/z.zip", "zip"),
        ("zip://x.tar::simplecache::s3://b/z.zip", "zip"),
    ],
)
def test_protocol(url, protocol):
    assert protocol_of(url) == protocol


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("a:b.tar", "a:b.tar"),
        ("file:a/b.tar", "a/b.tar"),
        ("file:///a/b.tar", "/a/b.tar"),
        ("file://a/b.tar", "a/b.tar"),
        ("local:///a/b.tar", "/a/b.tar"),
        ("x#1?.tar", "x#1?.tar"),
        ("s3://b/k", None),
        ("simplecache::file:///x", None),
        ("pipe:cat", None),
        ("-", None),
    ],
)
def test_local_path(url, path):
    assert local_path(url) == path


def test_remote_is_what_fsspec_opens():
    urls = ["s3://b/k", "simplecache::s3://b/k", "memory://k", "http://h/k"]
    assert all(map(is_remote, urls))
    assert not any(map(is_remote, ["x", "file:///x", "pipe:cat s3://b/k", "-", "a:b"]))


@pytest.mark.parametrize(
    ("url", "parent", "name"),
    [
        ("x.tar", "", "x.tar"),
        ("/x.tar", "/", "x.tar"),
        ("d/x.tar", "d", "x.tar"),
        ("/d/x.tar", "/d", "x.tar"),
        ("file:///d/x.tar", "file:///d", "x.tar"),
        ("file:///x.tar", "file:///", "x.tar"),
        ("file:x.tar", "file:", "x.tar"),
        ("a:b.tar", "", "a:b.tar"),
        ("s3://b/x.tar", "s3://b", "x.tar"),
        ("s3://b/d/e/x.tar", "s3://b/d/e", "x.tar"),
        ("memory://x.tar", "memory://", "x.tar"),
        ("memory:///x.tar", "memory:///", "x.tar"),
        ("http://h/d/x.tar?a=1/2", "http://h/d?a=1/2", "x.tar"),
        ("simplecache::s3://b/d/x.tar", "simplecache::s3://b/d", "x.tar"),
        ("zip://d/x.tar::s3://b/z.zip", "zip://d::s3://b/z.zip", "x.tar"),
        ("zip://x.tar::s3://b/z.zip", "zip://::s3://b/z.zip", "x.tar"),
    ],
)
def test_split_and_join_are_each_other_s_reverse(url, parent, name):
    assert split_url(url) == (parent, name)
    assert join_url(parent, name) == url


_names = st.text("abc.:-_ {}*", min_size=1, max_size=8)


@given(
    st.sampled_from(["", "/", "d", "/d", "s3://b", "gs://b/d", "memory://", "file:"]),
    st.lists(_names, max_size=3),
    _names,
)
def test_join_then_split_round_trip(base, folders, name):
    assume(all(protocol_of(part) == "file" for part in [*folders, name]))
    assume(not any("::" in part for part in [*folders, name]))  # fsspec's chains
    assume(not any(part.startswith(("file:", "local:")) for part in [*folders, name]))
    folder = base
    for part in folders:
        folder = join_url(folder, part)
    assume(protocol_of(folder) not in (None, "pipe"))
    assert split_url(join_url(folder, name)) == (folder, name)


def test_a_folder_may_end_in_a_slash():
    assert join_url("s3://b/d/", "x.tar") == "s3://b/d/x.tar"
    assert join_url("d/", "e/x.tar") == "d/e/x.tar"


@pytest.mark.parametrize("name", ["s3://b/k", "/abs/x.tar", "file:///x", "pipe:cat x"])
def test_a_name_that_is_a_url_stays(name):
    assert join_url("gs://c/d", name) == name


@pytest.mark.parametrize("url", ["-", "pipe:cat x.tar"])
def test_a_stream_has_no_folder(url):
    with pytest.raises(StorageError, match="is a stream"):
        split_url(url)
    with pytest.raises(StorageError, match="is a stream"):
        join_url(url, "x.tar")
