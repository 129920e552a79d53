"""Servers of ftp and ssh: read to the end also when they break off, and written."""

from __future__ import annotations

import gc
import random
import ssl
from typing import TYPE_CHECKING

import paramiko  # type: ignore[import-untyped]
import pytest

from shardbuild.errors import GopenException, StorageError
from shardbuild.storage import (
    exists,
    gopen,
    list_names,
    metered,
    read_bytes,
    retries,
    stat_url,
    write_bytes,
)
from shardbuild.storage.gopen import gopen_at
from shardbuild.storage.publish import find_bytes
from shardbuild.storage.shardcache import ShardCache
from tests import remote_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = random.Random(0).randbytes(1_000_000)
PROTOCOLS = ["ftp", "sftp", "scp"]


@pytest.fixture(autouse=True)
def resumed(monkeypatch, caplog):
    """Counts the new attempts, which come without waiting."""
    monkeypatch.setattr(retries, "_FIRST_WAIT_SECONDS", 0.0)
    caplog.set_level("INFO", logger="shardbuild.storage.resuming")
    return lambda: sum("going on at byte" in words for words in caplog.messages)


@pytest.fixture(scope="module")
def key():
    return paramiko.ECDSAKey.generate()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "files" / "d").mkdir(parents=True)
    (tmp_path / "files" / "d" / "x.tar").write_bytes(DATA)
    return tmp_path / "files"


@pytest.fixture(params=PROTOCOLS)
def place(
    request, folder, key, tmp_path, monkeypatch
) -> Iterator[tuple[remote_servers.RemoteServer, str]]:
    """A protocol, and a running server of it that is known here."""
    if request.param == "ftp":
        with remote_servers.ftp_server(folder) as server:
            yield server, request.param
            gc.collect()
        return
    with remote_servers.sftp_server(folder, key) as server:
        know(tmp_path, monkeypatch, server, key)
        yield server, request.param


def know(tmp_path, monkeypatch, server, key) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    line = f"[localhost]:{server.port} {key.get_name()} {key.get_base64()}\n"
    (home / ".ssh" / "known_hosts").write_text(line)


def test_files_are_read_and_their_facts_told(place):
    server, protocol = place
    url = server.url(protocol, "d/x.tar")
    with gopen(url) as file:
        assert file.read(10) == DATA[:10]
        assert file.tell() == 10
        assert file.read() == DATA[10:]
        assert file.read() == b""
    assert read_bytes(url) == DATA
    facts = stat_url(url)
    assert facts.num_bytes == len(DATA)
    assert "unmarked" not in facts.fingerprint
    assert exists(url)
    assert not exists(server.url(protocol, "d/none"))


def test_a_file_is_asked_for_from_any_byte_on(place, resumed):
    server, protocol = place
    server.cut = 1
    url = server.url(protocol, "d/x.tar")
    with metered() as meter, gopen_at(url, 600_001) as file:
        assert file.read() == DATA[600_001:]
    assert server.starts[0] == 600_001
    assert resumed() == 1
    assert meter.read_bytes == len(DATA) - 600_001


def test_a_reading_that_breaks_off_goes_on_where_it_was(place, resumed):
    server, protocol = place
    server.cut = 4
    with gopen(server.url(protocol, "d/x.tar")) as file:
        assert file.read() == DATA
    assert server.cut == 0
    assert server.starts[0] == 0
    assert len(server.starts) == 5
    assert all(a < b for a, b in zip(server.starts, server.starts[1:], strict=False))
    assert resumed() == 4


def test_a_server_that_is_gone_is_given_up(folder, resumed):
    with remote_servers.ftp_server(folder) as server:
        server.cut = 1
        file = gopen(server.url("ftp", "d/x.tar"))
        assert file.read(10) == DATA[:10]
    with pytest.raises(StorageError, match=r"at byte \d+: ") as caught:
        file.read()
    assert caught.value.url == server.url("ftp", "d/x.tar")
    assert resumed() == 5
    file.close()


def test_a_file_that_changed_in_between_is_an_error(place, folder):
    server, protocol = place
    server.cut = 1
    file = gopen(server.url(protocol, "d/x.tar"))
    file.read(10)
    (folder / "d" / "x.tar").write_bytes(DATA[:500_000])
    with file, pytest.raises(StorageError, match="changed while it was read"):
        file.read()


