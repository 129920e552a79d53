"""One header at a time: dialects, checksums, pax records."""

from __future__ import annotations

import tarfile
from tarfile import GNU_FORMAT, PAX_FORMAT, USTAR_FORMAT, TarInfo
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.errors import ShardError
from shardbuild.shards.tarparse import (
    BLOCK,
    DIRECTORY,
    FILE,
    GLOBAL,
    LINK,
    LONG_NAME,
    OTHER,
    PAX,
    Header,
    Overrides,
    decode_name,
    is_header,
    overrides_of,
    padded,
    parse_header,
    parse_pax,
    plain_file,
    plain_path,
)


def header(
    name: str = "dir/7.jpg",
    size: int = 1234,
    kind: bytes = b"0",
    form: int = USTAR_FORMAT,
) -> bytes:
    member = TarInfo(name)
    member.size = size
    member.type = kind
    member.uname = member.gname = "bigdata"
    return member.tobuf(cast("Any", form))[-BLOCK:]


def patched(
    block: bytes, offset: int, data: bytes, total: bytes | None = None
) -> bytes:
    """A header with some bytes changed, and a checksum that agrees."""
    block = block[:offset] + data + block[offset + len(data) :]
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + (total or b"%06o\0 " % sum(blank)) + block[156:]


class TestParseHeader:
    @pytest.mark.parametrize("form", [USTAR_FORMAT, GNU_FORMAT, PAX_FORMAT])
    def test_reads_what_tarfile_writes(self, form: int) -> None:
        assert parse_header(header(form=form), "u", 0) == (b"dir/7.jpg", 1234, FILE)

    def test_joins_the_prefix(self) -> None:
        name = f"{'d' * 120}/{'n' * 90}.jpg"
        assert parse_header(header(name), "u", 0).name == name.encode()

    def test_knows_the_shorter_prefix_of_star(self) -> None:
        block = patched(header(), 345, b"p" * 131 + b"00012345670 00012345670 ")
        block = patched(block, 508, b"tar\0")
        assert parse_header(block, "u", 0).name == b"p" * 131 + b"/dir/7.jpg"

    def test_takes_no_prefix_from_gnu_headers(self) -> None:
        block = patched(header(form=GNU_FORMAT), 345, b"00012345670\0")
        assert parse_header(block, "u", 0).name == b"dir/7.jpg"

    def test_ignores_what_is_after_a_names_end(self) -> None:
        block = patched(header(), 0, b"a.b\0junk")
        assert parse_header(block, "u", 0).name == b"a.b"

    @pytest.mark.parametrize(
        ("kind", "meaning", "size"),
        [
            (b"7", FILE, 9),
            (b"\0", FILE, 9),
            (b"x", PAX, 9),
            (b"X", PAX, 9),
            (b"g", GLOBAL, 9),
            (b"L", LONG_NAME, 9),
            (b"D", OTHER, 9),
            (b"V", OTHER, 9),
            (b"1", LINK, 0),
            (b"2", LINK, 0),
            (b"5", DIRECTORY, 0),
        ],
    )
    def test_knows_the_kinds(self, kind: bytes, meaning: str, size: int) -> None:
        block = patched(header(size=9), 156, kind)
        assert parse_header(block, "u", 0) == (b"dir/7.jpg", size, meaning)

    def test_an_old_file_whose_name_ends_in_a_slash_is_a_folder(self) -> None:
        block = patched(header("dir/", 0), 156, b"\0")
        assert parse_header(block, "u", 0) == (b"dir/", 0, DIRECTORY)

    @pytest.mark.parametrize(("kind", "word"), [(b"S", "sparse"), (b"M", "volume")])
    def test_refuses_what_is_not_supported(self, kind: bytes, word: str) -> None:
        with pytest.raises(ShardError, match=word) as caught:
            parse_header(patched(header(), 156, kind), "a.tar", 1024)
        assert (caught.value.url, caught.value.offset) == ("a.tar", 1024)


