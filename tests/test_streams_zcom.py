"""Samples over ZMQ: none is lost or doubled, and a writer that dies is no end."""

from __future__ import annotations

import collections
import importlib
import itertools
import json
import random
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.errors import EncodeError, MissingExtraError, StorageError, UsageError
from shardbuild.streams.zcom import (
    Connection,
    MultiWriter,
    is_zmq_url,
    schemes,
    urls2list,
    zmq_connect,
    zmq_make,
)
from shardbuild.streams.zframes import EOF_FRAME, decode_frame, encode_frame
from shardbuild.streams.zurls import parse_zmq_url

msgpack: Any = importlib.import_module("msgpack")  # has no types

# Long enough for a busy machine, so that a test that would hang fails.
LIMIT = 60.0

SAMPLE = {"__key__": "a/b", "txt": b"hi"}
SAMPLE_FRAME = bytes.fromhex("82a75f5f6b65795f5fa3612f62a3747874c4026869")


def numbered(count, **fields):
    return [{"__key__": f"{number:06d}", **fields} for number in range(count)]


def keys_of(samples, count):
    return [sample["__key__"] for sample in itertools.islice(samples, count)]


class Writing:
    """A thread that writes samples and closes: `join` raises what went wrong."""

    def __init__(self, writer, samples):
        self.error = None
        self._thread = threading.Thread(target=self._run, args=(writer, samples))
        self._thread.start()

    def _run(self, writer, samples):
        try:
            with writer:
                for sample in samples:
                    writer.write(sample)
        except Exception as error:  # noqa: BLE001  # looked at by the test
            self.error = error

    def join(self):
        self._thread.join()
        assert self.error is None, self.error


class Reading:
    """A thread that reads to the end: `join` gives what it read."""

    def __init__(self, url):
        self.found = []
        self.has_begun = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(url,))
        self._thread.start()

    def _run(self, url):
        with Connection(url, timeout=LIMIT) as reader:
            for sample in reader:
                self.found.append(sample)
                self.has_begun.set()

    def join(self):
        self._thread.join()
        return self.found


# -- urls -------------------------------------------------------------------


def test_the_eight_schemes():
    assert {name: tuple(scheme) for name, scheme in schemes.items()} == {
        "zpush": ("PUSH", False),
        "zpull": ("PULL", True),
        "zpub": ("PUB", True),
        "zsub": ("SUB", False),
        "zrpush": ("PUSH", True),
        "zrpull": ("PULL", False),
        "zrpub": ("PUB", False),
        "zrsub": ("SUB", True),
    }


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("zpush://h:1", "tcp://h:1"),
        ("zpull+tcp://*:7880/", "tcp://*:7880"),
        ("zsub://h:1/a/b", "tcp://h:1"),
        ("zpub+ipc:///tmp/a b", "ipc:///tmp/a b"),
        ("zrpub+ipc://@abstract", "ipc://@abstract"),
        ("zrsub+inproc://x/y", "inproc://x/y"),
    ],
)
def test_a_url_says_its_endpoint(url, endpoint):
    assert is_zmq_url(url)
    assert parse_zmq_url(url).endpoint == endpoint


@pytest.mark.parametrize(
    "url",
    ["", "-", "x.tar", "zip://a", "s3://zpush", "zpush:h", "zpush://", "xzpush://h"],
)
def test_what_is_no_zmq_url(url):
    assert not is_zmq_url(url)
    with pytest.raises(UsageError, match="is no ZMQ url: the schemes are zpush, zpull"):
        Connection(url)


@pytest.mark.parametrize(
    ("urls", "problem"),
    [
        ("zpush+pgm://h:1", "no transport 'pgm': there are tcp, ipc, inproc"),
        ("zpush:///x", "names no address"),
        (
            ["zpush+ipc://@a", "zpull+ipc://@b"],
            "together with the others: PULL and PUSH",
        ),
        (["zpull+ipc://@a", "zsub+ipc://@b"], "together with the others: SUB and PULL"),
    ],
)
def test_urls_that_cannot_be_used_are_refused(urls, problem):
    with pytest.raises(UsageError, match=problem):
        Connection(urls)


