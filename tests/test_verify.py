"""Verifying: nothing found where nothing is wrong, and every wrong thing named."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shardbuild.errors import StorageError
from shardbuild.shards import verify as verifying
from shardbuild.shards.index import ShardIndex, index_url, load_index, save_index
from shardbuild.shards.manifest import load_manifest, make_manifest, save_manifest
from shardbuild.shards.shardwriter import ShardWriter
from shardbuild.shards.verify import verify
from shardbuild.shards.writer import write_shard
from shardbuild.storage.meter import metered

NUM_SAMPLES = 7


def sample_of(i):
    return {"__key__": f"k/{i:03d}", "cls": b"%d" % i, "bin": bytes(600 + i)}


@pytest.fixture
def data_set(tmp_path):
    """A manifest's url, of three shards."""
    with ShardWriter(f"{tmp_path}/a-%d.tar", maxcount=3) as writer:
        for i in range(NUM_SAMPLES):
            writer.write(sample_of(i))
    return f"{tmp_path}/a.json"


def kinds(report):
    return [(Path(found.url).name, found.kind) for found in report.findings]


def edit(manifest_url, **changes):
    """Change what the manifest says of its first shard."""
    manifest = load_manifest(manifest_url)
    first = replace(manifest.shards[0], **changes)
    shards = (first, *manifest.shards[1:])
    save_manifest(replace(manifest, shards=shards), manifest_url)


def flip(path, place):
    data = bytearray(Path(path).read_bytes())
    data[place] ^= 1
    Path(path).write_bytes(data)


def test_a_whole_data_set_has_no_findings_and_is_read_once(data_set, tmp_path):
    with metered() as meter:
        report = verify(data_set)
    assert report.findings == ()
    assert (report.num_shards, report.num_samples) == (3, NUM_SAMPLES)
    assert report.num_bytes == sum(p.stat().st_size for p in tmp_path.glob("*.tar"))
    assert meter.read_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["tgz", "tar.zst", "tar.bz2", "tar.xz"])
def test_compressed_shards_are_held_against_their_files(suffix, tmp_path):
    with ShardWriter(f"{tmp_path}/a-%d.{suffix}") as writer:
        writer.write(sample_of(1))
    assert verify(f"{tmp_path}/a.json").findings == ()
    edit(f"{tmp_path}/a.json", sha256="0" * 64)
    assert kinds(verify(f"{tmp_path}/a.json")) == [(f"a-0.{suffix}", "sha256")]


def test_a_flipped_bit_of_a_payload_is_found_by_the_checksum(data_set, tmp_path):
    flip(tmp_path / "a-1.tar", 600)
    [found] = verify(data_set).findings
    assert (Path(found.url).name, found.kind) == ("a-1.tar", "sha256")
    digest = hashlib.sha256((tmp_path / "a-1.tar").read_bytes()).hexdigest()
    assert f"its bytes have the sha256 {digest}, not" in str(found)


def test_a_flipped_bit_of_a_header_is_found_at_its_offset(data_set, tmp_path):
    index = load_index(f"{tmp_path}/a-1.tar")
    assert index is not None
    flip(tmp_path / "a-1.tar", int(index.sample_offsets[1]) + 130)
    damaged, checksum = verify(data_set).findings
    assert (damaged.kind, checksum.kind) == ("damaged", "sha256")
    assert damaged.offset == index.sample_offsets[1]
    assert "samples of 3)" in damaged.problem


def test_a_shard_cut_anywhere_is_found(data_set, tmp_path):
    path = tmp_path / "a-0.tar"
    whole = path.read_bytes()
    for length in range(0, len(whole), 512):
        path.write_bytes(whole[:length])
        report = verify(data_set)
        found = {each.kind: each for each in report.findings}
        assert "bytes" in found
        assert f"{length} bytes, not {len(whole)}" in found["bytes"].problem
        if length < len(whole) - 10240 + 1024:
            assert found["damaged"].offset is not None


