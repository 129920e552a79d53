"""Reading whole shards: every dialect, every way in, the same samples."""

from __future__ import annotations

import dataclasses
import gc
import io
import os
import subprocess
import tarfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import webdataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shardbuild.errors import ManifestError, StorageError, TruncatedShardError
from shardbuild.shards.reader import (
    ReadFacts,
    read_at,
    read_fragment,
    read_indexed,
    read_lots,
    read_samples,
    read_stream,
    scan_fragment,
    scan_shard,
    scan_stream,
)
from shardbuild.shards.readwindow import WINDOW_BYTES
from shardbuild.shards.writer import TarWriter
from shardbuild.storage import metered, write_bytes
from shardbuild.storage.fetch import RangeSource
from tests.tars import (
    BLOCK,
    FORMATS,
    Entry,
    Trickle,
    by_tarfile,
    entries_of,
    make_samples,
    make_tar,
)

if TYPE_CHECKING:
    from shardbuild.shards.index import ShardIndex
    from shardbuild.shards.samples import KeyRule, Sample


def read_in_all_ways(
    data: bytes, folder: Path, key_rule: KeyRule = "first-dot"
) -> list[Sample]:
    """The samples in a tar; all ways to read it have to agree."""
    facts = ReadFacts()
    samples = list(read_stream(io.BytesIO(data), "u", key_rule=key_rule, facts=facts))
    others = [ReadFacts() for _ in range(4)]
    trickle = Trickle(data)
    assert samples == list(
        read_stream(trickle, "u", key_rule=key_rule, facts=others[0])
    )
    path = folder / "shard.tar"
    path.write_bytes(data)
    url = str(path)
    assert samples == list(read_samples(url, key_rule=key_rule, facts=others[1]))
    index = scan_shard(url, key_rule=key_rule, facts=others[2])
    again = scan_stream(io.BytesIO(data), "u", key_rule=key_rule, facts=others[3])
    assert index.to_bytes() == again.to_bytes()
    assert others == [facts] * 4
    assert index.num_bytes == facts.num_bytes == len(data)
    read_in_lots(data, path, samples, key_rule)
    backwards = range(len(samples) - 1, -1, -1)
    assert samples == list(read_indexed(url, index, range(len(samples))))
    assert samples[::-1] == list(read_indexed(url, index, backwards))
    with RangeSource(url) as source:
        assert samples == [read_at(source, index, i) for i in range(len(samples))]
    if facts.num_archives == 1:
        body = data[: index.end]
        assert samples == list(read_fragment(body, "u", key_rule=key_rule))
        part = scan_fragment(memoryview(body), "u", key_rule=key_rule)
        assert part.keys() == index.keys()
        assert part.sample_offsets.tolist() == index.sample_offsets.tolist()
        assert part.member_offset.tolist() == index.member_offset.tolist()
        assert part.member_size.tolist() == index.member_size.tolist()
    for i, sample in enumerate(samples[:3]):
        start, stop = index.sample_offsets[i : i + 2]
        piece = memoryview(data)[start:stop]
        assert [sample] == list(read_fragment(piece, "u", key_rule=key_rule))
    return samples


def read_in_lots(
    data: bytes, path: Path, samples: list[Sample], key_rule: KeyRule
) -> None:
    """Lots give all samples, where they begin, and the index; entered anywhere."""
    index = dataclasses.replace(
        scan_shard(str(path), key_rule=key_rule), canonical=False
    )
    heads = index.sample_offsets[:-1].tolist()
    learned: list[ShardIndex] = []
    for position, start in [(0, 0), *list(enumerate(heads))[1:4]]:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            for stream in (file, io.BytesIO(data[start:])):
                lots = read_lots(
                    stream, "u", start=start, key_rule=key_rule, on_index=learned.append
                )
                found = [(list(lot.samples), lot.heads) for lot in lots]
                assert [s for some, _ in found for s in some] == samples[position:]
                assert [head for _, some in found for head in some] == heads[position:]
    assert [each.to_bytes() for each in learned] == [index.to_bytes()] * 2


# -- random archives ----------------------------------------------------------------

