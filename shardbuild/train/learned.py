"""Indexes of shards that have none beside them: learned by reading, kept on disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.errors import StorageError
from shardbuild.shards.index import ShardIndex
from shardbuild.storage.claims import claim_file
from shardbuild.storage.publish import read_bytes, write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardbuild.storage.claims import Claim

__all__ = ["LearnedIndexes"]

_PREFIX = "shardbuild-learned-"


class LearnedIndexes(MutableMapping[int, ShardIndex]):
    """Indexes by the number of their shard, in a folder for temporary files.

    The folder is gone with the process that made it, or is removed by the next one
    that makes one, if that was killed. Worker processes find there what others
    learned.

    >>> from shardbuild.shards.index import IndexBuilder
    >>> learned = LearnedIndexes()
    >>> learned[3] = IndexBuilder().finish(0, 1024, canonical=True)
    >>> list(learned), learned[3].num_bytes
    ([3], 1024)
    """

    def __init__(self) -> None:
        self._folder = ""
        self._removal: Callable[[], object] | None = None

    def close(self) -> None:
        """Forget all, and remove the folder."""
        if self._removal is not None:
            self._removal()
        self._folder, self._removal = "", None

    def _opened(self) -> str:
        if not self._folder:
            _sweep()
            folder = tempfile.mkdtemp(prefix=_PREFIX)
            claim = claim_file(f"{folder}.claim", wait=True)
            Path(folder).mkdir(exist_ok=True)  # swept before it was claimed
            self._removal = weakref.finalize(self, _remove, folder, claim, os.getpid())
            self._folder = folder
        return self._folder

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._opened(), "_removal": None}

    def _path(self, number: int) -> str:
        return f"{self._opened()}/{number}.npz"

    def __setitem__(self, number: int, index: ShardIndex) -> None:
        write_bytes(self._path(number), index.to_bytes())

    def __getitem__(self, number: int) -> ShardIndex:
        path = self._path(number)
        if number not in self:
            raise KeyError(number)
        return ShardIndex.from_bytes(read_bytes(path), path)

    def __contains__(self, number: object) -> bool:
        return os.path.exists(f"{self._opened()}/{number}.npz")  # noqa: PTH110

    def __delitem__(self, number: int) -> None:
        Path(self._path(number)).unlink()

    def __iter__(self) -> Iterator[int]:
        names = (path.stem for path in Path(self._opened()).glob("*.npz"))
        return iter(sorted(int(name) for name in names if name.isdecimal()))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _remove(folder: str, claim: Claim | None, pid: int) -> None:
    if pid == os.getpid():  # not in a forked child
        shutil.rmtree(folder, ignore_errors=True)
    if claim is not None:
        claim.release()


def _sweep() -> None:
    """Remove the folders of processes that were killed."""
    for mark in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*.claim"):
        with contextlib.suppress(StorageError):  # another user's
            claim = claim_file(str(mark))
            if claim is not None:
                shutil.rmtree(str(mark).removesuffix(".claim"), ignore_errors=True)
                claim.release()
