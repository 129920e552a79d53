"""Writing a shard, held against Python's tarfile and read back by it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shardbuild.errors import EncodeError, KeyRuleError, StorageError
from shardbuild.shards import framing
from shardbuild.shards.chunks import CHUNK_BYTES
from shardbuild.shards.index import concat_indexes, index_url, load_index
from shardbuild.shards.reader import scan_stream
from shardbuild.shards.samples import base_plus_ext, is_meta
from shardbuild.shards.tarformat import sample_tar_bytes, shard_tar_bytes
from shardbuild.shards.writer import TarWriter, write_shard


def tar_by_tarfile(samples, owner="bigdata", mode=0o444):
    """What tarfile writes: ustar, and pax for members that ustar cannot hold."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for sample in samples:
            for extension in sorted(set(sample) - {"__key__"}):
                member = tarfile.TarInfo(f"{sample['__key__']}.{extension}")
                member.size, member.mode = len(sample[extension]), mode
                member.uname = member.gname = owner
                archive.format = tarfile.USTAR_FORMAT
                try:
                    member.tobuf(tarfile.USTAR_FORMAT)
                except ValueError:
                    archive.format = tarfile.PAX_FORMAT
                archive.addfile(member, io.BytesIO(sample[extension]))
    return stream.getvalue()


def write_tar(samples, **options):
    stream = io.BytesIO()
    with TarWriter(stream, **options) as writer:
        for sample in samples:
            writer.write(sample)
    return stream.getvalue(), writer


def read_by_tarfile(data, key_rule="first-dot"):
    """Samples as a plain reader of the format groups them."""
    samples: list[dict[str, object]] = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if not member.isfile() or is_meta(member.name):
                continue
            parts = base_plus_ext(member.name, key_rule)
            assert parts is not None
            key, extension = parts
            if not samples or samples[-1]["__key__"] != key:
                samples.append({"__key__": key})
            assert extension.lower() not in samples[-1]
            content = archive.extractfile(member)
            assert content is not None
            samples[-1][extension.lower()] = content.read()
    return samples


def name_parts(alphabet, longest):
    return st.text(alphabet, min_size=1, max_size=longest)


plain = st.characters(exclude_categories=["Cs"], exclude_characters="\0/.")
bases = name_parts(plain, 12) | name_parts("ab", 130)
folders = st.lists(name_parts("ab.", 90).filter(lambda p: p != ".."), max_size=3)
keys = st.builds(lambda parts, base: "/".join([*parts, base]), folders, bases)
extensions = st.text("abz.é_0", min_size=0, max_size=6).filter(
    lambda name: name == name.lower() and not name.startswith("_")
)
payloads = st.binary(max_size=1100) | st.sampled_from([b"x" * 66_000, b"y" * 700_000])
good_samples = st.lists(
    st.tuples(keys, st.dictionaries(extensions, payloads, min_size=1, max_size=4)),
    max_size=6,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: [{"__key__": key, **fields} for key, fields in pairs])


def accepted(samples):
    """Those samples that the writer takes."""
    writer = TarWriter(io.BytesIO())
    taken = []
    for sample in samples:
        with contextlib.suppress(KeyRuleError):
            writer.write(sample)
            taken.append(sample)
    return taken


@settings(max_examples=150, deadline=None)
@given(good_samples)
@example([{"__key__": "a" * 96, "b.c": b"", "b": b"1"}])
@example([{"__key__": "é" * 50, "jpg": b"1"}, {"__key__": "é" * 51, "jpg": b"1"}])
def test_a_shard_is_tarfiles_byte_for_byte(samples):
    samples = accepted(samples)
    data, writer = write_tar(samples)
    assert data == tar_by_tarfile(samples)
    assert read_by_tarfile(data) == samples
    assert writer.facts.num_bytes == len(data)
    assert writer.facts.num_samples == len(samples)
    assert writer.facts.sha256 == hashlib.sha256(data).hexdigest()
    body = sum(
        sample_tar_bytes(
            sample["__key__"],
            {name: len(data) for name, data in sample.items() if name != "__key__"},
        )
        for sample in samples
    )
    assert body == writer.num_bytes
    assert shard_tar_bytes(body) == len(data)


