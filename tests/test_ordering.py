"""Orders, balanced shards and splitters, each beside its plainest form."""

from __future__ import annotations

import bisect
import itertools
import math
import random
import sys

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from shardbuild.build.ordering import (
    Limits,
    Order,
    choose_splitters,
    cost_cuts,
    count_cuts,
    field_key,
    number_key,
    parse_order,
    place_hash,
    place_hashes,
    sample_ranks,
    shuffle_keys,
)
from shardbuild.errors import PlanError, SampleError
from tests.limited import run_limited

INT64 = st.integers(-(2**63), 2**63 - 1)
KEYS = st.text(st.characters(codec="utf-8"), max_size=20)


# --- naming an order ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("keep", Order("keep")),
        ("shuffle", Order("shuffle")),
        ("sort:cls", Order("sort", "cls", "int")),
        ("sort:cls:text", Order("sort", "cls", "text")),
        ("sort:id:float", Order("sort", "id", "float")),
        ("sort:txt", Order("sort", "txt", "text")),
        ("sort:seg.png:int", Order("sort", "seg.png", "int")),
        ("sort:__key__", Order("sort", "__key__", "text")),
    ],
)
def test_an_order_is_read_from_its_name_and_written_back(text, order):
    assert parse_order(text) == order
    assert parse_order(str(order)) == order


@pytest.mark.parametrize(
    "text",
    ["", "Keep", "random", "sort", "sort:", "sort::int", "sort:a:str", "sort:a:b:c"],
)
def test_what_is_no_order_is_refused_with_the_choices(text):
    with pytest.raises(PlanError, match="use keep, shuffle or sort:FIELD") as raised:
        parse_order(text)
    assert repr(text) in str(raised.value)


# --- keys --------------------------------------------------------------------


@given(st.lists(INT64, min_size=2))
def test_keys_of_integers_sort_as_the_integers_do(numbers):
    assert sorted(numbers, key=number_key) == sorted(numbers)
    assert len(set(map(number_key, numbers))) == len(set(numbers))
    assert all(0 <= number_key(number) < 2**64 for number in numbers)


@given(st.lists(st.floats(allow_nan=False, allow_subnormal=True), min_size=2))
@example([-0.0, 0.0, 5e-324, -5e-324, math.inf, -math.inf, sys.float_info.max])
def test_keys_of_floats_sort_as_the_floats_do(numbers):
    for one, other in itertools.pairwise(numbers):
        keys = number_key(one), number_key(other)
        assert (keys[0] < keys[1]) == (one < other)
        assert (keys[0] == keys[1]) == (one == other)
    assert all(0 <= number_key(number) < 2**64 for number in numbers)


@pytest.mark.parametrize("number", [math.nan, 2**63, -(2**63) - 1])
def test_a_number_without_a_place_is_refused(number):
    with pytest.raises(ValueError, match=r"not a number|more than 64 bits"):
        number_key(number)


@given(
    st.integers(-(2**70), 2**70),
    st.lists(st.tuples(KEYS, st.integers(0, 2**40)), max_size=20),
    st.integers(0, 2**32 - 1),
)
def test_hashes_are_those_of_each_sample_alone(seed, samples, shard):
    keys = [key for key, _ in samples]
    positions = [position for _, position in samples]
    hashes = place_hashes(keys, shard, positions)
    assert hashes.tolist() == [
        place_hash(key, shard, position) for key, position in samples
    ]
    alone = [shuffle_keys(seed, hashes[i : i + 1])[0] for i in range(len(hashes))]
    assert shuffle_keys(seed, hashes).tolist() == alone


def shuffle_key(seed, key, shard, position):
    """What one sample is sorted by in a shuffle."""
    return int(shuffle_keys(seed, place_hashes([key], shard, [position]))[0])


def test_shuffle_keys_never_change():
    # What they are decides the bytes of everyone's shuffled data sets.
    assert shuffle_key(0, "", 0, 0) == 0x9894A930117979A1
    assert shuffle_key(7, "n01/0007", 3, 12) == 0x5B378AACBB17D4D5
    assert shuffle_key(-1, "日本\udce9", 2**32 - 1, 2**40) == 0x175FF40E9E2E822F


