"""A file is there whole or not at all, whatever goes wrong on the way."""

from __future__ import annotations

import gc
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.errors import StorageError
from shardbuild.storage import (
    gopen,
    open_atomic,
    read_bytes,
    remove_leftovers,
    write_bytes,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_and_fail(url: str, error: BaseException) -> None:
    with open_atomic(url) as file:
        file.write(b"part")
        raise error


def test_nothing_is_visible_before_close(tmp_path):
    target = tmp_path / "x.tar"
    file = open_atomic(str(target))
    file.write(b"12345")
    assert not target.exists()
    file.close()
    assert target.read_bytes() == b"12345"
    assert names(tmp_path) == ["x.tar"]
    file.close()
    file.discard()
    assert target.read_bytes() == b"12345"


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_an_exception_publishes_nothing(tmp_path, error):
    with pytest.raises(type(error)):
        write_and_fail(f"{tmp_path}/x.tar", error)
    assert names(tmp_path) == []


def test_an_exception_leaves_what_was_there(tmp_path):
    write_bytes(f"{tmp_path}/x.tar", b"old")
    with pytest.raises(KeyError):
        write_and_fail(f"{tmp_path}/x.tar", KeyError())
    assert (tmp_path / "x.tar").read_bytes() == b"old"
    assert names(tmp_path) == ["x.tar"]


def test_a_forgotten_file_is_discarded(tmp_path):
    file = open_atomic(f"{tmp_path}/x.tar")
    file.write(b"part")
    del file
    gc.collect()
    assert names(tmp_path) == []


def test_readers_see_the_old_or_the_new_file_and_nothing_between(tmp_path):
    url = f"{tmp_path}/x.bin"
    contents = [bytes([n]) * 10_000 for n in range(40)]
    write_bytes(url, contents[0])
    seen, stop = set(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(read_bytes(url))

    thread = threading.Thread(target=read)
    thread.start()
    for content in contents:
        with open_atomic(url) as file:
            for start in range(0, len(content), 100):
                file.write(content[start : start + 100])
    stop.set()
    thread.join()
    assert seen <= set(contents)


@given(st.lists(st.binary(max_size=50), max_size=30), st.integers(0, 30))
def test_buffers_are_written_in_order(tmp_path_factory, buffers, first):
    path = tmp_path_factory.mktemp("buffers") / "x"
    with open_atomic(str(path)) as file:
        written = sum(file.write(buffer) for buffer in buffers[:first])
        written += file.writev(buffers[first:])
        assert file.tell() == written
    assert path.read_bytes() == b"".join(buffers)


def test_more_buffers_than_the_kernel_takes_at_once(tmp_path):
    buffers = [bytes([n % 256]) for n in range(5000)]
    with open_atomic(f"{tmp_path}/x") as file:
        assert file.writev(buffers) == 5000
    assert (tmp_path / "x").read_bytes() == b"".join(buffers)


def test_any_bytes_like_object_is_written_whole(tmp_path):
    import array

    with open_atomic(f"{tmp_path}/x") as file:
        assert file.write(array.array("q", [1, 2])) == 16
        assert file.write(memoryview(b"abc")) == 3
        assert file.write(bytearray(b"d")) == 1
    assert (tmp_path / "x").stat().st_size == 20


def test_folders_are_made_and_the_umask_holds(tmp_path):
    old = os.umask(0o027)
    try:
        write_bytes(f"{tmp_path}/a/b/x.tar", b"1")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a/b/x.tar").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "name", ["a:b.tar", "C:x", "x y.tar", "é" * 120, "-x", "[a].tar"]
)
def test_names_with_odd_signs(tmp_path, name):
    write_bytes(f"{tmp_path}/{name}", b"1")
    assert names(tmp_path) == [name]
    assert read_bytes(f"file://{tmp_path}/{name}") == b"1"


def test_a_relative_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_bytes("x:y.tar", b"1")
    write_bytes("file:z.tar", b"2")
    assert names(tmp_path) == ["x:y.tar", "z.tar"]


def test_the_longest_name_of_a_file_system(tmp_path):
    name = "n" * 255
    write_bytes(f"{tmp_path}/{name}", b"1")
    assert names(tmp_path) == [name]


def test_it_is_a_file_like_others(tmp_path):
    with open_atomic(f"{tmp_path}/x") as file:
        assert file.writable()
        assert os.fstat(file.fileno()).st_size == 0
        assert file.name == f"{tmp_path}/x"
    with open_atomic("/dev/null") as file:
        assert os.fstat(file.fileno()).st_rdev


def test_a_discard_that_fails_does_not_hide_the_first_error(tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        with pytest.raises(KeyError) as caught:
            write_and_fail(f"{tmp_path}/x", KeyError())
    note = "and it could not be discarded: [Errno 5] Input/output error"
    assert caught.value.__notes__ == [note]


def test_a_durable_file_is_the_same_file(tmp_path):
    with open_atomic(f"{tmp_path}/x", durable=True) as file:
        file.write(b"123")
    assert (tmp_path / "x").read_bytes() == b"123"


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("folder", "is a folder"),
        ("file/x.tar", "Not a directory|File exists"),
        ("n" * 256, "File name too long"),
    ],
)
def test_what_cannot_be_written_says_so_and_leaves_nothing(tmp_path, place, problem):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    url = f"{tmp_path}/{place}"
    with pytest.raises(StorageError, match=problem) as caught:
        write_bytes(url, b"123")
    assert caught.value.url == url
    assert names(tmp_path) == ["file", "folder"]


