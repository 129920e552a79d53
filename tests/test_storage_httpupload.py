"""Writing by PUT: whole, or nothing."""

from __future__ import annotations

import http.server
import os
import random
import threading

import pytest

from shardbuild.errors import StorageError
from shardbuild.storage import exists, gopen, metered, read_bytes, write_bytes


@pytest.mark.parametrize("num_bytes", [0, 5, (8 << 20) - 1, 8 << 20, 30 << 20])
def test_what_is_written_is_there(shaped, num_bytes):
    data = random.Random(0).randbytes(num_bytes)
    url = shaped.url("d/x.tar")
    with metered() as meter, gopen(url, "wb") as file:
        for start in range(0, num_bytes, 1 << 20):
            file.write(memoryview(data)[start : start + (1 << 20)])
    assert read_bytes(url) == data
    assert meter.written_bytes == num_bytes
    assert shaped.set().get("PUT") == 1


def write_and_fail(url: str, num_bytes: int) -> None:
    with gopen(url, "wb") as file:
        file.write(bytes(num_bytes))
        raise KeyError


@pytest.mark.parametrize("num_bytes", [5, 20 << 20])
def test_what_is_discarded_never_appears(shaped, num_bytes):
    url = shaped.url("y.tar")
    write_bytes(url, b"before")
    with pytest.raises(KeyError):
        write_and_fail(url, num_bytes)
    assert read_bytes(url) == b"before"
    assert not exists(shaped.url("z.tar"))


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that takes no PUT, and says nothing here."""

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def refusing():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/x.tar"
        server.shutdown()
        thread.join()


def write_zeros(url: str, num_bytes: int) -> None:
    with gopen(url, "wb") as file:
        for start in range(0, num_bytes, 10 << 20):
            file.write(bytes(min(10 << 20, num_bytes - start)))


@pytest.mark.parametrize("num_bytes", [5, 100 << 20])
def test_a_server_that_takes_none_is_an_error_that_names_the_url(refusing, num_bytes):
    with pytest.raises(StorageError) as caught:
        write_zeros(refusing, num_bytes)
    assert caught.value.url == refusing


def test_a_server_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(StorageError, match=r"127\.0\.0\.1"):
        write_bytes("http://127.0.0.1:9/x.tar", os.urandom(10))
