"""Iterators of tars, under the names of tarproc and webdataset."""

from __future__ import annotations

import gzip
import inspect
import io
import json
import logging
import socket
import threading
from pathlib import Path

import pytest

from shardbuild.errors import (
    DecodeError,
    SampleError,
    ShardError,
    StorageError,
    TruncatedShardError,
    UsageError,
    ignore_and_continue,
    ignore_and_stop,
)
from shardbuild.shards.samples import base_plus_ext
from shardbuild.streams.tariterators import (
    TarIterator,
    TarIterator1,
    group_by_keys,
    tar_file_expander,
    tariterator,
    url_opener,
    valid_sample,
)
from shardbuild.streams.zcom import Connection, MultiWriter
from tests.tars import Entry, Trickle, make_tar

ENTRIES = [
    Entry("a.cls", b"1"),
    Entry("a.TXT", b"one"),
    Entry("README", b"-"),
    Entry("b.seg.txt", b"two"),
    Entry("c.cls", b"3"),
]
SAMPLES = [
    {"__key__": "a", "cls": b"1", "txt": b"one"},
    {"__key__": "b", "seg.txt": b"two"},
    {"__key__": "c", "cls": b"3"},
]
TAR = make_tar(ENTRIES)


def numbered(count: int, first: int = 0) -> bytes:
    return make_tar(
        [Entry(f"{i:03}.cls", b"%d" % i) for i in range(first, first + count)]
    )


def classes(samples) -> list[int]:
    return [int(sample["cls"]) for sample in samples]


def by_folder(name: str) -> tuple[str | None, str | None]:
    """Keys of a data set whose folders are samples, in the form of webdataset."""
    key, slash, field = name.rpartition("/")
    return (key, field) if slash else (None, None)


def by_our_rule(name: str) -> tuple[str, str] | None:
    """Our rule, as a function that nobody knows."""
    return base_plus_ext(name)


