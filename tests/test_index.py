"""The index: its algebra, its file, and files that lie."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import zipfile
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild.errors import ManifestError, StorageError
from shardbuild.shards.index import (
    IndexBuilder,
    ShardIndex,
    concat_indexes,
    index_url,
    load_index,
    save_index,
)
from shardbuild.shards.peerindexes import dali_index, energon_index

keys = st.text("abé/\U0001f600_", min_size=1, max_size=8)
members = st.lists(
    st.tuples(st.sampled_from(["jpg", "cls", "", "é.json"]), st.integers(1, 3)),
    min_size=1,
    max_size=4,
)
sizes = st.integers(0, 2000) | st.integers(0, 2**45)


@st.composite
def indexes(draw):
    """An index as a scan of any shard gives it: with gaps, and long headers."""
    builder = IndexBuilder()
    end = 0
    for key in draw(st.lists(keys, max_size=5)):
        start = end = end + 512 * draw(st.integers(0, 3))
        placed = []
        for extension, blocks in draw(members):
            offset = end + 512 * blocks
            size = draw(sizes)
            placed.append((extension, offset, size))
            end = offset + -(-size // 512) * 512
        builder.add(key, start, placed)
    end += 512 * draw(st.integers(0, 2))
    return builder.finish(end, end + 10240, canonical=draw(st.booleans()))


def facts(index):
    return (
        index.keys(),
        [index.key(i) for i in range(index.num_samples)],
        [index.members(i) for i in range(index.num_samples)],
        index.sample_offsets.tolist(),
        index.num_bytes,
        index.file_bytes,
        index.canonical,
    )


@settings(deadline=None)
@given(indexes())
def test_a_file_gives_the_index_back(index):
    data = index.to_bytes()
    again = ShardIndex.from_bytes(data)
    assert facts(again) == facts(index)
    assert again.to_bytes() == data


@settings(deadline=None)
@given(indexes(), st.data())
def test_taking_lays_samples_end_to_end(index, data):
    chosen = data.draw(
        st.lists(st.integers(0, max(index.num_samples - 1, 0)), max_size=7)
        if index.num_samples
        else st.just([])
    )
    taken = index.take(chosen)
    assert taken.keys() == [index.key(i) for i in chosen]
    end = 0
    for place, i in enumerate(chosen):
        shift = end - int(index.sample_offsets[i])
        assert taken.sample_offsets[place] == end
        assert taken.members(place) == [
            (name, offset + shift, size) for name, offset, size in index.members(i)
        ]
        end += int(index.sample_offsets[i + 1] - index.sample_offsets[i])
    assert taken.end == taken.num_bytes == end


@settings(deadline=None)
@given(st.lists(indexes(), max_size=4))
def test_joining_is_taking_one_after_the_other(parts):
    runs = [part.take(range(part.num_samples)) for part in parts]
    whole = concat_indexes(runs)
    assert whole.keys() == [*chain(*(part.keys() for part in parts))]
    base, placed = 0, []
    for run in runs:
        placed += [
            [(name, base + offset, size) for name, offset, size in run.members(i)]
            for i in range(run.num_samples)
        ]
        base += run.end
    assert [whole.members(i) for i in range(whole.num_samples)] == placed
    assert whole.end == whole.num_bytes == base
    assert whole.canonical == all(part.canonical for part in parts)


def test_the_same_samples_have_the_same_file_whatever_the_order_of_extensions():
    one, two = IndexBuilder(), IndexBuilder()
    one.add("a", 0, [("b", 512, 1), ("a", 1536, 1)])
    two.add("z", 0, [("a", 512, 1)])
    two.add("a", 1024, [("b", 1536, 1), ("a", 2560, 1)])
    first = one.finish(2048, 10240, canonical=True)
    second = two.finish(3072, 10240, canonical=True).take([1])
    assert first.take([0]).to_bytes() == second.to_bytes()


def test_more_extensions_than_sixteen_bits_hold():
    builder = IndexBuilder()
    placed = [(f"{i:05d}.jpg", 512 + i * 512, 0) for i in range(70_000)]
    builder.add("film", 0, placed)
    index = builder.finish(512 * 70_000, 512 * 70_040, canonical=True)
    assert index.member_extension.dtype == np.uint32
    again = ShardIndex.from_bytes(index.to_bytes())
    assert again.members(0) == placed
    assert concat_indexes([again, again.take([0])]).members(1)[0][0] == "00000.jpg"


READ_BY_NUMPY_ALONE = """
import sys
import numpy as np
z = np.load(sys.argv[1])
_, samples, members, num_bytes, file_bytes, canonical, end = z["about"].tolist()
names = bytes(z["extensions"]).decode().split("\\0")
def column(name, count):
    return np.broadcast_to(z[name].astype(np.int64), count)
