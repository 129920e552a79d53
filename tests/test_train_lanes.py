"""Streams of shards without index: exact, the same for all, gone on with anywhere."""

from __future__ import annotations

import dataclasses
import gc
import gzip
import json
import os
from collections import Counter
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild.errors import ShardError, TruncatedShardError, UsageError
from shardbuild.shards.reader import read_samples, scan_shard
from shardbuild.storage import metered, write_bytes
from shardbuild.train.lanes import LaneStream
from tests.tars import Entry, entries_of, make_samples, make_tar

if TYPE_CHECKING:
    from shardbuild.shards.samples import Sample

Options = dict[str, Any]


def shard_bytes(number, count, num_bytes=40):
    """A shard of samples whose keys tell it; some have two fields, some three."""
    samples = make_samples(count, num_bytes=num_bytes, first=1000 * number)
    for sample in samples[::3]:
        sample.pop("cls")
    return make_tar(entries_of(samples))


@pytest.fixture(scope="module")
def make_shards(tmp_path_factory):
    """A function that gives the urls of shards of so many samples each."""

    @cache
    def make(*counts, suffix=".tar"):
        folder = tmp_path_factory.mktemp("shards")
        urls = []
        for number, count in enumerate(counts):
            data = shard_bytes(number, count)
            path = folder / f"{number:03d}{suffix}"
            path.write_bytes(gzip.compress(data) if suffix == ".tar.gz" else data)
            urls.append(str(path))
        return urls

    return make


def names(samples):
    return [(sample["__url__"], sample["__key__"]) for sample in samples]


def plain_samples(urls):
    return [{**sample, "__url__": url} for url in urls for sample in read_samples(url)]


COUNTS = st.lists(st.integers(0, 9), max_size=6)
OPTIONS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 5),
        "epoch": st.integers(0, 2),
        "shuffle": st.booleans(),
        "open_shards": st.integers(1, 7),
        "block": st.integers(1, 11),
    }
)
SUFFIXES = st.sampled_from([".tar", ".tar", ".tar.gz"])


# -- exact -----------------------------------------------------------------


@given(COUNTS, OPTIONS, SUFFIXES)
def test_each_sample_comes_once(make_shards, counts, options, suffix):
    urls = make_shards(*counts, suffix=suffix)
    found = list(LaneStream(urls, **options))
    expected = plain_samples(urls)
    if options["shuffle"]:
        by_name = dict(zip(names(found), found, strict=True))
        assert len(by_name) == len(found)
        found = [by_name[name] for name in names(expected)]
    assert found == expected


@settings(max_examples=60)
@given(COUNTS, OPTIONS, SUFFIXES)
def test_a_cursor_after_any_sample_gives_the_rest(make_shards, counts, options, suffix):
    urls = make_shards(*counts, suffix=suffix)
    whole = list(LaneStream(urls, **options))
    with LaneStream(urls, **options) as stream:
        for position in range(len(whole) + 1):
            cursor = json.loads(json.dumps(stream.cursor()))
            rest = LaneStream(urls, **options, cursor=cursor)
            assert rest.cursor() == cursor
            assert list(rest) == whole[position:]
            assert list(islice(stream, 1)) == whole[position : position + 1]
        assert list(LaneStream(urls, **options, cursor=stream.cursor())) == []


@given(COUNTS, OPTIONS, SUFFIXES)
def test_going_on_after_each_sample_is_reading_at_one_go(
    make_shards, counts, options, suffix
):
    urls = make_shards(*counts, suffix=suffix)
    cursor, found = None, []
    while True:
        with LaneStream(urls, **options, cursor=cursor) as stream:
            sample = next(stream, None)
            if sample is None:
                break
            found.append(sample)
            cursor = stream.cursor()
    assert found == list(LaneStream(urls, **options))


