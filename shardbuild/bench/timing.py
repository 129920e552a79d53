"""Interleaved rounds and the ratios within them."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "Contestant",
    "Lap",
    "Role",
    "Spread",
    "Timing",
    "compare",
    "fastest",
    "measure",
    "spread_of",
    "time_lap",
]

Role = Literal["baseline", "ours", "peer"]


def _nothing() -> None:
    """Do nothing: what a contestant without a check or a reset does."""


class Lap(NamedTuple):
    """What one run took."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of all threads, and of the processes that were started and waited for."""
    peak_bytes: int | None
    """Of the processes that were watched."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to do a workload's work."""

    name: str
    run: Callable[[], int | Lap | None]
    """The timed part. Returns the peak bytes of the processes it watched, if it did;
    or what it took in the process that runs it."""
    check: Callable[[], None] = _nothing
    """Raises if the work was not done right. Called once, outside of the timed part."""
    reset: Callable[[], None] = _nothing
    """Removes what was made; called before and after each run, never timed."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What a contestant took in each round."""

    name: str
    role: Role
    wall: tuple[float, ...]
    """Seconds."""
    cpu: tuple[float, ...]
    """Seconds of all threads, and of the processes that were started and waited for."""
    peak_bytes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and how far they went."""

    median: float
    low: float
    high: float


def spread_of(values: Iterable[float]) -> Spread:
    """Summarise what the rounds gave.

    >>> spread_of([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.0, high=3.0)
    """
    rounds = list(values)
    return Spread(statistics.median(rounds), min(rounds), max(rounds))


def compare(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Divide ``above`` by ``below`` within each round.

    The machine was twice as slow in the second round, and the ratio does not care:

    >>> compare([6.0, 12.0], [2.0, 4.0])
    Spread(median=3.0, low=3.0, high=3.0)
    """
    least = 1e-9  # of CPU time a clock may see none
    pairs = zip(above, below, strict=True)
    return spread_of(a / max(b, least) for a, b in pairs)


def fastest(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Take the best contestant of each round.

    >>> fastest([[1.0, 5.0], [2.0, 4.0]])
    [1.0, 4.0]
    """
    return [min(each) for each in zip(*rounds, strict=True)]


def _cpu_seconds() -> float:
    """CPU time of this process and of the children it has waited for."""
    uses = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def time_lap(run: Callable[[], int | Lap | None]) -> Lap:
    """Run and time a contestant once.

    >>> time_lap(lambda: 5).peak_bytes
    5
    """
    gc.collect()
    cpu, wall = _cpu_seconds(), time.perf_counter()
    found = run()
    wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
    return found if isinstance(found, Lap) else Lap(wall, cpu, found)


def _mean_of(laps: Sequence[Lap]) -> Lap:
    peaks = [lap.peak_bytes for lap in laps if lap.peak_bytes is not None]
    return Lap(
        statistics.fmean(lap.wall for lap in laps),
        statistics.fmean(lap.cpu for lap in laps),
        max(peaks, default=None),
    )


class _Stopwatch:
    """The rounds of one contestant."""

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant
        self.laps: list[Lap] = []

    def run(self, least_seconds: float, *, is_checked: bool = False) -> None:
        laps: list[Lap] = []
        while not laps or sum(lap.wall for lap in laps) < least_seconds:
            self.contestant.reset()
            laps.append(time_lap(self.contestant.run))
        self.laps.append(_mean_of(laps))
        if is_checked:
            self.contestant.check()
        # What others made is not in the way of the next one.
        self.contestant.reset()

    def timing(self, role: Role) -> Timing:
        return Timing(
            self.contestant.name,
            role,
            tuple(lap.wall for lap in self.laps),
            tuple(lap.cpu for lap in self.laps),
            tuple(lap.peak_bytes for lap in self.laps if lap.peak_bytes is not None),
        )


def measure(
    contestants: Sequence[tuple[Role, Contestant]],
    num_rounds: int,
    *,
    warm_up: bool,
    least_seconds: float = 0.0,
) -> list[Timing]:
    """Let the contestants take turns, there and back again, and check their work.

    Args:
        contestants: each with its role; their order is turned round in every second
            round, so that none always follows the same one.
        num_rounds: how often each runs.
        warm_up: each runs once more, untimed, before the first round, so that imports
            and caches cost nobody anything.
        least_seconds: who is quicker runs again in the same round, and the mean counts:
            a processor that is shared is fast and slow by turns, and who runs for long
            has some of both.

    Raises:
        ShardbuildError: a contestant did not do what it had to do.

    >>> one = Contestant("one", run=lambda: None)
    >>> [timing] = measure([("ours", one)], 3, warm_up=True)
    >>> timing.name, timing.role, len(timing.wall)
    ('one', 'ours', 3)
    """
    watches = [_Stopwatch(contestant) for _, contestant in contestants]
    if warm_up:
        for _, contestant in contestants:
            contestant.reset()
            contestant.run()
            contestant.check()
            contestant.reset()
    # What was made for the bench is not looked through by every later collection.
    gc.collect()
    gc.freeze()
    try:
        for number in range(num_rounds):
            for watch in watches if number % 2 == 0 else reversed(watches):
                watch.run(least_seconds, is_checked=number == 0 and not warm_up)
    finally:
        gc.unfreeze()
    pairs = zip(watches, contestants, strict=True)
    return [watch.timing(role) for watch, (role, _) in pairs]