def test_braces_are_expanded_unless_told_not_to():
    assert urls2list("zpush://h:{1..3}") == [
        "zpush://h:1",
        "zpush://h:2",
        "zpush://h:3",
    ]
    assert urls2list(["zpush://{a,b}:1", "zpush://c:1"]) == [
        *("zpush://a:1", "zpush://b:1", "zpush://c:1")
    ]
    assert urls2list("zpush+ipc://@{1..3}", noexpand=True) == ["zpush+ipc://@{1..3}"]


# -- frames -----------------------------------------------------------------


def test_the_golden_frames():
    assert encode_frame(SAMPLE, url="") == SAMPLE_FRAME
    assert decode_frame(SAMPLE_FRAME, url="") == SAMPLE
    assert bytes.fromhex("81a75f5f454f465f5fc3") == EOF_FRAME
    assert decode_frame(EOF_FRAME, url="") is None


def test_the_frames_of_an_old_msgpack_and_of_tarp():
    old = msgpack.packb(
        {"__key__": "é", "cls": b"3", "jpg": b"\xff\xd8"}, use_bin_type=False
    )
    assert b"\xa2\xff\xd8" in old
    assert decode_frame(old, url="") == {
        "__key__": "é",
        "cls": b"3",
        "jpg": b"\xff\xd8",
    }
    with_bytes = msgpack.packb({b"__key__": "a", b"txt": b"hi"})
    assert decode_frame(with_bytes, url="") == {"__key__": "a", "txt": b"hi"}
    tarp = msgpack.packb({"__EOF__": b"true"})
    assert tarp == b"\x81\xa7__EOF__\xc4\x04true"
    assert decode_frame(tarp, url="") is None


VALUES = st.binary() | st.text() | st.integers(-(2**63), 2**63 - 1) | st.none()


@given(st.dictionaries(st.text().filter(lambda name: name != "__EOF__"), VALUES))
def test_any_sample_comes_back(sample):
    assert decode_frame(encode_frame(sample, url=""), url="") == sample


@given(st.binary(max_size=100))
def test_any_bytes_are_a_sample_an_end_or_an_error(data):
    try:
        found = decode_frame(data, url="u")
    except StorageError:
        return
    assert found is None or all(type(name) is str for name in found)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x93\1\2\3",
        b"\x81\x01\x02",
        SAMPLE_FRAME[:-1],
        SAMPLE_FRAME + b"\0",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xc4\x01\xff\xc0",
        b"\x81\xa1\xff\xc0",
        b"\x91\xa1\xff",
    ],
)
def test_a_message_that_is_no_sample_is_an_error(data):
    with pytest.raises(StorageError, match=r"^zpull://h:1: a (message|field)"):
        decode_frame(data, url="zpull://h:1")


@pytest.mark.parametrize(
    ("value", "problem"),
    [({1, 2}, "can not serialize"), (2**70, "cannot be sent"), (object, "encode its")],
)
def test_a_value_that_msgpack_has_no_word_for_is_refused(value, problem):
    with pytest.raises(EncodeError, match=f"sample 'k': .*{problem}"):
        encode_frame({"__key__": "k", "x": value}, url="zpush://h:1")


def test_a_sample_that_looks_like_the_end_is_refused():
    with pytest.raises(EncodeError, match="taken for the end"):
        encode_frame({"__key__": "k", "__EOF__": True}, url="zpush://h:1")


# -- every scheme, every transport ------------------------------------------

PAIRS = [("zpush", "zpull"), ("zrpush", "zrpull"), ("zpub", "zsub"), ("zrpub", "zrsub")]


# A subscriber that binds subscribes when it is asked for something.
PAIRS_OF_ONE_THREAD = PAIRS[:3]


def places(transport, tmp_path, count=1):
    if transport == "tcp":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return [f"127.0.0.1:{port + step}" for step in range(count)]
    root = f"{tmp_path}/s" if transport == "ipc" else f"{tmp_path.name}"
    return [f"{root}{step}" for step in range(count)]