def test_a_place_that_became_a_folder_meanwhile(tmp_path):
    file = open_atomic(f"{tmp_path}/x")
    file.write(b"1")
    (tmp_path / "x").mkdir()
    with pytest.raises(StorageError, match="Is a directory"):
        file.close()
    assert names(tmp_path) == ["x"]
    with pytest.raises(ValueError, match="closed"):
        file.write(b"2")


def test_a_device_stays_a_device(tmp_path):
    with open_atomic("/dev/null") as file:
        assert file.write(b"123") == 3
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(StorageError, match="no space left"):
        write_bytes("/dev/full", b"123")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)
    os.mkfifo(tmp_path / "fifo")
    got = []
    reader = threading.Thread(
        target=lambda: got.append((tmp_path / "fifo").read_bytes())
    )
    reader.start()
    write_bytes(f"{tmp_path}/fifo", b"through")
    reader.join()
    assert got == [b"through"]


@pytest.mark.parametrize("url", ["-", "pipe:cat"])
def test_a_stream_is_not_published_at_once(url):
    with pytest.raises(StorageError, match="is a stream"):
        open_atomic(url)


# What a child does that may write no file above so many bytes: EFBIG in its writes,
# as ENOSPC would come on a full disk.
LIMITED = """
import resource, signal, sys
from shardbuild.errors import StorageError
from shardbuild.storage import open_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
file = open_atomic(sys.argv[1])
try:
    for _ in range(20):
        {write}
except StorageError as error:
    print(error)
else:
    sys.exit(3)
"""


@pytest.mark.parametrize(
    "write", ["file.write(bytes(9000))", "file.writev([bytes(3000)] * 3)"]
)
def test_a_write_that_fails_half_way_leaves_nothing(tmp_path, write):
    url = f"{tmp_path}/x.tar"
    code = LIMITED.format(write=write)
    answer = subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, check=True
    )
    assert answer.stdout.decode() == f"{url}: File too large\n"
    assert names(tmp_path) == []


