"""The order of shards is a function of urls, seed and epoch."""

from __future__ import annotations

import functools
import itertools

import pytest

from shardbuild.streams.seeds import epoch_seed
from shardbuild.streams.shardlists import resampled_shards, shard_list, shard_order
from shardbuild.streams.splitters import split

URLS = [f"{i:02}.tar" for i in range(20)]


def test_without_shuffling_the_order_stays_and_the_list_is_another() -> None:
    ordered = shard_order(URLS, epoch=3)
    assert ordered == URLS
    assert ordered is not URLS


def test_each_epoch_and_each_seed_has_an_order_of_its_own() -> None:
    orders = {
        tuple(shard_order(URLS, shuffle=True, seed=seed, epoch=epoch))
        for seed, epoch in itertools.product(range(4), range(4))
    }
    assert len(orders) == 16
    assert all(sorted(order) == URLS for order in orders)


def test_an_order_is_the_same_in_every_program() -> None:
    assert epoch_seed(0, 1) == 17227200041832915037
    assert shard_order("abcdef", shuffle=True, seed=1, epoch=1) == list("bfeacd")


def test_processes_that_resample_draw_alike_and_share() -> None:
    drawn = list(itertools.islice(resampled_shards(URLS, seed=1, epoch=2), 12))
    parts = []
    for rank in range(3):
        urls = resampled_shards(URLS, seed=1, epoch=2)
        node = functools.partial(split, rank=rank, world=3)
        part = shard_list(urls, nodesplitter=node, splitter=None)
        parts.append(list(itertools.islice(part, 4)))
    assert [url for turn in zip(*parts, strict=True) for url in turn] == drawn


def test_nothing_cannot_be_resampled() -> None:
    with pytest.raises(ValueError, match="nothing"):
        resampled_shards([])