counts = column("sample_members", samples)
firsts = np.cumsum(counts) - counts
kinds = z["member_extension"]
sizes = np.empty(members, np.int64)
for i in range(len(names)):
    sizes[kinds == i] = z[f"size_{i}"]
steps = column("member_header", members) * 512
steps[firsts] += column("sample_gap", samples) * 512
ends = np.cumsum(steps + (sizes + 511) // 512 * 512)
offsets = ends - (sizes + 511) // 512 * 512
lengths = column("key_length", samples)
cuts = np.cumsum(lengths) - lengths
for i in range(samples):
    key = bytes(z["key_bytes"][cuts[i]:cuts[i] + lengths[i]]).decode()
    rows = range(firsts[i], firsts[i] + counts[i])
    print(key, *[f"{names[kinds[r]]}:{offsets[r]}:{sizes[r]}" for r in rows])
"""


def test_numpy_alone_reads_the_file(tmp_path):
    builder = IndexBuilder()
    builder.add("a", 0, [("cls", 512, 1), ("jpg", 1536, 700)])
    builder.add("bb", 3072, [("cls", 3584, 0), ("jpg", 5120, 70_000)])
    index = builder.finish(75_264, 81_920, canonical=False)
    save_index(index, str(tmp_path / "a.tar"))
    read = subprocess.run(
        [sys.executable, "-c", READ_BY_NUMPY_ALONE, index_url(str(tmp_path / "a.tar"))],
        check=True,
        capture_output=True,
        text=True,
    )
    assert read.stdout.splitlines() == [
        "a cls:512:1 jpg:1536:700",
        "bb cls:3584:0 jpg:5120:70000",
    ]


def ordinary_index(num_samples=1000):
    builder = IndexBuilder()
    for i in range(num_samples):
        at = i * 3 * 1024
        builder.add(
            f"{i:09d}", at, [("cls", at + 512, 1), ("jpg", at + 1536, 512 + i % 500)]
        )
    end = num_samples * 3072
    return builder.finish(end, end + 10240, canonical=False)


def test_an_ordinary_index_is_small():
    assert len(ordinary_index(10_000).to_bytes()) < 16 * 10_000


def test_members_that_overlap_have_no_file():
    builder = IndexBuilder()
    builder.add("a", 0, [("x", 512, 1000), ("y", 1024, 1)])
    with pytest.raises(ValueError, match="overlap"):
        builder.finish(2048, 10240, canonical=False).to_bytes()
    builder = IndexBuilder()
    builder.add("a", 0, [("x", 512, -5)])
    with pytest.raises(ValueError, match="negative"):
        builder.finish(512, 10240, canonical=False).to_bytes()


# -- files that lie -----------------------------------------------------------


def rewritten(index, **columns):
    """The index's file with some columns changed, and None for one left out."""
    old = np.load(io.BytesIO(index.to_bytes()))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in {**dict.fromkeys(old.files), **columns}:
            column = columns.get(name, old[name] if name in old.files else None)
            if column is None:
                continue
            raw = io.BytesIO()
            np.lib.format.write_array(raw, np.asarray(column), allow_pickle=True)
            archive.writestr(f"{name}.npy", raw.getvalue())
    return stream.getvalue()


def about(index, **changes):
    names = ["version", "num_samples", "num_members", "num_bytes", "file_bytes"]
    values = [1, index.num_samples, index.num_members, index.num_bytes]
    fields = dict(
        zip(
            [*names, "canonical", "end"],
            [*values, index.file_bytes, 0, index.end],
            strict=True,
        )
    )
    return np.array(list({**fields, **changes}.values()), dtype="<i8")


SMALL = ordinary_index(3)
LIES = {
    "another version": {"about": about(SMALL, version=2)},
    "a short head": {"about": about(SMALL)[:3]},
    "a head of another type": {"about": about(SMALL).astype("<i4")},
    "many samples": {"about": about(SMALL, num_samples=10**12)},
    "no samples": {"about": about(SMALL, num_samples=0)},
    "less than none": {"about": about(SMALL, num_samples=-1)},
    "many members": {"about": about(SMALL, num_members=10**12)},
    "an end before the last sample": {"about": about(SMALL, end=512)},
    "an end beyond the shard": {"about": about(SMALL, end=10**9)},
    "a shard shorter than its samples": {"about": about(SMALL, num_bytes=512)},
    "a negative file": {"about": about(SMALL, file_bytes=-1)},
    "keys without length": {"key_length": np.zeros(1, np.uint8)},
    "keys longer than their bytes": {"key_length": np.full(1, 200, np.uint8)},
    "too few lengths": {"key_length": np.full(2, 9, np.uint8)},
    "keys that are not UTF-8": {"key_bytes": np.full(27, 255, np.uint8)},
    "keys cut inside a character": {
        "key_bytes": np.frombuffer(b"a" * 8 + "é".encode() + b"b" * 17, np.uint8)
    },
    "negative offsets": {"member_header": np.full(1, -1, np.int64)},
    "no header": {"member_header": np.zeros(1, np.uint8)},
    "offsets beyond all": {"member_header": np.full(1, 2**61, np.uint64)},
    "offsets that add up beyond all": {"member_header": np.full(1, 2**57, np.uint64)},
    "sizes beyond all": {"size_0": np.full(3, 2**63, np.uint64)},
    "sizes that add up beyond all": {
        "size_0": np.full(3, 2**60, np.uint64),
        "size_1": np.full(3, 2**60, np.uint64),
    },
    "an extension without a name": {"member_extension": np.full(6, 9, np.uint8)},
    "names that are not UTF-8": {"extensions": np.full(3, 255, np.uint8)},
    "a sample without members": {"sample_members": np.array([3, 3, 0], np.uint8)},
    "members of no sample": {"sample_members": np.ones(1, np.uint8)},
    "fractions": {"member_header": np.ones(1, np.float64)},
    "objects": {"key_length": np.array([9, 9, 9], object)},
    "a column less": {"size_1": None},
    "two dimensions": {"sample_gap": np.zeros((1, 1), np.uint8)},
}


@pytest.mark.parametrize("columns", LIES.values(), ids=LIES)
def test_a_file_that_lies_is_refused(columns):
    assert ShardIndex.from_bytes(rewritten(SMALL)).keys() == SMALL.keys()
    with pytest.raises(ManifestError, match=r"x\.npz: not a sound index"):
        ShardIndex.from_bytes(rewritten(SMALL, **columns), "x.npz")


def test_a_compressed_file_is_refused():
    old = np.load(io.BytesIO(SMALL.to_bytes()))
    stream = io.BytesIO()
    np.savez_compressed(stream, **{name: old[name] for name in old.files})
    with pytest.raises(ManifestError, match="compressed"):
        ShardIndex.from_bytes(stream.getvalue())


def test_a_header_that_promises_more_than_there_is_is_refused():
    data = SMALL.to_bytes().replace(b"(27,)", b"(99,)")
    with pytest.raises(ManifestError):
        ShardIndex.from_bytes(data)
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as archive:
        archive.writestr("about.npy", b"\x93NUMPY\x01\x00\xff\xff{}")
    with pytest.raises(ManifestError, match="header"):
        ShardIndex.from_bytes(stream.getvalue())


def test_no_flipped_byte_goes_unnoticed():
    data = SMALL.to_bytes()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with contextlib.suppress(ManifestError):
            assert facts(ShardIndex.from_bytes(bytes(damaged))) == facts(SMALL)


def test_no_cut_file_is_taken():
    data = SMALL.to_bytes()
    for length in range(len(data)):
        with pytest.raises(ManifestError):
            ShardIndex.from_bytes(data[:length])


# -- on storage ---------------------------------------------------------------


def test_an_index_is_kept_beside_its_shard(tmp_path):
    url = str(tmp_path / "a.tar")
    assert load_index(url) is None
    save_index(SMALL, url)
    index = load_index(url, num_bytes=SMALL.num_bytes)
    assert index is not None
    assert index.to_bytes() == SMALL.to_bytes()


def test_an_index_of_a_shard_of_another_size_is_refused(tmp_path):
    url = str(tmp_path / "a.tar")
    save_index(SMALL, url)
    with pytest.raises(ManifestError, match="this one has 512"):
        load_index(url, num_bytes=512)


def test_an_index_that_cannot_be_read_is_an_error_and_not_an_absence(tmp_path):
    (tmp_path / "a.tar.npz").mkdir()
    with pytest.raises(StorageError, match=r"a\.tar\.npz"):
        load_index(str(tmp_path / "a.tar"))


# -- forms of others ----------------------------------------------------------


def test_energon_and_dali_are_told_the_same():
    index = ordinary_index(2)
    assert energon_index(index) == np.array([0, 3072, 6144], "<u8").tobytes()
    assert dali_index(index) == (
        "v1.2 2\n"
        "cls 512 1 000000000.cls jpg 1536 512 000000000.jpg\n"
        "cls 3584 1 000000001.cls jpg 4608 513 000000001.jpg\n"
    )


@pytest.mark.parametrize(("key", "extension"), [("a b", "x"), ("a", ""), ("a\n", "x")])
def test_names_that_dalis_form_cannot_hold_are_refused(key, extension):
    builder = IndexBuilder()
    builder.add(key, 0, [(extension, 512, 1)])
    with pytest.raises(ValueError, match="DALI"):
        dali_index(builder.finish(1024, 10240, canonical=True))