def test_what_is_missing_and_what_is_no_file(place):
    server, protocol = place
    url = server.url(protocol, "d/none.tar")
    with pytest.raises(GopenException, match="no such file") as caught:
        gopen(url)
    assert caught.value.url == url
    assert gopen(url, allow_missing=True) is None
    assert find_bytes(url) is None
    with pytest.raises(StorageError):
        gopen(server.url(protocol, "d")).read()


def test_files_appear_when_they_are_whole(place, folder):
    server, protocol = place
    url = server.url(protocol, "new/deep/y.tar")
    with gopen(url, "wb") as file:
        file.write(DATA[:5])
        file.write(memoryview(DATA)[5:])
        assert not (folder / "new" / "deep" / "y.tar").exists()
    assert (folder / "new" / "deep" / "y.tar").read_bytes() == DATA
    write_bytes(url, b"")
    assert read_bytes(url) == b""
    with pytest.raises(KeyError):
        write_and_fail(url)
    names = [path.name for path in (folder / "new" / "deep").iterdir()]
    assert names == ["y.tar"]
    assert read_bytes(url) == b""


def write_and_fail(url: str) -> None:
    with gopen(url, "wb") as file:
        file.write(DATA)
        raise KeyError


def test_a_cache_keeps_what_they_have(place, tmp_path, folder):
    server, protocol = place
    cache = ShardCache(str(tmp_path / "cache"))
    for _ in range(2):
        with cache.open(server.url(protocol, "d/x.tar")) as file:
            assert file.read() == DATA
    assert len(server.starts) == 1
    (copy,) = (tmp_path / "cache").iterdir()
    assert copy.name.endswith("-1000000-x.tar")


def test_a_place_that_may_not_be_written_is_an_error(folder):
    with remote_servers.ftp_server(folder, may_write=False) as server:
        for name in ("d/y.tar", "new/y.tar"):
            with pytest.raises(StorageError, match=r"permission denied|privileges"):
                gopen(server.url("ftp", name), "wb")
        gc.collect()
    assert [path.name for path in (folder / "d").iterdir()] == ["x.tar"]


def test_a_server_that_goes_while_it_is_written_is_an_error(folder):
    with remote_servers.ftp_server(folder) as server:
        file = gopen(server.url("ftp", "d/y.tar"), "wb")
        file.write(DATA)
    with pytest.raises(StorageError) as caught:
        file.close()
    assert caught.value.url == server.url("ftp", "d/y.tar")
    assert not (folder / "d" / "y.tar").exists()
    with pytest.raises(StorageError, match="Connection refused"):
        gopen(server.url("ftp", "d/x.tar"))


def test_names_of_a_folder(folder):
    with remote_servers.ftp_server(folder) as server:
        assert list_names(server.url("ftp", "d")) == ["x.tar"]
        gc.collect()


def test_a_wrong_password_is_told(folder, key, tmp_path, monkeypatch):
    with remote_servers.ftp_server(folder) as server:
        url = f"ftp://user:wrong@localhost:{server.port}/d/x.tar"
        with pytest.raises(StorageError, match="530"):
            gopen(url)
        gc.collect()


def test_a_server_of_ssh_that_is_not_known_is_refused(
    folder, key, tmp_path, monkeypatch
):
    with remote_servers.sftp_server(folder, key) as server:
        know(tmp_path, monkeypatch, server, paramiko.ECDSAKey.generate())
        url = server.url("sftp", "d/x.tar")
        with pytest.raises(StorageError, match=r"not in ~/.ssh/known_hosts"):
            gopen(url)
        options = {"sftp": {"host_key_policy": "auto_add"}}
        with gopen(url, storage_options=options) as file:
            assert file.read() == DATA


@pytest.mark.parametrize("tls", ["explicit", "implicit"])
def test_ftps_reads_and_writes_and_looks_at_the_certificate(folder, tls, resumed):
    with remote_servers.ftp_server(folder, tls=tls) as server:
        url = server.url("ftps", "d/x.tar")
        trust = ssl.create_default_context(cafile=server.certificate)
        options = {"ftps": {"explicit": tls == "explicit", "ssl_context": trust}}
        server.cut = 2
        with gopen(url, storage_options=options) as file:
            assert file.read() == DATA
        assert resumed() == 2
        other = server.url("ftps", "y.tar")
        with gopen(other, "wb", storage_options=options) as file:
            file.write(DATA)
        assert (folder / "y.tar").read_bytes() == DATA
        unknown = {"ftps": {"explicit": tls == "explicit"}}
        with pytest.raises(StorageError, match="self-signed certificate"):
            gopen(url, storage_options=unknown)
        gc.collect()
