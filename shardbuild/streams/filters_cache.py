"""The stage that keeps samples in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardbuild.streams.splitters import current_place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from shardbuild.shards.samples import Sample

__all__ = ["dbcache"]


def dbcache(  # noqa: PLR0913  # those of `DBCache`
    samples: Iterable[Sample],
    /,
    dbname: str | None,
    size: float,
    shuffle: bool = False,  # noqa: FBT001, FBT002  # as in webdataset
    *,
    seed: int = 0,
    part: str | None = None,
    max_bytes: int | None = None,
) -> Iterator[Sample]:
    """Keep the samples of an epoch in a file, and read later epochs from there.

    Put it before ``decode``: what is kept are bytes, texts and numbers. Each worker
    keeps what it reads for itself, all of them in one file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first = list(dbcache([{"__key__": "a"}], f"{folder}/cache.db", 1000))
    ...     first, list(dbcache([], f"{folder}/cache.db", 1000))
    ([{'__key__': 'a'}], [{'__key__': 'a'}])

    Args:
        samples: What is kept; if an epoch of it is there, nothing is read of it.
        dbname: The file; None keeps nothing.
        size: How many samples are kept; nothing is, if there are more.
        shuffle: Whether samples come from the file in a random order.
        seed: Another seed, another order.
        part: A name for what this process reads, if not by its rank and worker.
        max_bytes: How many bytes are kept, likewise.

    Raises:
        StorageError: The file cannot be used, or holds something else.
        EncodeError: A field cannot be stored.
    """
    from shardbuild.streams.dbcache import DBCache

    if part is None:
        place = current_place()
        part = (
            f"{place.rank}/{place.world_size} {place.worker}/{place.num_workers}"
            if max(place.world_size, place.num_workers) > 1
            else ""
        )
    cache = DBCache(
        dbname, size, samples, shuffle, seed=seed, part=part, max_bytes=max_bytes
    )
    return iter(cache)
