"""A command's exit status is always looked at, and nothing of it stays behind."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shardbuild.errors import PipeError, StorageError
from shardbuild.storage import gopen, pipes
from shardbuild.storage.pipes import PipeReader

TRIALS = 50
SHARD = 20_480


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(os.urandom(SHARD))
    return path


@pytest.fixture(autouse=True)
def no_child_stays():
    """Every test here ends without a new child, running or dead."""
    before = children()
    yield
    gc.collect()
    assert children() <= before


def children() -> set[str]:
    listings = Path("/proc/self/task").glob("*/children")
    return {pid for listing in listings for pid in listing.read_text().split()}


def read_by_pieces(url: str, size: int = 4 << 20) -> bytes:
    buffer = memoryview(bytearray(size))
    pieces = []
    with gopen(url) as file:
        while num_bytes := file.readinto(buffer):  # type: ignore[attr-defined]
            pieces.append(bytes(buffer[:num_bytes]))
    return b"".join(pieces)


@pytest.mark.parametrize(
    "command",
    [
        "head -c 10240 {}; exit 5",
        "head -c 10240 {}; sleep 0.02; exit 5",
        "cat {}; exit 5",
        "cat {}; sleep 0.02; exit 5",
        "exit 5",
        "exec 1>&-; sleep 0.02; exit 5",
        "head -c 10240 {}; kill -9 $$",
    ],
)
def test_a_failing_command_is_never_silent(shard, command):
    url = "pipe:" + command.format(shard)
    for _ in range(TRIALS):
        with pytest.raises(PipeError, match=r"exit status 5|signal 9") as caught:
            read_by_pieces(url)
        assert caught.value.url == url


@pytest.mark.parametrize("delay", ["", "sleep 0.02; "])
def test_closing_after_the_data_still_sees_the_status(shard, delay):
    for _ in range(TRIALS):
        file = gopen(f"pipe:cat {shard}; {delay}exit 7")
        got = 0
        while got < SHARD:  # all of the data, and not its end
            got += len(file.read(SHARD - got))
        with pytest.raises(PipeError, match="exit status 7"):
            file.close()


def test_what_a_good_command_writes_comes_whole(shard):
    assert read_by_pieces(f"pipe:cat {shard}") == shard.read_bytes()
    assert read_by_pieces(f"pipe:cat {shard}", size=100) == shard.read_bytes()
    assert gopen(f"pipe:cat {shard}").read() == shard.read_bytes()


def test_reading_again_after_the_error_is_no_clean_end():
    file = gopen("pipe:echo hello; exit 3")
    with pytest.raises(PipeError):
        file.read()
    with pytest.raises(PipeError):
        file.read()
    file.close()
    file.close()


@pytest.mark.parametrize("command", ["yes", "cat /dev/zero", "yes | cat; exit 0"])
def test_closing_early_stops_the_command_without_an_error(command):
    with gopen(f"pipe:{command}") as file:
        assert len(file.read(10)) == 10


def test_closing_early_is_an_error_when_the_command_had_failed_already(shard):
    file = gopen(f"pipe:head -c 100 {shard}; exit 5")
    assert file.read(10)
    with pytest.raises(PipeError, match="exit status 5"):
        file.close()


def test_an_exception_of_the_reader_is_not_replaced():
    with pytest.raises(KeyError), gopen("pipe:echo x; exit 3"):
        raise KeyError
    with pytest.raises(KeyError), gopen("pipe:sleep 100 | cat"):
        raise KeyError


def test_a_forgotten_reader_is_ended():
    file = gopen("pipe:yes")
    assert file.read(2) == b"y\n"
    process = file._command.process  # type: ignore[attr-defined]
    del file
    gc.collect()
    assert process.returncode is not None


def test_all_that_a_command_started_is_ended():
    with gopen("pipe:sleep 1000 & echo $!; yes") as file:
        line = b""
        while not line.endswith(b"\n"):
            line += file.read(1)
    deadline, pause = time.monotonic() + 60, threading.Event()
    while not is_dead(int(line)):
        assert time.monotonic() < deadline
        pause.wait(0.01)


def test_a_command_that_will_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(pipes, "_DRAIN_MILLISECONDS", 1)
    monkeypatch.setattr(pipes, "_TERMINATE_SECONDS", 0.05)
    with gopen("pipe:trap '' TERM PIPE; echo x; while :; do sleep 1; done") as file:
        assert file.read(2) == b"x\n"


def is_dead(pid: int) -> bool:
    """Whether a process is gone or about to be; it is no child of ours."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_what_the_command_said_is_in_the_error_and_on_our_stderr(capfd):
    with pytest.raises(
        PipeError, match=r"exit status 1: cat: .*No such file"
    ) as caught:
        gopen("pipe:cat /nonexistent/x.tar").read()
    assert caught.value.url == "pipe:cat /nonexistent/x.tar"
    assert "No such file" in capfd.readouterr().err


