"""All workloads, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardbuild.bench import (
    converting,
    importing,
    indexing,
    reading,
    reshuffling,
    streaming,
    writing,
)

if TYPE_CHECKING:
    from shardbuild.bench.workloads import Workload

__all__ = ["WORKLOADS"]

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for rows in (
        reading.WORKLOADS,
        indexing.WORKLOADS,
        writing.WORKLOADS,
        converting.WORKLOADS,
        reshuffling.WORKLOADS,
        streaming.WORKLOADS,
        importing.WORKLOADS,
    )
    for workload in rows
}
