"""Local sockets that stay until their reader has read all.

A reader whose queue is full stops reading. If the writer closes a local (``ipc``)
connection just then, ZMQ drops what the kernel still holds for the reader; of a TCP
connection it reads the rest. So the writer keeps a second handle of each local
connection, and closes it when the kernel's queue is empty.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["hold", "wait_until_read"]

_LONGEST_WAIT_MS = 100


def hold(descriptors: Iterable[int]) -> list[socket.socket]:
    """A second handle of each of these connections, if it is local."""
    held = []
    for descriptor in descriptors:
        with suppress(OSError):  # closed meanwhile
            handle = socket.socket(fileno=os.dup(descriptor))
            if handle.family == socket.AF_UNIX:
                held.append(handle)
            else:
                handle.close()
    return held


def wait_until_read(held: list[socket.socket], linger: int) -> None:
    """Wait until the readers have read all, or are gone, and close the handles.

    ``linger`` is how many milliseconds to wait at most, -1 for ever.
    """
    deadline = monotonic() + linger / 1000
    try:
        for handle in held:
            wait = 1
            while _num_unread(handle) and not _is_broken(handle, wait):
                if linger >= 0 and monotonic() > deadline:
                    break
                wait = min(2 * wait, _LONGEST_WAIT_MS)
    finally:
        for handle in held:
            handle.close()


def _num_unread(handle: socket.socket) -> int:
    """How many bytes the other end has not read yet."""
    try:
        answer = fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])


def _is_broken(handle: socket.socket, wait_ms: int) -> bool:
    poller = select.poll()
    poller.register(handle, 0)  # errors and the other end's close are told always
    return bool(poller.poll(wait_ms))