class TestSize:
    @pytest.mark.parametrize(
        ("field", "size"),
        [
            (b"00000002322\0", 1234),
            (b"00000002322 ", 1234),
            (b"       2322 ", 1234),
            (b"2322\0\0\0\0\0\0\0\0", 1234),
            (b"000000002322", 1234),
            (b"77777777777\0", 8**11 - 1),
            (b"\0" * 12, 0),
            (b" " * 12, 0),
            (b"\x80" + (10**12).to_bytes(11, "big"), 10**12),
        ],
    )
    def test_is_read_in_every_form(self, field: bytes, size: int) -> None:
        assert parse_header(patched(header(), 124, field), "u", 0).size == size

    @pytest.mark.parametrize(
        "field",
        [
            b"-0000002322\0",
            b"+0000002322\0",
            b"0000_002322\0",
            b"0x000002322\0",
            b"00000008322\0",
            b"00 00002322\0",
            b"\xff" * 12,
            b"\xff" + bytes(11),
            b"\x81" + bytes(11),
            b"\x80" + b"\xff" * 11,
            b"\x80\0\0\0\x41" + bytes(7),
        ],
    )
    def test_is_refused_if_it_makes_no_sense(self, field: bytes) -> None:
        with pytest.raises(ShardError, match="size") as caught:
            parse_header(patched(header(), 124, field), "a.tar", 512)
        assert caught.value.offset == 512


class TestChecksum:
    @pytest.mark.parametrize("form", [USTAR_FORMAT, GNU_FORMAT])
    def test_finds_every_flipped_bit(self, form: int) -> None:
        whole = header(form=form)
        for bit in range(8 * BLOCK):
            block = bytearray(whole)
            block[bit // 8] ^= 1 << bit % 8
            assert plain_file(bytes(block)) is None
            assert not is_header(bytes(block))
            with pytest.raises(ShardError, match="checksum") as caught:
                parse_header(bytes(block), "a.tar", 99 * BLOCK)
            assert caught.value.offset == 99 * BLOCK

    def test_may_be_of_signed_bytes(self) -> None:
        block = header("ä/ö.jpg")
        blank = block[:148] + b" " * 8 + block[156:]
        total = sum(byte - 256 * (byte > 127) for byte in blank)
        assert total != sum(blank)
        block = patched(block, 0, b"", b"%06o\0 " % total)
        assert parse_header(block, "u", 0).name == "ä/ö.jpg".encode()

    @pytest.mark.parametrize("form", [b"%07o\0", b"%6o  ", b"%6o\0\0"])
    def test_may_be_in_the_forms_of_rust_and_perl(self, form: bytes) -> None:
        block = header()
        total = int(block[148:154], 8)
        assert is_header(patched(block, 0, b"", form % total))

    def test_may_be_padded_with_spaces_where_sizes_are(self) -> None:
        block = patched(header(), 124, b"       2322 ")
        total = int(block[148:154], 8)
        assert is_header(patched(block, 0, b"", b"%6o\0 " % total))
        block = header()
        total = int(block[148:154], 8)
        assert not is_header(patched(block, 0, b"", b"%6o\0 " % total))

    @given(st.binary(min_size=BLOCK, max_size=BLOCK))
    def test_is_exact(self, noise: bytes) -> None:
        block = patched(noise, 0, b"")
        assert is_header(block)
        other = patched(noise, 0, b"", b"%06o\0 " % (int(block[148:154], 8) ^ 1))
        assert not is_header(other)

    @pytest.mark.parametrize(
        "block", [bytes(BLOCK), b"x" * BLOCK, b"", b"\xff" * BLOCK]
    )
    def test_other_blocks_are_no_headers(self, block: bytes) -> None:
        assert not is_header(block)


class TestPlainFile:
    @given(
        st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=30),
        st.integers(0, 8**11 - 1),
        st.sampled_from(["0", "5", "1", "x"]),
    )
    def test_agrees_with_the_exact_parser(
        self, name: str, size: int, kind: str
    ) -> None:
        block = header("k", size, kind.encode())
        raw = name.encode(errors="replace")[:100]
        block = patched(block, 0, raw + bytes(100 - len(raw)))
        found = plain_file(block)
        if kind == "0":
            assert found == parse_header(block, "u", 0)[:2] == (raw, size)
        else:
            assert found is None


