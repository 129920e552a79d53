"""The order of an epoch: exact, the same in any pieces, local, and for ever."""

from __future__ import annotations

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.errors import UsageError
from shardbuild.train.order import Order, Places

COUNTS = st.lists(st.sampled_from([0, 0, 1, 1, 2, 3, 7, 20, 64]), max_size=30)
ORDERS = st.builds(
    Order,
    COUNTS.map(np.array),
    seed=st.integers(-(2**70), 2**70),
    shuffle=st.booleans(),
    open_shards=st.sampled_from([1, 2, 3, 5, 8, 300]),
    block=st.sampled_from([1, 2, 3, 16, 1000]),
)


def an_order(counts, *options, **named):
    return Order(np.array(counts, np.int64), *options, **named)


def all_places(order, epoch=0):
    return order.in_epoch(epoch).places(0, order.num_samples)


def pairs(places):
    return list(zip(places.shard.tolist(), places.row.tolist(), strict=True))


def plain_pairs(counts):
    return [(s, row) for s, count in enumerate(counts) for row in range(count)]


# -- exact -----------------------------------------------------------------


@given(ORDERS, st.integers(0, 5))
def test_each_sample_comes_once_an_epoch(order, epoch):
    places = all_places(order, epoch)
    expected = plain_pairs(order.counts)
    assert sorted(pairs(places)) == expected
    if not order.shuffle:
        assert pairs(places) == expected
    assert all(column.dtype == np.int64 for column in places)


@given(ORDERS, st.lists(st.integers(0, 10**6), max_size=5), st.data())
def test_pieces_of_any_length_make_the_whole(order, cuts, data):
    epoch = order.in_epoch(1)
    whole = epoch.places(0, order.num_samples)
    ends = sorted(cut % (order.num_samples + 1) for cut in cuts)
    pieces = [epoch.places(*p) for p in pairwise([0, *ends, order.num_samples])]
    for column, parts in zip(whole, zip(*pieces, strict=True), strict=True):
        assert column.tolist() == np.concatenate(parts).tolist()
    if order.num_samples:
        one = st.integers(0, order.num_samples - 1)
        positions = np.array(data.draw(st.lists(one, max_size=20)), np.int64)
        for column, some in zip(whole, epoch.places_at(positions), strict=True):
            assert column[positions].tolist() == some.tolist()


def test_seeds_and_epochs_are_orders_of_their_own():
    for open_shards in (3, 100):
        orders = {
            tuple(pairs(all_places(order, epoch)))
            for seed in range(10)
            for order in [
                an_order([9] * 8, seed, shuffle=True, open_shards=open_shards)
            ]
            for epoch in range(10)
        }
        assert len(orders) == 100


def test_the_order_of_the_data_set_is_that_of_every_epoch():
    order = an_order([2, 3])
    assert pairs(all_places(order, 0)) == pairs(all_places(order, 7))
    assert all_places(order).lane.tolist() == [0] * 5


def test_no_shards_and_empty_shards_have_no_places():
    for counts in ([], [0, 0]):
        for shuffle in (False, True):
            order = an_order(counts, shuffle=shuffle, open_shards=1)
            assert order.num_samples == 0
            assert pairs(all_places(order)) == []
            assert pairs(order.in_epoch(0).places_at([])) == []


def test_epochs_that_were_asked_for_are_kept_but_not_all():
    order = an_order([3, 3], shuffle=True)
    kept = order.in_epoch(1)
    assert order.in_epoch(2) is not kept
    assert order.in_epoch(1) is kept
    for epoch in range(3, 9):
        order.in_epoch(epoch)
    assert order.in_epoch(1) is not kept


def test_threads_share_an_order():
    order = an_order([40] * 9, 1, shuffle=True, open_shards=4)
    expected = [pairs(all_places(order, epoch)) for epoch in range(6)]
    epochs = [epoch for _ in range(30) for epoch in range(6)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda epoch: pairs(all_places(order, epoch)), epochs))
    assert found == [expected[epoch] for epoch in epochs]


