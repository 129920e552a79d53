"""Damaged and hostile shards: an error that says where, and no partial sample."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild.errors import ShardError, StorageError, TruncatedShardError
from shardbuild.shards.reader import (
    read_fragment,
    read_samples,
    read_stream,
    scan_fragment,
    scan_stream,
)
from shardbuild.shards.tarparse import MAX_EXTENDED_BYTES, padded
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
    from collections.abc import Iterable
    from pathlib import Path

    from shardbuild.shards.samples import Sample

END = bytes(2 * BLOCK)


def until_error(
    samples: Iterable[Sample],
) -> tuple[list[Sample], ShardError | None]:
    """What comes out before the error, and the error."""
    found: list[Sample] = []
    try:
        for sample in samples:
            found.append(sample)  # noqa: PERF402 - extend would lose them
    except ShardError as error:
        return found, error
    return found, None


def read_until_error(stream: Any) -> tuple[list[Sample], ShardError | None]:
    found, error = until_error(read_stream(stream, "s3://bucket/a.tar"))
    assert error is None or error.url == "s3://bucket/a.tar"
    return found, error


def refused(data: bytes, match: str = ".") -> ShardError:
    """The error that a shard gives, however it is read."""
    _, error = read_until_error(io.BytesIO(data))
    assert error is not None
    _, again = read_until_error(Trickle(data))
    assert again is not None
    assert error.args == again.args
    with pytest.raises(ShardError, match=match) as scanned:
        scan_stream(io.BytesIO(data), "s3://bucket/a.tar")
    assert scanned.value.args == error.args
    return error


def member(name: str, data: bytes = b"", kind: bytes = b"0", **fields: Any) -> bytes:
    """One member's blocks, its header changed as ``fields`` say: offset=bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    for offset, content in fields.items():
        start = int(offset.removeprefix("at"))
        block[start : start + len(content)] = content
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + bytes(-len(data) % BLOCK)


def pax(data: bytes, kind: bytes = b"x") -> bytes:
    return member("pax", data, kind)


