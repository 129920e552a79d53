"""``pipe:command`` and ``-``: streams from and to other processes.

The command runs through the shell, in a process group of its own, and its exit
status is always looked at: reading to the end raises instead of answering
"end" when the command failed, and so does closing. A pipeline's status is that
of its last command, as everywhere in the shell.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import select
import signal
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Any, cast

from shardbuild.errors import PipeError, StorageError
from shardbuild.storage.meter import current_meter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

__all__ = ["PipeReader", "PipeWriter", "StdinReader", "StdoutWriter"]

_PIPE_BYTES = 1 << 20
_STDERR_TAIL = 2048
_DRAIN_BYTES = 1 << 20
_DRAIN_MILLISECONDS = 5000
_TERMINATE_SECONDS = 5.0


class _Command:
    """A running child, its diagnostics, and the judgement of its status."""

    def __init__(
        self, url: str, *, reads: bool, arguments: Sequence[str] | None = None
    ) -> None:
        self.url = url
        text = url.removeprefix("pipe:").strip()
        if not (text if arguments is None else arguments):
            raise PipeError(url, "there is no command after 'pipe:'")
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            raise PipeError(url, "SIGCHLD is ignored: no exit status can be had")
        try:
            # What pipe: means is a shell; the caller's own argument only comes here.
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                text if arguments is None else arguments,
                shell=arguments is None,
                stdin=subprocess.DEVNULL if reads else subprocess.PIPE,
                stdout=subprocess.PIPE if reads else None,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise PipeError(url, f"cannot be started: {error.strerror}") from error
        self._tail = b""
        self._listener = threading.Thread(
            target=self._listen, name="shardbuild-stderr", daemon=True
        )
        self._listener.start()

    def _listen(self) -> None:
        """Pass on what the command says, and keep the end of it."""
        with cast("IO[bytes]", self.process.stderr) as stream:
            while piece := stream.read(65536):
                self._tail = (self._tail + piece)[-_STDERR_TAIL:]
                with contextlib.suppress(OSError):
                    os.write(2, piece)

    def check(self, problem: str = "") -> None:
        """Wait for the end of the command; its status must be 0.

        Raises:
            PipeError: The status is another, or there is a problem already.
        """
        status = self.process.wait()
        if status == 0 and not problem:
            return
        self._listener.join(timeout=1.0)  # a grandchild may hold the pipe open
        words = f"the command was killed by signal {-status}"
        if status >= 0:
            words = f"the command ended with exit status {status}"
        if problem:
            words = f"{problem}; {words}"
        tail = self._tail.decode("utf-8", "replace").strip()
        raise PipeError(self.url, f"{words}: {tail}" if tail else words)

    def end(self) -> None:
        """Stop the command with all that it started, and wait for it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            # It may have ended, but nobody has waited for it yet: so the group that
            # is named after it is still its own, and others may be in there.
            if self.process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_TERMINATE_SECONDS)
                return
        self.process.wait()