def test_an_order_pickles_without_what_it_keeps():
    order = Order(np.full(100_000, 3), 5, shuffle=True, open_shards=7, block=2)
    bare = len(pickle.dumps(order))
    places = all_places(order, 3)
    assert len(pickle.dumps(order)) == bare
    again = all_places(pickle.loads(pickle.dumps(order)), 3)  # noqa: S301  # ours
    assert pairs(again) == pairs(places)


def test_counts_belong_to_the_order():
    counts = np.array([1, 2])
    order = Order(counts)
    counts[:] = 9
    assert order.num_samples == 3
    with pytest.raises(ValueError, match="read-only"):
        order.counts[0] = 5


# -- what is refused -------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"open_shards": 0}, "open_shards 0: is not positive"),
        ({"block": -1}, "block -1: is not positive"),
        ({"counts": [3, -2]}, "count -2: is negative"),
        ({"counts": [2**52, 2**53]}, "are over 9007199254740992"),
    ],
)
def test_an_order_that_cannot_be_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        an_order(**{"counts": [1], **options})


def test_positions_that_are_not_there_are_refused():
    epoch = an_order([3]).in_epoch(0)
    for start, stop in ((-1, 2), (2, 1), (0, 4), (4, 4)):
        with pytest.raises(UsageError, match="not all within the 3 of an epoch"):
            epoch.places(start, stop)
    for positions in ([0, 3], [-1, 0]):
        with pytest.raises(UsageError, match="not all within"):
            epoch.places_at(positions)
    with pytest.raises(UsageError, match="epoch -1: is negative"):
        an_order([3]).in_epoch(-1)


# -- local -----------------------------------------------------------------