@pytest.mark.parametrize("transport", ["tcp", "ipc", "inproc"])
@pytest.mark.parametrize(("writes", "reads"), PAIRS)
def test_all_samples_arrive_in_order(writes, reads, transport, tmp_path):
    (place,) = places(transport, tmp_path)
    samples = numbered(2000, txt=b"x" * 100)
    with Connection(f"{reads}+{transport}://{place}", timeout=LIMIT) as reader:
        writer = Connection(f"{writes}+{transport}://{place}", timeout=LIMIT)
        writing = Writing(writer, samples)
        assert list(reader) == samples
        assert reader.recv() is None
        writing.join()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@pytest.mark.parametrize(("writes", "reads"), PAIRS)
def test_writers_may_come_before_their_reader(writes, reads, transport, tmp_path):
    (place,) = places(transport, tmp_path)
    writer = Connection(f"{writes}+{transport}://{place}", timeout=LIMIT)
    writing = Writing(writer, numbered(300))
    with Connection(f"{reads}+{transport}://{place}", timeout=LIMIT) as reader:
        assert list(reader) == numbered(300)
    writing.join()


@pytest.mark.parametrize(("writes", "reads"), PAIRS)
def test_each_of_several_urls_is_used(writes, reads, tmp_path):
    """The reader has three urls; three writers have one each, and end it once."""
    urls = places("ipc", tmp_path, 3)
    parts = [numbered(500, name=str(part)) for part in range(3)]
    with Connection(
        [f"{reads}+ipc://{url}" for url in urls], num_producers=3, timeout=LIMIT
    ) as reader:
        assert len(reader.endpoints) == 3
        writings = [
            Writing(Connection(f"{writes}+ipc://{url}", timeout=LIMIT), part)
            for url, part in zip(urls, parts, strict=True)
        ]
        found = list(reader)
        for writing in writings:
            writing.join()
    assert len(found) == 1500
    for number, part in enumerate(parts):
        assert [one for one in found if one["name"] == str(number)] == part


def test_a_reader_that_connects_waits_for_each_of_its_urls(tmp_path):
    urls = places("ipc", tmp_path, 2)
    with Connection([f"zrpull+ipc://{url}" for url in urls], timeout=LIMIT) as reader:
        for url in urls:
            with Connection(f"zrpush+ipc://{url}", timeout=LIMIT) as writer:
                writer.write(SAMPLE)
        assert list(reader) == [SAMPLE, SAMPLE]


def test_a_publisher_sends_each_sample_to_each_of_its_urls(tmp_path):
    urls = places("ipc", tmp_path, 3)
    readings = [Reading(f"zrsub+ipc://{url}") for url in urls]
    with Connection([f"zrpub+ipc://{url}" for url in urls], timeout=LIMIT) as writer:
        for sample in numbered(500):
            writer.write(sample)
    assert [reading.join() for reading in readings] == [numbered(500)] * 3


def test_any_free_port_can_be_asked_for():
    with Connection("zpull://127.0.0.1:*", timeout=LIMIT) as reader:
        (endpoint,) = reader.endpoints
        with Connection(endpoint.replace("tcp", "zpush"), timeout=LIMIT) as writer:
            writer.send(SAMPLE)
            assert reader.recv() == SAMPLE


def test_an_address_that_cannot_be_bound_is_an_error(tmp_path):
    with Connection("zpull://127.0.0.1:*") as reader:
        url = reader.endpoints[0].replace("tcp", "zpull")
        with pytest.raises(StorageError, match=f"{url}: cannot be bound: Address"):
            Connection(url)
    with pytest.raises(StorageError, match="cannot be connected to"):
        Connection("zpush://no-port")


# -- the end ----------------------------------------------------------------


def raw_push(context, endpoint):
    """A writer that is not ours, with a socket of its own."""
    push = context.socket(zmq.PUSH)
    push.connect(endpoint)
    return push


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context


@pytest.mark.parametrize("eof", [EOF_FRAME, b"\x81\xa7__EOF__\xc4\x04true"])
def test_n_writers_that_are_not_ours_end_a_reader_once(context, eof):
    with Connection("zpull://127.0.0.1:*", num_producers=3, timeout=LIMIT) as reader:
        for number in range(3):
            with raw_push(context, reader.endpoints[0]) as push:
                push.send(msgpack.packb({"__key__": str(number)}))
                push.send(eof)
        assert sorted(sample["__key__"] for sample in reader) == ["0", "1", "2"]
        assert list(reader) == []


