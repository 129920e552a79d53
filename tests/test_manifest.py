"""The manifest: its bytes, what wids makes of it, and urls that must not lead out."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild.bench.peers import load_peer
from shardbuild.errors import ManifestError, StorageError
from shardbuild.shards.manifest import (
    Manifest,
    ShardColumns,
    ShardFacts,
    load_manifest,
    make_manifest,
    manifest_url,
    report_url,
    save_manifest,
)
from shardbuild.shards.shardwriter import ShardWriter

hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
shard_facts = st.builds(
    ShardFacts,
    st.text(min_size=1, max_size=20),
    st.integers(0, 2**60),
    st.none() | st.integers(0, 2**60),
    st.none() | hexes,
    st.none() | hexes.map(lambda text: text[:32]),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    st.lists(shard_facts, max_size=4).map(tuple),
    st.dictionaries(st.text(), json_values, max_size=3),
    st.text(),
)
def test_a_file_gives_the_manifest_back(shards, facts, name):
    manifest = Manifest(shards, facts, name)
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert manifest.num_samples == sum(shard.num_samples for shard in shards)


def test_the_bytes_do_not_depend_on_the_order_of_facts():
    one = Manifest((), {"a": 1, "b": 2}).to_bytes()
    assert one == Manifest((), {"b": 2, "a": 1}).to_bytes()
    assert one.endswith(b"}\n")


def test_sizes_add_up():
    shards = (ShardFacts("a", 1, 10), ShardFacts("b", 2, None), ShardFacts("c", 3, 5))
    assert Manifest(shards).num_bytes == 15
    assert Manifest(shards).num_samples == 6


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # theirs
def test_wids_opens_it_and_the_shards_it_lists(tmp_path):
    pattern = f"{tmp_path}/a-%03d.tar"
    with ShardWriter(pattern, maxcount=2) as writer:
        for i in range(3):
            writer.write({"__key__": f"k{i}", "cls": i})
    data_set = load_peer("wids").ShardListDataset(
        manifest_url(pattern), localname=lambda url: url, transformations=[]
    )
    assert [data_set[i]["__key__"] for i in range(len(data_set))] == ["k0", "k1", "k2"]
    assert [shard["url"] for shard in data_set.shards] == [pattern % i for i in (0, 1)]
    data_set.close()


def test_a_manifest_that_widsindex_made_is_read():
    document = {
        "wids_version": 1,
        "shardlist": [{"url": "s3://b/x.tar", "nsamples": 3, "md5sum": "0" * 32}],
    }
    manifest = Manifest.from_bytes(json.dumps(document).encode())
    assert manifest.shards == (ShardFacts("s3://b/x.tar", 3, None, None, "0" * 32),)


def test_a_manifest_in_the_folder_of_the_caller_lists_urls_as_they_are():
    manifest = make_manifest([ShardFacts("sub/a.tar", 1, 10240)], "a.json")
    assert manifest.shard_urls("a.json") == ["sub/a.tar"]


def test_it_is_kept_at_its_url(tmp_path):
    url = f"{tmp_path}/a.json"
    manifest = make_manifest([ShardFacts(f"{tmp_path}/a.tar", 1, 10240)], url)
    save_manifest(manifest, url)
    assert load_manifest(url) == manifest
    assert manifest.shard_urls(url) == [f"{tmp_path}/a.tar"]
    with pytest.raises(StorageError):
        load_manifest(f"{tmp_path}/b.json")


@pytest.mark.parametrize(
    ("pattern", "manifest", "report"),
    [
        ("out/train-%06d.tar", "out/train.json", "out/train.report.json"),
        ("s3://b/o/x_%d.tar.zst", "s3://b/o/x.json", "s3://b/o/x.report.json"),
        ("%06d.tgz", "dataset.json", "dataset.report.json"),
        ("out/%06d.tar", "out/dataset.json", "out/dataset.report.json"),
        ("v1.5-%04d.tar", "v1.5.json", "v1.5.report.json"),
    ],
)
def test_where_manifest_and_report_are_kept(pattern, manifest, report):
    assert manifest_url(pattern) == manifest
    assert report_url(pattern) == report


@pytest.mark.parametrize(
    ("manifest", "shard", "where"),
    [
        ("a.json", "x.tar", "x.tar"),
        ("out/a.json", "sub/x.tar", "out/sub/x.tar"),
        ("/data/a.json", "x.tar", "/data/x.tar"),
        ("/data/a.json", "/other/x.tar", "/other/x.tar"),
        ("file:/data/a.json", "file:/other/x.tar", "file:/other/x.tar"),
        ("/data/a.json", "s3://b/x.tar", "s3://b/x.tar"),
        ("s3://b/a.json", "x.tar", "s3://b/x.tar"),
        ("s3://b/a.json", "gs://c/x.tar", "gs://c/x.tar"),
        ("memory://b/a.json", "memory://b/x.tar", "memory://b/x.tar"),
        ("https://h/d/a.json?key=1/2", "x.tar", "https://h/d/x.tar"),
        ("a.json", "a:b.tar", "./a:b.tar"),
        ("d/a.json", "a:b.tar", "d/a:b.tar"),
    ],
)
def test_urls_of_shards_are_seen_from_the_manifest(manifest, shard, where):
    assert Manifest((ShardFacts(shard, 1, 1),)).shard_urls(manifest) == [where]


@pytest.mark.parametrize(
    ("manifest", "shard"),
    [
        ("/data/a.json", "../x.tar"),
        ("/data/a.json", "sub/../../x.tar"),
        ("/data/a.json", "..\\x.tar"),
        ("s3://b/a.json", "s3://b/../x.tar"),
        ("/data/a.json", "pipe:rm -rf x"),
        ("/data/a.json", "PIPE:rm -rf x"),
        ("a.json", "-"),
        ("s3://b/a.json", "/etc/passwd"),
        ("s3://b/a.json", "file:///etc/passwd"),
        ("https://h/a.json", "//etc/passwd"),
        ("s3://b/a.json", "zip://x::http://h/y"),
        ("/data/a.json", "ssh://h/x.tar"),
        ("/data/a.json", "ssh:/x.tar"),
        ("s3://b/a.json", "memory://x.tar"),
        ("/data/a.json", "x\0.tar"),
    ],
)
def test_urls_that_lead_where_no_manifest_may_are_refused(manifest, shard):
    found = Manifest((ShardFacts(shard, 1, 1),))
    with pytest.raises(ManifestError, match="it lists"):
        found.shard_urls(manifest)


def document(**changes):
    entry = {"url": "a.tar", "nsamples": 1, "filesize": 1, **changes.pop("entry", {})}
    whole = {"wids_version": 1, "shardlist": [entry], **changes}
    return json.dumps(whole).encode()


BROKEN = {
    "not JSON": b"{",
    "not UTF-8": b"\xff",
    "too deep": b"[" * 200_000,
    "a list": b"[]",
    "another version": document(wids_version=2),
    "no shards": document(shardlist=None),
    "a shard that is text": document(shardlist=["a.tar"]),
    "a url that is a number": document(entry={"url": 7}),
    "no url": document(entry={"url": ""}),
    "a negative count": document(entry={"nsamples": -1}),
    "a fraction": document(entry={"nsamples": 1.5}),
    "true as a count": document(entry={"nsamples": True}),
    "a size that is text": document(entry={"filesize": "1"}),
    "a short md5": document(entry={"md5sum": "00"}),
    "a part of ours of another version": document(shardbuild={"manifest_version": 2}),
    "a part of ours that is a list": document(shardbuild=[]),
    "sums of other shards": document(shardbuild={"sha256": []}),
    "a sum that is none": document(shardbuild={"sha256": ["x"]}),
    "facts that are a list": document(shardbuild={"facts": []}),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_manifest_is_refused(data):
    assert Manifest.from_bytes(document()).num_samples == 1
    with pytest.raises(ManifestError, match=r"x\.json: "):
        Manifest.from_bytes(data, "x.json")


@pytest.mark.parametrize("versions", [[], ["a", "b"], [7], "a", None])
def test_versions_of_other_shards_are_refused_where_they_were_noted(versions):
    seen = {"at": "s3://b/x.json", "of": versions}
    data = document(shardbuild={"facts": {"versions": seen}})
    with pytest.raises(ManifestError, match=r"x\.json: its 'versions'"):
        ShardColumns.from_bytes(data, "s3://b/x.json")
    assert ShardColumns.from_bytes(data, "s3://c/x.json").versions == [None]


def test_what_others_call_versions_is_theirs():
    data = document(shardbuild={"facts": {"versions": "1.2"}})
    assert ShardColumns.from_bytes(data, "x.json").versions == [None]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_manifest_is_read_or_refused_and_nothing_else(data):
    whole = bytearray(Manifest((ShardFacts("a.tar", 3, 9, "0" * 64),)).to_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ManifestError):
        Manifest.from_bytes(bytes(whole)).shard_urls("a.json")