folders = st.sampled_from(["", "d/", "./", "d.e/f/", "ä/", "x" * 97 + "/", "yz/" * 60])
stems = st.text(st.sampled_from("ab0_- ü日"), min_size=1, max_size=4)
extensions = st.sampled_from(["jpg", "cls", "json", "seg.png", "JPG", "x.y.z", "tar"])
sizes = st.sampled_from([0, 1, 511, 512, 513, 1024, 3000])
nested = make_tar(entries_of(make_samples(2, num_bytes=5)))
noise = st.sampled_from(
    [
        Entry("d/", kind=tarfile.DIRTYPE),
        Entry("a link", kind=tarfile.SYMTYPE),
        Entry("a.hard.link", kind=tarfile.LNKTYPE),
        Entry("fifo.x", kind=tarfile.FIFOTYPE),
        Entry("README", b"text" * 200),
        Entry("d/.hidden.jpg", b"x"),
        Entry("__meta__/a.jpg", nested),
        Entry("__meta__", b"x"),
        Entry("w" * 120, kind=tarfile.DIRTYPE),
    ]
)


@st.composite
def archives(draw: st.DrawFn) -> list[Entry]:
    """Members of samples, in their places, and others between them."""
    stem = stems.map(lambda text: text.replace("__", "_a"))
    keys = draw(st.lists(st.tuples(folders, stem), max_size=9, unique=True))
    mtime = draw(st.sampled_from([0, 1.5, 1_700_000_000.123456]))
    repeated = draw(st.booleans())
    same = draw(st.lists(extensions, min_size=1, max_size=4, unique_by=str.lower))
    entries = []
    for folder, name in keys:
        chosen = same
        if not repeated:
            unique = st.lists(extensions, min_size=1, max_size=4, unique_by=str.lower)
            chosen = draw(unique)
        for extension in chosen:
            data = nested if extension == "tar" else bytes(draw(sizes))
            entries.append(Entry(f"{folder}{name}.{extension}", data, mtime=mtime))
            if draw(st.integers(0, 4)) == 0:
                entries.append(draw(noise))
    return entries