def test_a_missing_shard_is_named_and_the_others_are_read(data_set, tmp_path):
    (tmp_path / "a-1.tar").unlink()
    report = verify(data_set)
    assert kinds(report) == [("a-1.tar", "unreadable")]
    assert (report.num_shards, report.num_samples) == (3, NUM_SAMPLES - 3)


def test_a_shard_that_was_exchanged_is_found_by_all_that_differs(data_set, tmp_path):
    shutil.copy(tmp_path / "a-2.tar", tmp_path / "a-0.tar")
    assert kinds(verify(data_set)) == [
        *(("a-0.tar", "count"), ("a-0.tar", "sha256"), ("a-0.tar", "index")),
        ("a-2.tar", "duplicate"),
    ]


def test_counts_sizes_and_checksums_are_held_against_the_manifest(data_set):
    assert verify(data_set).findings == ()
    edit(data_set, num_samples=4)
    assert "3 samples, not 4" in str(verify(data_set).findings[0])
    edit(data_set, num_samples=3, num_bytes=1)
    assert kinds(verify(data_set)) == [("a-0.tar", "bytes")]
    edit(data_set, num_bytes=None, sha256=None, md5="0" * 32)
    assert kinds(verify(data_set)) == [("a-0.tar", "md5")]


def test_a_manifest_of_others_says_less_and_that_is_checked(data_set, tmp_path):
    md5 = hashlib.md5((tmp_path / "a-0.tar").read_bytes()).hexdigest()
    entry = {"url": "a-0.tar", "nsamples": 3, "md5sum": md5}
    document = {"wids_version": 1, "shardlist": [entry]}
    (tmp_path / "b.json").write_text(json.dumps(document))
    assert verify(f"{tmp_path}/b.json").findings == ()


# -- indexes ------------------------------------------------------------------


def change_index(url, change):
    index = load_index(url)
    assert index is not None
    save_index(change(index), url)


DIFFERENCES = {
    "its end": (lambda index: replace(index, num_bytes=20480, file_bytes=10240), None),
    "its form": (lambda index: replace(index, canonical=False), None),
    "a key": (
        lambda index: replace(index, key_bytes=index.key_bytes[::-1].copy()),
        "k/000",
    ),
    "a size": (
        lambda index: replace(index, member_size=index.member_size + 1),
        "k/000",
    ),
    "a place": (
        lambda index: replace(
            index, sample_offsets=np.subtract(index.sample_offsets, [0, 512, 0, 0])
        ),
        "k/001",
    ),
    "a sample less": (lambda index: replace(index.take([0]), file_bytes=10240), None),
}


