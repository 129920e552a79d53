"""The bytes of a tar, held against Python's tarfile."""

from __future__ import annotations

import tarfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardbuild.shards.tarformat import (
    end_of_archive,
    member_header,
    padded,
    padding,
    sample_tar_bytes,
    shard_tar_bytes,
)


def header_by_tarfile(name: str, num_bytes: int, owner: str = "bigdata") -> bytes:
    """What tarfile writes, in ustar if that can hold it and else in pax."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = num_bytes, 0o444, 0
    member.uname = member.gname = owner
    try:
        return member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError:
        return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


parts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/"),
    min_size=1,
    max_size=70,
)
ascii_parts = st.text("ab.", min_size=1, max_size=160)
names = st.lists(parts | ascii_parts, min_size=1, max_size=6).map("/".join)
sizes = (
    st.integers(0, 5000)
    | st.integers(0, 2**40)
    | st.sampled_from([8**11 - 1, 8**11, 8**11 + 1])
)


@given(names, sizes)
@example("a" * 100, 0)
@example("a" * 101, 0)
@example("d" * 155 + "/" + "n" * 100, 1)
@example("d" * 156 + "/" + "n" * 100, 1)
@example("d" * 155 + "/" + "n" * 101, 1)
@example("/" + "n" * 100, 1)
@example("a/" + "b/" * 60 + "c", 1)
@example("ä" * 50, 1)
@example("ä" * 51, 1)
@example("ä" * 49 + "/" + "ö" * 50, 8**11)
@example("é" * 101, 1)
@example("x" * 82, 8**11)
@example("n" * 990, 8**11)
def test_a_header_is_tarfiles(name, num_bytes):
    header = member_header(name, num_bytes)
    assert header == header_by_tarfile(name, num_bytes)
    sizes_by_extension = {"x": num_bytes}
    key = name.removesuffix(".x")
    assert sample_tar_bytes(key, sizes_by_extension) == padded(num_bytes) + len(
        member_header(f"{key}.x", num_bytes)
    )


@given(st.text("abü", max_size=16), st.integers(0, 0o7777))
def test_owner_and_mode_are_tarfiles(owner, mode):
    member = tarfile.TarInfo("a.b")
    member.mode, member.uname, member.gname = mode, owner, owner
    expected = member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    assert member_header("a.b", 0, user=owner, group=owner, mode=mode) == expected


def test_an_owner_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        member_header("a.b", 0, user="u" * 33)


def test_a_name_outside_unicode_is_refused():
    with pytest.raises(UnicodeEncodeError):
        member_header("a\udcff.b", 0)


@given(st.integers(0, 10**6))
def test_payloads_end_on_blocks_and_shards_on_records(num_bytes):
    assert padded(num_bytes) == num_bytes + len(padding(num_bytes))
    assert padded(num_bytes) % 512 == 0
    body = padded(num_bytes)
    end = end_of_archive(body)
    assert not any(end)
    assert len(end) >= 1024
    assert body + len(end) == shard_tar_bytes(body)
    assert shard_tar_bytes(body) % 10240 == 0
    assert len(end) < 1024 + 10240
