"""Claims among processes of one machine, that end with their process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from shardbuild.storage.filesystems import store_error
from shardbuild.storage.urlparts import local_folder

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Claim", "claim_file"]


class Claim:
    """A claim that is held; `release` or the end of the process ends it."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._pid = os.getpid()

    def release(self) -> None:
        """Let others claim; doing so twice is safe."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # Whoever waits for this very file sees that it has gone, and tries anew.
            if self._pid == os.getpid():  # a forked child lets go of its copy only
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            os.close(fd)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def claim_file(path: str, *, wait: bool = False) -> Claim | None:
    """Claim what a path stands for; None when another process, or thread, has it.

    The file at the path is only the claim's mark. The kernel gives a claim back when
    its process ends, however it ends: there is no stale one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first = claim_file(f"{folder}/x.claim")
    ...     second = claim_file(f"{folder}/x.claim")
    ...     first.release()
    ...     third = claim_file(f"{folder}/x.claim")
    ...     third.release()
    >>> first is None, second is None, third is None
    (False, True, False)

    Raises:
        StorageError: The file cannot be made.
    """
    while True:
        try:
            os.makedirs(local_folder(path), exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise store_error(path, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(path, fd):
                return Claim(path, fd)
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError as error:
            os.close(fd)
            raise store_error(path, error) from error
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_at(path: str, fd: int) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
