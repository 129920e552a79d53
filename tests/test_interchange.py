"""Ours opened by others, and theirs by us: the same samples, fields and bytes.

Every peer and every tool here is the real one. What is true is what the files of
the folder hold, or what was made in Python: never what our own reader says.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import struct
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import webdataset
from hypothesis import given, settings

import shardbuild as sb
from shardbuild.bench.peers import load_peer
from shardbuild.cli.main import main
from shardbuild.shards.peerindexes import dali_index, energon_index
from shardbuild.shards.reader import read_indexed, read_stream, scan_stream
from shardbuild.shards.readfacts import ReadFacts
from tests.building import PHOTOS, digests
from tests.interchange_archives import Archive, archives
from tests.interchange_tars import (
    LONG_KEYS,
    MAKERS,
    PACKERS,
    PREFIX_KEYS,
    SHORT_KEYS,
    WALKERS,
    Tree,
    odd_samples,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardbuild.shards.samples import Sample

# webdataset and wids leave the files that they read to the garbage collector.
leaking_peer = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

convert = functools.partial(sb.convert, scheduler="sync")


@dataclass(frozen=True)
class DataSet:
    """One that ``convert`` wrote, and what is true of it."""

    manifest: str
    true: dict[str, Sample]

    @property
    def shards(self) -> list[str]:
        return sb.load_manifest(self.manifest).shard_urls(self.manifest)

    def in_order(self) -> list[Sample]:
        """The true samples, in the order that ``tarfile`` finds their keys in."""
        return [sample for shard in self.shards for sample in self.of(shard)]

    def of(self, shard: str) -> list[Sample]:
        found: dict[str, None] = {}
        with tarfile.open(shard) as tar:
            for name in tar.getnames():
                folder, _, base = name.rpartition("/")
                found[f"{folder}/{base.split('.')[0]}".removeprefix("/")] = None
        return [self.true[key] for key in found]

    def files_of(self, shard: str) -> dict[str, bytes]:
        """Name and payload of every member, in order."""
        return {
            f"{sample['__key__']}.{extension}": data
            for sample in self.of(shard)
            for extension, data in sorted(sample.items())
            if extension != "__key__"
        }


def photos_as_files_say() -> dict[str, Sample]:
    classes = sorted(folder.name for folder in PHOTOS.iterdir())
    true: dict[str, Sample] = {}
    for path in sorted(PHOTOS.glob("*/*.*")):
        key = f"{path.parent.name}/{path.stem}"
        label = b"%d" % classes.index(path.parent.name)
        sample = true.setdefault(key, {"__key__": key, "cls": label})
        sample[path.suffix[1:]] = path.read_bytes()
    return true


def convert_made(folder: Path, keys: tuple[str, ...]) -> DataSet:
    samples = odd_samples(keys)
    with sb.ShardWriter(f"{folder}/in-%03d.tar", maxcount=3) as writer:
        for sample in samples:
            writer.write(sample)
    out = f"{folder}/out/made-%06d.tar"
    convert(f"{folder}/in.json", out, order="shuffle", seed=3, maxcount=4)
    return DataSet(sb.manifest_url(out), {each["__key__"]: each for each in samples})


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DataSet]:
    folder = tmp_path_factory.mktemp("photos")
    out = f"{folder}/train-%06d.tar"
    convert(str(PHOTOS), out, label_from="folder", order="shuffle", seed=7, maxcount=20)
    return {
        "photos": DataSet(sb.manifest_url(out), photos_as_files_say()),
        "short": convert_made(tmp_path_factory.mktemp("short"), SHORT_KEYS),
        "long": convert_made(
            tmp_path_factory.mktemp("long"), SHORT_KEYS + PREFIX_KEYS + LONG_KEYS
        ),
    }


@pytest.fixture(params=["photos", "short", "long"])
def data_set(request: pytest.FixtureRequest, data_sets: Any) -> DataSet:
    found: DataSet = data_sets[request.param]
    return found


def without_meta(sample: Sample) -> Sample:
    return {
        name: value
        for name, value in sample.items()
        if name == "__key__" or not name.startswith("__")
    }


class TestOursOpenedByPeers:
    def test_the_data_sets_are_whole(self, data_set: DataSet) -> None:
        found = {sample["__key__"] for sample in data_set.in_order()}
        assert found == data_set.true.keys()
        assert len(data_set.shards) > 1

    @leaking_peer
    def test_by_webdataset(self, data_set: DataSet) -> None:
        last = len(data_set.shards) - 1
        stem = data_set.manifest.removesuffix(".json")
        spec = f"{stem}-{{000000..{last:06}}}.tar"
        seen = list(webdataset.WebDataset(spec, shardshuffle=False))
        assert [without_meta(sample) for sample in seen] == data_set.in_order()

    @leaking_peer
    @pytest.mark.parametrize("name", ["photos", "short"])
    def test_by_wids(self, name: str, data_sets: Any, tmp_path: Path) -> None:
        data_set = data_sets[name]
        assert seen_by_wids(data_set.manifest, tmp_path) == data_set.in_order()

    @leaking_peer
    def test_wids_knows_only_the_last_part_of_a_name_over_100_bytes(
        self, tmp_path: Path
    ) -> None:
        """Whoever wrote it: this is why ``wids`` does not see "long" above."""
        data_set = convert_made(tmp_path / "in", PREFIX_KEYS)
        seen = seen_by_wids(data_set.manifest, tmp_path / "cache")
        for true, found in zip(data_set.in_order(), seen, strict=True):
            assert true["__key__"].endswith("/" + found["__key__"])
            assert true == {**found, "__key__": true["__key__"]}

    @pytest.mark.parametrize("name", ["photos", "short", "long"])
    def test_by_datasets(
        self, name: str, seen_by_datasets: Any, data_sets: Any
    ) -> None:
        true = data_sets[name].in_order()
        assert [as_bytes(sample) for sample in seen_by_datasets["raw"][name]] == true
        decoded = seen_by_datasets["decoded"][name]
        assert [as_bytes(sample, DECODED) for sample in decoded] == [
            {**sample, **parsed_json(sample)} for sample in true
        ]


def seen_by_wids(manifest: str, cache: Path) -> list[Sample]:
    def raw(sample: Sample) -> Sample:
        fields = without_meta(sample).items()
        return {
            name.removeprefix("."): value.read()
            if isinstance(value, BytesIO)
            else value
            for name, value in fields
        }

    found = load_peer("wids").ShardListDataset(
        manifest, cache_dir=str(cache), transformations=[raw]
    )
    try:
        return [found[i] for i in range(len(found))]
    finally:
        found.close()


@pytest.fixture(scope="module")
def seen_by_datasets(
    data_sets: dict[str, DataSet], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    home = tmp_path_factory.mktemp("home")
    places = {name: each.shards for name, each in data_sets.items()}
    script = Path(__file__).parent / "interchange_datasets.py"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(home)}
    command = [sys.executable, str(script), f"{home}/cache", json.dumps(places)]
    environment = {**os.environ, **offline}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def parsed_json(sample: Sample) -> dict[str, Any]:
    return {"json": json.loads(sample["json"])} if "json" in sample else {}


DECODED = {
    "cls": lambda number: b"%d" % number,
    "txt": str.encode,
    "json": lambda document: document,
    "__key__": str,
}


def as_bytes(sample: Sample, also: dict[str, Any] | None = None) -> Sample:
    ways = {"__key__": str, **(also or {})}
    return {
        name: ways.get(name, base64.b64decode)(value) for name, value in sample.items()
    }


EXTRACT = {
    "GNU tar": "tar -xf",
    "bsdtar": "bsdtar -xf",
    "busybox tar": "busybox tar -xf",
}
LIST = {
    "GNU tar": "tar --quoting-style=literal -tf",
    "bsdtar": "bsdtar -tf",
    "busybox tar": "busybox tar -tf",
}
# Busybox knows nothing of pax: it sees names that have their place in ustar.
TOOLS = [
    *((tool, name) for tool in ("GNU tar", "bsdtar") for name in ("photos", "long")),
    *(("busybox tar", name) for name in ("photos", "short")),
]


class TestOursOpenedByTools:
    @pytest.mark.parametrize(("tool", "name"), TOOLS)
    def test_lists_and_extracts(
        self, tool: str, name: str, data_sets: Any, tmp_path: Path
    ) -> None:
        data_set = data_sets[name]
        for number, shard in enumerate(data_set.shards):
            true = data_set.files_of(shard)
            listed = run(*LIST[tool].split(), shard).decode().splitlines()
            assert listed == list(true)
            folder = tmp_path / str(number)
            folder.mkdir()
            run(*EXTRACT[tool].split(), shard, "-C", str(folder))
            assert files_in(folder) == true

    def test_tar_compares(self, data_sets: Any, tmp_path: Path) -> None:
        shard = data_sets["long"].shards[0]
        run("tar", "--no-same-owner", "-xf", shard, "-C", str(tmp_path))
        assert differences(shard, tmp_path) == []
        changed = next(path for path in tmp_path.rglob("*.seg.mask.dat"))
        changed.chmod(0o644)
        changed.write_bytes(bytes(1024))
        os.utime(changed, (0, 0))
        name = changed.relative_to(tmp_path)
        assert differences(shard, tmp_path) == [
            f"{name}: Mode differs",
            f"{name}: Contents differ",
        ]

    def test_tar_tells_of_what_it_found(self, data_sets: Any) -> None:
        shard = data_sets["photos"].shards[0]
        lines = run("tar", "-tvf", shard).decode().splitlines()
        for line, (name, data) in zip(
            lines, data_sets["photos"].files_of(shard).items(), strict=True
        ):
            facts = ["-r--r--r--", "bigdata/bigdata", str(len(data)), "1970-01-01"]
            assert line.split() == [*facts, "00:00", name]

    def test_tarfile(self, data_set: DataSet) -> None:
        for shard in data_set.shards:
            with tarfile.open(shard, "r:") as tar:
                found = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
            assert list(found.items()) == list(data_set.files_of(shard).items())


def files_in(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if not path.is_dir())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def differences(shard: str, folder: Path) -> list[str]:
    """What ``tar --compare`` finds, but for the owner: only root can give that."""
    command = ["tar", "--quoting-style=literal", "--compare", "-f", shard]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    return [line for line in lines if not line.endswith(("Uid differs", "Gid differs"))]


PACKED = {
    "tar.gz": "gzip -dc",
    "tgz": "gzip -dc",
    "tar.bz2": "bzip2 -dc",
    "tar.xz": "xz -dc",
    "tar.zst": "zstd -dc",
}


class TestOursCompressed:
    @pytest.mark.parametrize("suffix", PACKED)
    def test_the_same_bytes_twice_and_unpacked_by_the_tool(
        self, suffix: str, data_sets: Any, tmp_path: Path
    ) -> None:
        source = data_sets["long"].manifest
        for turn in "ab":
            convert(source, f"{tmp_path}/{turn}/s-%06d.{suffix}", maxcount=6)
        assert digests(tmp_path / "a") == digests(tmp_path / "b")
        convert(source, f"{tmp_path}/plain/s-%06d.tar", maxcount=6)
        shards = sorted((tmp_path / "plain").glob("*.tar"))
        assert len(shards) == 3
        for shard in shards:
            packed = tmp_path / "a" / f"{shard.stem}.{suffix}"
            assert run(*PACKED[suffix].split(), packed) == shard.read_bytes()
            samples = list(sb.read_samples(str(shard)))
            assert list(sb.read_samples(str(packed))) == samples
            assert run("tar", "-tvf", packed) == run("tar", "-tvf", shard)

    @leaking_peer
    @pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.xz"])
    def test_by_webdataset(self, suffix: str, data_sets: Any, tmp_path: Path) -> None:
        shard = f"{tmp_path}/s-000000.{suffix}"
        convert(data_sets["long"].manifest, f"{tmp_path}/s-%06d.{suffix}", maxcount=99)
        seen = webdataset.WebDataset(shard, shardshuffle=False)
        assert [without_meta(each) for each in seen] == data_sets["long"].in_order()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    keys = SHORT_KEYS + PREFIX_KEYS + LONG_KEYS
    return Tree.make(tmp_path_factory.mktemp("tree") / "root", keys)


class Canonical:
    """What conversions of samples in some order have to give, whoever wrote them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sorted: dict[tuple[str, ...], dict[str, str]] = {}

    def shard(self, samples: Iterable[Sample]) -> bytes:
        """The one shard of samples in this order."""
        url = f"{self._folder}/one.tar"
        with sb.TarWriter(url) as writer:
            for sample in samples:
                writer.write(sample)
        return Path(url).read_bytes()

    def sorted(self, samples: list[Sample]) -> dict[str, str]:
        """The digests of shards, indexes and manifest of the samples by key."""
        keys = tuple(sample["__key__"] for sample in samples)
        if keys not in self._sorted:
            self.shard(samples)
            out = self._folder / str(len(self._sorted))
            convert_sorted(f"{self._folder}/one.tar", out, "spill")
            self._sorted[keys] = digests(out)
        return self._sorted[keys]