def test_large_samples_and_odd_members_are_gone_on_with_too(tmp_path):
    urls = []
    for number in range(3):
        entries = [Entry("README", b"text")]
        for i in range(6):
            entries += [
                Entry("folder/", kind=b"5"),
                Entry(f"{'long/' * 40}{number}{i}.jpg", os.urandom(60_000 + i)),
                Entry(f"{'long/' * 40}{number}{i}.cls", b"%d" % i),
            ]
        path = tmp_path / f"{number}.tar"
        path.write_bytes(make_tar(entries, tar_format=(0, 1, 2)[number]))
        urls.append(str(path))
    several: list[Options] = [{}, {"shuffle": True, "open_shards": 2, "block": 4}]
    for options in several:
        whole = list(LaneStream(urls, **options))
        assert len(whole) == 18
        with LaneStream(urls, **options) as stream:
            for position in range(18):
                cursor = stream.cursor()
                rest = LaneStream(urls, **options, cursor=cursor)
                assert list(rest) == whole[position:]
                next(stream)


# -- shuffled --------------------------------------------------------------


def test_seeds_and_epochs_are_orders_of_their_own(make_shards):
    urls = make_shards(*[8] * 6)
    orders = {
        tuple(names(LaneStream(urls, seed=seed, epoch=epoch, shuffle=True)))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_each_round_takes_a_sample_of_each_lane(make_shards):
    urls = make_shards(*[20] * 8)
    found = names(LaneStream(urls, shuffle=True, open_shards=4))
    for first in range(0, 160, 4):
        assert len({url for url, _ in found[first : first + 4]}) == 4
    firsts = [url for url, _ in found[0:80:4]]
    assert len(set(firsts)) == 4  # not the same lane first in each round


def test_a_window_is_shuffled_and_no_more(make_shards):
    (url,) = make_shards(50)
    found = [key for _, key in names(LaneStream([url], shuffle=True, block=8))]
    plain = [sample["__key__"] for sample in read_samples(url)]
    for first in range(0, 50, 8):
        window = found[first : first + 8]
        assert sorted(window) == plain[first : first + 8]
    assert sum(a == b for a, b in zip(found, plain, strict=True)) < 20


def test_first_samples_are_of_any_shard_and_place(make_shards):
    urls = make_shards(*[5] * 4)
    firsts = Counter(
        names([next(iter(LaneStream(urls, seed=seed, shuffle=True, block=5)))])[0]
        for seed in range(600)
    )
    assert len(firsts) == 20
    assert max(firsts.values()) < 60


def test_orders_never_change(make_shards):
    # What was begun with one version has to go on with the next.
    urls = make_shards(3, 0, 4, 2)
    stream = LaneStream(urls, seed=3, epoch=1, shuffle=True, open_shards=2, block=3)
    keys = [int(sample["__key__"][-6:]) for sample in stream]
    assert keys == GOLDEN
    cursor = LaneStream(urls, shuffle=True, open_shards=2).cursor()
    assert cursor == GOLDEN_CURSOR


GOLDEN = [3000, 0, 3001, 2, 1, 2002, 2001, 2000, 2003]
GOLDEN_CURSOR = {
    "of": "295cc9b83dbb6ea4",
    "round": 0,
    "after": -1,
    "lanes": [[0, 0, 0, 0], [0, 0, 0, 0]],
}


# -- what is read ----------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
def test_what_lies_before_a_cursor_is_not_read(shuffle):
    urls = [f"memory://lanes/{number}.tar" for number in range(2)]
    num_bytes = 0
    for number, url in enumerate(urls):
        data = shard_bytes(number, 100, num_bytes=20_000)
        write_bytes(url, data)
        num_bytes += len(data)
    options: Options = {"shuffle": shuffle, "open_shards": 2, "block": 4}
    whole = list(LaneStream(urls, **options))
    for position in (10, 150, 196):
        with LaneStream(urls, **options) as stream:
            found = [next(stream) for _ in range(position)]
            cursor = stream.cursor()
        with metered() as meter:
            rest = list(LaneStream(urls, **options, cursor=cursor))
        assert found + rest == whole
        # A window of each lane may be read again.
        assert meter.read_bytes < num_bytes * (200 - position + 2 * 5) / 200


def test_what_lies_before_a_cursor_is_not_read_of_a_file(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(shard_bytes(0, 400, num_bytes=20_000))
    with LaneStream([str(path)]) as stream:
        for _ in range(390):
            next(stream)
        cursor = stream.cursor()
    with metered() as meter:
        assert len(list(LaneStream([str(path)], cursor=cursor))) == 10
    assert meter.read_bytes < path.stat().st_size / 10


def test_open_shards_of_stores_share_one_budget():
    url = "memory://lanes/budget.tar"
    write_bytes(url, shard_bytes(0, 100, num_bytes=100_000))
    urls = [url] * 200
    with LaneStream(urls, shuffle=True, open_shards=200, block=1) as stream:
        with metered() as meter:
            for _ in range(20):
                next(stream)
        assert meter.read_bytes < 20 * (1 << 20)


def test_pipes_are_read_again(make_shards):
    urls = [f"pipe:cat {url}" for url in make_shards(5, 6)]
    for shuffle in (False, True):
        options: Options = {"shuffle": shuffle, "block": 2}
        whole = list(LaneStream(urls, **options))
        with LaneStream(urls, **options) as stream:
            for position in range(11):
                cursor = stream.cursor()
                rest = LaneStream(urls, **options, cursor=cursor)
                assert list(rest) == whole[position:]
                next(stream)


# -- what is learned -------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_shards_that_were_read_whole_are_learned(make_shards, suffix, shuffle):
    urls = make_shards(5, 0, 300, 7, suffix=suffix)
    stream = LaneStream(urls, shuffle=shuffle, open_shards=2)
    assert stream.learned == {}
    assert len(list(stream)) == 312
    for number, url in enumerate(urls):
        index = dataclasses.replace(scan_shard(url), canonical=False)
        assert stream.learned[number].to_bytes() == index.to_bytes()


def test_large_samples_are_learned_without_being_kept(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(shard_bytes(0, 300, num_bytes=50_000))
    stream = LaneStream([str(path)])
    assert sum(1 for _ in stream) == 300
    index = dataclasses.replace(scan_shard(str(path)), canonical=False)
    assert stream.learned[0].to_bytes() == index.to_bytes()


def test_a_shard_that_was_entered_in_its_middle_is_not_learned(make_shards):
    urls = make_shards(5, 6)
    with LaneStream(urls) as stream:
        for _ in range(3):
            next(stream)
        assert stream.learned == {}
        cursor = stream.cursor()
    rest = LaneStream(urls, cursor=cursor)
    assert len(list(rest)) == 8
    assert list(rest.learned) == [1]


# -- damage ----------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_truncated_shard_is_an_error_where_it_ends(tmp_path, shuffle):
    paths = [tmp_path / f"{number}.tar" for number in range(2)]
    for number, path in enumerate(paths):
        path.write_bytes(shard_bytes(number, 9))
    paths[1].write_bytes(paths[1].read_bytes()[:5000])
    urls = [str(path) for path in paths]
    stream = LaneStream(urls, shuffle=shuffle, block=1)
    found: list[Sample] = []
    with pytest.raises(TruncatedShardError, match=r"1\.tar: at byte \d+"):
        found.extend(stream)
    cursor = stream.cursor()
    paths[1].write_bytes(shard_bytes(1, 9))  # mended
    rest = list(LaneStream(urls, shuffle=shuffle, block=1, cursor=cursor))
    assert found + rest == list(LaneStream(urls, shuffle=shuffle, block=1))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_shard_that_became_shorter_is_an_error(tmp_path, shuffle, suffix):
    path = tmp_path / f"a{suffix}"

    def write(count):
        data = shard_bytes(0, count)
        path.write_bytes(gzip.compress(data) if suffix == ".tar.gz" else data)

    write(9)
    options: Options = {"shuffle": shuffle, "block": 4}
    with LaneStream([str(path)], **options) as stream:
        for _ in range(7):
            next(stream)
        cursor = stream.cursor()
    write(2)
    with pytest.raises(ShardError, match=r"a\.tar"):
        list(LaneStream([str(path)], **options, cursor=cursor))
    write(6)
    with pytest.raises(ShardError, match=r"a\.tar"):
        list(LaneStream([str(path)], **options, cursor=cursor))


def test_members_of_a_sample_that_are_not_adjacent_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    names_ = ("a.cls", "b.cls", "a.txt")
    path.write_bytes(make_tar([Entry(name, b"x") for name in names_]))
    with pytest.raises(ShardError, match="have to be adjacent"):
        list(LaneStream([str(path)]))


def test_a_shard_without_end_blocks_is_refused_after_a_cursor_too(tmp_path):
    path = tmp_path / "a.tar"
    data = shard_bytes(0, 6)
    path.write_bytes(data)
    with LaneStream([str(path)]) as stream:
        next(stream)
        cursor = stream.cursor()
    path.write_bytes(data[: scan_shard(str(path)).end])
    with pytest.raises(TruncatedShardError, match="without its end-of-archive blocks"):
        list(LaneStream([str(path)], cursor=cursor))


# -- options and cursors ---------------------------------------------------


def test_options_that_are_not_positive_are_refused():
    for name in ("open_shards", "block"):
        with pytest.raises(UsageError, match=f"{name} 0: is not positive"):
            LaneStream([], **Options({name: 0}))


def test_a_cursor_of_another_stream_is_refused(make_shards):
    urls = make_shards(3, 4)
    cursor = LaneStream(urls, seed=1, shuffle=True).cursor()
    others = (
        {"seed": 2},
        {"epoch": 1},
        {"shuffle": False},
        {"open_shards": 1},
        {"block": 3},
        {"key_rule": "last-dot"},
    )
    for other in others:
        options: Options = {"seed": 1, "shuffle": True, **other}
        with pytest.raises(UsageError, match="cursor: is of a stream of other"):
            LaneStream(urls, **options, cursor=cursor)
    with pytest.raises(UsageError, match="cursor"):
        LaneStream(urls[:1], seed=1, shuffle=True, cursor=cursor)


# -- closing ---------------------------------------------------------------


def open_files():
    links = Path("/proc/self/fd").iterdir()
    return sorted(str(link.readlink()) for link in links if link.exists())


def stop_early(samples):
    for _ in samples:
        raise ZeroDivisionError


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_nothing_is_left_open(make_shards, shuffle, suffix):
    urls = make_shards(*[20] * 4, suffix=suffix)
    options: Options = {"shuffle": shuffle, "open_shards": 3, "block": 4}
    gc.collect()
    gc.disable()
    try:
        before = open_files()
        with LaneStream(urls, **options) as stream:
            next(stream)
            assert open_files() != before
        assert open_files() == before
        cursor = stream.cursor()
        assert len(list(LaneStream(urls, **options, cursor=cursor))) == 79
        assert list(stream) == []
        for _ in LaneStream(urls, **options):
            break
        assert open_files() == before  # forgotten, not closed
        with pytest.raises(ZeroDivisionError), LaneStream(urls, **options) as stream:
            stop_early(stream)
        assert open_files() == before
        list(LaneStream(urls, **options))
        assert open_files() == before
        LaneStream(urls, **options).close()
    finally:
        gc.enable()


def test_nothing_is_opened_before_the_first_sample():
    stream = LaneStream(["/nowhere/a.tar"])
    assert stream.cursor()["lanes"] == [[0, 0, 0, 0]]


def test_a_cursor_in_any_lot_of_many_small_samples_gives_the_rest(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(shard_bytes(0, 4000, num_bytes=1500))
    whole = list(LaneStream([str(path)]))
    with LaneStream([str(path)]) as stream:
        for position in range(4000):
            next(stream)
            if position % 397 == 0:
                cursor = stream.cursor()
                rest = list(LaneStream([str(path)], cursor=cursor))
                assert rest == whole[position + 1 :]


def test_long_lanes_are_gone_on_with_as_well(make_shards):
    urls = make_shards(1500, 1400)
    options: Options = {"shuffle": True, "open_shards": 2, "block": 5}
    whole = list(LaneStream(urls, **options))
    assert len(set(names(whole))) == 2900
    with LaneStream(urls, **options) as stream:
        for position in range(2900):
            next(stream)
            if position % 311 == 0:
                rest = LaneStream(urls, **options, cursor=stream.cursor())
                assert list(rest) == whole[position + 1 :]
