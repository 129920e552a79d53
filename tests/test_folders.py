"""Folders of files as input: the real photographs, and folders that are hard."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from io import BytesIO
from pathlib import Path

import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shardbuild as sb
from shardbuild.build.folders import (
    SLICE_BYTES,
    SLICE_SAMPLES,
    is_folder,
    list_labels,
    read_listed,
    slice_folder,
)
from shardbuild.errors import PlanError, SampleError, StorageError
from shardbuild.shards.samples import base_plus_ext
from shardbuild.shards.tarformat import shard_tar_bytes
from shardbuild.shards.writer import TarWriter
from shardbuild.storage import write_bytes

PHOTOS = Path(__file__).parent / "data" / "photos"


def slices_of(folder, key_rule="first-dot", labels=None, **options):
    return list(slice_folder(str(folder), key_rule, labels, **options))


def lines_of(folder, *args, **options):
    return [line for one in slices_of(folder, *args, **options) for line in one.lines]


def samples_of(folder, *args, **options):
    return list(read_listed(lines_of(folder, *args, **options)))


def make_files(folder, names):
    for name in names:
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))


# --- the real data set -----------------------------------------------------------


def test_each_photograph_is_a_sample_with_its_texts():
    samples = samples_of(PHOTOS)
    keys = [sample["__key__"] for sample in samples]
    assert len(samples) == 65
    assert keys == sorted(keys)
    assert {len(sample) for sample in samples} == {4}
    for sample in samples:
        stem = PHOTOS / sample["__key__"]
        assert list(sample) == ["__key__", "jpg", "json", "txt"]
        for extension in ("jpg", "json", "txt"):
            data = stem.with_name(f"{stem.name}.{extension}").read_bytes()
            assert sample[extension] == data
        assert PIL.Image.open(BytesIO(sample["jpg"])).format == "JPEG"
        json.loads(sample["json"])


def test_photographs_are_labelled_by_their_folders():
    labels = list_labels(str(PHOTOS), "first-dot")
    assert labels == sorted(path.name for path in PHOTOS.iterdir())
    for sample in samples_of(PHOTOS, labels=labels):
        assert labels[int(sample["cls"])] == sample["__key__"].partition("/")[0]


def test_a_slice_knows_its_size_and_what_it_takes_in_a_shard(tmp_path):
    labels = list_labels(str(PHOTOS), "first-dot")
    (one,) = slices_of(PHOTOS, labels=labels)
    files = [path for path in PHOTOS.rglob("*") if path.is_file()]
    assert one.num_samples == 65
    assert one.num_bytes == sum(path.stat().st_size for path in files)
    bodies = [json.loads(line)["body"] for line in one.lines]
    with TarWriter(f"{tmp_path}/a.tar") as writer:
        for sample in read_listed(one.lines):
            writer.write(sample)
    assert shard_tar_bytes(sum(bodies)) == (tmp_path / "a.tar").stat().st_size


# --- names ------------------------------------------------------------------------


def test_files_that_make_no_samples_are_left_out(tmp_path):
    names = [
        "a.txt",
        ".hidden.txt",
        ".git/config.txt",
        "b/.a.txt",
        "README",
        "b/LICENSE",
        "b/c.txt",
        "__meta__/x.txt",
        "b/__meta__/x.txt",
    ]
    make_files(tmp_path, names)
    found = {sample["__key__"] for sample in samples_of(tmp_path)}
    assert found == {"a", "b/c", "b/__meta__/x"}


def test_keys_and_extensions_follow_the_key_rule(tmp_path):
    make_files(tmp_path, ["v1.5/x.seg.png", "v1.5/x.jpg", "v1.5/x.y.jpg"])
    first = [sorted(sample) for sample in samples_of(tmp_path)]
    assert first == [["__key__", "jpg", "seg.png", "y.jpg"]]
    last = {s["__key__"]: sorted(s) for s in samples_of(tmp_path, "last-dot")}
    assert last == {
        "v1.5/x": ["__key__", "jpg"],
        "v1.5/x.seg": ["__key__", "png"],
        "v1.5/x.y": ["__key__", "jpg"],
    }


@pytest.mark.parametrize(
    "names",
    [
        ["a.JPG", "b.Jpg", "b.TXT"],
        ["a b/c d.txt", " .txt", "a\nb.txt", "a\rb.txt", "tab\t.txt", "\u2028.txt"],
        ['"quoted".txt', "back\\slash.txt", "per%20cent.txt", "{0..9}.txt", "*.txt"],
        ["日本/写真.jpg", "e\u0301.txt", "\xe9.txt", "🦊.txt"],
        [os.fsdecode(b"latin-\xe9.txt"), os.fsdecode(b"\xff\xfe/x.txt")],
        ["-.txt", "pipe:cat x.txt", "s3:/a.txt", "a:b.txt", "~.txt", "#.txt", "?.txt"],
        ["a/b/c/d/e/f.txt", "a/b.txt", "a/b/c.txt", "a.txt", "a-b/c.txt"],
    ],
    ids=str,
)
def test_files_of_any_name_are_read(tmp_path, names):
    make_files(tmp_path, names)
    found: dict[str, bytes] = {}
    for sample in samples_of(tmp_path):
        key = sample.pop("__key__")
        found |= {f"{key}.{extension}": data for extension, data in sample.items()}
    wanted = {}
    for name in names:
        key, dot, extension = name.rpartition(".")
        wanted[f"{key}{dot}{extension.lower()}"] = os.fsencode(name)
    assert found == wanted


def test_the_name_of_a_file_is_never_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path, ["data/pipe:touch broken.txt", "data/file:secret.txt"])
    (tmp_path / "secret.txt").write_text("not in the folder")
    first, second = samples_of(tmp_path / "data")
    assert first == {"__key__": "file:secret", "txt": b"data/file:secret.txt"}
    assert second["__key__"] == "pipe:touch broken"
    for folder in ("data", "data/", "file:data"):
        assert samples_of(folder) == [first, second]
    monkeypatch.chdir(tmp_path / "data")
    assert samples_of(".") == [first, second]
    assert not list(tmp_path.rglob("broken*"))


@pytest.mark.parametrize("names", [["a.jpg", "a.JPG"], ["x/a.txt", "x/a.Txt"]])
def test_extensions_that_differ_in_case_alone_are_refused(tmp_path, names):
    make_files(tmp_path, [*names, "z.txt"])
    problem = re.escape(f"{sorted(names)[0]!r} and {sorted(names)[1]!r}")
    with pytest.raises(SampleError, match=problem) as raised:
        slices_of(tmp_path)
    assert raised.value.key == names[0].partition(".")[0]
    assert raised.value.url == str(tmp_path)


def test_samples_are_sorted_by_folder_and_key(tmp_path):
    # As text "a-b/x" is before "a/x", as folders after it; a sample is whole where
    # the files of another lie between its own in the listing.
    names = ["a/x.z", "a/x-1.a", "a/x.b", "a-b/x.a", "b.a", "a/b/x.a", "A/x.a"]
    make_files(tmp_path, names)
    keys = [sample["__key__"] for sample in samples_of(tmp_path)]
    assert keys == ["b", "A/x", "a/x", "a/x-1", "a/b/x", "a-b/x"]


def test_links_to_files_are_read_and_links_to_folders_are_not(tmp_path):
    make_files(tmp_path, ["real/a.txt", "elsewhere/b.txt"])
    folder = tmp_path / "real"
    (folder / "link.txt").symlink_to(tmp_path / "elsewhere" / "b.txt")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    samples = {s["__key__"]: s["txt"] for s in samples_of(folder)}
    assert samples == {"a": b"real/a.txt", "link": b"elsewhere/b.txt"}
    (tmp_path / "root").symlink_to(folder)
    assert len(samples_of(tmp_path / "root")) == 2


def test_a_link_to_nothing_is_an_error(tmp_path):
    make_files(tmp_path, ["a.txt"])
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(StorageError, match=r"b\.txt is a link to what is not there"):
        samples_of(tmp_path)


def test_files_that_make_no_samples_are_told_of_once(tmp_path, caplog):
    make_files(tmp_path / "in", ["a.txt", "README", "b/LICENSE"])
    sb.convert(str(tmp_path / "in"), f"{tmp_path}/out/%06d.tar", maxcount=5)
    (record,) = caplog.records
    told = record.getMessage()
    assert told == f"{tmp_path}/in: 2 files are no part of a sample, such as 'README'"


# --- labels -----------------------------------------------------------------------


def test_labels_are_whole_paths_of_folders_that_hold_samples(tmp_path):
    make_files(
        tmp_path, ["b/x.txt", "a/deep/x.txt", "a-b/x.txt", "c/README", "d/.x.txt"]
    )
    labels = list_labels(str(tmp_path), "first-dot")
    assert labels == ["a-b", "a/deep", "b"]
    samples = samples_of(tmp_path, labels=labels)
    assert {s["__key__"]: s["cls"] for s in samples} == {
        "a/deep/x": b"1",
        "a-b/x": b"0",
        "b/x": b"2",
    }


def test_a_sample_that_has_a_class_gets_no_other(tmp_path):
    make_files(tmp_path, ["a/x.txt", "a/x.cls"])
    with pytest.raises(SampleError, match="has a cls of its own: leave out label_from"):
        slices_of(tmp_path, labels=["a"])


def test_a_folder_that_comes_after_the_labels_is_noticed(tmp_path):
    make_files(tmp_path, ["a/x.txt"])
    labels = list_labels(str(tmp_path), "first-dot")
    make_files(tmp_path, ["b/x.txt"])
    with pytest.raises(StorageError, match="changed while it was listed"):
        slices_of(tmp_path, labels=labels)


# --- slices -----------------------------------------------------------------------


def keys_by_slice(folder, **options):
    slices = slices_of(folder, **options)
    return [[json.loads(line)["key"] for line in one.lines] for one in slices]


def test_many_samples_make_slices_of_so_many(tmp_path):
    make_files(tmp_path, [f"{i % 3}/{i:05d}.txt" for i in range(2 * SLICE_SAMPLES + 5)])
    slices = slices_of(tmp_path)
    assert [one.num_samples for one in slices] == [SLICE_SAMPLES, SLICE_SAMPLES, 5]
    assert len({one.fingerprint for one in slices}) == 3


def test_large_samples_make_slices_of_so_many_bytes(tmp_path):
    for i in range(20):
        with (tmp_path / f"{i:02d}.bin").open("wb") as file:
            file.truncate(SLICE_BYTES // 4)
        (tmp_path / f"{i:02d}.txt").write_bytes(b"")
    assert [one.num_samples for one in slices_of(tmp_path)] == [4] * 5
    assert [one.num_bytes for one in slices_of(tmp_path)] == [SLICE_BYTES] * 5


def test_slices_do_not_depend_on_options(tmp_path):
    # A class of some bytes must not push a sample into the next slice: its place
    # in a shuffled order depends on its slice.
    for i in range(9):
        path = tmp_path / "a" / f"{i}.bin"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(SLICE_BYTES // 3 - (0 if i % 3 else 1))
    plain = keys_by_slice(tmp_path)
    assert keys_by_slice(tmp_path, labels=["a"]) == plain
    assert keys_by_slice(tmp_path, key_rule="last-dot") == plain
    assert keys_by_slice(f"{tmp_path}/") == plain
    assert keys_by_slice(tmp_path, storage_options={"anon": True}) == plain


NAMES = st.lists(
    st.from_regex(r"([abA]{1,2}/){0,2}[ab.]{1,3}\.(txt|jpg|a\.b)", fullmatch=True),
    max_size=12,
    unique_by=str.lower,
)


@given(NAMES)
def test_a_folder_is_the_groups_of_its_names(names):
    wanted: dict[str, set[str]] = {}
    for name in names:
        parts = base_plus_ext(name)
        hidden = any(part.startswith(".") for part in name.split("/"))
        if parts is not None and not hidden:
            wanted.setdefault(parts[0], set()).add(parts[1])
    with tempfile.TemporaryDirectory() as folder:
        make_files(folder, names)
        if not wanted:
            with pytest.raises(PlanError, match="holds no files that make samples"):
                slices_of(folder)
            return
        samples = samples_of(folder)
        assert {s.pop("__key__"): set(s) for s in samples} == wanted
        assert len(samples) == len(wanted)


# --- change -----------------------------------------------------------------------


def fingerprints(folder, **options):
    return [one.fingerprint for one in slices_of(folder, **options)]


def same_size(path):
    path.write_bytes(b"x" * path.stat().st_size)
    os.utime(path, ns=(1, 1))


CHANGES = {
    "grown": lambda folder: (folder / "a" / "x.txt").write_bytes(b"longer than before"),
    "rewritten": lambda folder: same_size(folder / "a" / "x.txt"),
    "removed": lambda folder: (folder / "b" / "y.jpg").unlink(),
    "added": lambda folder: (folder / "b" / "z.txt").write_bytes(b""),
    "renamed": lambda folder: (folder / "b").rename(folder / "c"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_listing_twice_detects_a_change(tmp_path, change):
    make_files(tmp_path, ["a/x.txt", "b/y.jpg", "b/y.txt"])
    before = fingerprints(tmp_path)
    assert fingerprints(tmp_path) == before
    CHANGES[change](tmp_path)
    assert fingerprints(tmp_path) != before


def test_labels_and_key_rule_are_part_of_the_fingerprint(tmp_path):
    make_files(tmp_path, ["a/x.y.txt"])
    plain = fingerprints(tmp_path)
    assert fingerprints(tmp_path, labels=["a"]) != plain
    assert fingerprints(tmp_path, key_rule="last-dot") != plain


def test_a_file_that_was_cut_after_it_was_listed_is_an_error(tmp_path):
    make_files(tmp_path, ["a.txt", "b.txt"])
    lines = lines_of(tmp_path)
    (tmp_path / "b.txt").write_bytes(b"")
    samples = read_listed(lines)
    assert next(samples)["__key__"] == "a"
    with pytest.raises(StorageError, match=r"had 5 bytes when .* now 0") as raised:
        next(samples)
    assert raised.value.url == f"{tmp_path}/b.txt"


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    make_files(tmp_path, ["a.txt", "b.txt"])
    lines = lines_of(tmp_path)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "b.txt").unlink()
    (tmp_path / "b.txt").mkdir()
    for line, name in zip(lines, ["a.txt", "b.txt"], strict=True):
        with pytest.raises(StorageError) as raised:
            list(read_listed([line]))
        assert raised.value.url == f"{tmp_path}/{name}"


def test_nothing_listed_is_nothing_read():
    assert list(read_listed([])) == []


# --- what is no folder ------------------------------------------------------------


@pytest.mark.parametrize("name", ["x/a.tar", "b.tgz", "c.tar.zst"])
def test_a_folder_of_shards_is_not_taken_for_files(tmp_path, name):
    make_files(tmp_path, ["a.txt", name])
    with pytest.raises(PlanError, match=re.escape(f"holds shards ({name})")):
        slices_of(tmp_path)


def test_a_folder_without_samples_is_refused(tmp_path):
    with pytest.raises(PlanError, match="holds no files that make samples"):
        slices_of(tmp_path)
    make_files(tmp_path, ["README", ".a.txt"])
    with pytest.raises(PlanError, match="holds no files that make samples"):
        slices_of(tmp_path)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(StorageError, match="cannot list the folder"):
        slices_of(tmp_path / "none")


def test_what_a_folder_is(tmp_path, monkeypatch):
    make_files(tmp_path, ["a.tar", "folder/x.txt"])
    monkeypatch.chdir(tmp_path)
    folders = [".", "folder", "folder/", f"{tmp_path}", "file:folder", "s3://b/x/"]
    others = ["a.tar", "none", "-", "pipe:cat a.tar", "s3://b/x", "s3://b/x.tar", "*"]
    assert [is_folder(url) for url in folders] == [True] * len(folders)
    assert [is_folder(url) for url in others] == [False] * len(others)


# --- stores -----------------------------------------------------------------------


def test_a_folder_is_the_same_in_a_store(bucket, tmp_path):
    shutil.copytree(PHOTOS / "coffee", tmp_path / "coffee")
    make_files(tmp_path, ["a b/x.txt", "a-b/y.txt", ".hidden/z.txt", "日本.txt"])
    make_files(tmp_path, ["pipe:touch a.txt"])
    local = samples_of(tmp_path)
    options = {"storage_options": bucket.storage_options}
    url = f"{bucket.url}/raw/"
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            name = path.relative_to(tmp_path)
            write_bytes(f"{url}{name}", path.read_bytes(), **options)
    lines = lines_of(url, **options)
    assert list(read_listed(lines, **options)) == local
    assert fingerprints(url, **options) == fingerprints(url, **options)
    labels = list_labels(url, "first-dot", **options)
    assert labels == ["", "a b", "a-b", "coffee"]
    before = fingerprints(url, **options)
    write_bytes(f"{url}a b/x.txt", b"a B/x.txt", **options)
    assert fingerprints(url, **options) != before