@pytest.fixture(scope="module")
def canonical(tmp_path_factory: pytest.TempPathFactory) -> Canonical:
    return Canonical(tmp_path_factory.mktemp("canonical"))


def convert_sorted(url: str, out: Path, method: Any) -> None:
    convert(url, f"{out}/s-%06d.tar", order="sort:__key__", maxcount=4, method=method)


def check_read(url: str, true: list[Sample], facts: ReadFacts) -> None:
    assert list(sb.read_samples(url, facts=facts)) == true
    index = sb.scan_shard(url)
    assert index.keys() == [sample["__key__"] for sample in true]
    assert [
        {extension: size for extension, _, size in index.members(i)}
        for i in range(index.num_samples)
    ] == [
        {name: len(data) for name, data in sample.items() if name != "__key__"}
        for sample in true
    ]


def check_streamed(
    url: str, true: list[Sample], canonical: Canonical, out: Path
) -> None:
    convert(url, f"{out}/s-%06d.tar", method="stream")
    assert (out / "s-000000.tar").read_bytes() == canonical.shard(true)


class TestTheirs:
    @pytest.mark.parametrize("maker", MAKERS)
    def test_become_the_same_bytes(
        self, maker: str, tree: Tree, canonical: Canonical, tmp_path: Path
    ) -> None:
        shard = tmp_path / "theirs.tar"
        true = MAKERS[maker](tree, shard)
        url = str(shard)
        facts = ReadFacts()
        check_read(url, true, facts)
        if maker in WALKERS:
            assert facts.skipped["hidden"] == facts.skipped["link"] == 1
            assert facts.skipped["no extension"] == 1
        else:
            assert facts.num_skipped == (maker == "GNU tar, a label")
        index = sb.scan_shard(url)
        backwards = range(len(true) - 1, -1, -1)
        assert list(read_indexed(url, index, backwards)) == true[::-1]
        check_streamed(url, true, canonical, tmp_path / "stream")
        for method in ("gather", "spill"):
            convert_sorted(url, tmp_path / method, method)
            assert digests(tmp_path / method) == canonical.sorted(true)

    @pytest.mark.parametrize("packer", PACKERS)
    def test_compressed_become_the_same_bytes(
        self, packer: str, tree: Tree, canonical: Canonical, tmp_path: Path
    ) -> None:
        # The name says nothing: what it is, its first bytes tell.
        shard = tmp_path / "theirs.tar"
        true = PACKERS[packer](tree, shard)
        url = str(shard)
        check_read(url, true, ReadFacts())
        check_streamed(url, true, canonical, tmp_path / "stream")
        convert_sorted(url, tmp_path / "spill", "spill")
        assert digests(tmp_path / "spill") == canonical.sorted(true)
        with pytest.raises(sb.PlanError, match="is compressed: use spill"):
            convert_sorted(url, tmp_path / "gather", "gather")
        convert_sorted(url, tmp_path / "auto", "auto")
        assert digests(tmp_path / "auto") == canonical.sorted(true)

    def test_the_makers_differ(self, tree: Tree, tmp_path: Path) -> None:
        """Or all of the above would be one test many times.

        Only what is done to an archive of GNU tar's later leaves no trace.
        """
        contents = set()
        for number, maker in enumerate(MAKERS):
            MAKERS[maker](tree, tmp_path / f"{number}.tar")
            contents.add((tmp_path / f"{number}.tar").read_bytes())
        assert len(contents) == len(MAKERS) - len(["GNU tar -r", "GNU tar -A"])


