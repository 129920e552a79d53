"""Which positions each rank and worker reads: over random data sets and topologies."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild.errors import UsageError
from shardbuild.train.indexed import IndexedSource
from shardbuild.train.order import Order
from shardbuild.train.positions import Share, Steps
from shardbuild.train.state import FeedState
from shardbuild.train.strand import Strand

# An order needs no data: what reads it is left out.
NOTHING: Any = None

ORDERS = st.builds(
    Order,
    st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any).map(np.array),
    seed=st.integers(0, 99),
    shuffle=st.booleans(),
    open_shards=st.integers(1, 14),
    block=st.integers(1, 9),
)
TOPOLOGIES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
"""Ranks, samples of each in a step, workers of each."""


def source_of(order: Order) -> IndexedSource:
    strand = Strand(NOTHING, order, NOTHING, (), 0)
    return IndexedSource([strand], strand.num_samples, None)


def steps_of(source, at, steps, world, num_workers):
    """All steps from a state: the places of all ranks, and what follows."""
    ranks = [
        [
            source.work(at, steps, Share(rank, world, worker, num_workers), 1)
            for worker in range(num_workers)
        ]
        for rank in range(world)
    ]
    for turn in range(steps.count(at.consumed)):
        places: list[tuple[int, int]] = []
        facts = set()
        for workers in ranks:
            work = next(workers[turn % num_workers])
            (draw,) = work.pieces
            real = np.ones(len(draw.row), bool)
            if work.is_real is not None:
                real = work.is_real
            rows = zip(draw.shard[real].tolist(), draw.row[real].tolist(), strict=True)
            places += rows
            facts.add(work.facts)
        yield places, facts.pop()
        assert not facts  # all ranks agree
    for workers in ranks:
        assert all(next(worker, None) is None for worker in workers)


def all_places(order: Order) -> Counter[tuple[int, int]]:
    return Counter(
        (shard, row)
        for shard, count in enumerate(order.counts.tolist())
        for row in range(count)
    )


@settings(max_examples=150)
@given(
    order=ORDERS,
    epoch=st.integers(0, 3),
    changes=st.lists(st.tuples(TOPOLOGIES, st.integers(1, 6)), min_size=1),
)
def test_each_sample_once_whatever_changes_on_the_way(order, epoch, changes):
    source = source_of(order)
    at, seen = FeedState(epoch), Counter[tuple[int, int]]()
    changes = [*changes, ((1, 1, 1), 10**6)]
    while at.epoch == epoch:
        (world, per_rank, num_workers), limit = changes.pop(0)
        steps = Steps(source.num_positions, world * per_rank, "mask")
        for _, (places, facts) in zip(
            range(limit),
            steps_of(source, at, steps, world, num_workers),
            strict=False,
        ):
            seen.update(places)
            at = FeedState(facts.epoch, facts.consumed)
    assert seen == all_places(order)


@settings(max_examples=150)
@given(
    order=ORDERS,
    consumed=st.integers(0, 143),
    last=st.sampled_from(["wrap", "mask", "drop"]),
    topology=TOPOLOGIES,
)
def test_global_batches_do_not_depend_on_the_topology(order, consumed, last, topology):
    source = source_of(order)
    world, per_rank, num_workers = topology
    steps = Steps(source.num_positions, world * per_rank, last)
    at = FeedState(1, min(consumed, source.num_positions - 1))
    alone = [places for places, _ in steps_of(source, at, steps, 1, 1)]
    shared = [places for places, _ in steps_of(source, at, steps, world, num_workers)]
    assert shared == alone
    assert all(
        len(places) == world * per_rank for places in (alone if last != "mask" else [])
    )


def test_what_does_not_go_evenly_is_refused():
    with pytest.raises(UsageError, match="global_batch 7"):
        Steps(10, 7, "wrap").check(Share(0, 2))
    with pytest.raises(UsageError, match="rank 3"):
        Steps(10, 8, "wrap").check(Share(3, 2))


def test_a_step_is_drawn_without_the_rest_of_the_epoch():
    """10^9 samples in 10^6 shards, of which one step is asked for."""
    order = Order(np.full(10**6, 1000), shuffle=True)
    source = source_of(order)
    drawn = []
    plain = source.draw

    def counted(epoch, first, stop):
        drawn.append(stop - first)
        return plain(epoch, first, stop)

    source.draw = counted  # type: ignore[method-assign]
    steps = Steps(source.num_positions, 256, "wrap")
    work = next(source.work(FeedState(3, 777_777_777), steps, Share(1, 2), 1))
    assert len(work.positions) == 128
    assert sum(drawn) <= 1024
