"""What a finished run publishes: its report, and the manifest last of all."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shardbuild.build.quarantine import quarantine_url
from shardbuild.build.report import Report, Tally, check_conservation
from shardbuild.build.sources import find_labels
from shardbuild.shards.manifest import ShardFacts, make_manifest, save_manifest
from shardbuild.storage import write_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardbuild.build.conversion import Build
    from shardbuild.build.destination import Destination
    from shardbuild.build.state import Record


def publish(build: Build, destination: Destination) -> Report:
    """Check that all samples are accounted for; write the report, then the manifest.

    Raises:
        ShardbuildError: the counts do not add up.
    """
    settings = build.settings
    written = [record for record in build.shards if "shard" in record]
    shards = [_shard_facts(build, record["shard"]) for record in written]
    # What the tasks that read have passed on counts only when a shard holds it.
    tally = replace(
        build.phases.tally(), num_written=sum(one.num_samples for one in shards)
    )
    check_conservation(settings.manifest, tally)
    report = Report(
        num_read=tally.num_read,
        num_made=tally.num_made,
        num_written=tally.num_written,
        num_dropped=tally.num_dropped,
        num_quarantined=tally.num_quarantined,
        reasons=tally.reasons,
        losses=tally.losses,
        num_shards=len(shards),
        num_bytes=sum(shard.num_bytes or 0 for shard in shards),
        seconds=time.perf_counter() - build.started,
        method=build.plan.method,
        order=str(settings.order),
        manifest=settings.manifest,
        quarantine=tuple(_quarantine(build)),
        phases=tuple(build.phases.reports),
        identity=destination.identity,
    )
    manifest = make_manifest(shards, settings.manifest, _facts(build, tally, written))
    options = settings.storage_options
    write_bytes(settings.report, report.to_bytes(), storage_options=options)
    save_manifest(manifest, settings.manifest, storage_options=options)
    return report


def _shard_facts(build: Build, shard: Record) -> ShardFacts:
    return ShardFacts(
        build.settings.shard_url(shard["number"]),
        shard["num_samples"],
        shard["num_bytes"],
        shard["sha256"],
    )


def _quarantine(build: Build) -> Iterator[str]:
    for record in build.phases.accounts:
        for name in record.get("quarantine", ()):
            yield quarantine_url(build.settings, name)


def _facts(build: Build, tally: Tally, written: list[Record]) -> dict[str, Any]:
    """What the manifest says of the data: nothing that time or place decides."""
    fields: Counter[str] = Counter()
    for record in written:
        fields.update(record["fields"])
    return {
        **build.settings.describe(),
        **_labels(build),
        "counts": {
            "num_read": tally.num_read,
            "num_made": tally.num_made,
            "num_written": tally.num_written,
            "num_dropped": tally.num_dropped,
            "num_quarantined": tally.num_quarantined,
        },
        "fields": dict(sorted(fields.items())),
        "inputs": _inputs(build),
    }


def _inputs(build: Build) -> dict[str, Any]:
    """How many inputs there were, and a hash of which keys were where in them."""
    inputs: dict[int, list[int]] = {}
    for record in build.first:
        for number, num_read, keys_sum in record["sources"]:
            found = inputs.setdefault(number, [number, 0, 0])
            found[1] += num_read
            found[2] = (found[2] + keys_sum) % (1 << 64)
    listed = json.dumps(sorted(inputs.values())).encode()
    return {
        "keys_sha256": hashlib.sha256(listed).hexdigest(),
        "num_inputs": len(inputs),
    }


def _labels(build: Build) -> dict[str, Any]:
    """The class list that ``cls`` counts in, or one for each folder."""
    if not build.settings.label_from:
        return {}
    folders = {s.url for s in build.plan.sources if s.kind == "folder"}
    found = [find_labels(build.settings, url) or [] for url in sorted(folders)]
    return {"classes": found[0] if len(found) == 1 else found}