@pytest.mark.parametrize("form", FORMATS)
@settings(deadline=None)
@given(entries=archives(), key_rule=st.sampled_from(["first-dot", "last-dot"]))
def test_random_archives_are_read_as_tarfile_reads_them(
    form: str,
    entries: list[Entry],
    key_rule: KeyRule,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # What ustar cannot hold is not for ustar.
    entries = [
        entry
        for entry in entries
        if form != "ustar" or len(entry.name.encode()) <= 100 or "yz/" in entry.name
    ]
    data = make_tar(entries, FORMATS[form])
    expected = by_tarfile(data, key_rule)
    keys = [sample["__key__"] for sample in expected]
    assume(len(set(keys)) == len(keys))  # "./a" and "a" are one key
    folder = tmp_path_factory.mktemp("random")
    assert read_in_all_ways(data, folder, key_rule) == expected


# -- shards large enough for every way of reading -----------------------------------

SHAPES: dict[str, list[Sample]] = {
    "small": make_samples(400, num_bytes=3),
    "several windows": make_samples(700, num_bytes=9000),
    "large members": make_samples(40, num_bytes=150_000),
    "a member larger than the window": [
        *make_samples(3),
        {"__key__": "huge", "bin": os.urandom(1 << 20) * 5, "txt": b"x"},
        *make_samples(3, first=3),
    ],
    "large and small by turns": [
        *make_samples(20, num_bytes=200_000),
        *make_samples(3000, num_bytes=3, first=20),
        *make_samples(20, num_bytes=200_000, first=5000),
    ],
    "keys that grow": [
        {"__key__": f"{i}", "cls": b"1", "jpg": b"2"} for i in range(3000)
    ],
    "fields that come and go": [
        {
            "__key__": f"{i}",
            "z": b"",
            **{f: b"x" * i for f in "abc" if i % (ord(f) - 94)},
        }
        for i in range(1, 600)
    ],
    "one field": [{"__key__": f"{i:04}", "txt": b"x"} for i in range(2000)],
    "two fields": [{"__key__": f"{i:04}", "a": b"x", "b": b"y"} for i in range(1000)],
    "many fields": [
        {"__key__": f"{i:04}", **{f"f{j:02}": b"x" for j in range(70)}}
        for i in range(60)
    ],
    "nested tars": [
        {"__key__": f"{i:04}", "cls": b"1", "tar": nested} for i in range(900)
    ],
    "one sample": make_samples(1),
    "no sample": [],
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mtime", [0, 1234.5])
def test_shards_of_every_shape_and_format(
    shape: str, form: str, mtime: float, tmp_path: Path
) -> None:
    data = make_tar(entries_of(SHAPES[shape], mtime), FORMATS[form])
    assert read_in_all_ways(data, tmp_path) == SHAPES[shape]


@pytest.mark.parametrize("form", ["gnu", "pax"])
@pytest.mark.parametrize("key", ["long/" + "k" * 150, "ä" * 60, "dir/" * 80 + "x"])
def test_long_names(key: str, form: str, tmp_path: Path) -> None:
    samples = [{**s, "__key__": f"{key}{i}"} for i, s in enumerate(make_samples(300))]
    data = make_tar(entries_of(samples), FORMATS[form])
    assert read_in_all_ways(data, tmp_path) == samples


def test_the_prefix_as_star_writes_it(tmp_path: Path) -> None:
    data = make_tar(entries_of(make_samples(50)))
    prefix = b"p" * 131 + b"00012345670 00012345670 "
    for i in range(0, len(data), BLOCK):
        if data[i + 257 : i + 262] == b"ustar":
            data = _with_header(data, i, 345, prefix)
            data = _with_header(data, i, 508, b"tar\0")
    samples = read_in_all_ways(data, tmp_path)
    keys = [sample["__key__"] for sample in make_samples(50)]
    assert [sample["__key__"] for sample in samples] == [
        f"{'p' * 131}/{k}" for k in keys
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_a_leading_dot_folder_and_capitals(form: str, tmp_path: Path) -> None:
    entries = [
        Entry(f"./dir/{i}.{extension}", b"x" * i)
        for i in range(100)
        for extension in ("JPG", "cls")
    ]
    data = make_tar([Entry("./", kind=tarfile.DIRTYPE), *entries], FORMATS[form])
    samples = read_in_all_ways(data, tmp_path)
    assert samples == [
        {"__key__": f"dir/{i}", "jpg": b"x" * i, "cls": b"x" * i} for i in range(100)
    ]


def test_the_last_dot_rule_on_a_large_shard(tmp_path: Path) -> None:
    entries = [Entry(f"v1.{i}.{e}") for i in range(500) for e in ("a", "b")]
    samples = read_in_all_ways(make_tar(entries), tmp_path, "last-dot")
    assert [sample["__key__"] for sample in samples] == [f"v1.{i}" for i in range(500)]


def test_what_belongs_to_no_sample_is_counted(tmp_path: Path) -> None:
    entries = []
    for i in range(50):
        entries += [
            Entry(f"d{i}/", kind=tarfile.DIRTYPE),
            Entry(f"d{i}/a.jpg", b"1"),
            Entry(f"d{i}/link", kind=tarfile.SYMTYPE),
            Entry(f"d{i}/README", b"2"),
            Entry(f"d{i}/.a.jpg", b"3"),
            Entry("__x__/notes.txt", b"4"),
            Entry(f"d{i}/a.txt", b"5"),
            Entry("null", kind=tarfile.CHRTYPE),
        ]
    facts = ReadFacts()
    data = make_tar(entries)
    samples = list(read_stream(io.BytesIO(data), "u", facts=facts))
    assert samples == [
        {"__key__": f"d{i}/a", "jpg": b"1", "txt": b"5"} for i in range(50)
    ]
    assert read_in_all_ways(data, tmp_path) == samples
    assert facts.skipped == {
        "device": 50,
        "directory": 50,
        "hidden": 50,
        "link": 50,
        "meta": 50,
        "no extension": 50,
    }
    assert (facts.num_samples, facts.num_members, facts.num_skipped) == (50, 100, 300)


@pytest.mark.parametrize("count", [3, 600])
def test_joined_archives_are_read_one_after_the_other(
    count: int, tmp_path: Path
) -> None:
    first, second = make_samples(count), make_samples(count, first=count)
    data = make_tar(entries_of(first)) + make_tar(
        entries_of(second), tarfile.PAX_FORMAT
    )
    facts = ReadFacts()
    assert list(read_stream(io.BytesIO(data), "u", facts=facts)) == first + second
    assert facts.num_archives == 2
    assert read_in_all_ways(data, tmp_path) == first + second
    assert not scan_stream(io.BytesIO(data), "u").canonical


# -- archives of others -------------------------------------------------------------


def run(*command: str | Path, folder: Path | None = None) -> bytes:
    """Run a tool, which has to be there and to succeed."""
    return subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of samples, with links, odd names and a file with holes."""
    folder = tmp_path_factory.mktemp("tree")
    for i, sample in enumerate(make_samples(40)):
        key = sample.pop("__key__") + ("-" + "long" * 30 if i % 8 == 0 else "")
        for field, data in sample.items():
            path = folder / "samples" / f"{key}.{field}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    samples = folder / "samples" / "dir"
    (samples / "übung 日本.txt").write_bytes(b"names in UTF-8")
    (samples / "link.txt").symlink_to("000001.cls")
    os.link(samples / "000001.cls", samples / "zz.txt")
    (samples / "deep").mkdir()
    (samples / "deep" / ".hidden").touch()
    return folder


TOOLS: dict[str, list[str]] = {
    **{
        f"GNU tar {form}": ["tar", f"--format={form}", "--sort=name", "-cf", "-"]
        for form in ("v7", "oldgnu", "gnu", "ustar", "pax")
    },
    "GNU tar pax, times": [
        "tar",
        "--format=pax",
        "--xattrs",
        "--sort=name",
        "-cf",
        "-",
    ],
    "GNU tar, folders first": ["tar", "-cf", "-", "--mtime=@0.5", "--sort=name"],
    **{
        f"bsdtar {form}": ["bsdtar", f"--format={form}", "-cf", "-"]
        for form in ("v7", "ustar", "pax", "gnutar", "paxr")
    },
    "busybox": ["busybox", "tar", "-cf", "-"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tars_of_other_tools(tool: str, tree: Path, tmp_path: Path) -> None:
    command = TOOLS[tool]
    names = sorted(
        path.relative_to(tree)
        for path in (tree / "samples").rglob("*")
        if path.is_file() or path.is_symlink()
    )
    if "v7" in tool or tool == "GNU tar ustar":
        names = [name for name in names if len(str(name)) < 100]
    # By folder at once, in the tool's own order and names; and file by file.
    folder = run(*command, "./samples/dir/deep", folder=tree)
    assert list(read_stream(io.BytesIO(folder), "u")) == []
    data = run(*command, *names, folder=tree)
    samples = read_in_all_ways(data, tmp_path)
    assert samples == by_tarfile(data)
    assert len(samples) >= 36
    found = {s["__key__"]: s for s in samples}
    assert found["samples/dir/000001"]["cls"] == b"1"
    assert found["samples/dir/übung 日本"] == {
        "__key__": "samples/dir/übung 日本",
        "txt": b"names in UTF-8",
    }
    for sample in samples:
        for field in sample.keys() - {"__key__"}:
            path = tree / f"{sample['__key__']}.{field}"
            assert sample[field] == path.read_bytes()


def test_the_tools_write_different_dialects(tree: Path) -> None:
    # Or the test above would test one thing many times.
    magics = {
        tool: run(*command, "samples/dir/000002.cls", folder=tree)[257:265]
        for tool, command in TOOLS.items()
    }
    assert magics["GNU tar v7"] == magics["bsdtar v7"] == bytes(8)
    assert magics["GNU tar gnu"] == b"ustar  \0"
    assert magics["GNU tar ustar"] == magics["GNU tar pax"] == b"ustar\x0000"


def test_shards_that_webdataset_wrote(tmp_path: Path) -> None:
    samples = make_samples(500)
    path = tmp_path / "web.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    data = path.read_bytes()
    assert data[156:157] == b"x"  # a pax header for every member
    assert read_in_all_ways(data, tmp_path) == samples
    assert not scan_shard(str(path)).canonical


@pytest.mark.parametrize("shape", SHAPES)
def test_shards_that_we_wrote_have_the_index_that_we_wrote(
    shape: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.tar"
    with TarWriter(str(path)) as writer:
        for sample in SHAPES[shape]:
            writer.write(sample)
    index = scan_shard(str(path))
    assert index.canonical
    assert index.to_bytes() == writer.index.to_bytes()
    body = path.read_bytes()[: index.end]
    assert scan_fragment(body, "u").canonical
    assert read_in_all_ways(path.read_bytes(), tmp_path) == SHAPES[shape]


class TestCanonical:
    """A byte that is not ours has to be noticed: samples are copied by this."""

    @pytest.mark.parametrize("count", [2, 60])
    @pytest.mark.parametrize("size", [100, 70_000])
    def test_every_changed_byte_is_noticed(
        self, count: int, size: int, tmp_path: Path
    ) -> None:
        data = _owned(make_tar(entries_of(make_samples(count, num_bytes=size))))
        index = scan_stream(io.BytesIO(data), "u")
        assert index.canonical
        start = int(index.sample_offsets[1])
        _, payload, length = index.members(1)[0]
        end = payload + length
        changes = [
            *((offset, b"z") for offset in range(100, 124, 5)),  # mode, owner
            *((offset, b"1") for offset in (137, 146)),  # time
            (135, b" "),
            (157, b"a"),
            (266, b"a"),
            (330, b"1"),
            (505, b"x"),
            (10, b"\0x"),
        ]
        for offset, byte in changes:
            changed = _with_header(data, start, offset, byte)
            path = tmp_path / "changed.tar"
            path.write_bytes(changed)
            assert not scan_stream(io.BytesIO(changed), "u").canonical, offset
            assert not scan_shard(str(path)).canonical, offset
        for offset in (end, end + (-end % BLOCK) - 1):
            changed = data[:offset] + b"x" + data[offset + 1 :]
            assert not scan_stream(io.BytesIO(changed), "u").canonical

    @pytest.mark.parametrize("behind", [1, 2, 40])
    def test_what_lies_behind_every_name_is_noticed(self, behind: int) -> None:
        samples = make_samples(60)
        data = _owned(make_tar(entries_of(samples)))
        index = scan_stream(io.BytesIO(data), "u")
        assert index.canonical
        for i, sample in enumerate(samples[:50]):  # the last ones are read one by one
            field, payload, _ = index.members(i)[-1]
            end = len(f"{sample['__key__']}.{field}")
            data = _with_header(data, payload - BLOCK, end + behind, b"x")
        found = scan_stream(io.BytesIO(data), "u")
        assert not found.canonical
        assert found.keys() == index.keys()

    @pytest.mark.parametrize("count", [3, 50])
    @pytest.mark.parametrize(
        "names",
        [
            ["{}.b", "{}.a"],
            ["{}.A"],
            ["./{}.a"],
            ["{}.a", "{}"],
            ["{}."],
            ["{}._a"],
            ["{}.__url__"],
        ],
    )
    def test_other_names_and_orders_are_noticed(
        self, count: int, names: list[str]
    ) -> None:
        data = _owned(
            make_tar(
                Entry(name.format(i), b"x") for i in range(count) for name in names
            )
        )
        assert not scan_stream(io.BytesIO(data), "u").canonical

    @pytest.mark.parametrize("count", [1, 50])
    def test_other_ends_are_noticed(self, count: int) -> None:
        with TarWriter(stream := io.BytesIO()) as writer:
            for sample in make_samples(count):
                writer.write(sample)
        data = stream.getvalue()
        assert scan_stream(io.BytesIO(data), "u").canonical
        for other in (data + bytes(BLOCK), data[:-BLOCK], data + bytes(20 * BLOCK)):
            assert not scan_stream(io.BytesIO(other), "u").canonical


def _with_header(data: bytes, start: int, offset: int, byte: bytes) -> bytes:
    """A tar with a byte of a header changed, and that header's sum made right."""
    block = bytearray(data[start : start + BLOCK])
    block[offset : offset + len(byte)] = byte
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:start] + bytes(block) + data[start + BLOCK :]


# -- streams, files, memory ---------------------------------------------------------


def test_nothing_is_opened_before_the_first_sample(tmp_path: Path) -> None:
    reading = read_samples(str(tmp_path / "missing.tar"))
    with pytest.raises(StorageError, match="missing"):
        next(reading)


def test_a_file_left_half_read_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar(entries_of(make_samples(300))))
    before = set(Path("/proc/self/fd").iterdir())
    reading = read_samples(str(path))
    next(reading)
    assert set(Path("/proc/self/fd").iterdir()) != before
    del reading
    gc.collect()
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_stream_that_would_block_is_an_error() -> None:
    class Blocking(io.RawIOBase):
        def readinto(self, buffer: Any) -> None:
            return None

    with pytest.raises(StorageError, match="block"):
        list(read_stream(cast("Any", Blocking()), "u"))


def test_large_fragments_are_read_from_any_memory() -> None:
    samples = make_samples(600, num_bytes=9000)
    data = make_tar(entries_of(samples))
    body = memoryview(data)[: scan_stream(io.BytesIO(data), "u").end]
    assert len(body) > 2 * WINDOW_BYTES
    assert list(read_fragment(body, "u")) == samples
    assert list(read_fragment(bytes(body), "u")) == samples
    assert list(read_fragment(memoryview(bytearray(body)), "u")) == samples


def test_a_file_is_read_from_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    samples = make_samples(5, num_bytes=100_000)
    path.write_bytes(b"before" + make_tar(entries_of(samples)))
    with path.open("rb", buffering=0) as stream:
        stream.seek(6)
        assert list(read_stream(stream, "u")) == samples


def test_interleaved_readings_do_not_share_memory(tmp_path: Path) -> None:
    urls = []
    for i in range(4):
        path = tmp_path / f"{i}.tar"
        path.write_bytes(make_tar(entries_of(make_samples(500, first=1000 * i))))
        urls.append(str(path))
    lots = list(zip(*map(read_samples, urls), strict=True))
    for i, samples in enumerate(zip(*lots, strict=True)):
        assert list(samples) == make_samples(500, first=1000 * i)


def test_a_named_pipe_is_read_as_a_stream(tmp_path: Path) -> None:
    samples = make_samples(300)
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar(entries_of(samples)))
    assert list(read_samples(f"pipe:cat '{path}'")) == samples
    index = scan_shard(f"pipe:cat '{path}'")
    assert index.to_bytes() == scan_shard(str(path)).to_bytes()


