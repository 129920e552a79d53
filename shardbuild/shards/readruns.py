"""One shard front to back: the fast scan where it can, the exact reader elsewhere.

Both begin and end where a sample begins, so that either can take over anywhere.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from shardbuild.shards.readfacts import ReadFacts
from shardbuild.shards.readkeys import KeyLedger
from shardbuild.shards.readmembers import Found, MemberReader
from shardbuild.shards.readwindow import WINDOW_BYTES, FileWindow, Window
from shardbuild.shards.scangroups import Run, run_of
from shardbuild.shards.scanheaders import HeaderScan
from shardbuild.shards.tarparse import BLOCK

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator

    from shardbuild.shards.samples import KeyRule, Sample

__all__ = ["ShardReading", "samples_of_run"]

_FIRST_READ: Final = 256 << 10
_MAX_EXACT: Final = 256
_HOPS: Final = 64
_LARGE_SAMPLE: Final = 32 << 10
"""Mean bytes of a sample from which on a local file is read by single payloads."""


class ShardReading:
    """One pass over the samples in a window."""

    __slots__ = (
        "_at_once",
        "_exact",
        "_facts",
        "_key_rule",
        "_ledger",
        "_patience",
        "_scan",
        "_window",
    )

    def __init__(self, window: Window, key_rule: KeyRule, facts: ReadFacts) -> None:
        self._window = window
        self._key_rule = key_rule
        self._facts = facts
        self._ledger = KeyLedger()
        self._exact = MemberReader(window, key_rule, self._ledger, facts)
        self._scan = HeaderScan(window.buffer)
        self._at_once = _FIRST_READ
        self._patience = 1

    def samples(self) -> Iterator[Sample]:
        """Read all samples.

        Raises:
            ShardError: The shard is damaged, or its samples are not whole.
        """
        buffer = self._window.buffer
        for part in self.parts(payloads=True):
            if isinstance(part, Found):
                yield part.sample
            else:
                yield from samples_of_run(part, buffer)

    def parts(self, *, payloads: bool) -> Iterator[Run | Found]:
        """Read all samples, by runs where the scan can; a run's data is in the window.

        With ``payloads`` the samples outside of runs hold their fields too.
        """
        offset: int | None = 0
        while offset is not None:
            run = None if self._is_hopping() else self._run_at(offset)
            if run is None:
                yield from self._exactly(offset, payloads=payloads)
                offset = self._exact.offset
            else:
                self._patience = 1
                stop = self._window.base + int(run.heads[-1])
                self._look_ahead(stop - offset, len(run.keys))
                yield run
                offset = stop

    def _is_hopping(self) -> bool:
        return isinstance(self._window, FileWindow) and self._window.hopping

    def _look_ahead(self, num_bytes: int, num_samples: int) -> None:
        """Read as suits the size of the samples that have come."""
        if isinstance(self._window, FileWindow) and num_samples:
            on = num_bytes > num_samples * _LARGE_SAMPLE
            if on is not self._window.hopping:
                self._window.hop(on=on)

    def _exactly(self, offset: int, *, payloads: bool) -> Iterator[Found]:
        count = _HOPS if self._is_hopping() else self._patience
        self._patience = min(2 * self._patience, _MAX_EXACT)
        before = self._facts.num_samples
        yield from self._exact.samples(offset, count, payloads=payloads)
        after = self._exact.offset
        if after is not None:
            self._look_ahead(after - offset, self._facts.num_samples - before)

    def _run_at(self, offset: int) -> Run | None:
        window = self._window
        if not window.at_end and window.end - offset < self._at_once // 8:
            self._refill(offset)
        elif (offset - window.base) % BLOCK:
            window.fill(offset, 0)
        run = self._try_run(offset)
        if run is None and not window.at_end and offset > window.base:
            self._refill(offset)
            run = self._try_run(offset)
        return run

    def _refill(self, offset: int) -> None:
        self._window.fill(offset, self._at_once)
        self._at_once = min(4 * self._at_once, WINDOW_BYTES)

    def _try_run(self, offset: int) -> Run | None:
        """The run that begins at an offset, noted; None if there is none."""
        window = self._window
        start = (offset - window.base) // BLOCK
        stop = (window.end - window.base) // BLOCK
        chain = self._scan.chain(start, stop) if start < stop else None
        run = run_of(chain, window.buffer, self._key_rule) if chain else None
        if run is None:
            return None
        count = self._ledger.add(run.keys)
        if count < len(run.keys):
            # The exact reader finds the key that is there again.
            if not count:
                return None
            run = run.first(count)
        facts = self._facts
        facts.num_samples += count
        facts.num_members += len(run.starts)
        facts.skipped.update(run.skipped)
        return run


# -- from spans to samples --------------------------------------------------


def samples_of_run(run: Run, buffer: mmap.mmap) -> Iterator[Sample]:
    """Cut a run's samples out of the buffer that it was found in."""
    if run.bounds is not None:
        return _uneven(run, buffer)
    width = len(run.fields)
    spans = []
    for i in range(width):
        spans.append(run.starts[i::width].tolist())
        spans.append(run.ends[i::width].tolist())
    cut = _CUTS.get(width, _cut_many)
    return cut(buffer, run.keys, run.fields, spans)


# The common widths are written out: an inner loop would cost more than the rest.


def _cut_1(
    buffer: mmap.mmap, keys: list[str], fields: list[str], spans: list[list[int]]
) -> Iterator[Sample]:
    (f,) = fields
    for key, a, b in zip(keys, *spans, strict=True):
        yield {"__key__": key, f: buffer[a:b]}


def _cut_2(
    buffer: mmap.mmap, keys: list[str], fields: list[str], spans: list[list[int]]
) -> Iterator[Sample]:
    f, g = fields
    for key, a, b, c, d in zip(keys, *spans, strict=True):
        yield {"__key__": key, f: buffer[a:b], g: buffer[c:d]}


def _cut_3(
    buffer: mmap.mmap, keys: list[str], fields: list[str], spans: list[list[int]]
) -> Iterator[Sample]:
    f, g, h = fields
    for key, a, b, c, d, i, j in zip(keys, *spans, strict=True):
        yield {"__key__": key, f: buffer[a:b], g: buffer[c:d], h: buffer[i:j]}


def _cut_many(
    buffer: mmap.mmap, keys: list[str], fields: list[str], spans: list[list[int]]
) -> Iterator[Sample]:
    for key, *ends in zip(keys, *spans, strict=True):
        sample: Sample = {"__key__": key}
        for field, start, end in zip(fields, ends[::2], ends[1::2], strict=True):
            sample[field] = buffer[start:end]
        yield sample


_CUTS: Final = {1: _cut_1, 2: _cut_2, 3: _cut_3}


def _uneven(run: Run, buffer: mmap.mmap) -> Iterator[Sample]:
    assert run.bounds is not None
    starts, ends = run.starts.tolist(), run.ends.tolist()
    for key, (low, high) in zip(run.keys, pairwise(run.bounds), strict=True):
        sample: Sample = {"__key__": key}
        for i in range(low, high):
            sample[run.fields[i]] = buffer[starts[i] : ends[i]]
        yield sample