class PipeReader(io.RawIOBase):
    """What a command writes to its standard output.

    Closing before the end reads up to 1 MiB more, so that a command that has
    nothing more to say is judged by its status. One that has more is stopped,
    and how it ends is then our doing and no error.
    """

    def __init__(self, url: str, arguments: Sequence[str] | None = None) -> None:
        super().__init__()
        self.name = url
        self._meter = current_meter()
        self._ended = False
        self._command = _Command(url, reads=True, arguments=arguments)
        self._stdout = cast("IO[bytes]", self._command.process.stdout)
        self._fd = self._stdout.fileno()
        _widen(self._fd)

    @property
    def status(self) -> int | None:
        """The command's exit status; None while it runs."""
        return self._command.process.poll()

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def readinto(self, buffer: Any) -> int:
        """Fill the front of ``buffer``; 0 when a command that succeeded has ended.

        Raises:
            PipeError: The command has ended and failed.
        """
        if self.closed:
            raise ValueError("I/O operation on closed file")
        num_bytes = os.readv(self._fd, (buffer,))
        if num_bytes:
            self._meter.count_read(num_bytes)
        elif len(buffer):
            self._ended = True  # and so again for who asks again after an error
            self._command.check()
        return num_bytes

    def close(self) -> None:
        if self.closed:
            return
        try:
            if not self._ended:
                self._close_early()
        finally:
            self._release()

    def _close_early(self) -> None:
        """Judge a command that has ended or is about to; stop any other."""
        self._ended = True
        if self._command.process.poll() not in (None, 0) or self._drain():
            self._command.check()
        else:
            self._stdout.close()
            self._command.end()

    def _drain(self) -> bool:
        """Whether the end of the output is near: then it is read."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        left = _DRAIN_BYTES
        while left > 0 and poll.poll(_DRAIN_MILLISECONDS):
            piece = os.read(self._fd, 65536)
            if not piece:
                return True
            left -= len(piece)
        return False

    def _release(self) -> None:
        self._stdout.close()
        super().close()

    def _abandon(self) -> None:
        self._ended = True
        self._release()
        self._command.end()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()

    def __del__(self) -> None:
        if not self.closed and hasattr(self, "_fd"):
            self._abandon()


class PipeWriter(io.RawIOBase):
    """The standard input of a command.

    ``close`` waits for it and checks its status. ``discard``, or an exception
    in a ``with`` block, kills it before it could see an end of its input.
    """

    def __init__(self, url: str, arguments: Sequence[str] | None = None) -> None:
        super().__init__()
        self.name = url
        self._meter = current_meter()
        self._command = _Command(url, reads=False, arguments=arguments)
        self._stdin = cast("IO[bytes]", self._command.process.stdin)
        self._fd = self._stdin.fileno()
        _widen(self._fd)

    @property
    def status(self) -> int | None:
        """The command's exit status; None while it runs."""
        return self._command.process.poll()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: Any) -> int:
        """Write all of ``data``.

        Raises:
            PipeError: The command reads no more.
        """
        if self.closed:
            raise ValueError("I/O operation on closed file")
        with memoryview(data) as given, given.cast("B") as view:
            done = 0
            while done < len(view):
                try:
                    done += os.write(self._fd, view[done:])
                except BrokenPipeError:
                    self._release()
                    self._command.check("the command stopped reading before the end")
            self._meter.count_write(done)
            return done

    def writev(self, buffers: Sequence[Any]) -> int:
        """Write several buffers, one after the other."""
        return sum(self.write(buffer) for buffer in buffers)

    def close(self) -> None:
        if not self.closed:
            self._release()
            self._command.check()

    def discard(self) -> None:
        """Kill the command; nothing to do when already closed."""
        if not self.closed:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._command.process.pid, signal.SIGKILL)
            self._release()
            self._command.process.wait()

    def _release(self) -> None:
        self._stdin.close()
        super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.discard()


def _widen(fd: int) -> None:
    """Let a pipe hold 1 MiB: fewer switches between the two processes."""
    with contextlib.suppress(OSError):  # more than this user may have
        fcntl.fcntl(fd, getattr(fcntl, "F_SETPIPE_SZ", 1031), _PIPE_BYTES)


class StdinReader(io.RawIOBase):
    """Our own standard input; closing leaves it open."""

    name = "-"

    def __init__(self) -> None:
        super().__init__()
        self._meter = current_meter()
        self._stream: Any = getattr(sys.stdin, "buffer", sys.stdin)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        num_bytes: int = self._stream.readinto(buffer)
        self._meter.count_read(num_bytes)
        return num_bytes


class StdoutWriter(io.RawIOBase):
    """Our own standard output; closing flushes and leaves it open."""

    name = "-"

    def __init__(self) -> None:
        super().__init__()
        self._meter = current_meter()
        self._stream: Any = getattr(sys.stdout, "buffer", sys.stdout)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write all of ``data``."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        try:
            num_bytes: int = self._stream.write(data)
        except OSError as error:
            raise StorageError("-", f"cannot be written: {error.strerror}") from error
        self._meter.count_write(num_bytes)
        return num_bytes

    def writev(self, buffers: Sequence[Any]) -> int:
        """Write several buffers, one after the other."""
        return sum(self.write(buffer) for buffer in buffers)

    def close(self) -> None:
        if not self.closed:
            try:
                self._stream.flush()
            except OSError as error:
                problem = f"cannot be written: {error.strerror}"
                raise StorageError("-", problem) from error
            finally:
                super().close()

    def discard(self) -> None:
        """What was written cannot be taken back; stop writing."""
        super().close()
