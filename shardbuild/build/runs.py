"""Runs: tars of samples in the order of their sort keys, as large as memory allows."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

from shardbuild.build.ordering import field_key, place_hash, shuffle_keys
from shardbuild.build.rows import ROW, Table, join_tables
from shardbuild.build.sieve import new_key
from shardbuild.build.state import RUNS_PER_TASK, run_url
from shardbuild.shards.chunks import ChunkWriter, join_short
from shardbuild.shards.framing import SampleFramer, TarOptions
from shardbuild.shards.tarformat import end_of_archive
from shardbuild.storage import open_atomic

if TYPE_CHECKING:
    from types import TracebackType

    from shardbuild.build.settings import Settings
    from shardbuild.build.sieve import Sieve
    from shardbuild.shards.samples import Sample
    from shardbuild.storage import StorageOptions

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
        self._chunks = ChunkWriter(self._file.writev)
        self._parts: list[bytes] = []
        self._pending = 0

    def append(self, parts: list[bytes], num_bytes: int) -> None:
        """Write one sample: the parts of its frame, and how long they are."""
        self._parts += parts
        self._pending += num_bytes
        if self._pending >= self._chunks.room:
            self._flush()

    def _flush(self) -> None:
        self._chunks.put(join_short(self._parts, self._pending))
        self._parts, self._pending = [], 0

    def write(self, data: bytes | memoryview) -> None:
        """Write samples whose bytes are ready."""
        self._chunks.put([data])

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
        self._chunks.put([end_of_archive(self._chunks.num_bytes)])
        self._chunks.finish()
        self._file.close()


class RunSorter:
    """Holds as many samples as memory allows; writes them as sorted runs."""

    def __init__(self, settings: Settings, task: int) -> None:
        self.settings = settings
        self.task = task
        self.num_runs = 0
        self._tables: list[Table] = []
        tar = TarOptions(key_rule=settings.key_rule)
        self._framer = SampleFramer(settings.pattern, tar)
        self._forget()

    def _forget(self) -> None:
        self._parts: list[list[bytes]] = []
        self._held_bytes = 0
        self._texts: list[bytes] = []
        self._columns = {name: array("Q") for name in _COLUMNS}
        self._add_each = [column.append for column in self._columns.values()]

    def add(self, sieve: Sieve, position: int, sub: int, sample: Sample) -> None:
        """Hold one more sample, that the sieve has just let through.

        Raises:
            SampleError: it cannot be written, or has no such sort key.
        """
        number = sieve.source.number
        key = self._sort_key(sieve, position, sample)
        _, _, parts, sizes, num_bytes, _ = self._framer.frame(sample)
        self._parts.append(parts)
        if isinstance(key, bytes):
            self._texts.append(key)
            self._held_bytes += len(key)
            key = 0
        add_key, add_source, add_position, add_sub, add_size = self._add_each
        add_key(key)
        add_source(number)
        add_position(position)
        add_sub(sub)
        add_size(num_bytes)
        self._held_bytes += num_bytes + _SAMPLE_OVERHEAD + _MEMBER_OVERHEAD * len(sizes)
        if self._held_bytes >= self.settings.memory:
            self._flush()

    def _sort_key(self, sieve: Sieve, position: int, sample: Sample) -> int | bytes:
        """What a sample is sorted by; its key counts as it was before ``rekey``."""
        order = self.settings.order
        if order.kind == "keep":
            return 0
        name = sample["__key__"]
        if self.settings.rekey:
            name = name.removeprefix(new_key(sieve.source.number, ""))
        if order.kind == "shuffle":
            if name == sieve.key:
                return sieve.key_hash
            return place_hash(name, sieve.source.number, position)
        if order.field == "__key__":
            sample = {"__key__": name}
        return field_key(order, sieve.source.url, sample)

    def _flush(self) -> None:
        if not self._parts:
            return
        order = self.settings.order
        container = self.task * RUNS_PER_TASK + self.num_runs
        rows = np.zeros(len(self._parts), ROW)
        for name, column in self._columns.items():
            rows[name] = column
        if order.kind == "shuffle":
            rows["key"] = shuffle_keys(order.seed, rows["key"])
        rows["body"] = rows["num_bytes"]
        rows["container"] = container
        held = Table(rows, self._texts if order.by_text else None)
        ranks = held.ranks()
        table = held.take(ranks)
        sizes = table.rows["num_bytes"]
        table.rows["offset"] = np.cumsum(sizes) - sizes
        url = run_url(self.settings, "map", container)
        options = self.settings.storage_options
        with RunWriter(url, storage_options=options) as run:
            for rank, num_bytes in zip(ranks.tolist(), sizes.tolist(), strict=True):
                run.append(self._parts[rank], num_bytes)
        self._tables.append(table)
        self.num_runs += 1
        self._forget()

    def finish(self) -> Table:
        """Write what is held; the rows of all runs."""
        self._flush()
        return join_tables(self._tables)


_COLUMNS = ("key", "source", "position", "sub", "num_bytes")