@pytest.mark.parametrize(("writes", "kind"), [("zpush", zmq.PULL), ("zrpub", zmq.SUB)])
def test_what_is_on_the_wire_is_one_frame_a_sample_and_one_for_the_end(
    context, writes, kind
):
    with context.socket(kind) as reader:
        if kind == zmq.SUB:
            reader.setsockopt(zmq.SUBSCRIBE, b"")
        port = reader.bind_to_random_port("tcp://127.0.0.1")
        writing = Writing(MultiWriter(f"{writes}://127.0.0.1:{port}"), [SAMPLE] * 2)
        frames = [reader.recv_multipart() for _ in range(3)]
        writing.join()
    assert frames == [[SAMPLE_FRAME], [SAMPLE_FRAME], [EOF_FRAME]]


def test_after_the_end_nothing_is_sent(tmp_path):
    (place,) = places("ipc", tmp_path)
    with Connection(f"zpull+ipc://{place}", timeout=LIMIT) as reader:
        with MultiWriter(f"zpush+ipc://{place}", timeout=LIMIT) as writer:
            writer.send_eof()
            writer.send_eof()
            with pytest.raises(StorageError, match="told that no more will come"):
                writer.write(SAMPLE)
        assert list(reader) == []


def test_a_writer_that_has_connected_is_waited_for_though_one_was_asked_for(context):
    with (
        Connection("zpull://127.0.0.1:*", timeout=LIMIT) as reader,
        raw_push(context, reader.endpoints[0]) as one,
        raw_push(context, reader.endpoints[0]) as other,
    ):
        other.send(SAMPLE_FRAME)
        assert reader.recv() == SAMPLE
        one.send(EOF_FRAME)
        one.send(EOF_FRAME)  # twice is no more
        other.send(SAMPLE_FRAME)
        other.send(EOF_FRAME)
        assert list(reader) == [SAMPLE]


def test_readers_that_share_one_url_are_each_told_the_end(tmp_path):
    """As long as none of them is behind."""
    (place,) = places("ipc", tmp_path)
    readings = [Reading(f"zrpull+ipc://{place}") for _ in range(2)]
    sent = 0
    with Connection(f"zrpush+ipc://{place}", timeout=LIMIT) as writer:
        for reading in readings:
            while not reading.has_begun.wait(0.1) and sent < 90:
                writer.write(SAMPLE)
                sent += 1
    found = [reading.join() for reading in readings]
    assert all(found)
    assert len(found[0]) + len(found[1]) == sent


def test_a_linger_ends_the_wait_for_a_reader_that_does_not_read(tmp_path):
    (place,) = places("ipc", tmp_path)
    with Connection(f"zpull+ipc://{place}", high_water=1, timeout=LIMIT) as reader:
        with MultiWriter(f"zpush+ipc://{place}", linger=50, timeout=LIMIT) as writer:
            for sample in numbered(20, bin=bytes(1 << 20)):
                writer.write(sample)
        with pytest.raises(StorageError, match="broke off before the end"):
            collections.deque(reader, maxlen=0)


def test_a_close_waits_for_a_reader_to_come_or_says_that_none_did(tmp_path):
    (place,) = places("ipc", tmp_path)
    writer = MultiWriter(f"zpush+ipc://{place}", timeout=0.05)
    writer.write(SAMPLE)
    with pytest.raises(StorageError, match=r"no reader came for 0\.05 seconds"):
        writer.close()
    writer.close()
    with MultiWriter(f"zpush+ipc://{place}", linger=10) as writer:
        writer.write(SAMPLE)


def test_an_end_without_samples_is_an_end(tmp_path):
    (place,) = places("ipc", tmp_path)
    with Connection(f"zpull+ipc://{place}", timeout=LIMIT) as reader:
        with MultiWriter(f"zpush+ipc://{place}"):
            pass
        assert list(reader) == []


def test_what_is_no_writer_of_samples_does_not_count(tmp_path):
    with Connection("zpull://127.0.0.1:*", timeout=LIMIT) as reader:
        address = reader.endpoints[0].removeprefix("tcp://").split(":")
        for greeting in (b"", b"GET / HTTP/1.0\r\n\r\n" * 9):
            with socket.create_connection((address[0], int(address[1]))) as stray:
                stray.sendall(greeting)
        url = reader.endpoints[0].replace("tcp", "zpush")
        writing = Writing(MultiWriter(url), numbered(10))
        assert list(reader) == numbered(10)
        writing.join()