# -- the indexes of others ----------------------------------------------------------


@pytest.fixture(scope="module")
def bare_tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """One without white space in its names: DALI's index has it between its words."""
    keys = [key for key in SHORT_KEYS + PREFIX_KEYS + LONG_KEYS if key.split() == [key]]
    return Tree.make(tmp_path_factory.mktemp("bare") / "root", tuple(keys))


def write_ours(tree: Tree, shard: Path) -> list[Sample]:
    with sb.TarWriter(str(shard)) as writer:
        for sample in tree.samples:
            writer.write(sample)
    return tree.samples


INDEXED = {
    "ours": write_ours,
    **{
        name: MAKERS[name]
        for name in ("GNU tar posix of .", "git archive", "webdataset", "cat")
    },
}


class TestIndexesOfPeers:
    @pytest.mark.parametrize("maker", INDEXED)
    def test_are_what_their_formats_say(
        self, maker: str, bare_tree: Tree, tmp_path: Path
    ) -> None:
        shard = tmp_path / "a.tar"
        true = INDEXED[maker](bare_tree, shard)
        assert main(["index", str(shard), "--peers", "energon,dali"]) == 0
        data = shard.read_bytes()
        assert (
            read_by_energon_index(data, (tmp_path / "a.tar.idx").read_bytes()) == true
        )
        assert read_by_dali_index(data, (tmp_path / "a.idx").read_text()) == true

    @pytest.mark.parametrize("name", ["photos", "short"])
    def test_energon_finds_the_same_in_ours(
        self, name: str, data_sets: Any, tmp_path: Path
    ) -> None:
        for shard in data_sets[name].shards:
            index = sb.load_index(shard)
            assert index is not None
            assert energon_index(index) == as_energon_does(shard)

    def test_dali_finds_the_same_in_ours(self, data_sets: Any) -> None:
        for shard in data_sets["photos"].shards:
            index = sb.load_index(shard)
            assert index is not None
            assert dali_index(index) == as_dali_does(shard)


