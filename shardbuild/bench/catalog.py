"""All workloads, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardbuild.bench import (
    converting,
    decoding,
    feeding,
    importing,
    indexing,
    loading,
    reading,
    reshuffling,
    starting,
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
        feeding.WORKLOADS,
        decoding.WORKLOADS,
        starting.WORKLOADS,
        loading.WORKLOADS,
    )
    for workload in rows
}