def test_a_message_of_several_frames_is_an_error(context):
    with (
        Connection("zpull://127.0.0.1:*", timeout=LIMIT) as reader,
        raw_push(context, reader.endpoints[0]) as push,
    ):
        push.send_multipart([SAMPLE_FRAME, SAMPLE_FRAME])
        with pytest.raises(StorageError, match="several frames"):
            reader.recv()


# -- losses -----------------------------------------------------------------

PRODUCER = """
import sys
from shardbuild.streams.zcom import Connection
writer = Connection(sys.argv[1])
for number in range(int(sys.argv[2])):
    writer.write({"__key__": str(number), "x": bytes(1000)})
print("written", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("writes", "reads", "transport"),
    [*((*pair, "tcp") for pair in PAIRS), ("zpush", "zpull", "ipc")],
)
def test_a_writer_that_is_killed_is_an_error_and_no_end(
    writes, reads, transport, tmp_path
):
    (place,) = places(transport, tmp_path)
    with Connection(f"{reads}+{transport}://{place}", timeout=LIMIT) as reader:
        url = f"{writes}+{transport}://{place}"
        with subprocess.Popen(
            [sys.executable, "-c", PRODUCER, url, "20"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as producer:
            assert keys_of(reader, 20) == [str(number) for number in range(20)]
            assert producer.stdout
            assert producer.stdout.readline() == b"written\n"
            producer.send_signal(signal.SIGKILL)
            with pytest.raises(StorageError, match="1 of 1 producers broke off"):
                reader.recv()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_writer_that_is_killed_in_full_flow_is_an_error(transport, tmp_path):
    """Queues are full, here and in the kernel, when it dies."""
    (place,) = places(transport, tmp_path)
    with (
        Connection(f"zpull+{transport}://{place}", timeout=LIMIT) as reader,
        subprocess.Popen(
            [sys.executable, "-c", PRODUCER, f"zpush+{transport}://{place}", "1000000"],
            stdin=subprocess.PIPE,
        ) as producer,
    ):
        assert keys_of(reader, 500) == [str(number) for number in range(500)]
        producer.kill()
        producer.wait()
        with pytest.raises(StorageError, match="1 of 1 producers broke off"):
            collections.deque(reader, maxlen=0)


def test_a_writer_that_is_killed_beside_one_that_ends_is_an_error(tmp_path):
    (place,) = places("tcp", tmp_path)
    with Connection(f"zpull://{place}", timeout=LIMIT) as reader:
        with subprocess.Popen(
            [sys.executable, "-c", PRODUCER, f"zpush://{place}", "5"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as producer:
            assert producer.stdout
            assert producer.stdout.readline() == b"written\n"
            assert keys_of(reader, 5) == list("01234")
            with MultiWriter(f"zpush://{place}") as writer:
                writer.write(SAMPLE)
                producer.kill()
        assert reader.recv() == SAMPLE
        with pytest.raises(StorageError, match="1 of 2 producers broke off"):
            reader.recv()


def test_readers_of_a_writer_that_raises_fail_too(tmp_path):
    (place,) = places("ipc", tmp_path)

    def fails(reader):
        with MultiWriter(f"zpush+ipc://{place}", timeout=LIMIT) as writer:
            writer.write(SAMPLE)
            assert reader.recv() == SAMPLE
            raise EOFError

    with Connection(f"zpull+ipc://{place}", timeout=LIMIT) as reader:
        with pytest.raises(EOFError):
            fails(reader)
        with pytest.raises(StorageError, match="broke off before the end"):
            reader.recv()


def write_for_ever(writer, payload=b"", numbers=None):
    for number in numbers or itertools.count():
        writer.write({"__key__": str(number), "bin": payload})


@pytest.mark.parametrize(("writes", "reads"), PAIRS_OF_ONE_THREAD)
def test_a_reader_that_goes_away_is_an_error_of_the_writer(writes, reads, tmp_path):
    (place,) = places("ipc", tmp_path)
    reader = Connection(f"{reads}+ipc://{place}", timeout=LIMIT)
    writer = Connection(f"{writes}+ipc://{place}", timeout=LIMIT)
    writer.write(SAMPLE)
    with reader:
        assert reader.recv() == SAMPLE
    with pytest.raises(StorageError, match="went away before the end"):
        write_for_ever(writer)
    with pytest.raises(StorageError, match="went away before the end"):
        writer.close()


@pytest.mark.parametrize(("writes", "reads"), PAIRS)
def test_nobody_at_the_other_end_is_an_error_after_the_timeout(writes, reads, tmp_path):
    (place,) = places("ipc", tmp_path)
    nothing = r"nothing came for 0\.05 seconds, and 0 of 1"
    with (
        Connection(f"{reads}+ipc://{place}", timeout=0.05) as reader,
        pytest.raises(StorageError, match=nothing),
    ):
        reader.recv()
    writer = Connection(f"{writes}+ipc://{place}", timeout=0.05)
    with pytest.raises(StorageError, match=r"no (reader|subscriber) .*0\.05 seconds"):
        write_for_ever(writer)
    with pytest.raises(StorageError, match=r"no (reader|subscriber) .*0\.05 seconds"):
        writer.close()


# -- bounds and choices -----------------------------------------------------


@pytest.mark.parametrize(("writes", "reads"), PAIRS_OF_ONE_THREAD)
def test_a_slow_reader_bounds_what_is_under_way(writes, reads, tmp_path):
    """Two queues of ten, and what the kernel's socket holds: the writer stops."""
    (place,) = places("ipc", tmp_path)
    with Connection(f"{reads}+ipc://{place}", high_water=10, timeout=LIMIT) as reader:
        writer = Connection(f"{writes}+ipc://{place}", high_water=10, timeout=0.3)
        numbers = itertools.count()
        with pytest.raises(StorageError, match=r"no reader took a sample for 0\.3"):
            write_for_ever(writer, bytes(1 << 20), numbers)
        count = next(numbers) - 1
        assert 10 <= count <= 2 * 10 + 4
        assert keys_of(reader, 5) == list("01234")
        writer.write({"__key__": str(count), "bin": b""})
        writer.close(0, eof=False)


