"""Writing a data set of several shards."""

from __future__ import annotations

import json
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild.errors import EncodeError, KeyRuleError, ManifestError
from shardbuild.shards.index import load_index
from shardbuild.shards.manifest import load_manifest
from shardbuild.shards.shardwriter import ShardWriter


def sample_of(i, num_bytes=1):
    return {"__key__": f"{i:05d}", "bin": bytes(num_bytes)}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_shards_are_full_by_count_and_the_manifest_comes_last(tmp_path):
    told: list[str] = []
    with ShardWriter(f"{tmp_path}/a-%03d.tar", maxcount=2, post=told.append) as writer:
        for i in range(4):
            assert writer.write(sample_of(i)) == 1
        assert not (tmp_path / "a.json").exists()
    assert names_in(tmp_path) == [
        *("a-000.tar", "a-000.tar.npz", "a-001.tar", "a-001.tar.npz", "a.json"),
    ]
    assert told == [f"{tmp_path}/a-{n:03d}.tar" for n in range(2)]
    manifest = load_manifest(f"{tmp_path}/a.json")
    assert [shard.url for shard in manifest.shards] == ["a-000.tar", "a-001.tar"]
    assert [shard.num_samples for shard in manifest.shards] == [2, 2]
    index = load_index(f"{tmp_path}/a-001.tar")
    assert index is not None
    assert index.keys() == ["00002", "00003"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 40_000), max_size=30),
    st.integers(10_240, 90_000),
    st.integers(1, 10),
)
def test_no_shard_is_larger_on_disk_than_maxsize_unless_it_holds_one_sample(
    sizes, maxsize, maxcount
):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ShardWriter(f"{folder}/%d.tar", maxcount, maxsize) as writer:
            for i, size in enumerate(sizes):
                writer.write(sample_of(i, size))
        keys = []
        for shard in writer.shards:
            path = Path(shard.url)
            assert path.stat().st_size == shard.num_bytes
            with tarfile.open(path) as archive:
                held = archive.getnames()
            assert 1 <= len(held) == shard.num_samples <= maxcount
            assert path.stat().st_size <= maxsize or len(held) == 1
            keys += held
        assert keys == [f"{i:05d}.bin" for i in range(len(sizes))]


def test_nothing_written_leaves_no_shard_but_says_that_this_is_all(tmp_path):
    with ShardWriter(f"{tmp_path}/a-%06d.tar"):
        pass
    assert names_in(tmp_path) == ["a.json"]
    assert load_manifest(f"{tmp_path}/a.json").shards == ()


