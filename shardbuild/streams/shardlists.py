"""The order in which shards are read: a pure function of urls, seed and epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from shardbuild.streams.filters_samples import resampled
from shardbuild.streams.seeds import epoch_seed, generator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from shardbuild.streams.splitters import Splitter

__all__ = ["resampled_shards", "shard_list", "shard_order"]

T = TypeVar("T")


def shard_order(
    urls: Iterable[T], *, shuffle: bool = False, seed: int = 0, epoch: int = 0
) -> list[T]:
    """All urls, as they come or in an order of this seed and epoch.

    >>> urls = ["a.tar", "b.tar", "c.tar"]
    >>> shard_order(urls, shuffle=True), shard_order(urls, shuffle=True, epoch=2)
    (['a.tar', 'c.tar', 'b.tar'], ['b.tar', 'a.tar', 'c.tar'])
    """
    ordered = list(urls)
    if shuffle:
        generator(epoch_seed(seed, epoch)).shuffle(ordered)
    return ordered


def resampled_shards(
    urls: Iterable[str], *, seed: int = 0, epoch: int = 0
) -> Iterator[str]:
    """Draw urls with replacement, endlessly.

    >>> import itertools
    >>> list(itertools.islice(resampled_shards(["a.tar", "b.tar"]), 4))
    ['b.tar', 'b.tar', 'a.tar', 'b.tar']

    Raises:
        ValueError: There are no urls.
    """
    return resampled(urls, seed=epoch_seed(seed, epoch))


def shard_list(
    urls: Iterable[str], *, nodesplitter: Splitter | None, splitter: Splitter | None
) -> Iterator[str]:
    """What of all urls is this process's: of its node's part its own.

    All processes have to be given the same urls in the same order.

    >>> from shardbuild.streams.splitters import split
    >>> odd = lambda urls: split(urls, 1, 2)
    >>> list(shard_list("abcdefgh", nodesplitter=odd, splitter=odd))
    ['d', 'h']
    """
    for split in (nodesplitter, splitter):
        if split is not None:
            urls = split(urls)
    return iter(urls)