class TestTruncation:
    """Cut anywhere: all samples that are known to be whole, then an error."""

    def _cuts(self, data: bytes) -> set[int]:
        ends = set(range(0, len(data), BLOCK))
        return ends | {end + step for end in ends for step in (1, 200, 511)}

    @pytest.mark.parametrize("form", FORMATS)
    @pytest.mark.parametrize("mtime", [0, 1.5])
    @pytest.mark.parametrize("key", ["", "long/" * 50])
    def test_at_every_block_and_between(
        self, form: str, mtime: float, key: str, tmp_path: Path
    ) -> None:
        samples = [
            {**sample, "__key__": key + str(i)}
            for i, sample in enumerate(make_samples(9, num_bytes=600))
        ]
        if key and form == "ustar":
            samples = [{**s, "__key__": s["__key__"][-140:]} for s in samples]
        data = make_tar(entries_of(samples, mtime), FORMATS[form])
        index = scan_stream(io.BytesIO(data), "u")
        # A sample is known to be whole when the next one's own header is there.
        seen_at = [int(index.member_offset[i]) for i in index.sample_members[1:-1]]
        seen_at.append(index.end + 2 * BLOCK)
        path = tmp_path / "a.tar"
        for cut in sorted(self._cuts(data[: index.end + 2 * BLOCK])):
            found, error = read_until_error(io.BytesIO(data[:cut]))
            if cut >= seen_at[-1]:
                assert error is None
                continue
            assert isinstance(error, TruncatedShardError), cut
            assert error.offset == cut
            assert found == samples[: sum(cut >= seen for seen in seen_at)]
            if cut % BLOCK == 0:
                path.write_bytes(data[:cut])
                with pytest.raises(TruncatedShardError) as caught:
                    list(read_samples(str(path)))
                assert caught.value.offset == cut
                assert refused(data[:cut]).offset == cut

    def test_of_a_large_shard(self, tmp_path: Path) -> None:
        samples = make_samples(60, num_bytes=100_000)
        data = make_tar(entries_of(samples))
        starts = scan_stream(io.BytesIO(data), "u").sample_offsets.tolist()
        path = tmp_path / "a.tar"
        for i in (0, 1, 30, 59):
            for step in (0, 512, 1000, 1024, 1536, 2000, 60_000, 100_000):
                path.write_bytes(data[: starts[i] + step])
                found, error = until_error(read_samples(str(path)))
                assert isinstance(error, TruncatedShardError)
                assert error.offset == starts[i] + step
                assert len(found) in (max(i - 1, 0), i)
                assert found == samples[: len(found)]

    def test_while_it_is_read(self, tmp_path: Path) -> None:
        samples = make_samples(60, num_bytes=100_000)
        path = tmp_path / "a.tar"
        path.write_bytes(make_tar(entries_of(samples)))
        reading = read_samples(str(path))
        found = [next(reading) for _ in range(10)]
        os.truncate(path, 3_000_000)
        rest, error = until_error(reading)
        assert isinstance(error, TruncatedShardError)
        assert error.offset == 3_000_000
        assert found + rest == samples[: len(found) + len(rest)]

    def test_of_a_large_member_of_a_fragment(self) -> None:
        data = make_tar([Entry("a.bin", bytes(200_000))])
        for part in (data[:150_000], memoryview(data)[:150_000]):
            _, error = until_error(read_fragment(part, "u"))
            assert isinstance(error, TruncatedShardError)
            assert error.offset == 150_000

    def test_of_what_comes_after_the_end_blocks_is_none(self) -> None:
        data = make_tar(entries_of(make_samples(2)))
        end = scan_stream(io.BytesIO(data), "u").end + 2 * BLOCK
        for cut in range(end, len(data), 100):
            assert read_until_error(io.BytesIO(data[:cut]))[1] is None

    @pytest.mark.parametrize("size", [0, 1, 511])
    def test_of_everything(self, size: int) -> None:
        error = refused(b"a" * size)
        assert isinstance(error, TruncatedShardError)
        assert error.offset == size

    def test_in_the_data_of_what_nobody_wants(self, tmp_path: Path) -> None:
        data = make_tar([Entry("a.txt"), Entry("README", bytes(300_000))])[:200_000]
        assert refused(data).offset == 200_000
        path = tmp_path / "a.tar"
        path.write_bytes(data)
        with pytest.raises(TruncatedShardError):
            list(read_samples(str(path)))

    def test_of_a_fragment(self) -> None:
        samples = make_samples(40)
        data = make_tar(entries_of(samples))
        index = scan_stream(io.BytesIO(data), "u")
        ends = {*(index.member_offset - BLOCK).tolist(), index.end}
        for cut in range(index.end - 20 * BLOCK, index.end, 256):
            for part in (data[:cut], memoryview(data)[:cut]):
                found, error = until_error(read_fragment(part, "u"))
                # A cut between members cannot be told from an end.
                assert (error is None) == (cut in ends)
                if error:
                    assert found == samples[: len(found)]
                    with pytest.raises(TruncatedShardError):
                        scan_fragment(part, "u")


