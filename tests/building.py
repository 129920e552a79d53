"""What the tests of the engine share: data sets, and what a folder holds."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.shards.manifest import load_manifest
from shardbuild.shards.reader import read_samples
from shardbuild.shards.shardwriter import ShardWriter
from shardbuild.storage import list_names, read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardbuild.build.report import Report
    from shardbuild.shards.samples import Sample

PHOTOS = Path(__file__).parent / "data" / "photos"


def digests(folder: str | Path, options: Any = None) -> dict[str, str]:
    """The sha256 of every file in a folder, but for the report, which has times."""
    found = {}
    for name in list_names(str(folder), storage_options=options):
        if not name.endswith(".report.json"):
            data = read_bytes(f"{folder}/{name}", storage_options=options)
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def make_samples(
    num_samples: int, seed: int = 0, max_bytes: int = 3000
) -> Iterator[Sample]:
    """Samples with four fields, sizes from 0 to several blocks, and equal classes."""
    rng = random.Random(seed)
    for i in range(num_samples):
        yield {
            "__key__": f"{i % 7}/{i:06d}",
            "bin": rng.randbytes(rng.randrange(max_bytes)),
            "cls": b"%d" % rng.randrange(5),
            "json": json.dumps({"i": i}).encode(),
            "txt": rng.choice(["", "a", "common prefix", "common prefix 2"]).encode(),
        }


def make_shards(folder: Path, num_samples: int, per_shard: int, **options: Any) -> str:
    """Write samples as shards; the url of their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    with ShardWriter(f"{folder}/in-%06d.tar", maxcount=per_shard) as writer:
        for sample in make_samples(num_samples, **options):
            writer.write(sample)
    return f"{folder}/in.json"


def samples_of(manifest_url: str, options: Any = None) -> list[Sample]:
    """All samples of a data set, in its order."""
    manifest = load_manifest(manifest_url, storage_options=options)
    return [
        sample
        for url in manifest.shard_urls(manifest_url)
        for sample in read_samples(url, storage_options=options)
    ]


def assert_conserved(report: Report) -> None:
    """The law of conservation, and that the shards hold what was written."""
    gone = report.num_written + report.num_dropped + report.num_quarantined
    assert report.num_read + report.num_made == gone


def is_clean(folder: str | Path, stem: str, options: Any = None) -> bool:
    """Whether a folder holds shards, indexes, manifest and report, and no more."""
    manifest = load_manifest(f"{folder}/{stem}.json", storage_options=options)
    shards = [shard.url for shard in manifest.shards]
    indexes = [f"{url}.npz" for url in shards]
    wanted = {*shards, *indexes, f"{stem}.json", f"{stem}.report.json"}
    return set(list_names(str(folder), storage_options=options)) == wanted
