"""What a bench tells: a table for people, JSON lines for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from shardbuild.bench.targets import MIB, Verdict
from shardbuild.bench.timing import Spread, Timing, compare, spread_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardbuild.bench.session import Machine, Result

__all__ = ["as_records", "as_table", "machine_line", "machine_record"]


def machine_record(machine: Machine) -> dict[str, Any]:
    """Make the first JSON line."""
    return {"kind": "machine", **asdict(machine)}


def machine_line(machine: Machine) -> str:
    """Make the first line of the table."""
    versions = {"Python": machine.python, **machine.packages}
    packages = ", ".join(f"{name} {text}" for name, text in versions.items())
    return f"{machine.system}, {machine.num_cpus} CPUs; {packages}"


def _share(result: Result, timing: Timing) -> Spread:
    """Tell a contestant's speed as a share of the first baseline's."""
    return compare(result.timings[0].wall, timing.wall)


def _ours(result: Result) -> Timing:
    return next(each for each in result.timings if each.role == "ours")


def _lead(result: Result, timing: Timing) -> Spread:
    """Tell how many times as fast as a contestant our first one is."""
    return compare(timing.wall, _ours(result).wall)


def _lead_in_cpu(result: Result, timing: Timing) -> Spread:
    """Tell how many times our CPU time it takes: a busy machine spares this ratio."""
    return compare(timing.cpu, _ours(result).cpu)


def as_records(result: Result) -> Iterator[dict[str, Any]]:
    """Make a JSON line per contestant and one per target."""
    head = {
        "workload": result.workload,
        "num_samples": result.num_samples,
        "num_bytes": result.num_bytes,
        "num_rounds": result.num_rounds,
        "is_full": result.is_full,
    }
    for timing in result.timings:
        wall = spread_of(timing.wall)
        yield {
            "kind": "timing",
            **head,
            "contestant": timing.name,
            "role": timing.role,
            "wall_seconds": asdict(wall),
            "cpu_seconds": asdict(spread_of(timing.cpu)),
            f"{result.unit}_per_second": result.num_samples / wall.median,
            "bytes_per_second": result.num_bytes / wall.median,
            "baseline": result.timings[0].name,
            "share_of_baseline": asdict(_share(result, timing)),
            "ours_times_as_fast": asdict(_lead(result, timing)),
            "times_our_cpu": asdict(_lead_in_cpu(result, timing)),
            "peak_bytes": max(timing.peak_bytes, default=None),
        }
    for verdict in result.verdicts:
        yield {
            "kind": "target",
            **head,
            "contestant": verdict.target.ours,
            "against": list(verdict.target.against),
            "measure": verdict.target.measure,
            "bound": verdict.target.bound,
            "measured": asdict(verdict.measured),
            "is_met": verdict.is_met,
        }


def _range(spread: Spread) -> str:
    return f"{spread.low:.4g}-{spread.high:.4g}"


def _row(result: Result, timing: Timing) -> list[str]:
    wall, share = spread_of(timing.wall), _share(result, timing)
    lead = _lead(result, timing)
    peak = max(timing.peak_bytes, default=None)
    return [
        timing.name,
        f"{wall.median:.4f}",
        f"{wall.low:.4f}-{wall.high:.4f}",
        f"{spread_of(timing.cpu).median:.4f}",
        f"{result.num_samples / wall.median:,.0f}",
        f"{result.num_bytes / wall.median / 1e6:,.0f}",
        f"{share.median:.3f}",
        f"{lead.median:.3g}",
        _range(lead),
        f"{_lead_in_cpu(result, timing).median:.3g}",
        "" if peak is None else f"{peak / MIB:,.0f}",
    ]


_UNITS = {"bytes": (MIB, " MiB"), "seconds": (1, " s")}


def _verdict_line(verdict: Verdict) -> str:
    scale, unit = _UNITS.get(verdict.target.measure, (1, ""))
    low, middle, high = (
        value / scale
        for value in (
            verdict.measured.low,
            verdict.measured.median,
            verdict.measured.high,
        )
    )
    word = "met    " if verdict.is_met else "NOT MET"
    return (
        f"  {word} {verdict.target.ours}: {verdict.target}: "
        f"{middle:.3g}{unit} ({low:.4g}-{high:.4g})"
    )


def as_table(result: Result) -> str:
    """Make a table with a line per contestant, then a line per target."""
    floor = result.timings[0].name
    ours = _ours(result).name
    header = [
        "", "wall s", "min-max", "cpu s", f"{result.unit}/s", "MB/s",
        f"of {floor}", f"{ours} is x as fast", "min-max", "x in cpu", "peak MiB",
    ]  # fmt: skip
    rows = [header, *(_row(result, timing) for timing in result.timings)]
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sizes = f"{result.num_samples:,} {result.unit}, {result.num_bytes / 1e6:,.1f} MB"
    lines = [f"{result.workload}: {result.title}; {sizes}, {result.num_rounds} rounds"]
    for first, *others in rows:
        cells = [
            cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)
        ]
        lines.append("  ".join(["  " + first.ljust(widths[0]), *cells]).rstrip())
    lines += map(_verdict_line, result.verdicts)
    if result.verdicts and not result.is_full:
        lines.append("  the floors are about more samples than these: --full")
    return "\n".join(lines)