def read_by_energon_index(shard: bytes, index: bytes) -> list[Sample]:
    """A sample is the members from one offset to the next: little-endian, 8 bytes."""
    offsets = struct.unpack(f"<{len(index) // 8}Q", index)
    samples = []
    for start, stop in pairwise(offsets):
        part = BytesIO(shard[start:stop] + bytes(1024))
        with tarfile.open(fileobj=part, mode="r:") as tar:
            members = [(m.name, tar.extractfile(m).read()) for m in tar if m.isreg()]  # type: ignore[union-attr]
        samples.append(sample_of_members(members))
    return samples


def read_by_dali_index(shard: bytes, index: str) -> list[Sample]:
    """A line is a sample, four words a member: extension, offset, size, name."""
    head, *lines = index.removesuffix("\n").split("\n")
    assert head == f"v1.2 {len(lines)}"
    samples = []
    for line in lines:
        words = line.split()
        fields = []
        for i in range(0, len(words), 4):
            extension, offset, size = words[i], int(words[i + 1]), int(words[i + 2])
            assert offset % 512 == 0
            name = words[i + 3]
            assert name.endswith(f".{extension}")
            fields.append((name, shard[offset : offset + size]))
        samples.append(sample_of_members(fields))
    return samples


def sample_of_members(members: Iterable[tuple[str, bytes]]) -> Sample:
    sample: Sample = {}
    for path, data in members:
        name = path.removeprefix("./")
        folder, _, base = name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not dot or not stem:
            continue
        key = f"{folder}/{stem}".removeprefix("/")
        assert sample.setdefault("__key__", key) == key
        sample[extension.lower()] = data
    return sample