@pytest.mark.parametrize("mode", ["random", "round_robin"])
def test_samples_are_shared_out_as_the_mode_says(mode, tmp_path):
    urls = places("ipc", tmp_path, 3)
    found = []
    for _ in range(2):
        readers = [Connection(f"zpull+ipc://{url}", timeout=LIMIT) for url in urls]
        with MultiWriter(
            [f"zpush+ipc://{url}" for url in urls], output_mode=mode, seed=7
        ) as writer:
            for sample in numbered(90):
                writer.write(sample)
        found.append([[int(one["__key__"]) for one in reader] for reader in readers])
        for reader in readers:
            reader.close()
    assert found[0] == found[1]
    if mode == "round_robin":
        assert found[0] == [list(range(start, 90, 3)) for start in range(3)]
    else:
        chosen = random.Random(7)
        expected: list[list[int]] = [[], [], []]
        for number in range(90):
            expected[chosen.randrange(3)].append(number)
        assert found[0] == expected


def test_an_unknown_mode_or_limit_is_refused():
    with pytest.raises(UsageError, match="random or round_robin, not 'all'"):
        MultiWriter("zpush://h:1", output_mode="all")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="high_water is 0"):
        MultiWriter("zpush://h:1", high_water=0)
    with pytest.raises(UsageError, match="num_producers is 0"):
        Connection("zpull://h:1", num_producers=0)
    with pytest.raises(UsageError, match="timeout is 0 seconds"):
        Connection("zpull://h:1", timeout=0)
    with pytest.raises(UsageError, match="zpull://h:1: is for reading"):
        MultiWriter("zpull://h:1")


