"""The floors that shardbuild has set itself."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shardbuild.bench.timing import Spread, Timing, compare, fastest, spread_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["TARGETS", "Target", "Verdict", "judge"]

Measure = Literal["speed", "wall", "cpu", "memory", "bytes", "seconds"]

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """One bound on what one of our contestants does in a workload."""

    workload: str
    bound: float
    against: tuple[str, ...]
    """Contestants; of several, the best in each round counts."""
    measure: Measure = "speed"
    """``speed``: how many times as fast as the other (at least the bound); ``wall``,
    ``cpu``, ``memory``: how many times what the other takes, ``bytes``, ``seconds``:
    the memory or the wall time itself (at most the bound)."""
    ours: str = "shardbuild"

    def __str__(self) -> str:
        other = " or ".join(self.against)
        if self.measure == "speed":
            return f"at least {self.bound:g} times as fast as {other}"
        if self.measure == "bytes":
            return f"at most {self.bound / MIB:g} MiB"
        if self.measure == "seconds":
            return f"at most {self.bound:g} s"
        word = {"wall": "wall time", "cpu": "CPU time", "memory": "unshared memory"}
        return f"at most {self.bound:g} times the {word[self.measure]} of {other}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was measured for a target."""

    target: Target
    measured: Spread
    is_met: bool
    """The median meets the bound."""


_GROUPBY = (
    "dask groupby disk, processes",
    "dask groupby disk, threads",
    "dask groupby tasks, cluster",
)

_SHUFFLED = "shardbuild, shuffled"
_LOCALLY = "shardbuild, in 2 shards"

_TARFILE = ("tarfile stream", "tarfile seek")

TARGETS = (
    Target("read-small", 25, ("webdataset",)),
    Target("read-small", 18, _TARFILE),
    Target("read-small", 7, ("wids",)),
    Target("read-small", 0.16, ("readinto",)),
    Target("read-img", 4, ("webdataset",)),
    Target("index-img", 5.5, ("webdataset",)),
    Target("index-img", 0.45, ("readinto",)),
    Target("read-pax", 30, ("webdataset",)),
    Target("read-odd", 9, ("webdataset",)),
    Target("read-gz", 10, ("webdataset on .gz",)),
    Target("read-zst", 13, ("webdataset on .gz",)),
    Target("write-small", 14, ("webdataset mtime=0",)),
    Target("write-small", 10, ("tarfile",)),
    Target("write-img", 3.3, ("webdataset mtime=0",)),
    Target("write-img", 2.2, ("tarfile",)),
    Target("convert", 1.05, ("bare codec",), "cpu"),
    Target("convert-workers", 1.10, ("bare codec",), "wall", "processes"),
    Target("convert-workers", 1.10, ("bare codec",), "wall", "cluster"),
    Target("reshuffle-small", 0.4, ("dd bs=4M",), ours="gather"),
    Target("reshuffle-small", 0.2, ("dd bs=4M",), ours="spill"),
    Target("reshuffle-small", 20, _GROUPBY, ours="gather"),
    Target("reshuffle-img", 0.7, ("dd bs=4M",), ours="gather"),
    Target("reshuffle-img", 0.4, ("dd bs=4M",), ours="spill"),
    Target("reshuffle-img", 20, _GROUPBY, ours="gather"),
    Target("reshuffle-memory", 1.1, ("gather, half the data",), "memory", "gather"),
    Target("reshuffle-memory", 1.1, ("spill, half the data",), "memory", "spill"),
    Target("stream-s3", 3.8, ("s3fs open()",)),
    Target("import", 0.15, ("webdataset",), "wall"),
    Target("import", 60 * MIB, (), "bytes"),
    Target("feed-small", 25, ("webdataset",)),
    Target("feed-small", 25, ("webdataset",), ours=_SHUFFLED),
    Target("feed-small", 1.0, ("litData",)),
    Target("feed-small", 1.0, ("litData, shuffled",), ours=_SHUFFLED),
    Target("feed-small", 25, ("webdataset",), ours=_LOCALLY),
    Target("feed-small", 1.0, ("litData, shuffled",), ours=_LOCALLY),
    Target("feed-img", 4, ("webdataset",)),
    Target("feed-img", 5.5, ("webdataset",), ours=_SHUFFLED),
    Target("feed-img", 2.3, ("litData",)),
    Target("feed-img", 2.3, ("litData, shuffled",), ours=_SHUFFLED),
    Target("feed-decode", 1.03, ("Pillow",), "wall", "1 thread"),
    Target("feed-decode", 1.8, ("1 thread",), ours="2 threads"),
    Target("feed-start", 1, (), "seconds"),
    Target("loader-small", 6.5, ("webdataset",)),
    Target("loader-small", 6.5, ("webdataset",), ours=_SHUFFLED),
    Target("loader-small", 1.0, ("litData",)),
    Target("loader-small", 1.0, ("litData, shuffled",), ours=_SHUFFLED),
    Target("loader-img", 1.0, ("litData",)),
    Target("loader-img", 1.0, ("litData, shuffled",), ours=_SHUFFLED),
)


def _measured(target: Target, ours: Timing, others: Sequence[Timing]) -> Spread | None:
    """Take what a target is about; None where the system did not tell the memory."""
    if target.measure in {"memory", "bytes"} and not ours.peak_bytes:
        return None
    if target.measure == "bytes":
        return spread_of(ours.peak_bytes)
    if target.measure == "seconds":
        return spread_of(ours.wall)
    if target.measure == "speed":
        return compare(fastest([other.wall for other in others]), ours.wall)
    field: Callable[[Timing], Sequence[float]] = operator.attrgetter(
        {"wall": "wall", "cpu": "cpu", "memory": "peak_bytes"}[target.measure]
    )
    return compare(field(ours), fastest([field(other) for other in others]))


def judge(workload: str, timings: Sequence[Timing]) -> list[Verdict]:
    """Hold what was measured against the targets whose contestants all ran.

    >>> timings = [Timing("webdataset", "peer", (9.0, 9.0), (9.0, 9.0)),
    ...            Timing("shardbuild", "ours", (1.0, 3.0), (1.0, 3.0))]
    >>> [verdict] = judge("read-img", timings)
    >>> verdict.measured.median, verdict.is_met
    (6.0, True)
    """
    ran = {timing.name: timing for timing in timings}
    verdicts = []
    for target in TARGETS:
        if target.workload != workload or not {target.ours, *target.against} <= set(
            ran
        ):
            continue
        others = [ran[name] for name in target.against]
        measured = _measured(target, ran[target.ours], others)
        if measured is None:
            continue
        holds = operator.ge if target.measure == "speed" else operator.le
        verdicts.append(Verdict(target, measured, holds(measured.median, target.bound)))
    return verdicts
