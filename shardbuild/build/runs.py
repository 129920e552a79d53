"""Runs: tars of samples in the order of their sort keys, as large as memory allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shardbuild.build.ordering import field_key, shuffle_key
from shardbuild.build.rows import ROW, Table, join_tables
from shardbuild.build.state import RUNS_PER_TASK, run_url
from shardbuild.shards.framing import SampleFramer, TarOptions
from shardbuild.shards.tarformat import end_of_archive
from shardbuild.storage import open_atomic

if TYPE_CHECKING:
    from types import TracebackType

    from shardbuild.build.ordering import SortKey
    from shardbuild.build.plan import Source
    from shardbuild.build.settings import Settings
    from shardbuild.shards.samples import Sample
    from shardbuild.storage import StorageOptions

_FLUSH_BYTES = 1 << 20
_SAMPLE_OVERHEAD = 600
_MEMBER_OVERHEAD = 250


class RunWriter:
    """Writes a run: a tar whose samples are in the order of their sort keys.

    Unlike a shard it may hold a key twice, for a table says where each sample is.
    """

    def __init__(
        self, url: str, *, storage_options: StorageOptions | None = None
    ) -> None:
        self._file = open_atomic(url, storage_options=storage_options)
        self._parts: list[bytes] = []
        self._pending = 0
        self._body = 0

    def append(self, parts: list[bytes], num_bytes: int) -> None:
        """Write one sample: the parts of its frame, and how long they are."""
        self._parts += parts
        self._pending += num_bytes
        if self._pending >= _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        self.write(b"".join(self._parts))
        self._parts.clear()
        self._pending = 0

    def write(self, data: bytes | memoryview) -> None:
        """Write samples whose bytes are ready."""
        self._body += len(data)
        self._file.write(data)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._file.discard()
            return
        self._flush()
        self._file.write(end_of_archive(self._body))
        self._file.close()


class RunSorter:
    """Holds as many samples as memory allows; writes them as sorted runs."""

    def __init__(self, settings: Settings, task: int) -> None:
        self.settings = settings
        self.task = task
        self._held: list[tuple[SortKey, list[bytes], int]] = []
        self._held_bytes = 0
        self.num_runs = 0
        self._tables: list[Table] = []
        tar = TarOptions(key_rule=settings.key_rule)
        self._framer = SampleFramer(settings.pattern, tar)

    def add(self, source: Source, position: int, sub: int, sample: Sample) -> None:
        """Hold one more sample.

        Raises:
            SampleError: it cannot be written, or has no such sort key.
        """
        order = self.settings.order
        key: int | bytes = 0
        if order.kind == "shuffle":
            name = sample["__key__"]
            if self.settings.rekey:
                name = name.partition("/")[2]
            key = shuffle_key(order.seed, name, source.number, position)
        elif order.kind == "sort":
            key = field_key(order, source.url, sample)
        _, _, parts, sizes, num_bytes, _ = self._framer.frame(sample)
        self._held.append(((key, source.number, position, sub), parts, num_bytes))
        self._held_bytes += num_bytes + _SAMPLE_OVERHEAD + _MEMBER_OVERHEAD * len(sizes)
        if self._held_bytes >= self.settings.memory:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        self._held.sort(key=_first)
        container = self.task * RUNS_PER_TASK + self.num_runs
        url = run_url(self.settings, "map", container)
        rows = np.zeros(len(self._held), ROW)
        by_text = self.settings.order.by_text
        keys = [key for key, _, _ in self._held]
        if not by_text:
            rows["key"] = [key[0] for key in keys]
        for column, name in enumerate(("source", "position", "sub"), 1):
            rows[name] = [key[column] for key in keys]
        rows["container"] = container
        rows["num_bytes"] = rows["body"] = [num_bytes for _, _, num_bytes in self._held]
        rows["offset"] = np.cumsum(rows["num_bytes"]) - rows["num_bytes"]
        options = self.settings.storage_options
        with RunWriter(url, storage_options=options) as run:
            for _, parts, num_bytes in self._held:
                run.append(parts, num_bytes)
        texts = [bytes(key[0]) for key in keys] if by_text else None
        self._tables.append(Table(rows, texts))
        self.num_runs += 1
        self._held, self._held_bytes = [], 0

    def finish(self) -> Table:
        """Write what is held; the rows of all runs."""
        self._flush()
        return join_tables(self._tables)


def _first(held: tuple[SortKey, list[bytes], int]) -> SortKey:
    return held[0]