any_names = st.text(st.sampled_from("ab._/A\0é\udc80 "), max_size=7)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(any_names, st.dictionaries(any_names, st.just(b"1"), max_size=3)),
        max_size=3,
    ),
    st.sampled_from(["first-dot", "last-dot"]),
    st.booleans(),
)
@example([("__x__", {"a": b""}), ("__x__/a", {"a": b""})], "first-dot", False)
@example([("__x", {"y__": b"1"})], "last-dot", False)
@example([("a", {"": b"1"}), ("a.", {"": b"1"})], "last-dot", False)
@example([("a", {"__key": b"1", "__url__": b"1"})], "first-dot", True)
def test_what_is_accepted_reads_back_the_same(pairs, key_rule, keep_meta):
    stream = io.BytesIO()
    written = []
    with TarWriter(stream, key_rule=key_rule, keep_meta=keep_meta) as writer:
        for key, fields in pairs:
            sample = {**fields, "__key__": key}
            with contextlib.suppress(KeyRuleError):
                writer.write(sample)
                written.append(
                    {
                        name: data
                        for name, data in sample.items()
                        if name == "__key__" or keep_meta or not name.startswith("_")
                    }
                )
    assert read_by_tarfile(stream.getvalue(), key_rule) == written


REFUSED = {
    "a dot in the key's own name": ("v1.5", "would end its key"),
    "an empty key": ("", "ends in '/'"),
    "a folder only": ("a/", "ends in '/'"),
    "a hidden file": ("a/.b", "starts with a dot"),
    "an absolute path": ("/a", "make it relative"),
    "a way out": ("a/../b", "make it relative"),
    "here": ("./a", "without the leading './'"),
    "a meta folder": ("__x__/a", "meta data"),
    "a NUL": ("a\0b", "NUL"),
    "no Unicode": ("a\udcff", "UTF-8"),
    "no text": (7, "is a int"),
    "bytes that are no UTF-8": (b"\xff", "not UTF-8"),
}


@pytest.mark.parametrize(("key", "problem"), REFUSED.values(), ids=REFUSED)
def test_a_key_that_could_not_be_read_back_is_refused(key, problem):
    stream = io.BytesIO()
    with TarWriter(stream) as writer:
        with pytest.raises(KeyRuleError, match=problem) as refused:
            writer.write({"__key__": key, "cls": b"1"})
        assert refused.value.key in {key, repr(key)}
        writer.write({"__key__": "good", "cls": b"1"})
    assert [s["__key__"] for s in read_by_tarfile(stream.getvalue())] == ["good"]


BAD_FIELDS = {
    "two that differ in case": ({"jpg": b"", "JPG": b""}, "read back as one"),
    "upper case": ({"JPG": b""}, "read back as 'jpg'"),
    "a slash": ({"a/b": b""}, "a '/' or a NUL"),
    "a NUL": ({"a\0": b""}, "a '/' or a NUL"),
    "no Unicode": ({"a\udcff": b""}, "UTF-8"),
    "no text": ({7: b""}, "not named by text"),
    "none": ({}, "no field to write"),
    "meta only": ({"__url__": "x"}, "no field to write"),
    "meta by its extension": ({"x__": b""}, "meta data"),
}