class TestFlippedBits:
    @pytest.mark.parametrize("which", [0, 17, 119])
    def test_of_a_header_are_found_every_one(self, which: int) -> None:
        data = make_tar(entries_of(make_samples(40, num_bytes=1)))
        index = scan_stream(io.BytesIO(data), "u")
        start = int(index.member_offset[which]) - BLOCK
        for bit in range(8 * BLOCK):
            changed = bytearray(data)
            changed[start + bit // 8] ^= 1 << bit % 8
            found, error = read_until_error(io.BytesIO(changed))
            assert error is not None, bit
            assert error.offset == start
            assert "checksum" in error.problem
            # The member before is not known to be its sample's last.
            assert len(found) == max(which - 1, 0) // 3

    @pytest.mark.parametrize("form", ["pax", "gnu"])
    def test_of_extended_headers_are_found(self, form: str) -> None:
        key = "dir/" * 40
        data = make_tar(
            [Entry(f"{key}{i}.txt", mtime=0.5) for i in range(20)], FORMATS[form]
        )
        size = padded(int(data[124:135], 8))
        each = 3 * BLOCK + size - BLOCK
        for start in (0, 7 * each, 7 * each + BLOCK + size):
            for byte in range(BLOCK):
                changed = bytearray(data)
                changed[start + byte] ^= 1 << byte % 8
                _, error = read_until_error(io.BytesIO(changed))
                assert error is not None
                assert error.offset == start

    @given(st.integers(0, 2**20), st.integers(1, 255))
    @settings(deadline=None, max_examples=200)
    def test_of_anything_change_no_other_sample(self, at: int, mask: int) -> None:
        samples = make_samples(30, num_bytes=50)
        data = bytearray(make_tar(entries_of(samples)))
        at %= len(data)
        data[at] ^= mask
        found, _ = read_until_error(io.BytesIO(data))
        starts = scan_stream(
            io.BytesIO(make_tar(entries_of(samples))), "u"
        ).sample_offsets.tolist()
        for i, sample in enumerate(found):
            hit = starts[i] <= at < starts[i + 1]
            assert sample == samples[i] or hit


class TestEndOfArchive:
    def test_needs_two_zero_blocks(self) -> None:
        data = member("a.txt", b"x")
        error = refused(data + bytes(BLOCK))
        assert isinstance(error, TruncatedShardError)
        error = refused(data + bytes(BLOCK) + member("b.txt") + END, "zero block")
        assert error.offset == 2 * BLOCK

    @pytest.mark.parametrize("gap", [0, 1, 37, 9000])
    def test_is_followed_by_zeros_or_a_header(self, gap: int) -> None:
        data = member("a.txt", b"x") + END + bytes(gap * BLOCK)
        error = refused(data + b"text" * 200, "neither zeros nor a header")
        assert error.offset == len(data)
        error = refused(data + b"x")
        assert error.offset == len(data) + 1
        found, error_after = read_until_error(io.BytesIO(data + bytes(100)))
        assert (len(found), error_after) == (1, None)
        more, none = read_until_error(io.BytesIO(data + member("b.txt") + END))
        assert (len(more), none) == (2, None)

    def test_a_damaged_header_of_a_joined_archive_is_found(self) -> None:
        second = bytearray(make_tar([Entry("b.txt")]))
        second[7] ^= 1
        first = make_tar([Entry("a.txt")])
        assert refused(first + second).offset == len(first)

    def test_ends_a_sample_too(self) -> None:
        data = make_tar([Entry("a.jpg")]) + make_tar([Entry("a.txt")])
        assert "adjacent" in refused(data).problem

    def test_of_an_empty_archive(self) -> None:
        assert read_until_error(io.BytesIO(bytes(10240))) == ([], None)
        assert isinstance(refused(bytes(BLOCK)), TruncatedShardError)


class TestKeys:
    @pytest.mark.parametrize("before", [0, 100])
    @pytest.mark.parametrize("after", [0, 100])
    def test_that_come_again_are_refused(self, before: int, after: int) -> None:
        entries = [
            *entries_of(make_samples(before)),
            *(Entry(f"{key}.{e}") for key in "pqp" for e in ("a", "b")),
            *entries_of(make_samples(after, first=before)),
        ]
        data = make_tar(entries)
        error = refused(data, "adjacent")
        assert "'p'" in error.problem
        whole = scan_stream(
            io.BytesIO(make_tar([*entries_of(make_samples(before)), Entry("p.a")])), "u"
        )
        assert error.offset == whole.end - BLOCK + 4 * BLOCK
        found, _ = read_until_error(io.BytesIO(data))
        assert [s["__key__"] for s in found[before:]] == ["p", "q"]

    @pytest.mark.parametrize("count", [2, 3000, 40_000])
    def test_that_come_again_much_later(self, count: int) -> None:
        entries = [Entry(f"{i:06}.txt") for i in range(count)]
        error = refused(make_tar([*entries, Entry("000000.txt")]))
        assert error.offset == count * BLOCK

    @pytest.mark.parametrize("before", [0, 100])
    @pytest.mark.parametrize("second", ["k.jpg", "k.JPG", "./k.jpg"])
    def test_two_members_for_one_field(self, second: str, before: int) -> None:
        entries = [*entries_of(make_samples(before)), Entry("k.jpg"), Entry(second)]
        error = refused(make_tar([*entries, Entry("z.jpg")]), "twice")
        assert "'jpg'" in error.problem

    @pytest.mark.parametrize("before", [0, 100])
    def test_no_member_may_be_called_the_key(self, before: int) -> None:
        entries = [*entries_of(make_samples(before)), Entry("k.__key__")]
        refused(make_tar([*entries, Entry("z.jpg")]), "twice")

    @pytest.mark.parametrize("before", [0, 100])
    def test_have_to_be_utf8(self, before: int) -> None:
        data = b"".join(member(f"{i:04}.a") for i in range(before))
        bad = member("x.jpg", at0=b"\xe4.jpg")
        error = refused(data + bad + member("z.a") + END, "UTF-8")
        assert r"b'\xe4.jpg'" in error.problem
        assert error.offset == len(data)
        found, _ = read_until_error(io.BytesIO(data + bad + END))
        assert len(found) in (before, before - 1)

    def test_and_so_have_extensions(self) -> None:
        bad = [member(f"{i:04}.a", at5=b"\xe4") for i in range(40)]
        error = refused(b"".join(bad) + END, "UTF-8")
        assert error.offset == 0

    def test_of_what_is_skipped_may_be_anything(self) -> None:
        link = member("x", kind=b"2", at0=b"\xe4.jpg")
        assert read_until_error(io.BytesIO(link + END)) == ([], None)


class TestSizes:
    """Sizes that are lies: found, and not believed when memory is asked for."""

    @pytest.mark.parametrize(
        ("size", "problem"),
        [
            (b"77777777777\0", "ends in"),
            (b"\x80\0\0\0\0\0\x7f" + b"\xff" * 5, "ends in"),
            (b"\x80" + b"\xff" * 11, "size"),
            (b"\xff" * 12, "size"),
            (b"-0000000001\0", "size"),
            (b"0000000000x\0", "size"),
        ],
    )
    @pytest.mark.parametrize("before", [0, 40])
    def test_are_errors_without_the_memory(
        self, size: bytes, problem: str, before: int, tmp_path: Path
    ) -> None:
        good = b"".join(member(f"{i:04}.a", b"x") for i in range(before))
        data = good + member("y.jpg", at124=size) + b"x" * 100_000 + END
        tracemalloc.start()
        try:
            error = refused(data, problem)
            path = tmp_path / "a.tar"
            path.write_bytes(data)
            with pytest.raises(ShardError, match=problem) as caught:
                list(read_samples(str(path)))
            assert tracemalloc.get_traced_memory()[1] < 12 << 20
        finally:
            tracemalloc.stop()
        assert caught.value.offset == error.offset
        if problem == "size":
            assert error.offset == len(good)
        else:
            assert error.offset == len(data)
            assert b"y.jpg" in error.problem.encode()

    def test_too_small_are_found_at_the_next_header(self) -> None:
        data = member("a.jpg", b"x" * 2000, at124=b"%011o\0" % 700)
        assert refused(data + member("b.jpg") + END).offset == 3 * BLOCK

    def test_over_8_gib_in_a_pax_header_are_read(self, tmp_path: Path) -> None:
        size = 9 << 30
        head = pax(b"19 size=%d\n" % size) + member("a.bin")
        path = tmp_path / "sparse.tar"
        with path.open("wb") as file:
            file.write(head)
            file.truncate(len(head) + size)
            file.seek(0, os.SEEK_END)
            file.write(member("b.txt", b"x") + END)
        with path.open("rb", buffering=0) as stream:
            index = scan_stream(stream, "u")
        assert index.members(0) == [("bin", len(head), size)]
        assert index.keys() == ["a", "b"]


class TestExtendedHeaders:
    @pytest.mark.parametrize(
        "data",
        [
            b"9999999 path=a\n",
            b"0 path=a\n",
            b"8 path=a\n",
            b"12 path=a\n",
            b"path=a\n",
            b"11 path+++a\n",
            b"99999999999999999999 path=a\n",
            b"9 size=-1\n9 size=-1\n",
            b"11 size=-1\n",
            b"12 size=1e3\n",
            b"14 path=a\0b.c\n",
            b"22 GNU.sparse.major=1\n",
        ],
    )
    @pytest.mark.parametrize("before", [0, 40])
    def test_that_are_damaged_or_hostile_are_refused(
        self, data: bytes, before: int
    ) -> None:
        good = b"".join(member(f"{i:04}.a", b"x") for i in range(before))
        error = refused(good + pax(data) + member("x.jpg") + member("y.jpg") + END)
        assert len(good) <= error.offset <= len(good) + BLOCK + len(data)

    @pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
    def test_are_bounded(self, kind: bytes) -> None:
        size = b"%011o\0" % (1 << 30)
        data = member("pax", kind=kind, at124=size) + bytes(3 << 20)
        tracemalloc.start()
        try:
            assert refused(data, "1073741824 bytes").offset == 0
            assert tracemalloc.get_traced_memory()[1] < 12 << 20
        finally:
            tracemalloc.stop()

    def test_may_be_as_large_as_they_may_be(self) -> None:
        rest = MAX_EXTENDED_BYTES - len(b"524288 comment=\n")
        record = b"%d comment=%s\n" % (MAX_EXTENDED_BYTES, b"x" * rest)
        long_name = b"n" * (MAX_EXTENDED_BYTES - 5) + b".txt\0"
        data = b"".join(
            pax(record)
            + member("L", b"%04d" % i + long_name[4:], b"L")
            + member("K", long_name, b"K")
            + member("x.jpg", b"data" * 9000)
            for i in range(5)
        )
        found, error = read_until_error(Trickle(data + END, [100_000]))
        assert error is None
        assert [sample["txt"] for sample in found] == [b"data" * 9000] * 5

    def test_two_of_a_kind_are_refused(self) -> None:
        one = pax(b"15 path=a.jpeg\n")
        assert "two" in refused(one + one + member("x.jpg") + END).problem
        name = member("L", b"b.jpg\0", b"L")
        assert "two" in refused(one + name + member("x.jpg") + END).problem

    def test_of_nothing_are_refused(self) -> None:
        error = refused(member("a.b") + pax(b"15 path=a.jpeg\n") + END)
        assert error.offset == BLOCK

    def test_global_ones_are_read_over(self) -> None:
        note = pax(b"19 comment=a note!\n", b"g")
        data = note + b"".join(member(f"{i}.txt") + note for i in range(300)) + END
        found, error = read_until_error(io.BytesIO(data))
        assert (len(found), error) == (300, None)

    @pytest.mark.parametrize("record", [b"10 path=a\n", b"10 size=1\n"])
    def test_global_ones_may_not_name_or_measure(self, record: bytes) -> None:
        refused(member("a.b") + pax(record, b"g") + member("c.d") + END, "global")

    def test_apply_to_skipped_members_too(self) -> None:
        folder = pax(b"15 path=a.jpeg\n") + member("d/", kind=b"5")
        found, error = read_until_error(io.BytesIO(folder + member("b.txt") + END))
        assert error is None
        assert found == [{"__key__": "b", "txt": b""}]


class TestNotSupported:
    @pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax"])
    @pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
    def test_sparse_members(self, form: str, version: str, tmp_path: Path) -> None:
        with (tmp_path / "holes.bin").open("wb") as file:
            file.truncate(1 << 20)
            file.seek(1 << 19)
            file.write(b"data")
        command = ["tar", f"--format={form}", "--sparse", "-cf", "-", "holes.bin"]
        if form == "pax":
            command.insert(1, f"--sparse-version={version}")
        data = subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True
        ).stdout
        assert len(data) < 1 << 18
        assert "sparse" in refused(data, "sparse").problem
        error = refused(make_tar(entries_of(make_samples(40)))[: -20 * BLOCK] + data)
        assert error.offset > 40 * BLOCK

    def test_parts_of_members_on_other_volumes(self) -> None:
        refused(member("a.jpg", b"x", b"M") + END, "volume")


