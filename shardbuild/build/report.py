"""What a run did and lost, by reason."""

from __future__ import annotations

import decimal
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from shardbuild.errors import ManifestError, ShardbuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_UNITS = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgtpe", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_SIZE = re.compile(
    r"\s*(\d[\d_]*(?:\.\d+)?(?:e\+?\d+)?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII
)


NOT_WANTED = "returned None"
"""The reason for samples that a job drops on purpose."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Something of the input that could not be read."""

    url: str
    problem: str
    offset: int | None = None
    """Byte offset in the (uncompressed) tar stream, if it is known."""
    num_samples: int | None = None
    """How many samples are missing; None if nothing says how many there were."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of samples, by what became of them; tallies add up."""

    num_read: int = 0
    num_made: int = 0
    """Samples that a transform returned beyond the first for a sample."""
    num_written: int = 0
    num_dropped: int = 0
    num_quarantined: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Why samples were dropped or quarantined: reason -> count."""
    losses: tuple[Loss, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        reasons = Counter(self.reasons)
        reasons.update(other.reasons)
        return Tally(
            self.num_read + other.num_read,
            self.num_made + other.num_made,
            self.num_written + other.num_written,
            self.num_dropped + other.num_dropped,
            self.num_quarantined + other.num_quarantined,
            dict(sorted(reasons.items())),
            self.losses + other.losses,
        )

    @property
    def num_errors(self) -> int:
        """What counts against ``max_errors``: bad samples, and losses."""
        wanted = self.reasons.get(NOT_WANTED, 0)
        return sum(self.reasons.values()) - wanted + len(self.losses)

    @property
    def is_conserved(self) -> bool:
        gone = self.num_written + self.num_dropped + self.num_quarantined
        return self.num_read + self.num_made == gone

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Tally:
        losses = tuple(Loss(**loss) for loss in data["losses"])
        return Tally(**{**data, "losses": losses})


@dataclass(frozen=True, slots=True)
class PhaseReport:
    """What the tasks of one phase took."""

    name: str
    num_tasks: int
    num_resumed: int
    """Tasks that an earlier run had finished."""
    seconds: float
    """Of all tasks together."""
    slowest_task_seconds: float
    read_bytes: int
    written_bytes: int
    read_requests: int
    write_requests: int


@dataclass(frozen=True, slots=True)
class Report:
    """What one run did: counts, bytes, time, and losses by reason."""

    num_read: int
    num_made: int
    num_written: int
    num_dropped: int
    num_quarantined: int
    reasons: Mapping[str, int]
    losses: tuple[Loss, ...]
    num_shards: int
    num_bytes: int
    """Of all output shards."""
    seconds: float
    """Wall time of this run, without what earlier runs did."""
    method: str
    order: str
    manifest: str
    """The url of the manifest."""
    quarantine: tuple[str, ...] = ()
    """Urls of the shards that hold the bad samples."""
    phases: tuple[PhaseReport, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for, and the inputs as they were found."""

    @property
    def read_bytes(self) -> int:
        return sum(phase.read_bytes for phase in self.phases)

    @property
    def written_bytes(self) -> int:
        return sum(phase.written_bytes for phase in self.phases)

    @property
    def read_requests(self) -> int:
        return sum(phase.read_requests for phase in self.phases)

    @property
    def write_requests(self) -> int:
        return sum(phase.write_requests for phase in self.phases)

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False).encode() + b"\n"

    @staticmethod
    def from_bytes(url: str, data: bytes) -> Report:
        """Read a report; ManifestError if it is none.

        >>> Report.from_bytes("train.report.json", b"{}")
        Traceback (most recent call last):
            ...
        shardbuild.errors.ManifestError: train.report.json: is not a report
        """
        try:
            fields = json.loads(data)
            fields["losses"] = tuple(Loss(**loss) for loss in fields["losses"])
            fields["quarantine"] = tuple(fields["quarantine"])
            fields["phases"] = tuple(PhaseReport(**p) for p in fields["phases"])
            return Report(**fields)
        except (ValueError, TypeError, KeyError) as error:
            raise ManifestError(url, "is not a report") from error

    def summary(self) -> str:
        """The report as a few lines for people."""
        rate = self.num_bytes / 1e6 / self.seconds if self.seconds else 0.0
        made = f" + {self.num_made:,} made" if self.num_made else ""
        lines = [
            (
                f"{self.manifest}: {self.num_written:,} samples in "
                f"{self.num_shards:,} shards, {format_bytes(self.num_bytes)}"
            ),
            (
                f"  order {self.order}, method {self.method}, "
                f"{self.seconds:.1f} s, {rate:.0f} MB/s"
            ),
            (
                f"  {self.num_read:,} read{made} = {self.num_written:,} written + "
                f"{self.num_dropped:,} dropped + {self.num_quarantined:,} quarantined"
            ),
        ]
        lines += [f"    {count:,} x {why}" for why, count in self.reasons.items()]
        for loss in self.losses:
            missing = "?" if loss.num_samples is None else f"{loss.num_samples:,}"
            where = "" if loss.offset is None else f" at byte {loss.offset}"
            lines.append(
                f"    lost {missing} samples of {loss.url}{where}: {loss.problem}"
            )
        return "\n".join(lines)


def check_conservation(manifest_url: str, tally: Tally) -> None:
    """Raise unless every sample is accounted for."""
    if not tally.is_conserved:
        problem = (
            f"{tally.num_read} samples read and {tally.num_made} made, but "
            f"{tally.num_written} written, {tally.num_dropped} dropped and "
            f"{tally.num_quarantined} quarantined: please report this as a bug"
        )
        raise ShardbuildError(manifest_url, problem)


def add_tallies(tallies: Iterable[Tally]) -> Tally:
    """The sum of tallies."""
    return sum(tallies, Tally())


def format_bytes(num_bytes: float) -> str:
    """Bytes for people, in powers of ten.

    >>> format_bytes(1_234_000)
    '1.23 MB'
    >>> format_bytes(12)
    '12 B'
    """
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if round(num_bytes, 2) < 1000 or unit == "PB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.2f} {unit}"


def parse_bytes(text: str) -> int:
    """Read a number of bytes as people write it: the reverse of `format_bytes`.

    Raises:
        ValueError: it is no size, not a whole number of bytes, or none at all.

    >>> parse_bytes("1GB"), parse_bytes("512 MiB"), parse_bytes("3e9")
    (1000000000, 536870912, 3000000000)
    """
    match = _SIZE.fullmatch(text)
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        problem = "is no size: write a number of bytes, or with a unit 1GB or 1GiB"
        raise ValueError(f"{text!r} {problem}")
    num_bytes = decimal.Decimal(match[1]) * factor
    if num_bytes < 1 or num_bytes != int(num_bytes):
        raise ValueError(f"{text!r} is not a whole number of bytes above 0")
    return int(num_bytes)