class TestParsePax:
    @given(
        st.dictionaries(
            st.text(st.characters(exclude_characters="=\0"), min_size=1, max_size=9),
            st.text(max_size=120),
            max_size=5,
        )
    )
    def test_reads_what_tarfile_writes(self, records: dict[str, str]) -> None:
        clean = {
            k.encode(errors="replace").decode(): v.encode(errors="replace").decode()
            for k, v in records.items()
        }
        # Two blocks and more: the header, the records, the member's own header.
        data = TarInfo.create_pax_global_header(clean) if clean else bytes(BLOCK)
        size = int(data[124:135], 8) if clean else 0
        expected = {k.encode(): v.encode() for k, v in clean.items()}
        assert parse_pax(data[BLOCK : BLOCK + size], "u", 0) == expected

    def test_the_last_of_a_keyword_counts(self) -> None:
        assert parse_pax(b"8 a=bcd\n8 a=efg\n", "u", 0) == {b"a": b"efg"}

    def test_zeros_may_follow(self) -> None:
        assert parse_pax(b"8 a=bcd\n" + bytes(9), "u", 0) == {b"a": b"bcd"}

    @pytest.mark.parametrize(
        "data",
        [
            b"9 a=bcd\n",
            b"7 a=bcd\n",
            b"99999999999999 a=bcd\n",
            b"8  a=bcd\n",
            b" 8 a=bcd\n",
            b"-8 a=bcd\n",
            b"0 a=bcd\n",
            b"8 abcde\n",
            b"8 a=bcdX",
            b"8",
            b"a=b\n",
            b"8 a=bcd\n8 a=bc\n",
            b"5 a=bcd\n",
        ],
    )
    def test_damaged_records_are_refused(self, data: bytes) -> None:
        with pytest.raises(ShardError, match="pax") as caught:
            parse_pax(data, "a.tar", 1024)
        assert caught.value.offset >= 1024

    @given(st.binary(max_size=60))
    def test_noise_is_read_or_refused(self, data: bytes) -> None:
        try:
            records = parse_pax(data, "u", 0)
        except ShardError:
            return
        assert all(b"=" not in keyword for keyword in records)


class TestPlainPath:
    @given(
        st.binary(min_size=1, max_size=120),
        st.sampled_from([b"", b"13 mtime=0.5\n", b"14 mtime=-0.5\n", b"9 a=bcde\n"]),
        st.integers(-2, 2).filter(lambda wrong: wrong != 1) | st.just(0),
    )
    def test_agrees_with_the_exact_parser(
        self, name: bytes, rest: bytes, wrong: int
    ) -> None:
        length = len(name) + 7
        length += len(str(length + len(str(length))))
        data = b"%d path=%b\n" % (length + wrong, name) + rest
        found = plain_path(data)
        try:
            expected = overrides_of(parse_pax(data, "u", 0), "u", 0)
        except ShardError:
            assert found is None
            return
        assert found is None or expected == Overrides(found)
        if not wrong and b"\n" not in name and b"a=" not in rest:
            assert found == name

    @pytest.mark.parametrize("length", [b"12", b"14", b"99"])
    def test_looks_at_every_length(self, length: bytes) -> None:
        good = b"16 path=a/7.jpg\n13 mtime=0.5\n"
        assert plain_path(good) == b"a/7.jpg"
        assert plain_path(good.replace(b"13", length)) is None
        assert plain_path(good.replace(b"16", length)) is None


class TestOverrides:
    def test_are_name_and_size(self) -> None:
        records = {b"path": b"a", b"size": b"12", b"uid": b"1", b"mtime": b"0.5"}
        assert overrides_of(records, "u", 0) == Overrides(b"a", 12)
        assert overrides_of({b"path": b"", b"size": b""}, "u", 0) == Overrides()

    @pytest.mark.parametrize(
        "records",
        [
            {b"size": b"-1"},
            {b"size": b"1e3"},
            {b"size": b"9" * 19},
            {b"size": b"9" * 99},
            {b"path": b"a\0b"},
            {b"GNU.sparse.major": b"1"},
            {b"SCHILY.realsize": b"1"},
        ],
    )
    def test_are_refused_if_they_make_no_sense(
        self, records: dict[bytes, bytes]
    ) -> None:
        with pytest.raises(ShardError) as caught:
            overrides_of(records, "a.tar", 512)
        assert caught.value.offset == 512


def test_names_have_to_be_utf8() -> None:
    assert decode_name("ä".encode(), "u", 0) == "ä"
    with pytest.raises(ShardError, match=r"b'\\xe4.jpg' is not UTF-8") as caught:
        decode_name(b"\xe4.jpg", "a.tar", 512)
    assert caught.value.offset == 512


@given(st.integers(0, 10**15))
def test_padded_is_the_next_multiple(size: int) -> None:
    assert size <= padded(size) < size + BLOCK
    assert padded(size) % BLOCK == 0


def test_headers_are_understood_as_tarfile_understands_them() -> None:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT):
        block = header("ä b/c.jpg", 8**11 - 1, form=form)
        other = TarInfo.frombuf(block, "utf-8", "strict")
        assert parse_header(block, "u", 0) == Header(
            other.name.encode(), other.size, FILE
        )