@given(
    st.lists(st.sampled_from([0, 1, 3, 10, 40]), min_size=3, max_size=40),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 50),
)
def test_a_window_of_rounds_touches_few_shards(counts, open_shards, num_rounds):
    order = Order(counts, 3, shuffle=True, open_shards=open_shards)
    if np.count_nonzero(order.counts) <= open_shards:
        return
    least = min(count for count in counts if count)
    places = all_places(order)
    # A lane that walks over so many neighbours touches so many shards, and two
    # more where it comes to the end of its stretch: what is cut off at either end.
    a_lane = 1 + -(-(num_rounds - 1) // least) + 2
    for first in range(0, order.num_samples, open_shards):
        window = places.shard[first : first + num_rounds * open_shards]
        assert len(set(window.tolist())) <= open_shards * a_lane
        a_round = places.lane[first : first + open_shards].tolist()
        assert len(set(a_round)) == len(a_round)


def test_shards_between_their_first_and_last_sample_are_few():
    # A lane is in one shard; it may have begun in the middle of another, and share
    # those at its two ends with its neighbours: of L lanes, at most 3 L - 1.
    rng = np.random.default_rng(0)
    open_shards = 16
    counts = rng.integers(1, 100, 400)
    for epoch in range(3):
        places = all_places(
            Order(counts, 1, shuffle=True, open_shards=open_shards), epoch
        )
        first, last = (np.empty(400, np.int64) for _ in range(2))
        positions = np.arange(len(places.shard))
        last[places.shard] = positions
        first[places.shard[::-1]] = positions[::-1]
        changes = np.zeros(len(positions) + 1, np.int64)
        np.add.at(changes, first, 1)
        np.add.at(changes, last + 1, -1)
        assert np.cumsum(changes).max() <= 3 * open_shards - 1


def test_a_lane_walks_through_one_shard_after_the_other():
    order = Order(np.full(60, 20), 2, shuffle=True, open_shards=6)
    places = all_places(order)
    for lane in range(6):
        shards = places.shard[places.lane == lane]
        runs = 1 + np.count_nonzero(np.diff(shards))
        assert runs <= len(set(shards.tolist())) + 1  # the one it began within


def test_lanes_do_not_change_shards_all_at_once():
    order = Order(np.full(64, 100), 2, shuffle=True, open_shards=16)
    places = all_places(order)
    changes = np.zeros(400, np.int64)
    for lane in range(16):
        shards = places.shard[places.lane == lane]
        changes[1:] += np.diff(shards) != 0
    assert changes.max() <= 4


def test_blocks_of_a_shard_stay_together():
    block, count = 16, 100
    order = Order(np.full(40, count), 9, shuffle=True, open_shards=4, block=block)
    places = all_places(order)
    jumps, stays = [], []
    for lane in range(4):
        of_lane = places.lane == lane
        shards, rows = places.shard[of_lane], places.row[of_lane]
        near = np.abs(np.diff(rows)) % (count - block + 1) < block
        stays.append(np.count_nonzero(near & (np.diff(shards) == 0)))
        jumps.append(np.count_nonzero(~near & (np.diff(shards) == 0)))
    assert sum(jumps) * (block - 1) < 1.2 * sum(stays)


def test_few_shards_are_shuffled_as_one():
    order = an_order([50, 0, 50, 50], 4, shuffle=True, open_shards=3)
    places = all_places(order)
    assert not places.lane.any()
    assert len(set(places.shard[:30].tolist())) == 3
    runs = np.count_nonzero(np.diff(places.shard))
    assert 75 < runs < 125  # 100 of 150, were it random


# -- random ----------------------------------------------------------------


@pytest.mark.parametrize(("open_shards", "block"), [(100, 1), (3, 1), (3, 4)])
def test_over_epochs_each_sample_comes_at_any_position_as_likely(open_shards, block):
    counts, num_epochs = np.array([5, 6, 5, 4, 8]), 4000
    order = Order(counts, 1, shuffle=True, open_shards=open_shards, block=block)
    starts = np.cumsum(counts) - counts
    size = order.num_samples
    cells = np.zeros((size, size))
    for epoch in range(num_epochs):
        places = all_places(order, epoch)
        cells[np.arange(size), starts[places.shard] + places.row] += 1
    expected = num_epochs / size
    chi = ((cells - expected) ** 2 / expected).sum()
    freedom = (size - 1) ** 2
    assert abs(chi - freedom) < 6 * (2 * freedom) ** 0.5


# -- large -----------------------------------------------------------------


def test_a_billion_samples_are_never_laid_out():
    order = Order(np.full(10**6, 1000), 1, shuffle=True)
    tracemalloc.start()
    try:
        epoch = order.in_epoch(0)
        built = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        kept = tracemalloc.get_traced_memory()[0]
        places = epoch.places(999_999_000, 10**9)
        sought = tracemalloc.get_traced_memory()[1] - kept
    finally:
        tracemalloc.stop()
    assert built < 100 * 10**6  # some words a shard, none a sample
    assert sought < 10**6
    assert len(set(pairs(places))) == 1000


def test_a_position_is_found_without_those_before_it():
    order = Order(np.full(10**6, 1000), 1, shuffle=True)
    epoch = order.in_epoch(0)
    some = epoch.places_at([0, 10**9 - 1, 5 * 10**8])
    assert pairs(some)[2] == pairs(epoch.places(5 * 10**8, 5 * 10**8 + 1))[0]


# -- for ever --------------------------------------------------------------

GOLDEN = {
    (False, 256, 1): [
        [0, 0, 0, 0, 2, 2, 2, 3, 4, 4, 4, 4, 4],
        [0, 1, 2, 3, 0, 1, 2, 0, 0, 1, 2, 3, 4],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ],
    (True, 4, 1): [
        [0, 4, 3, 2, 0, 4, 2, 4, 2, 0, 0, 4, 4],
        [2, 2, 0, 2, 1, 3, 1, 1, 0, 3, 0, 4, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ],
    (True, 2, 1): [
        [0, 4, 0, 2, 3, 2, 2, 4, 0, 4, 4, 0, 4],
        [1, 0, 0, 1, 0, 2, 0, 4, 3, 3, 1, 2, 2],
        [1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0],
    ],
    (True, 2, 2): [
        [0, 4, 0, 2, 3, 2, 2, 4, 0, 4, 4, 0, 4],
        [2, 4, 3, 0, 0, 2, 1, 0, 0, 1, 3, 1, 2],
        [1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0],
    ],
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_orders_never_change(name):
    # What was begun with one version has to go on with the next.
    shuffle, open_shards, block = name
    order = an_order([4, 0, 3, 1, 5], 7, shuffle, open_shards, block)
    places = all_places(order, 1)
    assert [row.tolist() for row in Places(*places)] == GOLDEN[name]