@pytest.mark.parametrize(("fields", "problem"), BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_fields_that_could_not_be_read_back_are_refused(fields, problem):
    writer = TarWriter(io.BytesIO())
    with pytest.raises(KeyRuleError, match=problem):
        writer.write({"__key__": "__a", **fields})


def test_a_sample_without_a_key_is_refused():
    with pytest.raises(KeyRuleError, match="no '__key__', only \\['cls'\\]"):
        TarWriter(io.BytesIO()).write({"cls": b"1"})


def test_a_key_that_comes_twice_is_refused_and_the_shard_goes_on():
    stream = io.BytesIO()
    with TarWriter(stream) as writer:
        writer.write({"__key__": "a", "cls": b"1"})
        with pytest.raises(KeyRuleError, match="'a': its key comes twice"):
            writer.write({"__key__": "a", "txt": b"1"})
        writer.write({"__key__": "b", "cls": b"1"})
    assert [s["__key__"] for s in read_by_tarfile(stream.getvalue())] == ["a", "b"]


def test_last_dot_takes_dots_in_keys_and_refuses_them_in_fields():
    data, _ = write_tar([{"__key__": "v1.5", "jpg": b"1"}], key_rule="last-dot")
    assert read_by_tarfile(data, "last-dot") == [{"__key__": "v1.5", "jpg": b"1"}]
    writer = TarWriter(io.BytesIO(), key_rule="last-dot")
    with pytest.raises(KeyRuleError, match="without a dot"):
        writer.write({"__key__": "a", "seg.png": b"1"})


def test_owner_and_mode_are_written():
    sample = {"__key__": "a", "cls": b"1"}
    data, _ = write_tar([sample], user="me", group="me", mode=0o640)
    assert data == tar_by_tarfile([sample], owner="me", mode=0o640)


def test_samples_of_many_forms_share_one_shard():
    samples = [
        {"__key__": f"{'k' * (i % 120)}{i}", f"e{i % 7}": bytes(i), "z": b"1"}
        for i in range(400)
    ]
    data, _ = write_tar(samples)
    assert data == tar_by_tarfile(samples)


def test_a_shard_of_many_samples_has_the_index_of_all():
    samples = [{"__key__": str(i), "x": bytes(i % 3)} for i in range(10_000)]
    data, writer = write_tar(samples)
    assert writer.index.to_bytes() == scan_stream(io.BytesIO(data), "a").to_bytes()


def test_a_key_and_values_of_kinds_of_text_and_bytes_are_taken_as_such():
    class Text(str):
        __slots__ = ()

    class Bytes(bytes):
        __slots__ = ()

    data, _ = write_tar([{"__key__": Text("a"), "bin": Bytes(b"1")}])
    assert data == tar_by_tarfile([{"__key__": "a", "bin": b"1"}])


def test_what_is_kept_of_sizes_is_bounded(monkeypatch):
    monkeypatch.setattr(framing, "_MAX_KEPT", 8)
    samples = [
        {"__key__": f"d{i % 20}/{i}", f"x{i % 3}": bytes(i % 30)} for i in range(200)
    ]
    data, _ = write_tar(samples)
    assert data == tar_by_tarfile(samples)


def test_sizes_beyond_ustar_leave_the_short_way(monkeypatch):
    samples = [{"__key__": str(i), "x": bytes(i)} for i in range(100)]
    monkeypatch.setattr(framing, "SIZE_LIMIT", 50)
    data, writer = write_tar(samples)
    assert data == tar_by_tarfile(samples)
    assert writer.index.members(99) == [("x", 99 * 1024, 99)]


def test_values_are_encoded_by_extension():
    sample = {"__key__": "a", "cls": 7, "txt": "sieben", "bin": bytearray(b"7")}
    data, _ = write_tar([sample, {**sample, "__key__": "b", "bin": memoryview(b"8")}])
    assert read_by_tarfile(data) == [
        {"__key__": "a", "bin": b"7", "cls": b"7", "txt": b"sieben"},
        {"__key__": "b", "bin": b"8", "cls": b"7", "txt": b"sieben"},
    ]


def test_a_caller_may_reuse_its_buffer():
    stream = io.BytesIO()
    buffer = bytearray(b"1" * CHUNK_BYTES)
    with TarWriter(stream) as writer:
        writer.write({"__key__": "a", "bin": buffer})
        buffer[:] = b"2" * CHUNK_BYTES
    assert read_by_tarfile(stream.getvalue())[0]["bin"] == b"1" * CHUNK_BYTES


@pytest.mark.parametrize("encoder", [False, None])
def test_without_an_encoder_values_must_be_bytes(encoder):
    writer = TarWriter(io.BytesIO(), encoder=encoder)
    assert writer.write({"__key__": "a", "cls": b"1"}) == 1
    with pytest.raises(EncodeError, match="'cls' is a int, not bytes"):
        writer.write({"__key__": "b", "cls": 1})


def test_an_encoder_may_be_a_function_or_a_mapping():
    by_sample, _ = write_tar(
        [{"__key__": "a", "x": 1}], encoder=lambda sample: {**sample, "x": b"one"}
    )
    by_field, _ = write_tar(
        [{"__key__": "a", "x": 1}, {"__key__": "b", "x": 1}],
        encoder={"x": lambda value: b"one"},
    )
    assert read_by_tarfile(by_sample)[0]["x"] == b"one"
    assert [s["x"] for s in read_by_tarfile(by_field)] == [b"one", b"one"]


def test_a_sample_that_cannot_be_encoded_leaves_no_trace():
    stream = io.BytesIO()
    with TarWriter(stream) as writer:
        with pytest.raises(EncodeError):
            writer.write({"__key__": "a", "bin": b"1", "cls": object()})
        writer.write({"__key__": "a", "bin": b"1"})
    assert read_by_tarfile(stream.getvalue()) == [{"__key__": "a", "bin": b"1"}]
    assert writer.num_samples == 1


def test_meta_fields_are_written_only_if_asked():
    sample = {"__key__": "a", "cls": b"1", "__url__": "x.tar", "_own": "y"}
    without, _ = write_tar([sample])
    with_meta, _ = write_tar([sample], keep_meta=True)
    assert read_by_tarfile(without) == [{"__key__": "a", "cls": b"1"}]
    assert read_by_tarfile(with_meta) == [
        {"__key__": "a", "__url__": b"x.tar", "_own": b"y", "cls": b"1"}
    ]
    with pytest.raises(EncodeError, match="'_own' is a int"):
        write_tar([{**sample, "_own": 7}], keep_meta=True, encoder=False)


def test_a_key_may_be_bytes():
    data, _ = write_tar([{"__key__": "ä".encode(), "cls": b"1"}])
    assert read_by_tarfile(data)[0]["__key__"] == "ä"


def test_dwrite_names_fields_by_underscores():
    stream = io.BytesIO()
    with TarWriter(stream) as writer:
        assert writer.dwrite("a", seg_png=b"12", cls=b"3") == 3
    assert read_by_tarfile(stream.getvalue()) == [
        {"__key__": "a", "cls": b"3", "seg.png": b"12"}
    ]


@pytest.mark.parametrize(
    "options",
    [{"encoder": "yes"}, {"key_rule": "any"}, {"compress": "rar"}, {"user": "u" * 33}],
    ids=str,
)
def test_an_option_that_is_not_known_is_refused_before_a_file_is_made(
    options, tmp_path
):
    with pytest.raises(ValueError, match=r"is one of|is True|32 bytes"):
        TarWriter(tmp_path / "a.tar", **options)
    assert not list(tmp_path.iterdir())


# -- publishing --------------------------------------------------------------


def test_a_shard_appears_whole_when_it_is_closed(tmp_path):
    url = tmp_path / "a.tar"
    with TarWriter(url) as writer:
        for i in range(2000):
            writer.write({"__key__": str(i), "bin": bytes(1000)})
        assert not url.exists()
    assert url.stat().st_size == writer.facts.num_bytes
    assert writer.facts.url == str(url)
    writer.close()
    writer.discard()
    assert url.exists()


def test_an_exception_publishes_nothing(tmp_path):
    writer = TarWriter(tmp_path / "a.tar")
    with pytest.raises(ZeroDivisionError), writer:
        writer.write({"__key__": "a", "cls": b"%d" % (1 // 0)})
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="when the shard is closed"):
        _ = writer.facts


def test_a_forgotten_writer_publishes_nothing(tmp_path):
    writer = TarWriter(tmp_path / "a.tar")
    writer.write({"__key__": "a", "cls": b"1"})
    del writer
    assert not list(tmp_path.iterdir())


def test_a_closed_writer_takes_no_more(tmp_path):
    with TarWriter(tmp_path / "a.tar") as writer:
        writer.write({"__key__": "a", "cls": b"1"})
    with pytest.raises(ValueError, match="closed"):
        writer.write({"__key__": "b", "cls": b"1"})
    with pytest.raises(ValueError, match="closed"):
        writer.write_run([], writer.index)


def test_a_callers_stream_is_not_closed():
    stream = io.BytesIO()
    with TarWriter(stream) as writer:
        writer.write({"__key__": "a", "cls": b"1"})
    assert not stream.closed
    assert TarWriter(stream).url == "<stream>"


class Reluctant(io.RawIOBase):
    """Takes few bytes at a time."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, buffer):
        self.data += bytes(buffer[:1000])
        return min(len(buffer), 1000)


def test_a_stream_that_takes_few_bytes_gets_all():
    stream = Reluctant()
    samples = [{"__key__": "a", "bin": bytes(100_000)}]
    with TarWriter(cast("BinaryIO", stream)) as writer:
        writer.write(samples[0])
    assert bytes(stream.data) == tar_by_tarfile(samples)


def test_a_stream_that_fails_ends_the_shard():
    class Full(io.RawIOBase):
        def write(self, buffer):
            raise OSError(28, "No space left on device")

    writer = TarWriter(cast("BinaryIO", Full()))
    with pytest.raises(OSError, match="No space"):
        writer.write({"__key__": "a", "bin": bytes(1 << 20)})
    with pytest.raises(ValueError, match="closed"):
        writer.write({"__key__": "b", "bin": b""})
    writer.close()
    with pytest.raises(ValueError, match="when the shard is closed"):
        _ = writer.facts


def test_a_full_disk_is_an_error_with_the_url_and_leaves_nothing(tmp_path):
    missing = tmp_path / "file"
    missing.write_bytes(b"")
    with pytest.raises(StorageError, match=r"a\.tar"):
        TarWriter(missing / "a.tar")
    with pytest.raises(StorageError, match="/dev/full"):
        write_shard("/dev/full", [{"__key__": "a", "cls": b"1"}], write_index=False)


def test_a_pipe_gets_the_shard_and_its_failure_is_an_error(tmp_path):
    target = tmp_path / "a.tar"
    sample = {"__key__": "a", "cls": b"1"}
    facts = write_shard(f"pipe:cat > {target}", [sample])
    assert target.read_bytes() == tar_by_tarfile([sample])
    assert facts.num_bytes == 10240
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    with pytest.raises(StorageError, match="status 3"):
        write_shard("pipe:cat > /dev/null; exit 3", [sample])


# -- compression --------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz"])
def test_a_compressed_shard_holds_the_same_tar(name, tmp_path):
    samples = [{"__key__": str(i), "bin": bytes([i]) * 70_000} for i in range(20)]
    facts = write_shard(str(tmp_path / name), samples)
    data = (tmp_path / name).read_bytes()
    with tarfile.open(tmp_path / name) as archive:
        assert len(archive.getmembers()) == 20
    assert (facts.num_bytes, facts.sha256) == (
        len(data),
        hashlib.sha256(data).hexdigest(),
    )
    index = load_index(str(tmp_path / name), num_bytes=len(data))
    assert index is not None
    assert index.num_bytes == len(tar_by_tarfile(samples)) > len(data)
    again = write_shard(str(tmp_path / "b" / name), samples)
    assert again.sha256 == facts.sha256


def test_zstd_is_deterministic_and_holds_the_same_tar(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    samples = [{"__key__": "a", "bin": b"12" * 50_000}]
    one, two = (write_shard(str(tmp_path / n / "a.tar.zst"), samples) for n in "ab")
    assert one.sha256 == two.sha256
    with (tmp_path / "a" / "a.tar.zst").open("rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(file).read()
    assert data == tar_by_tarfile(samples)


def test_gzip_holds_no_time_and_compress_overrides_the_name(tmp_path):
    samples = [{"__key__": "a", "cls": b"1"}]
    zipped, _ = write_tar(samples, compress=True)
    assert zipped[4:8] == b"\0\0\0\0"
    assert gzip.decompress(zipped) == tar_by_tarfile(samples)
    write_shard(str(tmp_path / "a.tar.gz"), samples, compress=False)
    assert (tmp_path / "a.tar.gz").read_bytes() == tar_by_tarfile(samples)


# -- runs ---------------------------------------------------------------------


def test_runs_and_samples_make_the_same_shard_in_any_mixture():
    samples = [
        {"__key__": f"k{i}" * (1 + i % 40), "a": bytes(i * 7), f"x{i % 3}": b"1"}
        for i in range(60)
    ]
    whole, writer = write_tar(samples)
    index = writer.index
    order = list(range(59, -1, -1))
    expected, other = write_tar([samples[i] for i in order])

    stream = io.BytesIO()
    with TarWriter(stream) as mixed:
        for start in range(0, 60, 20):
            chosen = order[start : start + 15]
            rows = index.take(chosen)
            spans = [
                memoryview(whole)[index.sample_offsets[i] : index.sample_offsets[i + 1]]
                for i in chosen
            ]
            mixed.write_run(spans, rows)
            for i in order[start + 15 : start + 20]:
                mixed.write(samples[i])
    assert stream.getvalue() == expected
    assert mixed.facts.sha256 == other.facts.sha256
    assert mixed.index.to_bytes() == other.index.to_bytes()
    assert mixed.num_samples == 60


def test_a_run_whose_rows_do_not_fit_is_refused():
    whole, writer = write_tar([{"__key__": "a", "x": b"1"}])
    rows = writer.index.take([0])
    with pytest.raises(ValueError, match="not as its rows say"):
        TarWriter(io.BytesIO()).write_run([whole], rows)
    with pytest.raises(ValueError, match="not as its rows say"):
        TarWriter(io.BytesIO(), user="me").write_run([whole[:1024]], rows)


def test_what_a_scan_calls_canonical_is_what_a_writer_calls_so():
    kinds: dict[str, tuple[dict[str, bytes], dict[str, Any]]] = {
        "usual": ({"a": b"1", "b.c": bytes(700)}, {}),
        "an owner": ({"a": b"1"}, {"user": "me"}),
        "a mode": ({"a": b"1"}, {"mode": 0o600}),
        "no extension": ({"": b"1"}, {}),
        "meta": ({"_a": b"1"}, {"keep_meta": True}),
    }
    for name, (fields, options) in kinds.items():
        data, writer = write_tar([{"__key__": "k", **fields}], **options)
        scanned = scan_stream(io.BytesIO(data), "a.tar")
        assert scanned.to_bytes() == writer.index.to_bytes()
        assert scanned.canonical == (name == "usual")


@pytest.mark.parametrize("twice", [[0, 0], [1]])
def test_a_key_that_comes_twice_in_runs_is_refused(twice):
    whole, writer = write_tar([{"__key__": k, "x": b"1"} for k in "ab"])
    rows = writer.index.take(twice)
    spans = [whole[i * 1024 : i * 1024 + 1024] for i in twice]
    stream = io.BytesIO()
    with TarWriter(stream) as target:
        target.write({"__key__": "b", "x": b"1"})
        with pytest.raises(KeyRuleError, match="comes twice"):
            target.write_run(spans, rows)
    assert [s["__key__"] for s in read_by_tarfile(stream.getvalue())] == ["b"]


# -- the index ----------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(good_samples)
def test_the_index_points_at_every_payload(samples):
    samples = accepted(samples)
    data, writer = write_tar(samples)
    index = writer.index
    assert index.keys() == [sample["__key__"] for sample in samples]
    assert index.num_bytes == len(data)
    assert index.canonical == all("" not in sample for sample in samples)
    for i, sample in enumerate(samples):
        members = index.members(i)
        assert [name for name, _, _ in members] == sorted(set(sample) - {"__key__"})
        for name, offset, size in members:
            assert data[offset : offset + size] == sample[name]
        span = data[index.sample_offsets[i] : index.sample_offsets[i + 1]]
        assert span == tar_by_tarfile([sample])[: len(span)]
    assert concat_indexes([index.take(range(len(samples)))]).keys() == index.keys()
    assert scan_stream(io.BytesIO(data), "a.tar").to_bytes() == index.to_bytes()


def test_write_shard_keeps_an_index_beside_the_shard_unless_told(tmp_path):
    url = str(tmp_path / "a.tar")
    write_shard(url, [{"__key__": "a", "cls": b"1"}])
    index = load_index(url)
    assert index is not None
    assert index.keys() == ["a"]
    write_shard(url, [{"__key__": "b", "cls": b"1"}], write_index=False)
    assert not Path(index_url(url)).exists()
    assert load_index(url) is None


def test_gnu_tar_and_bsdtar_agree(tmp_path):
    samples = [
        {"__key__": "d" * 90 + "/" + "n" * 90, "cls": b"1"},
        {"__key__": "x" * 150, "cls": b"2"},
        {"__key__": "é", "cls": b"3"},
    ]
    write_shard(str(tmp_path / "a.tar"), samples)
    names = subprocess.run(
        ["tar", "--quoting-style=literal", "-tf", str(tmp_path / "a.tar")],
        check=True,
        capture_output=True,
    )
    assert names.stdout.decode().split() == [f"{s['__key__']}.cls" for s in samples]