def test_shuffle_keys_are_a_permutation_of_hashes():
    hashes = np.arange(1 << 16, dtype=np.uint64) << np.uint64(40)
    for seed in (0, 7):
        assert len(set(shuffle_keys(seed, hashes).tolist())) == len(hashes)
    assert hashes.tolist() == [n << 40 for n in range(1 << 16)]


def test_a_shuffle_depends_on_seed_key_shard_and_position():
    keys = {
        shuffle_key(seed, key, shard, position)
        for seed in (0, 1, 10, -1)
        for key in ("", "0", "1", "10")
        for shard in (0, 1, 10)
        for position in (0, 1, 10)
    }
    assert len(keys) == 4 * 4 * 3 * 3


def test_shuffle_keys_are_spread_evenly():
    # Shards that repeat the same few keys, as augmented data sets do.
    names = [f"{i % 10}" for i in range(50_000)]
    keys = shuffle_keys(7, place_hashes(names, 3, range(50_000)))
    for bits in (56, 0):
        counts = np.bincount((keys >> np.uint64(bits)) & np.uint64(255), minlength=256)
        mean = len(keys) / 256
        chi_square = ((counts - mean) ** 2 / mean).sum()
        # 255 degrees of freedom: outside of this in one of 10^5 cases.
        assert 170 < chi_square < 360


def test_another_seed_is_another_order():
    names = [f"{i:04d}" for i in range(1000)]
    hashes = place_hashes(names, 0, range(1000))
    first = np.argsort(shuffle_keys(7, hashes))
    second = np.argsort(shuffle_keys(8, hashes))
    assert first.tolist() != sorted(first)
    # Two independent orders have about one place in common.
    assert (first == second).sum() < 10
    correlation = np.corrcoef(first, second)[0, 1]
    assert abs(correlation) < 0.15


# --- fields ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "value", "key"),
    [
        ("sort:txt", b"b\xff", b"b\xff"),
        ("sort:txt", "é", "é".encode()),
        ("sort:txt", bytearray(b"a"), b"a"),
        ("sort:txt", b"", b""),
        ("sort:json", {"a": 1}, b'{"a": 1}'),
        ("sort:cls", 7, number_key(7)),
        ("sort:cls", b" -7\n", number_key(-7)),
        ("sort:cls", np.int32(7), number_key(7)),
        ("sort:cls:float", b"7", number_key(7.0)),
        ("sort:txt:float", b"-1e-3", number_key(-0.001)),
        ("sort:txt:float", "inf", number_key(math.inf)),
    ],
)
def test_a_field_sorts_by_the_bytes_that_are_stored(order, value, key):
    parsed = parse_order(order)
    assert field_key(parsed, "a.tar", {"__key__": "0", parsed.field: value}) == key


def test_keys_of_any_name_sort_by_their_bytes():
    order = parse_order("sort:__key__")
    assert field_key(order, "a.tar", {"__key__": "a\udce9"}) == b"a\xe9"


@pytest.mark.parametrize(
    ("order", "sample", "problem"),
    [
        ("sort:txt", {"jpg": b"", "cls": b""}, r"no field 'txt' \(it has: jpg, cls\)"),
        ("sort:cls", {"cls": b"cat"}, "'cls' does not sort as int: .*cat"),
        ("sort:cls", {"cls": b"1.5"}, "'cls' does not sort as int"),
        ("sort:cls", {"cls": b""}, "'cls' does not sort as int"),
        ("sort:cls", {"cls": b"9" * 30}, "more than 64 bits: sort it as text or"),
        ("sort:txt:float", {"txt": b"nan"}, "'txt' does not sort as float: is not a"),
        ("sort:txt:float", {"txt": b"\xff"}, "'txt' does not sort as float"),
        ("sort:jpg", {"jpg": object()}, "field 'jpg'"),
    ],
)
def test_a_field_that_does_not_sort_names_the_sample(order, sample, problem):
    with pytest.raises(SampleError, match=problem) as raised:
        field_key(parse_order(order), "b/a.tar", {"__key__": "n/7", **sample})
    assert raised.value.url == "b/a.tar"
    assert raised.value.key == "n/7"


