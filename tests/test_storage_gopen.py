"""One call opens any url."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import threading

import pytest

from shardbuild.errors import PipeError, StorageError
from shardbuild.storage import gopen, gopen_schemes, read_bytes, write_bytes
from shardbuild.storage.gopen import gopen_at


def write(url: str, data: bytes, options=None) -> None:
    with gopen(url, "wb", storage_options=options) as file:
        file.write(data)


def read(url: str, options=None) -> bytes:
    with gopen(url, storage_options=options) as file:
        return file.read()


@pytest.mark.parametrize(
    "name",
    ["x.tar", "a:b.tar", "C:x", "s3:x", "x#1.tar", "x?.tar", "pipe", "@x", "{a,b}"],
)
def test_local_paths_as_they_are(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for url in (
        name,
        f"{tmp_path}/{name}",
        f"file:{name}",
        f"file://{tmp_path}/{name}",
    ):
        write(url, url.encode())
        assert read(url) == url.encode()
        assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_local_file_is_raw_and_has_all_that_files_have(tmp_path):
    url = f"{tmp_path}/x"
    write(url, b"0123456789")
    with gopen(url) as file:
        assert isinstance(file, io.FileIO)
        buffer = bytearray(4)
        assert file.readinto(buffer) == 4
        assert bytes(buffer) == b"0123"
        assert os.pread(file.fileno(), 3, 5) == b"567"
        assert file.seek(8) == 8
        assert file.read(1) == b"8"
        assert file.readall() == b"9"
        assert file.read() == b""
        assert file.readinto(buffer) == 0
    assert file.closed


def test_local_errors_name_the_url(tmp_path):
    for url, problem in (
        (f"{tmp_path}/none.tar", "no such file"),
        (f"file://{tmp_path}/none.tar", "no such file"),
        (str(tmp_path), "Is a directory"),
    ):
        with pytest.raises(StorageError, match=problem) as caught:
            gopen(url)
        assert caught.value.url == url


def test_an_error_while_reading_names_the_url():
    with gopen("/proc/self/mem") as file, pytest.raises(StorageError) as caught:
        file.read(10)
    assert caught.value.url == "/proc/self/mem"


def test_a_fifo_is_read_as_it_comes(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(
        target=lambda: (tmp_path / "fifo").write_bytes(b"through")
    )
    writer.start()
    assert read(f"{tmp_path}/fifo") == b"through"
    writer.join()


@pytest.mark.parametrize("mode", ["r", "w", "ab", "rb+", "xb", ""])
def test_other_modes_are_refused(mode):
    with pytest.raises(ValueError, match="expected mode 'rb' or 'wb'"):
        gopen("x", mode)


def test_every_store_by_url_and_options(bucket):
    url, options = bucket.join("d/x.tar"), bucket.storage_options
    write(url, b"12345", options)
    with gopen(url, storage_options=options) as file:
        assert file.read(2) == b"12"
        assert file.read() == b"345"
    with pytest.raises(StorageError, match="no such file") as caught:
        gopen(bucket.join("none.tar"), storage_options=options)
    assert caught.value.url == bucket.join("none.tar")


def test_http(shaped):
    shaped.put("x.tar", b"12345")
    assert read(shaped.url("x.tar")) == b"12345"
    with pytest.raises(StorageError, match="no such file"):
        gopen(shaped.url("none.tar"))


COPY = """
import sys
from shardbuild.storage import gopen
with gopen(sys.argv[1]) as source, gopen(sys.argv[2], "wb") as target:
    target.write(source.read())
"""


def test_the_usual_environment_is_enough(bucket):
    """What s3fs and gcsfs users set, and no option of ours."""
    write(bucket.join("x"), b"12345", bucket.storage_options)
    argv = [
        sys.executable,
        "-W",
        "error",
        "-c",
        COPY,
        bucket.join("x"),
        bucket.join("y"),
    ]
    answer = subprocess.run(
        argv,
        env={**os.environ, **bucket.environment},
        capture_output=True,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert (
        read_bytes(bucket.join("y"), storage_options=bucket.storage_options) == b"12345"
    )


@pytest.mark.parametrize("form", ["json", "single"])
def test_the_variables_of_fsspec(moto_bucket, form):
    import json

    options = moto_bucket.storage_options
    write(moto_bucket.join("x"), b"12345", options)
    variables = {f"FSSPEC_S3_{name.upper()}": value for name, value in options.items()}
    if form == "json":
        config = {"connect_timeout": 7}
        variables = {"FSSPEC_S3": json.dumps({**options, "config_kwargs": config})}
    argv = [sys.executable, "-c", COPY, moto_bucket.join("x"), moto_bucket.join("y")]
    subprocess.run(argv, env={**os.environ, **variables}, check=True)
    assert moto_bucket.keys() == ["x", "y"]


def test_reading_a_store_s_shard_as_a_tar(bucket, tmp_path):
    url, options = bucket.join("x.tar"), bucket.storage_options
    (tmp_path / "a.txt").write_bytes(b"text")
    with (
        gopen(url, "wb", storage_options=options) as target,
        tarfile.open(fileobj=target, mode="w|") as archive,
    ):
        archive.add(tmp_path / "a.txt", "a.txt")
    with (
        gopen(url, storage_options=options) as source,
        tarfile.open(fileobj=source, mode="r|") as archive,
    ):
        assert archive.getnames() == ["a.txt"]


def test_pipes_and_dashes_are_opened_too(tmp_path):
    write(f"pipe:cat > {tmp_path}/x", b"12345")
    assert read(f"pipe:cat {tmp_path}/x") == b"12345"
    with pytest.raises(PipeError):
        read("pipe:exit 3")


def test_memory_and_chained_urls(tmp_path):
    import zipfile

    write("memory://gopen/x", b"12345")
    assert read("memory://gopen/x") == b"12345"
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.txt", b"zipped")
    assert read(f"zip://a.txt::{tmp_path}/x.zip") == b"zipped"
    write_bytes("memory://gopen/x.zip", (tmp_path / "x.zip").read_bytes())
    assert read("zip://a.txt::memory://gopen/x.zip") == b"zipped"
    assert read("zip://a.txt::simplecache::memory://gopen/x.zip") == b"zipped"


def test_an_unknown_protocol_is_an_error_that_names_the_url():
    with pytest.raises(StorageError, match="nosuch://b/k: ") as caught:
        gopen("nosuch://b/k")
    assert "nosuch" in caught.value.problem


def test_any_url_is_read_from_any_byte_on(tmp_path, monkeypatch):
    data = bytes(range(256)) * 4000
    path = f"{tmp_path}/x"
    write(path, data)
    write("memory://gopen/from", data)
    monkeypatch.setitem(gopen_schemes, "own", lambda _, mode: io.FileIO(path, mode))
    urls = (path, f"pipe:cat {path}", "memory://gopen/from", "own://x")
    for url in urls:
        for start in (0, 1, 700_000, len(data)):
            with gopen_at(url, start) as file:
                assert file.read() == data[start:]


def test_a_fifo_is_read_up_to_the_byte(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(b"0123",))
    writer.start()
    with gopen_at(f"{tmp_path}/fifo", 3) as file:
        assert file.read() == b"3"
    writer.join()


def test_a_command_that_fails_before_the_byte_is_an_error():
    with pytest.raises(PipeError, match="exit status 3"):
        gopen_at("pipe:echo abc; exit 3", 10)
