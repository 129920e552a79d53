"""All files of a tar, whatever their names."""

from __future__ import annotations

import bz2
import gzip
import io
import tarfile
from typing import Any

import pytest

from shardbuild.errors import ShardError, TruncatedShardError
from shardbuild.shards.rawmembers import read_members
from shardbuild.shards.readfacts import ReadFacts
from tests.tars import FORMATS, Entry, Trickle, make_tar

LONG = "n/" * 70 + "é.txt"
ENTRIES = [
    Entry("README", b"read"),
    Entry("a/", kind=tarfile.DIRTYPE),
    Entry("a/.hidden", b""),
    Entry("a/7.JPG", b"x" * 1000),
    Entry("link", kind=tarfile.SYMTYPE),
    Entry("a/7.JPG", b"again"),
    Entry("__meta__", b"m"),
]
FILES = [(entry.name, entry.data) for entry in ENTRIES if entry.kind == b"0"]


PACKERS: dict[str, Any] = {"plain": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}


@pytest.mark.parametrize("packer", PACKERS)
def test_gives_every_file_in_order(packer: str) -> None:
    facts = ReadFacts()
    stream = Trickle(PACKERS[packer](make_tar(ENTRIES)))
    assert list(read_members(stream, "a.tar", facts)) == FILES
    assert facts.skipped == {"directory": 1, "link": 1}


@pytest.mark.parametrize("dialect", ["gnu", "pax"])
def test_gives_long_names_whole(dialect: str) -> None:
    tar = make_tar([Entry(LONG, b"x")], FORMATS[dialect])
    assert list(read_members(io.BytesIO(tar), "a.tar")) == [(LONG, b"x")]


def test_reads_joined_archives() -> None:
    tar = make_tar([Entry("a", b"1")]) + make_tar([Entry("b", b"2")])
    found = list(read_members(io.BytesIO(tar), "a.tar"))
    assert found == [("a", b"1"), ("b", b"2")]


def test_reads_data_larger_than_its_window() -> None:
    data = bytes(range(256)) * 40_000
    tar = make_tar([Entry("a", data), Entry("b", b"2")])
    assert list(read_members(io.BytesIO(tar), "a.tar")) == [("a", data), ("b", b"2")]


@pytest.mark.parametrize("kept", [512, 1024, 1100, 1536, 2048])
def test_an_end_that_comes_early_is_an_error(kept: int) -> None:
    tar = make_tar([Entry("a", b"x" * 600), Entry("b", b"y")])[:kept]
    with pytest.raises(TruncatedShardError, match=r"a\.tar"):
        list(read_members(io.BytesIO(tar), "a.tar"))


def test_damage_is_an_error() -> None:
    tar = bytearray(make_tar([Entry("a", b"x"), Entry("b", b"y")]))
    tar[1024] ^= 1
    members = read_members(io.BytesIO(tar), "a.tar")
    assert next(members) == ("a", b"x")
    with pytest.raises(ShardError, match="1024"):
        next(members)