def as_energon_does(shard: str) -> bytes:
    """Where each sample's first member has its header, and where the last ends."""
    offsets = []
    last = None
    with tarfile.open(shard) as tar:
        for member in tar:
            key = sample_of_members([(member.name, b"")])["__key__"]
            if key != last:
                offsets.append(member.offset)
                last = key
        offsets.append(tar.offset)
    return struct.pack(f"<{len(offsets)}Q", *offsets)


def as_dali_does(shard: str) -> str:
    samples: dict[str, list[str]] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            dot = member.name.index(".", member.name.rfind("/") + 1)
            key, extension = member.name[:dot], member.name[dot + 1 :]
            words = f"{extension} {member.offset_data} {member.size} {member.name}"
            samples.setdefault(key, []).append(words)
    lines = [f"v1.2 {len(samples)}", *(" ".join(each) for each in samples.values())]
    return "".join(f"{line}\n" for line in lines)


# -- any archive that tarfile writes ------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(archives())
def test_any_archives_joined_are_read_and_indexed_as_they_were_meant(
    archive: Archive,
) -> None:
    facts = ReadFacts()
    found = list(read_stream(BytesIO(archive.packed), "a.tar", facts=facts))
    assert found == archive.samples
    assert facts.skipped == archive.skipped
    assert facts.num_archives == archive.num_parts
    assert facts.num_bytes == len(archive.tar)
    index = scan_stream(BytesIO(archive.packed), "a.tar")
    assert index.keys() == [sample["__key__"] for sample in archive.samples]
    for i, sample in enumerate(archive.samples):
        fields = {
            extension: archive.tar[offset : offset + size]
            for extension, offset, size in index.members(i)
        }
        assert {"__key__": index.key(i), **fields} == sample


def test_a_global_header_may_be_all_there_is(tmp_path: Path) -> None:
    """As ``git archive`` writes an empty folder."""
    with tarfile.open(
        tmp_path / "empty.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"x": "y"}
    ):
        pass
    empty = (tmp_path / "empty.tar").read_bytes()
    sample = {"__key__": "a", "cls": b"1"}
    with sb.TarWriter(f"{tmp_path}/one.tar") as writer:
        writer.write(sample)
    one = (tmp_path / "one.tar").read_bytes()
    assert list(read_stream(BytesIO(empty), "a.tar")) == []
    assert list(read_stream(BytesIO(one + empty), "a.tar")) == [sample]
    assert list(read_stream(BytesIO(empty + one), "a.tar")) == [sample]