@pytest.mark.parametrize(("num_bytes", "count"), [(300_000, 60), (30, 5000)])
def test_a_local_shard_is_read_once(num_bytes: int, count: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar(entries_of(make_samples(count, num_bytes))))
    with metered() as meter:
        for _ in read_samples(str(path)):
            pass
    size = path.stat().st_size
    assert size * 0.99 < meter.read_bytes < size * 1.01 + 700_000
    with metered() as meter:
        scan_shard(str(path))
    if num_bytes > 100_000:
        assert meter.read_bytes < size / 10


class TestMemory:
    SIZE = 48 << 20

    def _peak(self, stream: Any) -> int:
        tracemalloc.start()
        try:
            for sample in read_stream(stream, "u"):
                del sample
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def test_is_bounded_by_the_largest_member(self, tmp_path: Path) -> None:
        entries = [
            *entries_of(make_samples(10)),
            Entry("huge.bin", bytes(self.SIZE)),
            *entries_of(make_samples(10, first=10)),
        ]
        data = make_tar(entries)
        assert self._peak(io.BytesIO(data)) < self.SIZE + (8 << 20)
        path = tmp_path / "a.tar"
        path.write_bytes(data)
        with path.open("rb", buffering=0) as stream:
            assert self._peak(stream) < self.SIZE + (8 << 20)

    def test_is_not_that_of_what_nobody_wants(self) -> None:
        entries = [Entry("no extension", bytes(self.SIZE)), Entry("a.txt")]
        assert self._peak(io.BytesIO(make_tar(entries))) < 8 << 20

    def test_is_small_for_many_small_samples(self) -> None:
        entries = (Entry(f"{i}.txt") for i in range(40_000))
        assert WINDOW_BYTES <= 4 << 20
        assert self._peak(io.BytesIO(make_tar(entries))) < 16 << 20


