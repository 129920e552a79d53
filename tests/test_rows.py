"""Tables of rows: sorted, kept in files and read by slices, as lists of tuples are."""

from __future__ import annotations

import bisect
import os
import pickle
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardbuild.build.rows import (
    EXTENT,
    ROW,
    Table,
    join_tables,
    load_slice,
    save_table,
)
from shardbuild.errors import StorageError
from shardbuild.storage import metered, write_bytes

NUMBERS = st.one_of(st.integers(0, 4), st.integers(0, 2**64 - 1))
TEXTS = st.one_of(
    st.binary(max_size=4),
    st.integers(0, 4).map(lambda number: b"shared/prefix/" * 20 + b"%d" % number),
)
TIES = st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 2))


def make_table(keys):
    """A table of sort keys, in this order; each row says where it was."""
    rows = np.zeros(len(keys), ROW)
    by_text = any(isinstance(key[0], bytes) for key in keys)
    for i, (first, source, position, sub) in enumerate(keys):
        number = 0 if by_text else first
        rows[i] = (number, position, source, sub, 7 * i, i, 2**40 + i, source)
    return Table(rows, [key[0] for key in keys] if by_text else None)


def keys_of(table):
    return [table.sort_key(i) for i in range(len(table))]


def keys_lists(**sizes):
    def of(first):
        keys = st.tuples(first, TIES).map(lambda pair: (pair[0], *pair[1]))
        return st.lists(keys, unique=True, **sizes)

    return st.one_of(of(NUMBERS), of(TEXTS))


def same(one, other):
    assert one.rows.tobytes() == other.rows.tobytes()
    assert list(one.texts or ()) == list(other.texts or ())


def some_keys(num_rows, kind, *, seed=7):
    """Many sort keys, with ties."""
    rng = random.Random(seed)
    make = {
        "numbers": lambda: rng.randrange(2**64),
        "equal numbers": lambda: 2**63,
        "texts": lambda: b"%d" % rng.randrange(10**9),
        "texts with a long common prefix": lambda: (
            b"x" * 50 + b"%d" % rng.randrange(9999)
        ),
        "equal texts": lambda: b"label",
        "empty texts": lambda: b"",
    }[kind]
    return [(make(), rng.randrange(4), position, 0) for position in range(num_rows)]


KINDS = [
    "numbers",
    "equal numbers",
    "texts",
    "texts with a long common prefix",
    "equal texts",
    "empty texts",
]


def test_a_row_takes_what_the_plan_says():
    # The layout of the files, and the plan's arithmetic: neither changes unseen.
    assert (ROW.itemsize, EXTENT.itemsize) == (52, 20)
    assert not ROW.isalignedstruct
    assert all(ROW[name].str.startswith("<u") for name in ROW.names or ())


@given(keys_lists(max_size=40))
@example([(b"", 1, 0, 0), (b"", 0, 1, 0), (b"", 0, 0, 1), (b"", 0, 0, 0)])
@example([(2**64 - 1, 0, 0, 0), (2**63, 0, 0, 0), (0, 0, 0, 0)])
def test_a_sorted_table_is_the_sorted_list(keys):
    table = make_table(keys)
    result = table.sorted()
    assert keys_of(result) == sorted(keys)
    # Every row came along, whole.
    for i, key in enumerate(keys_of(result)):
        assert result.rows[i].tobytes() == table.rows[keys.index(key)].tobytes()


