"""Where the samples of an input are: the first pass of a gather."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from shardbuild.build.folders import read_listed
from shardbuild.build.ordering import field_key, place_hashes, shuffle_keys
from shardbuild.build.rows import ROW, Table
from shardbuild.build.sieve import new_key
from shardbuild.build.sources import index_of, listing_url
from shardbuild.errors import SampleError, StorageError
from shardbuild.shards.reader import read_samples
from shardbuild.shards.tarformat import BLOCK, sample_tar_bytes
from shardbuild.storage import read_bytes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from numpy.typing import NDArray

    from shardbuild.build.ordering import Order
    from shardbuild.build.plan import Source
    from shardbuild.build.settings import Settings
    from shardbuild.build.sieve import Sieve
    from shardbuild.shards.index import ShardIndex
    from shardbuild.shards.reader import Samples
    from shardbuild.shards.samples import Sample

Rows = "NDArray[np.void]"


def scan_source(sieve: Sieve) -> Table:
    """Rows for the samples of an input, in their order there.

    The sieve is told how many there are, what is lost, and what has no sort key.
    """
    settings, source = sieve.settings, sieve.source
    if source.problem:
        sieve.lose(StorageError(source.url, source.problem))
        return Table(np.empty(0, ROW))
    samples: Generator[Sample] | Samples
    try:
        if source.kind == "folder":
            keys, rows, samples = _scan_listing(settings, source)
        else:
            keys, rows, samples = _scan_shard(sieve)
    except StorageError as error:
        sieve.lose(error)
        return Table(np.empty(0, ROW))
    hashes = place_hashes(keys, source.number, range(len(keys)))
    sieve.note_hashes(hashes)
    if settings.order.kind == "shuffle":
        rows["key"] = shuffle_keys(settings.order.seed, hashes)
    # Not all are read, and an error would keep the rest of them open.
    with closing(samples):
        return _with_keys(sieve, rows, keys, samples)


def _scan_listing(
    settings: Settings, source: Source
) -> tuple[list[str], NDArray[Any], Generator[Sample]]:
    options = settings.storage_options
    listing = read_bytes(listing_url(settings, source), storage_options=options)
    lines = listing.splitlines(keepends=True)
    documents = [json.loads(line) for line in lines]
    rows = _new_rows(source, len(lines))
    rows["num_bytes"] = [len(line) for line in lines]
    rows["offset"] = np.cumsum(rows["num_bytes"]) - rows["num_bytes"]
    rows["body"] = [document["body"] for document in documents]
    keys = [document["key"] for document in documents]
    return keys, rows, read_listed(lines, storage_options=options)


def _scan_shard(
    sieve: Sieve,
) -> tuple[list[str], NDArray[Any], Samples]:
    settings, source = sieve.settings, sieve.source
    damages: list[Any] = []
    index = index_of(settings, source, damages.append)
    keys = index.keys()
    for damage in damages:
        sieve.lose(damage, num_read=len(keys))
    rows = _new_rows(source, len(keys))
    rows["offset"] = index.sample_offsets[:-1]
    rows["num_bytes"] = _ends(index) - index.sample_offsets[:-1]
    rows["body"] = _bodies(settings, source, index, keys)
    samples = read_samples(
        source.url,
        storage_options=settings.storage_options,
        key_rule=settings.key_rule,
    )
    return keys, rows, samples


def _ends(index: ShardIndex) -> NDArray[Any]:
    """Where each sample ends.

    Before the next begins there may be more, such as the end of the first of two
    archives that were joined.
    """
    last = index.sample_members[1:] - 1
    sizes = index.member_size[last]
    return index.member_offset[last] + (sizes + BLOCK - 1) // BLOCK * BLOCK


def _new_rows(source: Source, num_rows: int) -> NDArray[Any]:
    rows = np.zeros(num_rows, ROW)
    rows["source"] = rows["container"] = source.number
    rows["position"] = np.arange(num_rows)
    return rows


def _bodies(
    settings: Settings, source: Source, index: ShardIndex, keys: Sequence[str]
) -> NDArray[Any]:
    """What each sample of a shard takes in a shard of ours."""
    if index.canonical and not settings.rekey:
        return np.diff(index.sample_offsets)
    if settings.rekey:
        keys = [new_key(source.number, key) for key in keys]
    sizes = (
        sample_tar_bytes(key, {e: size for e, _, size in index.members(i)})
        for i, key in enumerate(keys)
    )
    return np.fromiter(sizes, np.int64, len(keys))


def _with_keys(
    sieve: Sieve, rows: NDArray[Any], keys: list[str], samples: Iterable[Sample]
) -> Table:
    """Rows with what they are sorted by; samples are read only for a field."""
    order: Order = sieve.settings.order
    if order.kind != "sort":
        return Table(rows)
    if order.field == "__key__":
        samples = ({"__key__": key} for key in keys)
    found: list[int | bytes] = []
    good: list[int] = []
    for position, sample in zip(range(len(keys)), samples, strict=False):
        try:
            found.append(field_key(order, sieve.source.url, sample))
            good.append(position)
        except SampleError as error:
            sieve.reject(position, sample, error)
    rows = rows[good]
    if order.by_text:
        return Table(rows, [bytes(text) for text in found])
    rows["key"] = found
    return Table(rows)
