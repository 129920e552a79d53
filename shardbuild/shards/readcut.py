"""From spans of a buffer to samples."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardbuild.shards.samples import Sample
    from shardbuild.shards.scangroups import Run

__all__ = ["samples_of_run"]


class Buffer(Protocol):
    """What bytes can be cut out of."""

    def __getitem__(self, span: slice, /) -> bytes | memoryview: ...


def samples_of_run(run: Run, buffer: Buffer) -> Iterator[Sample]:
    """Cut a run's samples out of the buffer that it was found in."""
    if run.bounds is not None:
        return _uneven(run, buffer, run.bounds)
    width = len(run.fields)
    spans = []
    for i in range(width):
        spans.append(run.starts[i::width].tolist())
        spans.append(run.ends[i::width].tolist())
    cut = _CUTS.get(width, _cut_many)
    return cut(buffer, run.keys, run.fields, spans)


# The common widths are written out: an inner loop would cost more than the rest.


def _cut_1(
    buffer: Buffer, keys: list[str], fields: list[str], spans: list[list[int]]
) -> Iterator[Sample]:
    (f,) = fields
    for key, a, b in zip(keys, *spans, strict=True):
        yield {"__key__": key, f: buffer[a:b]}


def _cut_2(
    buffer: Buffer, keys: list[str], fields: list[str], spans: list[list[int]]
) -> Iterator[Sample]:
    f, g = fields
    for key, a, b, c, d in zip(keys, *spans, strict=True):
        yield {"__key__": key, f: buffer[a:b], g: buffer[c:d]}


def _cut_3(
    buffer: Buffer, keys: list[str], fields: list[str], spans: list[list[int]]
) -> Iterator[Sample]:
    f, g, h = fields
    for key, a, b, c, d, i, j in zip(keys, *spans, strict=True):
        yield {"__key__": key, f: buffer[a:b], g: buffer[c:d], h: buffer[i:j]}


def _cut_many(
    buffer: Buffer, keys: list[str], fields: list[str], spans: list[list[int]]
) -> Iterator[Sample]:
    for key, *ends in zip(keys, *spans, strict=True):
        sample: Sample = {"__key__": key}
        for field, start, end in zip(fields, ends[::2], ends[1::2], strict=True):
            sample[field] = buffer[start:end]
        yield sample


_CUTS: Final = {1: _cut_1, 2: _cut_2, 3: _cut_3}


def _uneven(run: Run, buffer: Buffer, bounds: list[int]) -> Iterator[Sample]:
    starts, ends = run.starts.tolist(), run.ends.tolist()
    for key, (low, high) in zip(run.keys, pairwise(bounds), strict=True):
        sample: Sample = {"__key__": key}
        for i in range(low, high):
            sample[run.fields[i]] = buffer[starts[i] : ends[i]]
        yield sample