@given(keys_lists(max_size=40), st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_how_rows_arrive(keys, rng):
    arrived = keys[:]
    rng.shuffle(arrived)
    assert keys_of(make_table(arrived).sorted()) == keys_of(make_table(keys).sorted())


@given(keys_lists(max_size=30), keys_lists(min_size=1, max_size=5))
def test_a_key_is_found_where_bisect_finds_it(keys, wanted):
    by_text = any(isinstance(key[0], bytes) for key in keys)
    table = make_table(keys).sorted()
    for key in [*keys, *(w for w in wanted if isinstance(w[0], bytes) == by_text)]:
        assert table.find(key) == bisect.bisect_left(sorted(keys), key)


@given(keys_lists(max_size=30), st.integers(1, 5))
def test_joined_tables_hold_all_rows_in_their_order(keys, num_tables):
    tables = [make_table(keys[n::num_tables]) for n in range(num_tables)]
    joined = join_tables(tables)
    assert keys_of(joined) == [key for t in tables for key in keys_of(t)]
    assert keys_of(joined.sorted()) == sorted(keys)


def test_nothing_joined_is_an_empty_table():
    assert len(join_tables([]).sorted()) == 0
    # An input that could not be read has a table without texts.
    text = make_table([(b"a", 0, 0, 0)])
    assert keys_of(join_tables([Table(np.empty(0, ROW)), text])) == [(b"a", 0, 0, 0)]


def test_a_table_crosses_processes():
    table = make_table(some_keys(10, "texts"))
    same(pickle.loads(pickle.dumps(table)), table)  # noqa: S301 - our own


@given(keys_lists(max_size=60), keys_lists(max_size=2))
def test_a_slice_of_a_file_is_the_slice_of_the_list(keys, edges):
    by_text = any(isinstance(key[0], bytes) for key in keys)
    edges = [edge for edge in edges if isinstance(edge[0], bytes) == by_text]
    start, stop = (*sorted(edges), None, None)[:2]
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/table"
        save_table(url, make_table(keys).sorted())
        ordered = sorted(keys)
        first = bisect.bisect_left(ordered, start) if start else 0
        last = bisect.bisect_left(ordered, stop) if stop else len(keys)
        assert keys_of(load_slice(url, start, stop)) == ordered[first:last]
        before = load_slice(url, None, start)
        assert keys_of(before) == (ordered[:first] if start else ordered)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_rows", [0, 1, 4095, 4096, 4097, 10_000])
def test_slices_at_every_kind_of_edge_make_the_whole(tmp_path, kind, num_rows):
    keys = some_keys(num_rows, kind)
    table = make_table(keys).sorted()
    ordered = sorted(keys)
    url = f"{tmp_path}/table"
    save_table(url, table)
    same(load_slice(url, None, None), table)
    # Edges on, before and after the keys that the sketch in front holds.
    ranks = {0, 1, 4095, 4096, 4097, 5000, 8191, 8192, num_rows - 1}
    edges = [ordered[rank] for rank in sorted(ranks) if 0 <= rank < num_rows]
    edges += [(*key[:3], key[3] + 1) for key in edges]
    edges = sorted(set(edges))
    parts = [
        load_slice(url, start, stop)
        for start, stop in zip([None, *edges], [*edges, None], strict=True)
    ]
    same(join_tables(parts), table)
    for part, start, stop in zip(parts, [None, *edges], [*edges, None], strict=True):
        first = bisect.bisect_left(ordered, start) if start else 0
        last = bisect.bisect_left(ordered, stop) if stop else num_rows
        assert keys_of(part) == ordered[first:last]


def test_a_slice_reads_little_more_than_itself(tmp_path):
    keys = some_keys(50_000, "numbers")
    url = f"{tmp_path}/table"
    save_table(url, make_table(keys).sorted())
    ordered = sorted(keys)
    with metered() as meter:
        part = load_slice(url, ordered[20_000], ordered[25_000])
    assert len(part) == 5000
    assert meter.read_bytes < (5000 + 2 * 4096) * ROW.itemsize + 2000
    assert meter.read_requests == 3


@pytest.mark.parametrize(("kind", "requests"), [("numbers", 3), ("texts", 5)])
def test_requests_for_a_slice_are_as_planned(tmp_path, kind, requests):
    url = f"{tmp_path}/table"
    keys = sorted(some_keys(10_000, kind))
    save_table(url, make_table(keys))
    with metered() as meter:
        load_slice(url, keys[3000], keys[6000])
    assert meter.read_requests == requests
    with metered() as meter:
        load_slice(url, None, None)
    assert meter.read_requests == 2


def test_the_same_rows_are_the_same_file(tmp_path):
    keys = some_keys(5000, "texts")
    for name, arrived in {"a": keys, "b": keys[::-1]}.items():
        rows = make_table(arrived).sorted()
        rows.rows["offset"] = rows.rows["num_bytes"] = rows.rows["body"] = 0
        save_table(f"{tmp_path}/{name}", rows)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_a_table_stand_for_all_of_it(kind):
    table = make_table(some_keys(5000, kind)).sorted()
    samples = table.sample(3)
    assert [key for key, _ in samples] == sorted(key for key, _ in samples)
    assert {key for key, _ in samples} <= set(keys_of(table))
    assert sum(weight for _, weight in samples) == pytest.approx(5000)


def test_samples_of_an_empty_table_are_none():
    assert make_table([]).sample(0) == []


@pytest.mark.parametrize("data", [b"", b"sbtable", b"PK\3\4" + bytes(100)])
def test_a_damaged_table_names_its_url(tmp_path, data):
    url = f"{tmp_path}/table"
    write_bytes(url, data)
    with pytest.raises(StorageError, match="table"):
        load_slice(url, None, None)


def test_a_cut_table_names_its_url(tmp_path):
    url = f"{tmp_path}/table"
    keys = sorted(some_keys(9000, "texts"))
    save_table(url, make_table(keys))
    whole = Path(url).stat().st_size
    for size in (whole - 1, whole // 2, 60):
        os.truncate(url, size)
        with pytest.raises(StorageError, match="table"):
            load_slice(url, keys[-100], None)
        with pytest.raises(StorageError, match="table"):
            load_slice(url, None, None)