@pytest.mark.parametrize(("change", "key"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_an_index_that_does_not_fit_is_named(change, key, data_set, tmp_path):
    if key == "k/001":
        pad_a_sample(tmp_path / "a-0.tar")
    change_index(f"{tmp_path}/a-0.tar", change)
    found = next(each for each in verify(data_set).findings if each.kind == "index")
    assert Path(found.url).name == "a-0.tar"
    assert found.key == key
    assert (found.offset is None) == (key is None)


def pad_a_sample(path):
    """Put a folder before the second sample, so that its place can be told wrong."""
    import tarfile

    index = load_index(str(path))
    assert index is not None
    data = path.read_bytes()
    folder = tarfile.TarInfo("k")
    folder.type = tarfile.DIRTYPE
    cut = int(index.sample_offsets[1])
    header = folder.tobuf(tarfile.USTAR_FORMAT)
    path.write_bytes(data[:cut] + header + data[cut:-512])
    assert isinstance(index, ShardIndex)
    from shardbuild.shards.reader import scan_shard

    save_index(scan_shard(str(path)), str(path))


def test_a_damaged_index_and_one_of_another_shard_are_named(data_set, tmp_path):
    path = Path(index_url(f"{tmp_path}/a-0.tar"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert kinds(verify(data_set)) == [("a-0.tar", "index")]
    path.unlink()
    path.mkdir()
    assert "cannot be read" in str(verify(data_set).findings[0])
    path.rmdir()
    assert verify(data_set).findings == ()


# -- keys ---------------------------------------------------------------------


def test_keys_that_come_twice_in_a_data_set_are_named(tmp_path):
    for name, keys in {"a": "xyz", "b": "pyx", "c": "q"}.items():
        samples = [{"__key__": key, "cls": b"1"} for key in keys]
        write_shard(f"{tmp_path}/{name}.tar", samples)
    report = verify([f"{tmp_path}/{name}.tar" for name in "abc"], memory_bytes=64)
    assert [str(found) for found in report.findings] == [
        f"{tmp_path}/b.tar: duplicate: sample 'y': its key is also in {tmp_path}/a.tar",
        f"{tmp_path}/b.tar: duplicate: sample 'x': its key is also in {tmp_path}/a.tar",
    ]


def test_of_very_many_keys_that_come_twice_there_is_the_number(tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "MAX_DUPLICATES", 2)
    samples = [{"__key__": str(i), "cls": b"1"} for i in range(9)]
    for name in "ab":
        write_shard(f"{tmp_path}/{name}.tar", samples)
    findings = verify(f"{tmp_path}/*.tar").findings
    assert [found.key for found in findings] == ["0", "1", None]
    assert findings[-1].problem == "7 more keys come twice"


def test_the_same_shard_given_twice_has_all_its_keys_twice(data_set, tmp_path):
    report = verify([f"{tmp_path}/a-2.tar", f"{tmp_path}/a-2.tar"])
    assert [found.kind for found in report.findings] == ["duplicate"]


def test_the_manifest_says_by_which_rule_keys_end(tmp_path):
    url = f"{tmp_path}/a.tar"
    facts = write_shard(url, [{"__key__": "v1.5", "cls": b"1"}], key_rule="last-dot")
    manifest = f"{tmp_path}/a.json"
    save_manifest(make_manifest([facts], manifest, {"key_rule": "last-dot"}), manifest)
    assert verify(manifest).findings == ()
    assert verify(url, key_rule="last-dot").findings == ()
    assert [found.kind for found in verify(url).findings] == ["index"]


# -- what to verify -----------------------------------------------------------


def test_without_a_manifest_shards_are_checked_by_themselves(data_set, tmp_path):
    report = verify(f"{tmp_path}/a-{{0..2}}.tar")
    assert report.findings == ()
    assert report.num_samples == NUM_SAMPLES
    (tmp_path / "a-0.tar").write_bytes((tmp_path / "a-0.tar").read_bytes()[:1024])
    [damaged] = verify(f"{tmp_path}/a-0.tar").findings
    assert damaged.kind == "damaged"
    assert damaged.problem.endswith("(after 0 samples)")


def test_pipes_are_verified_and_their_failure_is_found(data_set, tmp_path):
    report = verify(f"pipe:cat {tmp_path}/a-0.tar")
    assert report.findings == ()
    failing = verify(f"pipe:cat {tmp_path}/a-0.tar; exit 3")
    assert [found.kind for found in failing.findings] == ["unreadable"]
    assert "status 3" in failing.findings[0].problem


def test_a_manifest_that_is_damaged_or_leads_out_is_a_finding(data_set, tmp_path):
    edit(data_set, url="../a-0.tar")
    [found] = verify(data_set).findings
    assert (found.kind, found.url) == ("manifest", data_set)
    Path(data_set).write_text("{")
    assert [found.kind for found in verify(data_set).findings] == ["manifest"]


def test_a_manifest_that_lists_a_shard_twice_is_a_finding(data_set):
    edit(data_set, url="a-1.tar")
    report = verify(data_set)
    assert ("a.json", "manifest") in kinds(report)
    assert report.num_shards == 2


def test_what_is_not_there_at_all_is_an_error(tmp_path):
    with pytest.raises(StorageError):
        verify(f"{tmp_path}/none.json")
    with pytest.raises(StorageError):
        verify(f"{tmp_path}/*.tar")