class TestOther:
    @pytest.mark.parametrize(
        "data",
        [b"<html>404</html>" * 99, b"PK\x03\x04" + bytes(2000), bytes(range(256)) * 9],
    )
    def test_what_is_no_tar_is_refused_at_once(self, data: bytes) -> None:
        error = refused(data, "not a tar header")
        assert error.offset == 0

    def test_a_nested_tar_does_not_hide_a_damaged_header(self) -> None:
        nested = make_tar(entries_of(make_samples(3)))
        data = bytearray(b"".join(member(f"{i}.tar", nested) for i in range(50)) + END)
        start = 25 * (BLOCK + padded(len(nested)))
        data[start] ^= 1
        assert refused(bytes(data)).offset == start

    def test_an_error_of_the_system_is_a_storage_error(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=str(tmp_path)):
            list(read_samples(str(tmp_path)))

    def test_a_failing_pipe_is_an_error_after_its_samples(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tar"
        path.write_bytes(make_tar(entries_of(make_samples(40))))
        with pytest.raises(StorageError, match="exit status 3"):
            list(read_samples(f"pipe:cat {path}; exit 3"))

    @given(
        st.lists(
            st.tuples(st.integers(0, 40 * BLOCK), st.binary(min_size=1, max_size=20)),
            min_size=1,
            max_size=5,
        )
    )
    @settings(deadline=None, max_examples=200)
    def test_noise_never_gives_other_errors(
        self, changes: list[tuple[int, bytes]]
    ) -> None:
        data = bytearray(
            make_tar(entries_of(make_samples(6), mtime=0.5), tarfile.PAX_FORMAT)
        )
        for at, noise in changes:
            data[at : at + len(noise)] = noise
        found, error = read_until_error(io.BytesIO(data))
        again, other = read_until_error(Trickle(bytes(data)))
        assert found == again
        assert (error is None) == (other is None)
        if error is None:
            assert found == by_tarfile(bytes(data))


class TestLargeMembers:
    """Of a file of large members only headers are scanned: nothing is let through."""

    @pytest.fixture
    def shard(self) -> bytes:
        samples = make_samples(24, num_bytes=40_000)
        samples[9]["txt"] = b"x" * 700
        samples[15]["jpg"] = b"small"
        return make_tar(entries_of(samples))

    def _compare(self, data: bytes, folder: Path) -> ShardError | None:
        """Read from a file and as a stream: the same, or the same error."""
        path = folder / "large.tar"
        path.write_bytes(data)
        by_stream, wanted = until_error(read_stream(io.BytesIO(data), str(path)))
        by_file, error = until_error(read_samples(str(path)))
        assert by_file == by_stream
        assert (error and error.args) == (wanted and wanted.args)
        return error

    def test_truncated_at_every_block(self, shard: bytes, tmp_path: Path) -> None:
        assert self._compare(shard, tmp_path) is None
        for cut in [*range(0, len(shard) - 10240, 512), *range(1, 99_000, 4999)]:
            error = self._compare(shard[:cut], tmp_path)
            assert isinstance(error, TruncatedShardError)

    def test_a_changed_bit_in_any_header(self, shard: bytes, tmp_path: Path) -> None:
        index = scan_stream(io.BytesIO(shard), "u")
        # Fields that sizes, names, kinds and sums are in, of members here and there.
        for start in index.member_offset[::5].tolist():
            for byte in (0, 5, 101, 124, 130, 134, 135, 148, 153, 156, 257, 263, 345):
                damaged = bytearray(shard)
                damaged[start - BLOCK + byte] ^= 1 << byte % 8
                assert self._compare(bytes(damaged), tmp_path) is not None

    @pytest.mark.parametrize("extra", ["folder", "link", "long name", "again"])
    def test_what_is_no_plain_file(self, extra: str, tmp_path: Path) -> None:
        entries = list(entries_of(make_samples(12, num_bytes=40_000)))
        odd = {
            "folder": Entry("d/", kind=tarfile.DIRTYPE),
            "link": Entry("a link", kind=tarfile.SYMTYPE),
            "long name": Entry("k" * 150 + ".jpg", b"x" * 40_000),
            "again": entries[0],
        }
        entries.insert(15, odd[extra])
        error = self._compare(make_tar(entries, tarfile.GNU_FORMAT), tmp_path)
        assert (error is not None) == (extra == "again")

    def test_a_file_that_shrinks_meanwhile(self, shard: bytes, tmp_path: Path) -> None:
        path = tmp_path / "shrinks.tar"
        path.write_bytes(shard)
        samples = read_samples(str(path))
        first = [next(samples) for _ in range(4)]
        os.truncate(path, len(shard) // 2)
        rest, error = until_error(samples)
        assert isinstance(error, TruncatedShardError)
        assert error.offset is not None
        assert error.offset <= len(shard) // 2
        whole = list(read_stream(io.BytesIO(shard), "u"))
        assert first + rest == whole[: len(first) + len(rest)]