# --- shards by count -----------------------------------------------------------


@given(st.integers(0, 3000), st.integers(1, 400))
@example(0, 1)
@example(1, 400)
def test_shards_by_count_differ_by_one_at_most(num_samples, max_samples):
    cuts = count_cuts(num_samples, max_samples).tolist()
    sizes = np.diff(cuts).tolist()
    assert cuts[0] == 0
    assert cuts[-1] == num_samples
    assert len(sizes) == math.ceil(num_samples / max_samples)
    assert sum(sizes) == num_samples
    if sizes:
        assert max(sizes) <= max_samples
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) > 0


def test_a_billion_samples_are_cut_into_exact_shards():
    cuts = count_cuts(10**9 + 1, 10_000)
    sizes = np.diff(cuts)
    assert len(sizes) == 100_001
    assert (sizes.min(), sizes.max(), sizes.sum()) == (9999, 10_000, 10**9 + 1)


# --- shards by cost ------------------------------------------------------------


def greedy_cuts(costs, capacity):
    """The least number of shards, each as full as it can be."""
    cuts, held = [0], 0
    for rank, cost in enumerate(costs):
        if held + cost > capacity:
            cuts.append(rank)
            held = 0
        held += cost
    return [*cuts, len(costs)] if costs else [0]


def in_blocks(costs, edges):
    edges = sorted({0, *edges, len(costs)})
    array = np.array(costs, np.int64)
    return lambda: (array[a:b] for a, b in itertools.pairwise(edges))


def shard_costs(costs, cuts):
    sums = np.concatenate([[0], np.cumsum(costs, dtype=object)])
    return np.diff(sums[cuts])


COSTS = st.one_of(
    st.lists(st.integers(1, 100), max_size=120),
    st.lists(st.sampled_from([1, 2, 99, 100]), max_size=120),
    st.integers(1, 100).flatmap(
        lambda cost: st.lists(st.just(cost), min_size=1, max_size=120)
    ),
)


@given(COSTS, st.integers(100, 1000), st.lists(st.integers(0, 120)))
@example([1, 100, 1, 1, 1, 1], 100, [])
@example([], 100, [])
@example([100], 100, [])
def test_shards_by_cost_are_never_too_full_or_empty(costs, capacity, edges):
    edges = [edge for edge in edges if edge < len(costs)]
    cuts = cost_cuts(in_blocks(costs, edges), capacity)
    assert cuts[0] == 0
    assert cuts[-1] == len(costs)
    assert (np.diff(cuts) > 0).all()
    if costs:
        assert shard_costs(costs, cuts).max() <= capacity
    least = len(greedy_cuts(costs, capacity)) - 1
    assert least <= len(cuts) - 1 <= max(least + 3, least * 1.05)
    whole = cost_cuts(in_blocks(costs, []), capacity)
    assert cuts.tolist() == whole.tolist()