class ReadOnly:
    """A stream with nothing but ``read``, as a response of urllib."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._data.read(min(size, 700))


class TestTariterator:
    @pytest.mark.parametrize("opened", [io.BytesIO, Trickle, ReadOnly])
    @pytest.mark.parametrize("packed", [bytes, gzip.compress])
    def test_reads_any_stream(self, opened, packed) -> None:
        assert list(tariterator(opened(packed(TAR)))) == SAMPLES

    def test_reads_an_open_file_and_leaves_it_open(self, tmp_path) -> None:
        (tmp_path / "x.tar").write_bytes(TAR)
        with (tmp_path / "x.tar").open("rb") as file:
            assert list(tariterator(file)) == SAMPLES
            assert not file.closed

    def test_errors_name_the_file(self, tmp_path) -> None:
        (tmp_path / "x.tar").write_bytes(TAR[:600])
        with (
            (tmp_path / "x.tar").open("rb") as file,
            pytest.raises(TruncatedShardError, match=r"x\.tar"),
        ):
            list(tariterator(file))

    def test_keys_may_be_made_in_another_way(self) -> None:
        tar = make_tar([Entry("n/1/a.JPG", b"x"), Entry("n/1/b", b"y"), Entry("c")])
        found = list(tariterator(io.BytesIO(tar), keys=by_folder))
        assert found == [{"__key__": "n/1", "a.jpg": b"x", "b": b"y"}]

    def test_our_rule_written_out_gives_the_same(self) -> None:
        found = list(tariterator(io.BytesIO(TAR), keys=by_our_rule))
        assert found == SAMPLES

    @pytest.mark.parametrize("keys", [base_plus_ext, by_our_rule])
    def test_suffixes_choose_fields_of_all_members(self, keys) -> None:
        found = tariterator(io.BytesIO(TAR), keys=keys, suffixes={"txt", "seg.txt"})
        assert list(found) == [{"__key__": "a", "txt": b"one"}, SAMPLES[1]]

    def test_decoders_are_functions_or_our_own(self) -> None:
        (a, _, c) = tariterator(io.BytesIO(TAR), decoder=True)
        assert (a["cls"], a["txt"], c["cls"]) == (1, "one", 3)
        sizes = tariterator(io.BytesIO(TAR), decoder=lambda s: {"n": len(s)})
        assert [sample["n"] for sample in sizes] == [3, 2, 2]
        picture = make_tar([Entry("a.ppm", b"P6 1 1 255 \1\2\3")])
        (sample,) = tariterator(io.BytesIO(picture), decoder="rgb8")
        assert sample["ppm"].tolist() == [[[1, 2, 3]]]
        (sample,) = tariterator(io.BytesIO(picture), decoder=True)
        assert isinstance(sample["ppm"], bytes)

    def test_an_unknown_decoder_is_refused(self) -> None:
        with pytest.raises(UsageError, match="rgb9"):
            list(tariterator(io.BytesIO(TAR), decoder="rgb9"))

    def test_a_container_holds_the_fields(self) -> None:
        inside = json.dumps({"cls": 3, "txt": "x"}).encode()
        tar = make_tar([Entry("a.json", inside), Entry("a.png", b"...")])
        found = tariterator(io.BytesIO(tar), decoder=True, container="json")
        assert list(found) == [{"__key__": "a", "cls": 3, "txt": "x"}]
        with pytest.raises(SampleError, match=r"'a'.*'json'.*not a bytes"):
            list(tariterator(io.BytesIO(tar), container="json"))

    def test_errors_are_raised_or_passed_over_or_end_it(self) -> None:
        tar = make_tar([Entry("a.cls", b"x"), Entry("b.cls", b"2")])

        def read(**options):
            return list(tariterator(io.BytesIO(tar), decoder=True, **options))

        with pytest.raises(DecodeError, match="'a'"):
            read()
        assert classes(read(errors=ignore_and_continue)) == [2]
        assert read(errors=ignore_and_stop) == []
        assert read(errors=False) == []

    @pytest.mark.parametrize("errors", [False, ignore_and_continue])
    def test_damage_ends_it_with_whole_samples(self, errors) -> None:
        cut = numbered(3)[:2048]
        with pytest.raises(TruncatedShardError):
            list(tariterator(io.BytesIO(cut)))
        assert classes(tariterator(io.BytesIO(cut), errors=errors)) == [0]

    def test_parameters_are_those_of_tarproc(self) -> None:
        parameters = inspect.signature(tariterator).parameters
        expected = ["fileobj", "keys", "decoder", "suffixes", "errors", "container"]
        assert list(parameters) == expected
        assert parameters["keys"].default is base_plus_ext
        assert parameters["errors"].default is True
        names = ["url", "braceexpand", "shuffle", "allow_missing"]
        assert list(inspect.signature(TarIterator1).parameters)[:4] == names


class TestTarIterator1:
    @pytest.fixture
    def urls(self, tmp_path) -> list[str]:
        for number in range(4):
            (tmp_path / f"{number}.tar").write_bytes(numbered(10, 10 * number))
        return [f"{tmp_path}/{number}.tar" for number in range(4)]

    def test_says_where_samples_are_from(self, urls) -> None:
        iterator = TarIterator1(urls[1])
        assert next(iter(iterator)) == {
            "__key__": "010",
            "__source__": urls[1],
            "cls": b"10",
        }
        assert classes(iterator) == classes(iterator) == list(range(10, 20))

    def test_a_source_that_is_there_stays(self, urls) -> None:
        marked = TarIterator1(urls[0], decoder=lambda s: {**s, "__source__": "x"})
        assert {sample["__source__"] for sample in marked} == {"x"}

    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ("#2,4", [2, 3, 4]),
            ("#2", [2]),
            ("#0,0", [0]),
            ("#8,99", [8, 9]),
            ("#10,12", []),
            ("", list(range(10))),
        ],
    )
    def test_ranges_are_inclusive(self, urls, asked: str, expected: list[int]) -> None:
        assert classes(TarIterator1(urls[0] + asked)) == expected

    def test_each_of_several_tars_gives_its_range(self, urls, tmp_path) -> None:
        braces = f"{tmp_path}/{{0..3}}.tar#1,2"
        assert classes(TarIterator1(braces)) == [1, 2, 11, 12, 21, 22, 31, 32]
        assert classes(TarIterator1([urls[2] + "#1", urls[0] + "#0"])) == [21, 0]

    def test_a_file_of_such_a_name_is_that_file(self, tmp_path) -> None:
        (tmp_path / "a.tar#1").write_bytes(numbered(3))
        assert classes(TarIterator1(f"{tmp_path}/a.tar#1")) == [0, 1, 2]

    def test_braces_may_be_meant_as_they_are(self, tmp_path) -> None:
        url = f"pipe:cat {tmp_path}/{{x,y}}.tar"
        (tmp_path / "{x,y}.tar").write_bytes(numbered(2))
        assert classes(TarIterator1(url, braceexpand=False)) == [0, 1]
        with pytest.raises(StorageError):
            list(TarIterator1(url))

    def test_a_range_that_runs_backwards_is_refused(self) -> None:
        with pytest.raises(StorageError, match="ends at 3"):
            list(TarIterator1("a.tar#5,3"))

    def test_shards_are_shuffled_by_seed(self, urls) -> None:
        orders = set()
        for seed in range(5):
            numbers = classes(TarIterator1(urls, shuffle=True, seed=seed))
            again = classes(TarIterator1(urls, shuffle=True, seed=seed))
            assert numbers == again
            assert sorted(numbers) == list(range(40))
            orders.add(tuple(numbers))
        assert len(orders) > 1

    def test_missing_tars_are_errors_or_left_out(self, urls, tmp_path, caplog) -> None:
        some = [urls[0], f"{tmp_path}/none.tar", urls[1]]
        with pytest.raises(StorageError, match=r"none\.tar"):
            list(TarIterator1(some))
        with caplog.at_level(logging.WARNING):
            found = classes(TarIterator1(some, allow_missing=True))
        assert found == list(range(20))
        assert "none.tar" in caplog.text

    def test_damage_is_not_missing(self, urls, tmp_path) -> None:
        Path(urls[0]).write_bytes(numbered(3)[:2048])
        with pytest.raises(ShardError):
            list(TarIterator1(urls[0], allow_missing=True))
        with pytest.raises(StorageError):
            list(TarIterator1(str(tmp_path), allow_missing=True))

    def test_options_are_those_of_tariterator(self, urls) -> None:
        (sample,) = TarIterator1(urls[0] + "#3", decoder=True, suffixes=["cls"])
        assert sample["cls"] == 3
        with pytest.raises(TypeError, match="decoders"):
            TarIterator1(urls[0], decoders=True)

    def test_what_is_not_read_to_its_end_is_closed(self, urls) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        assert len(classes(TarIterator1([url + "#3" for url in urls]))) == 4
        iterator = iter(TarIterator1(urls))
        next(iterator)
        del iterator
        assert len(list(Path("/proc/self/fd").iterdir())) == before


class TestTarIterator:
    def test_of_tars_is_that_of_tars(self, tmp_path) -> None:
        (tmp_path / "a.tar").write_bytes(numbered(3))
        assert classes(TarIterator(f"{tmp_path}/a.tar#1", decoder=True)) == [1]
        assert isinstance(TarIterator(["zpush://a", "x.tar"]), TarIterator1)
        assert isinstance(TarIterator("zip://a.tar::b.zip"), TarIterator1)

    def test_of_a_zmq_url_is_a_connection(self) -> None:
        connection = TarIterator("zpull+inproc://tariterator", timeout=60)
        assert isinstance(connection, Connection)
        with connection:
            with MultiWriter("zpush+inproc://tariterator") as writer:
                for sample in SAMPLES:
                    writer.write(sample)
            assert list(connection) == SAMPLES


class TestStages:
    def test_they_make_samples_of_urls(self, tmp_path) -> None:
        urls = []
        for number in range(2):
            (tmp_path / f"{number}.tar").write_bytes(TAR)
            urls.append(f"{tmp_path}/{number}.tar")
        found = list(group_by_keys(tar_file_expander(url_opener(urls))))
        expected = [
            {"__key__": sample["__key__"], "__url__": url, **sample}
            for url in urls
            for sample in SAMPLES
        ]
        assert found == expected

    def test_one_key_in_two_tars_is_two_samples(self) -> None:
        files = [
            {"fname": "a.x", "data": b"1", "__url__": "1.tar"},
            {"fname": "a.x", "data": b"2", "__url__": "2.tar"},
            {},
            {"fname": "a.x", "data": b"3", "__url__": "2.tar"},
        ]
        assert [sample["x"] for sample in group_by_keys(files)] == [b"1", b"2", b"3"]

    def test_meta_members_are_left_out(self) -> None:
        tar = make_tar([Entry("__x__/a.cls"), Entry("__index__"), Entry("a.cls")])
        source = {"url": "a.tar", "stream": io.BytesIO(tar)}
        files = [file for file in tar_file_expander([source]) if file]
        assert [file["fname"] for file in files] == ["a.cls"]

    def test_a_field_that_comes_twice_is_an_error(self) -> None:
        files = [
            {"fname": "a.X", "data": b"1"},
            {"fname": "a.x", "data": b"2"},
            {"fname": "a.y", "data": b"3"},
        ]
        with pytest.raises(SampleError, match=r"'a\.x' is the field 'x' once more"):
            list(group_by_keys(files))
        kept = group_by_keys(files, handler=ignore_and_continue)
        assert list(kept) == [{"__key__": "a", "x": b"1", "y": b"3"}]
        assert list(group_by_keys(files, handler=ignore_and_stop)) == []
        (sample,) = group_by_keys(files, lcase=False)
        assert sample == {"__key__": "a", "X": b"1", "x": b"2", "y": b"3"}

    def test_bad_urls_and_tars_go_to_the_handler(self, tmp_path) -> None:
        (tmp_path / "cut.tar").write_bytes(numbered(3)[:2048])
        (tmp_path / "a.tar").write_bytes(numbered(1, 7))
        urls = [f"{tmp_path}/{name}.tar" for name in ("none", "cut", "a")]

        def read(handler):
            streams = url_opener(urls, handler)
            return classes(group_by_keys(tar_file_expander(streams, handler)))

        assert read(ignore_and_continue) == [0, 7]
        assert read(ignore_and_stop) == []
        with pytest.raises(StorageError):
            list(url_opener(urls))
        with pytest.raises(TruncatedShardError):
            list(tar_file_expander(url_opener(urls[1:])))
        stopped = tar_file_expander(url_opener(urls[1:]), ignore_and_stop)
        assert classes(group_by_keys(stopped)) == [0]

    def test_streams_are_closed(self, tmp_path) -> None:
        (tmp_path / "a.tar").write_bytes(TAR)
        (found,) = url_opener([{"url": f"{tmp_path}/a.tar", "shard": 3}])
        assert found["stream"].closed
        assert found["shard"] == 3

    def test_valid_samples_are_whole_and_not_bad(self) -> None:
        assert valid_sample({"__key__": "a"})
        for bad in (None, {}, [1], {"__key__": "a", "__bad__": True}):
            assert not valid_sample(bad)


def test_a_socket_is_read_as_it_comes() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb", buffering=0) as stream:

        def send() -> None:
            theirs.sendall(TAR)
            theirs.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert list(tariterator(stream)) == SAMPLES
        sender.join()
