"""tarproc's writers have their parameters in their order, and write our shards."""

from __future__ import annotations

import io
import tarfile
import threading
from typing import Any

import pytest

from shardbuild.errors import EncodeError
from shardbuild.shards.reader import read_samples
from shardbuild.shards.writer import TarWriter as OurWriter
from shardbuild.streams.tarwriters import TarWriter, TarWriter1
from shardbuild.streams.zcom import Connection

SAMPLE = {"__key__": "a/7", "__source__": "b.tar", "cls": b"7", "txt": b"seven"}


def test_the_bytes_are_those_of_our_writer(tmp_path):
    first, second = tmp_path / "a.tar", tmp_path / "b.tar"
    with TarWriter1(str(first), True, "me", "us", 0o400) as tar:
        assert tar.write(SAMPLE) == len(b"7seven") + len("b.tar")
    with OurWriter(str(second), "me", "us", 0o400, None, False, True) as tar:
        tar.write(SAMPLE)
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:
        names = [(member.name, member.uname, member.mode) for member in archive]
    assert ("a/7.__source__", "me", 0o400) in names


def test_meta_is_left_out_and_the_name_decides_on_compression(tmp_path):
    path = tmp_path / "a.tar.gz"
    with TarWriter1(str(path), output_mode="random") as tar:
        tar.write(SAMPLE)
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    wanted = {name: SAMPLE[name] for name in ("__key__", "cls", "txt")}
    assert list(read_samples(str(path))) == [wanted]


def test_only_bytes_are_taken_unless_an_encoder_is_given():
    with pytest.raises(EncodeError), TarWriter1(io.BytesIO()) as tar:
        tar.write({"__key__": "a", "cls": 7})
    stream = io.BytesIO()
    with TarWriter1(stream, encoder=True) as tar:
        tar.write({"__key__": "a", "cls": 7})
    assert not stream.closed
    assert len(stream.getvalue()) == 10240


def test_a_url_of_the_network_is_written_to_too(tmp_path):
    url = f"zpush+ipc://{tmp_path}/socket"
    heard: list[Any] = []

    def listen() -> None:
        with Connection(url.replace("zpush", "zpull"), timeout=30) as connection:
            heard.extend(connection)

    listener = threading.Thread(target=listen)
    listener.start()
    with TarWriter(url) as writer:
        writer.write({"__key__": "a", "txt": b"hello"})
    listener.join()
    assert heard == [{"__key__": "a", "txt": b"hello"}]
    with TarWriter(f"{tmp_path}/a.tar") as tar:
        tar.write({"__key__": "a", "txt": b"hello"})
    assert list(read_samples(f"{tmp_path}/a.tar")) == heard
