"""Names of files taken apart by one rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.errors import StorageError
from shardbuild.shards.samples import base_plus_ext
from shardbuild.storage import paths

# What the seeds' tools split, and how: their own answers, where they were right.
NAMES = [
    ("a.jpg", "a", "jpg"),
    ("a.b/c.jpg", "a.b/c", "jpg"),
    ("./a.jpg", "./a", "jpg"),
    ("a.seg.PNG", "a", "seg.PNG"),
    ("a.", "a", ""),
    ("a..b", "a", ".b"),
    ("a/../b.txt", "a/../b", "txt"),
    ("Track 2.0 (C).mp3", "Track 2", "0 (C).mp3"),
    ("v1.5/x.y.a", "v1.5/x", "y.a"),
    # The seeds took "b/c" for the extension of this, and "x" for that of "x".
    ("a.b/c", "a.b/c", ""),
    ("x", "x", ""),
    ("dir/a", "dir/a", ""),
    # And joined all hidden files of a folder as fields of one sample "a/".
    (".hidden", ".hidden", ""),
    (".a.txt", ".a.txt", ""),
    ("..a", "..a", ""),
    ("a/.hidden", "a/.hidden", ""),
    ("dir/.a.txt", "dir/.a.txt", ""),
    ("", "", ""),
]


@pytest.mark.parametrize(("name", "base", "extension"), NAMES)
def test_a_name_is_split_at_the_first_dot_of_the_file_s_own(name, base, extension):
    assert (paths.filebase(name), paths.fullext(name)) == (base, extension)
    split = paths.FilePlusExt(name)
    assert (split.base(), split.key()) == (base, extension)


@given(st.text("ab./", max_size=12))
def test_the_rule_is_that_of_samples(name):
    if name.startswith("./"):
        name = name.lstrip("./")  # what reading a shard takes off first
    expected = base_plus_ext(name) or (name, "")
    assert (paths.filebase(name), paths.fullext(name)) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b/c.txt", ("a/b", "c.txt")),
        ("a/", ("a", "")),
        ("/c", ("", "c")),
        ("a\n/b\nc", ("a\n", "b\nc")),
        ("c.txt", None),
        ("", None),
    ],
)
def test_a_folder_and_a_file(path, expected):
    assert paths.dir_plus_file(path) == expected
    split = paths.DirPlusFile(path)
    # Not swapped, and without the slash: unlike the seed's.
    assert (split.base(), split.key()) == (expected or ("", path))


def leave_by_an_error(entering: paths.ChDir) -> None:
    with entering:
        raise KeyError(str(Path.cwd()))


def test_a_folder_is_left_for_the_one_before_also_by_an_error(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    entering = paths.ChDir(str(tmp_path / "one"))
    monkeypatch.chdir(tmp_path / "two")  # after it was made: entering counts
    with pytest.raises(KeyError, match=str(tmp_path / "one")):
        leave_by_an_error(entering)
    assert Path.cwd() == tmp_path / "two"
    with pytest.raises(FileNotFoundError):
        leave_by_an_error(paths.ChDir(str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x00bytes", b"\x00bytes"),
        ("größer", "größer".encode()),
        (bytearray(b"xy"), b"xy"),
        (memoryview(b"xyz")[1:], b"yz"),
        ("", b""),
    ],
)
def test_bytes_and_text_are_written_and_read(tmp_path, data, expected):
    for url in (f"{tmp_path}/d/x", f"file:{tmp_path}/y", "memory://paths/x"):
        paths.write_binary(url, data)
        assert paths.read_binary(url) == expected


def test_what_cannot_be_read_or_written_names_itself(tmp_path):
    with pytest.raises(StorageError, match="none: no such file"):
        paths.read_binary(f"{tmp_path}/none")
    with pytest.raises(StorageError, match="is a folder"):
        paths.write_binary(str(tmp_path), b"x")