def test_an_exception_discards_the_shard_in_hand_and_writes_no_manifest(tmp_path):
    told: list[str] = []
    writer = ShardWriter(f"{tmp_path}/a-%03d.tar", maxcount=2, post=told.append)

    def convert() -> None:
        with writer:
            for i in range(4):
                writer.write(sample_of(i, 1 // (3 - i)))

    with pytest.raises(ZeroDivisionError):
        convert()
    assert names_in(tmp_path) == ["a-000.tar", "a-000.tar.npz"]
    assert told == [f"{tmp_path}/a-000.tar"]
    writer.close()
    assert names_in(tmp_path) == ["a-000.tar", "a-000.tar.npz"]


def test_closing_twice_is_safe_and_a_closed_writer_takes_no_more(tmp_path):
    writer = ShardWriter(f"{tmp_path}/a-%03d.tar")
    assert writer.dwrite("a", seg_png=b"1", cls=1) == 2
    writer.close()
    writer.close()
    writer.discard()
    assert names_in(tmp_path) == ["a-000.tar", "a-000.tar.npz", "a.json"]
    with pytest.raises(ValueError, match="closed"):
        writer.write(sample_of(1))


def test_a_manifest_of_before_is_gone_as_soon_as_it_is_no_longer_true(tmp_path):
    with ShardWriter(f"{tmp_path}/a-%03d.tar") as writer:
        writer.write(sample_of(1))
    writer = ShardWriter(f"{tmp_path}/a-%03d.tar")
    assert (tmp_path / "a.json").exists()
    writer.write(sample_of(2))
    assert not (tmp_path / "a.json").exists()
    writer.discard()
    assert names_in(tmp_path) == ["a-000.tar", "a-000.tar.npz"]


def test_a_refused_sample_changes_nothing(tmp_path):
    with ShardWriter(f"{tmp_path}/a-%03d.tar", maxcount=1) as writer:
        writer.write(sample_of(1))
        with pytest.raises(KeyRuleError):
            writer.write({"__key__": "v1.5", "cls": 1})
        with pytest.raises(EncodeError):
            writer.write({"__key__": "a", "cls": "x", "bin": object()})
        writer.write(sample_of(2))
    assert [shard.num_samples for shard in writer.shards] == [1, 1]


def test_index_and_manifest_are_left_out_if_so_told(tmp_path):
    pattern = f"{tmp_path}/a-%03d.tar.gz"
    with ShardWriter(pattern, write_index=False, manifest=False) as writer:
        writer.write(sample_of(1))
    assert names_in(tmp_path) == ["a-000.tar.gz"]


def test_options_reach_the_shards(tmp_path):
    with ShardWriter(
        f"{tmp_path}/%d.tar", user="me", mode=0o600, checksum=False, encoder=False
    ) as writer:
        writer.write(sample_of(1))
    with tarfile.open(tmp_path / "0.tar") as archive:
        [member] = archive
    assert (member.uname, member.gname, member.mode) == ("me", "bigdata", 0o600)
    assert writer.shards[0].sha256 is None
    assert json.loads((tmp_path / "dataset.json").read_text())["shardlist"]


def test_shards_go_into_commands_without_index_or_manifest(tmp_path):
    with ShardWriter(f"pipe:cat > {tmp_path}/%d.tar", maxcount=1) as writer:
        writer.write(sample_of(1))
        writer.write(sample_of(2))
    assert names_in(tmp_path) == ["0.tar", "1.tar"]


def test_a_post_that_fails_is_an_error_after_its_shard(tmp_path):
    def fail(url):
        raise RuntimeError(url)

    writer = ShardWriter(f"{tmp_path}/%d.tar", post=fail)
    writer.write(sample_of(1))
    with pytest.raises(RuntimeError, match=r"0\.tar"):
        writer.close()
    assert names_in(tmp_path) == ["0.tar", "0.tar.npz"]


@pytest.mark.parametrize("pattern", ["a.tar", "a-%s-%d.tar", "a-%06q.tar"])
def test_a_pattern_without_its_number_is_refused(pattern):
    with pytest.raises(ValueError, match="one number in it"):
        ShardWriter(pattern)


@pytest.mark.parametrize("limits", [(0, 1), (1, 0)])
def test_limits_that_hold_nothing_are_refused(limits):
    with pytest.raises(ValueError, match="hold nothing"):
        ShardWriter("%d.tar", *limits)


def test_an_option_that_is_not_known_is_refused():
    with pytest.raises(TypeError, match="unknown options: max_count"):
        ShardWriter("%d.tar", max_count=3)


def test_facts_that_are_no_json_are_refused():
    from shardbuild.shards.manifest import make_manifest

    with pytest.raises(ManifestError, match="JSON"):
        make_manifest([], "a.json", {"seed": object()}).to_bytes()


def test_finish_ends_a_shard_and_the_next_sample_begins_another(tmp_path):
    published: list[str] = []
    with ShardWriter(f"{tmp_path}/s-%06d.tar", post=published.append) as writer:
        writer.finish()
        for count in (2, 1):
            for i in range(count):
                writer.write({"__key__": f"{i}", "cls": i})
            writer.finish()
            writer.finish()
            assert len(published) == len(writer.shards)
    assert [shard.num_samples for shard in writer.shards] == [2, 1]
    assert load_manifest(f"{tmp_path}/s.json").num_samples == 3