@pytest.mark.parametrize("step", ["write", "writev", "fsync", "close", "replace"])
def test_an_error_at_any_step_leaves_nothing(tmp_path, monkeypatch, step):
    """ENOSPC, EIO and the like, at each system call on the way."""

    def fail(*_args):
        raise OSError(28, "No space left on device")

    url = f"{tmp_path}/x.tar"
    file = open_atomic(url, durable=True)
    file.write(b"1")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(StorageError, match="no space left on the device") as caught:
            _write_all_ways(file)
    assert caught.value.url == url
    file.discard()
    assert names(tmp_path) == []


def _write_all_ways(file) -> None:
    file.write(b"2")
    file.writev([b"3", b"4"])
    file.close()


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    """The kernel may take less than it was given: after a signal, or over 2 GiB."""
    write, writev = os.write, os.writev

    def short_write(fd, data):
        return write(fd, memoryview(data).cast("B")[:3])

    def short_writev(fd, buffers):
        return writev(fd, [b"".join(buffers)[:4]])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short_write)
        patch.setattr(os, "writev", short_writev)
        with open_atomic(f"{tmp_path}/x") as file:
            assert file.write(b"0123456789") == 10
            assert file.writev([b"ab", b"", b"cdefg", b"hij"]) == 10
            assert file.tell() == 20
    assert (tmp_path / "x").read_bytes() == b"0123456789abcdefghij"


KILLED = """
import os, sys
from shardbuild.storage import open_atomic
file = open_atomic(sys.argv[1])
file.write(b"part")
print("writing", flush=True)
sys.stdin.read()
"""


def test_a_killed_writer_leaves_only_what_remove_leftovers_removes(tmp_path):
    write_bytes(f"{tmp_path}/train-000001.tar", b"whole")
    write_bytes(f"{tmp_path}/.other-000000.tar.0123456789abcdef.tmp", b"not ours")
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, f"{tmp_path}/train-000000.tar"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"writing\n"
        child.send_signal(signal.SIGKILL)
    left = names(tmp_path)
    assert len(left) == 3
    assert not (tmp_path / "train-000000.tar").exists()
    remove_leftovers(str(tmp_path), lambda name: name.startswith("train-"))
    assert names(tmp_path) == [
        ".other-000000.tar.0123456789abcdef.tmp",
        "train-000001.tar",
    ]
    remove_leftovers(str(tmp_path), lambda name: name.startswith("train-"))


def test_leftovers_of_a_folder_that_is_not_there(tmp_path):
    remove_leftovers(f"{tmp_path}/none", bool)
    write_bytes(f"{tmp_path}/file", b"")
    with pytest.raises(StorageError, match="Not a directory"):
        remove_leftovers(f"{tmp_path}/file", bool)


ENDING = """
import os, sys
from shardbuild.storage import open_atomic
file = open_atomic(sys.argv[1])
file.write(b"part")
{end}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise KeyError", "keep = [file]"])
def test_a_process_that_ends_leaves_nothing(tmp_path, end):
    code = ENDING.format(end=end)
    subprocess.run(
        [sys.executable, "-c", code, f"{tmp_path}/x"], capture_output=True, check=False
    )
    assert names(tmp_path) == []


def test_a_forked_child_does_not_discard_its_parent_s_file(tmp_path):
    code = ENDING.format(
        end="pid = os.fork()\nif pid == 0:\n    sys.exit(0)\n"
        "os.waitpid(pid, 0)\nfile.write(b' and rest')\nfile.close()"
    )
    subprocess.run([sys.executable, "-c", code, f"{tmp_path}/x"], check=True)
    assert (tmp_path / "x").read_bytes() == b"part and rest"


def test_read_bytes_of_what_is_not_there(tmp_path):
    with pytest.raises(StorageError, match="none: no such file"):
        read_bytes(f"{tmp_path}/none")
    assert read_bytes("pipe:echo x") == b"x\n"


def test_gopen_writes_atomically(tmp_path):
    url = f"{tmp_path}/x"
    with gopen(url, "wb") as file:
        file.write(b"1")
        assert names(tmp_path) != ["x"]
    assert names(tmp_path) == ["x"]