# -- by index -----------------------------------------------------------------------


class TestIndexed:
    @pytest.fixture
    def shard(self, tmp_path: Path) -> tuple[str, list[Sample]]:
        samples = SHAPES["large and small by turns"][::7]
        path = tmp_path / "a.tar"
        path.write_bytes(make_tar(entries_of(samples)))
        return str(path), samples

    @given(data=st.data())
    @settings(max_examples=30, deadline=None)
    def test_any_positions_in_any_order(
        self, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        samples = SHAPES["large and small by turns"][::7]
        path = tmp_path_factory.getbasetemp() / "indexed.tar"
        if not path.exists():
            path.write_bytes(make_tar(entries_of(samples)))
        index = scan_shard(str(path))
        positions = data.draw(st.lists(st.integers(0, len(samples) - 1)))
        found = list(read_indexed(str(path), index, positions))
        assert found == [samples[i] for i in positions]

    def test_of_a_store(self, shard: tuple[str, list[Sample]]) -> None:
        url, samples = shard
        index = scan_shard(url)
        write_bytes("memory://reader/a.tar", Path(url).read_bytes())
        remote = scan_shard("memory://reader/a.tar")
        assert remote.to_bytes() == index.to_bytes()
        assert list(read_samples("memory://reader/a.tar")) == samples
        positions = [5, 3, 3, *range(100, 200), 0]
        found = read_indexed("memory://reader/a.tar", index, positions)
        assert list(found) == [samples[i] for i in positions]

    @pytest.mark.parametrize("position", [-1, 10**6])
    def test_there_have_to_be_such_positions(
        self, position: int, shard: tuple[str, list[Sample]]
    ) -> None:
        url, _ = shard
        with pytest.raises(IndexError, match="out of range"):
            list(read_indexed(url, scan_shard(url), [0, position]))

    def test_a_shard_of_another_length_is_refused(
        self, shard: tuple[str, list[Sample]]
    ) -> None:
        url, _ = shard
        index = scan_shard(url)
        with Path(url).open("ab") as file:
            file.write(bytes(BLOCK))
        with pytest.raises(ManifestError, match="bytes"):
            next(read_indexed(url, index, [0]))

    def test_a_shard_that_is_missing_is_an_error(
        self, shard: tuple[str, list[Sample]]
    ) -> None:
        url, _ = shard
        index = scan_shard(url)
        with pytest.raises(StorageError, match="missing"):
            next(read_indexed(url + "missing", index, [0]))

    def test_a_compressed_shard_has_no_places(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("a.txt"))
        index = scan_shard(str(path))
        assert index.file_bytes == path.stat().st_size
        with pytest.raises(ManifestError, match="compressed"):
            next(read_indexed(str(path), index, [0]))

    def test_a_shard_that_shrinks_is_an_error(
        self, shard: tuple[str, list[Sample]]
    ) -> None:
        url, samples = shard
        index = scan_shard(url)
        reading = read_indexed(url, index, range(len(samples)))
        assert next(reading) == samples[0]
        os.truncate(url, 1 << 20)
        with pytest.raises(TruncatedShardError) as caught:
            list(reading)
        assert caught.value.offset <= 1 << 20


def _owned(data: bytes) -> bytes:
    """The same tar by ``bigdata``, mode 0444, as we write it."""
    blocks = [data[i : i + BLOCK] for i in range(0, len(data), BLOCK)]
    out = b""
    for raw in blocks:
        block = bytearray(raw)
        if block[257:263] == b"ustar\0":
            block[100:108] = b"0000444\0"
            block[265:272] = block[297:304] = b"bigdata"
            block[329:345] = bytes(16)
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
        out += block
    return out


# -- as the seeds' tools wrote them ---------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "mode", "mtime", "form"),
    [
        ((0, "bigdata"), 0o444, 1600000000.25, tarfile.PAX_FORMAT),  # tarproc
        ((1000, "bigdata"), 0o755, 1600000000, tarfile.USTAR_FORMAT),  # tarp
    ],
)
def test_tars_of_tarproc_and_of_tarp(
    owner: tuple[int, str], mode: int, mtime: float, form: int, tmp_path: Path
) -> None:
    """Tarp writes the members of a sample in any order, tarproc a pax time for each."""
    samples = make_samples(300)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for i, sample in enumerate(samples):
            fields = sorted(field for field in sample if field != "__key__")
            for field in fields[i % 3 :] + fields[: i % 3]:
                member = tarfile.TarInfo(f"{sample['__key__']}.{field}")
                member.uid = member.gid = owner[0]
                member.uname = member.gname = owner[1]
                member.size, member.mode = len(sample[field]), mode
                member.mtime = mtime
                tar.addfile(member, io.BytesIO(sample[field]))
    assert read_in_all_ways(stream.getvalue(), tmp_path) == samples


def test_offsets_of_damage_are_those_of_the_tar_wherever_it_was_entered(tmp_path):
    data = make_tar(entries_of(make_samples(9)))
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    start = int(scan_shard(str(path)).sample_offsets[4])
    path.write_bytes(data[:-10240])
    with pytest.raises(TruncatedShardError) as whole:
        list(read_samples(str(path)))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        for stream in (file, io.BytesIO(path.read_bytes()[start:])):
            lots = read_lots(stream, str(path), start=start)
            with pytest.raises(TruncatedShardError) as part:
                [list(lot.samples) for lot in lots]
            assert str(part.value) == str(whole.value)