@given(st.integers(1, 1000), st.integers(1, 3000), st.integers(1, 50))
def test_equal_samples_make_shards_that_differ_by_one_at_most(cost, num, per_shard):
    capacity = cost * per_shard + random.Random(num).randrange(cost)
    cuts = cost_cuts(in_blocks([cost] * num, [num // 3]), capacity)
    sizes = np.diff(cuts)
    assert len(sizes) == math.ceil(num / per_shard)
    assert sizes.max() - sizes.min() <= 1


@given(st.lists(st.integers(1, 100), min_size=1, max_size=2000), st.integers(0, 10))
def test_no_shard_is_a_runt_where_samples_are_small(costs, extra):
    capacity = 40 * max(costs) + extra
    sizes = shard_costs(costs, cost_cuts(in_blocks(costs, []), capacity))
    mean = sum(costs) / len(sizes)
    assert min(sizes) >= mean - max(costs)
    assert max(sizes) <= mean + max(costs)


def test_samples_of_real_sizes_fill_shards_evenly():
    # Few samples a shard, of very different sizes: cut where the next sample does
    # not fit, they leave a last shard of any size.
    sizes = np.random.default_rng(7).lognormal(11, 0.7, 4000).astype(np.int64) + 1024
    capacity = 60 * 102_400
    cuts = cost_cuts(lambda: [sizes], capacity)
    shards = shard_costs(sizes, cuts)
    least = len(greedy_cuts(sizes.tolist(), capacity)) - 1
    assert least <= len(shards) <= least + 3
    assert shards.min() > 0.75 * shards.mean()
    assert shards[-1] > 0.75 * shards.mean()
    assert shards.max() <= capacity


def test_cuts_of_petabytes_do_not_overflow():
    limits = Limits(1000, 10**12 // 10240 * 10240 - 1024)
    sizes = np.full(20_000, 900 * 10**9, np.int64)
    cuts = cost_cuts(lambda: [limits.costs(sizes)], limits.capacity)
    assert np.diff(cuts).tolist() == [1] * 20_000


def test_each_pass_over_the_costs_holds_one_block():
    # 2 x 10^7 samples in blocks: what is alive at once is counted, and the work.
    num_blocks, rows = 40, 500_000
    passes = 0

    def blocks():
        nonlocal passes
        passes += 1
        for number in range(num_blocks):
            yield np.random.default_rng(number).integers(512, 200_000, rows)

    cuts = cost_cuts(blocks, 1_000_000_000)
    assert passes <= 3
    assert len(cuts) == pytest.approx(2_006, rel=0.01)
    assert np.diff(cuts).min() > 9_700


@given(
    st.integers(1, 2000),
    st.integers(1, 2000).map(lambda blocks: 512 * blocks),
    st.lists(st.integers(1, 300).map(lambda blocks: 512 * blocks), max_size=60),
)
def test_costs_that_fit_keep_both_limits(max_samples, max_body, sizes):
    limits = Limits(max_samples, max_body)
    costs = limits.costs(np.array(sizes, np.int64)).tolist()
    if sum(costs) <= limits.capacity:
        assert len(sizes) <= max_samples
        assert sum(sizes) <= max_body
    # Where one limit alone matters, it alone decides.
    if max(sizes, default=0) * max_samples <= max_body and len(sizes) <= max_samples:
        assert sum(costs) <= limits.capacity
    if max_samples * 512 >= max_body:
        assert (sum(costs) <= limits.capacity) == (sum(sizes) <= max_body)


@given(st.integers(1, 10**9), st.integers(20, 10**12 // 10240))
def test_exactly_so_many_small_samples_fit(max_samples, records):
    max_body = records * 10240 - 1024
    limits = Limits(max_samples, max_body)
    most = min(max_samples, max_body // 512)
    size = max_body // most // 512 * 512
    (cost,) = limits.costs(np.array([size])).tolist()
    (least,) = limits.costs(np.array([512])).tolist()
    assert cost * most <= limits.capacity < least * (most + 1)
    assert 0 < limits.capacity < 2**62


@given(st.integers(1, 10**6), st.lists(st.integers(1, 10**9)))
def test_one_limit_alone_is_its_own_cost(limit, sizes):
    array = np.array(sizes, np.int64)
    assert Limits(limit, None).capacity == limit
    assert Limits(limit, None).costs(array).tolist() == [1] * len(sizes)
    assert Limits(None, limit).capacity == limit
    assert Limits(None, limit).costs(array).tolist() == sizes


# --- splitting the sort ----------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(0, 2**63))
@example(0, 0)
@example(1, 0)
def test_the_rows_that_stand_for_a_table_are_one_of_each_stratum(num_rows, salt):
    ranks = sample_ranks(num_rows, salt)
    assert sample_ranks(num_rows, salt).tolist() == ranks.tolist()
    assert bool(num_rows) <= len(ranks) <= max(16, num_rows >> 15)
    for number, rank in enumerate(ranks.tolist()):
        first = number * num_rows / len(ranks)
        assert math.floor(first) <= rank < math.ceil(first + num_rows / len(ranks))


def parts_of(rows, splitters):
    """How many rows of a sorted list lie between the splitters."""
    edges = [0, *(bisect.bisect_left(rows, one) for one in splitters), len(rows)]
    return np.diff(edges)


SHAPES = {
    "even": lambda rng: rng.randrange(2**64),
    "skewed": lambda rng: int(2 ** (64 * rng.random() ** 4)),
    "all equal": lambda _: 2**63,
    "two values": lambda rng: rng.choice([0, 2**64 - 1]),
    "long common prefixes": lambda rng: b"x" * 300 + b"%08d" % rng.randrange(10**8),
    "text and its prefixes": lambda rng: b"a" * rng.randrange(40),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("num_tables", "num_parts"), [(1, 2), (9, 4), (500, 5)], ids=str
)
def test_splitters_follow_the_data(shape, num_tables, num_parts):
    rng = random.Random(7)
    draw = SHAPES[shape]
    tables = [
        sorted((draw(rng), table, row, 0) for row in range(50_000 // num_tables))
        for table in range(num_tables)
    ]
    samples = []
    for number, table in enumerate(tables):
        ranks = sample_ranks(len(table), number).tolist()
        samples += [(table[rank], len(table) / len(ranks)) for rank in ranks]
    splitters = choose_splitters(samples, num_parts)
    rows = sorted(row for table in tables for row in table)
    parts = parts_of(rows, splitters)
    assert splitters == sorted(set(splitters))
    assert len(parts) == num_parts
    assert parts.sum() == len(rows)
    assert parts.max() < 1.5 * len(rows) / num_parts


@given(
    st.lists(
        st.tuples(
            st.tuples(*[st.integers(0, 5)] * 4),
            st.floats(0.1, 100),
        ),
        unique_by=lambda sample: sample[0],
        max_size=60,
    ),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_splitters_do_not_depend_on_the_order_of_arrival(samples, num_parts, rng):
    splitters = choose_splitters(samples, num_parts)
    again = samples[:]
    rng.shuffle(again)
    assert choose_splitters(again, num_parts) == splitters
    assert len(splitters) < num_parts
    assert splitters == sorted(set(splitters))
    assert set(splitters) <= {key for key, _ in samples}
    if samples:
        # No part is empty: each splitter begins one, and the first key is before.
        assert min(key for key, _ in samples) not in splitters


@given(st.integers(1, 60), st.integers(1, 12))
def test_equal_weights_give_parts_as_equal_as_can_be(num_samples, num_parts):
    assume(num_samples >= num_parts)
    samples = [((rank, 0, 0, 0), 1.0) for rank in range(num_samples)]
    splitters = choose_splitters(samples, num_parts)
    sizes = parts_of([key for key, _ in samples], splitters)
    assert len(sizes) == num_parts
    assert sizes.max() - sizes.min() <= 1


def test_what_the_client_holds_of_many_tables_is_small():
    # 10^9 samples in 10^5 tables, sorted in the parts that 128 MiB a task make.
    printed, peak = run_limited(
        """
import random
from shardbuild.build.ordering import choose_splitters, sample_ranks
rng = random.Random(7)
num_ranks = len(sample_ranks(10_000, 0))
keys = ((rng.randrange(2**64), i, 777, 0) for i in range(100_000 * num_ranks))
samples = [(key, 10_000 / num_ranks) for key in keys]
splitters = choose_splitters(samples, 1163)
edges = [0, *(splitter[0] for splitter in splitters), 2**64]
largest = max(b - a for a, b in zip(edges, edges[1:]))
print(len(splitters), largest / 2**64 * 1163)
"""
    )
    num_splitters, largest = printed[0].split()
    assert int(num_splitters) == 1162
    assert float(largest) < 1.3
    assert peak < 400 << 20