def test_much_on_stderr_neither_blocks_nor_fills_memory(capfd):
    command = "pipe:head -c 3000000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 4"
    with pytest.raises(PipeError) as caught:
        gopen(command).read()
    assert caught.value.problem.endswith("end")
    assert len(caught.value.problem) < 3000
    assert len(capfd.readouterr().err) > 2_900_000


def test_a_command_gets_no_input():
    assert gopen("pipe:cat").read() == b""


@pytest.mark.parametrize("url", ["pipe:", "pipe:  "])
def test_no_command_is_an_error(url):
    with pytest.raises(PipeError, match="no command"):
        gopen(url)
    with pytest.raises(PipeError, match="no command"):
        gopen(url, "wb")


def test_a_missing_program_is_an_error():
    with pytest.raises(PipeError, match="exit status 127"):
        gopen("pipe:no-such-program-here").read()


def test_when_statuses_are_thrown_away_nothing_is_trusted():
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(PipeError, match="SIGCHLD is ignored"):
            gopen("pipe:exit 5")
    finally:
        signal.signal(signal.SIGCHLD, old)


def test_readers_are_raw_binary_files(shard):
    with PipeReader(f"pipe:cat {shard}") as file:
        assert file.readable()
        assert not file.writable()
        assert file.fileno() > 2
        assert io.BufferedReader(file, 1 << 20).read() == shard.read_bytes()
    with pytest.raises(ValueError, match="closed"):
        file.readinto(bytearray(1))


def test_a_written_pipe_is_whole_and_judged(tmp_path):
    data = os.urandom(3 << 20)
    with gopen(f"pipe:cat > {tmp_path}/x", "wb") as file:
        assert file.writable()
        assert file.fileno() > 2
        assert file.write(data[:5]) == 5
        file.writev([data[5:10], memoryview(data)[10:]])  # type: ignore[attr-defined]
    assert (tmp_path / "x").read_bytes() == data
    for _ in range(TRIALS):
        file = gopen("pipe:cat > /dev/null; exit 6", "wb")
        file.write(b"data")
        with pytest.raises(PipeError, match="exit status 6"):
            file.close()
        file.close()


def test_a_command_that_stops_reading_is_an_error():
    file = gopen("pipe:head -c 1 > /dev/null", "wb")
    with pytest.raises(PipeError, match=r"stopped reading before the end; .* status 0"):
        file.write(bytes(100 << 20))


def write_and_fail(url: str) -> None:
    with gopen(url, "wb") as file:
        file.write(b"part")
        raise KeyError


def test_an_exception_while_writing_gives_no_end_of_input(tmp_path):
    url = f"pipe:cat > {tmp_path}/x && touch {tmp_path}/whole"
    for _ in range(10):
        with pytest.raises(KeyError):
            write_and_fail(url)
    forgotten = gopen(url, "wb")
    forgotten.write(b"part")
    del forgotten
    gc.collect()
    discarded = gopen(url, "wb")
    discarded.discard()  # type: ignore[attr-defined]
    discarded.discard()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="closed"):
        discarded.write(b"more")
    assert not (tmp_path / "whole").exists()


def run_python(code: str, **options):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, **options
    )


COPY = """
from shardbuild.storage import gopen
with gopen("-") as source, gopen("-", "wb") as target:
    while piece := source.read(1000):
        target.write(piece)
    target.writev([b"e", b"nd"])
print("still open")
"""


def test_a_dash_is_our_own_input_and_output():
    data = os.urandom(100_000)
    answer = run_python(COPY, input=data)
    assert answer.stderr == b""
    assert answer.stdout == data + b"end" + b"still open\n"
    assert gopen("-").readable()
    assert gopen("-", "wb").writable()


FULL = """
import os, sys
from shardbuild.errors import StorageError
from shardbuild.storage import gopen
try:
    with gopen("-", "wb") as file:
        file.write(bytes(100))
except StorageError as error:
    sys.stderr.write(str(error))
    sys.stderr.flush()
    os._exit(3)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_on_standard_output_is_an_error(unbuffered):
    with Path("/dev/full").open("wb") as full:
        answer = subprocess.run(
            [sys.executable, "-c", FULL],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert answer.returncode == 3
    assert answer.stderr == b"-: cannot be written: No space left on device"


def test_discarding_standard_output_leaves_it_open(capfdbinary):
    with pytest.raises(KeyError):
        write_and_fail("-")
    file = gopen("-", "wb")
    file.discard()  # type: ignore[attr-defined]
    sys.stdout.flush()
    with pytest.raises(ValueError, match="closed"):
        file.write(b"more")


def test_errors_of_pipes_are_storage_errors():
    with pytest.raises(StorageError):
        gopen("pipe:exit 1").read()