@pytest.mark.parametrize("writer_keeps", [True, False])
@pytest.mark.parametrize("reader_keeps", [True, False])
def test_meta_fields_are_kept_when_both_ends_say_so(
    writer_keeps, reader_keeps, tmp_path
):
    (place,) = places("ipc", tmp_path)
    sample = {**SAMPLE, "__url__": "x.tar", "_x": b"1"}
    with Connection(
        f"zpull+ipc://{place}", keep_meta=reader_keeps, timeout=LIMIT
    ) as reader:
        with MultiWriter(f"zpush+ipc://{place}", keep_meta=writer_keeps) as writer:
            writer.write(sample)
        expected = sample if writer_keeps and reader_keeps else {**SAMPLE, "_x": b"1"}
        assert list(reader) == [expected]


def test_a_closed_end_says_so_and_closes_twice(tmp_path):
    (place,) = places("ipc", tmp_path)
    reader = Connection(f"zpull+ipc://{place}", timeout=LIMIT)
    writer = Connection(f"zpush+ipc://{place}")
    writer.send_eof()
    for _ in range(2):
        writer.close()
    assert reader.recv() is None
    for _ in range(2):
        reader.close()
    with pytest.raises(UsageError, match="does not write, or is closed"):
        writer.write(SAMPLE)
    with pytest.raises(UsageError, match="does not read, or is closed"):
        reader.recv()
    with pytest.raises(StorageError, match="has no url, or is closed"):
        MultiWriter().write(SAMPLE)
    assert Connection().endpoints == []


def test_urls_can_be_added_later_and_a_topic_chosen(context, tmp_path):
    (place,) = places("ipc", tmp_path)
    with Connection(timeout=LIMIT) as reader:
        reader.connect(f"zsub+ipc://{place}", topic=SAMPLE_FRAME[:1])
        assert reader.endpoints == [f"ipc://{place}"]
        with Connection(timeout=LIMIT) as writer:
            writer.connect(f"zpub+ipc://{place}")
            writer.write({**SAMPLE, "a third": b"field"})
            writer.write(SAMPLE)
        assert list(reader) == [SAMPLE]
    sub = zmq_make(context, "zsub+ipc://@x")
    assert (sub.type, sub.get(zmq.LINGER)) == (zmq.SUB, 0)
    zmq_connect(sub, [f"zsub+ipc://{place}", f"zsub+ipc://{place}2"], "x")
    sub.close()


def test_without_pyzmq_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(MissingExtraError, match=r"'pyzmq': pip .*shardbuild\[zmq\]"):
        Connection("zpush://h:1")


def test_looking_at_urls_does_not_load_zmq():
    code = (
        "import sys, shardbuild.streams.zcom as z; z.is_zmq_url('zpush://h');"
        "assert not {'zmq', 'msgpack', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- all at once ------------------------------------------------------------

MANY_PRODUCER = """
import sys
from shardbuild.streams.zcom import MultiWriter
name, first, last, *urls = sys.argv[1:]
with MultiWriter(urls, seed=int(first)) as writer:
    for number in range(int(first), int(last)):
        writer.write({"__key__": str(number), "cls": b"%d" % (number % 10)})
"""

MANY_CONSUMER = """
import json, sys
from shardbuild.streams.zcom import Connection
with Connection("zpull://127.0.0.1:*", num_producers=3, timeout=60) as reader:
    print(reader.endpoints[0].replace("tcp", "zpush"), flush=True)
    numbers = []
    for sample in reader:
        number = int(sample["__key__"])
        assert sample["cls"] == b"%d" % (number % 10), sample
        numbers.append(number)
print(json.dumps(numbers))
"""


def test_three_producers_send_100_000_samples_to_two_consumers():
    count = 100_000
    consumers = [
        subprocess.Popen(
            [sys.executable, "-c", MANY_CONSUMER], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [consumer.stdout for consumer in consumers]
    urls = [output.readline().strip() for output in outputs if output]
    bounds = [0, count // 3, 2 * count // 3, count]
    producers = [
        subprocess.Popen(
            [sys.executable, "-c", MANY_PRODUCER, "p", str(first), str(last), *urls]
        )
        for first, last in itertools.pairwise(bounds)
    ]
    found = [json.loads(consumer.communicate()[0]) for consumer in consumers]
    assert [producer.wait() for producer in producers] == [0, 0, 0]
    assert [consumer.returncode for consumer in consumers] == [0, 0]
    assert all(len(part) > count // 4 for part in found)
    counts = collections.Counter(found[0] + found[1])
    assert counts == dict.fromkeys(range(count), 1)
