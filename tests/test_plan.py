"""Plans: which method and why, what each step costs, what does not fit."""

from __future__ import annotations

import itertools
import json
import math
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from shardbuild.build.plan import Plan, Source, check_fits, plan_build
from shardbuild.build.rows import EXTENT, ROW
from shardbuild.build.settings import read_settings
from shardbuild.build.steps import (
    BASE_BYTES,
    INDEX_BYTES,
    LOCAL_READ_BYTES,
    LOCAL_RUN_BYTES,
    LOCAL_WRITE_BYTES,
    MIN_TASKS,
    ROW_BYTES,
    SLICE_BYTES,
    STORE_READ_BYTES,
    STORE_WRITE_BYTES,
    count_parts,
    count_runs,
    fan_in,
    group_sources,
    merge_levels,
    num_windows,
    task_memory,
    window_bytes,
)
from shardbuild.errors import PlanError
from tests.limited import run_limited

if TYPE_CHECKING:
    from shardbuild.build.settings import BuildOptions

GB = 10**9


def double(sample):
    return [sample, sample]


def settings_of(transform=None, **options):
    chosen = cast("BuildOptions", options)
    return read_settings("out/train-%06d.tar", transform, chosen)


def shards(num_shards, num_bytes, num_samples, **facts):
    """Shards of equal size, and with so many samples each."""
    return [
        Source(
            n, f"in/{n:06d}.tar", num_bytes, f"{n}", num_samples=num_samples, **facts
        )
        for n in range(num_shards)
    ]


def changed(sources, number, **facts):
    return [replace(s, **facts) if s.number == number else s for s in sources]


LARGE = shards(100, GB, 10_000)  # 100 KB a sample
SMALL = shards(100, GB, 1_000_000)  # 1 KB a sample
KEEP: dict[str, Any] = {}
SHUFFLE = {"order": "shuffle", "maxcount": 10_000}

METHODS = [
    # what is asked for, of what, and what is done
    (KEEP, LARGE, "stream", "neither the order nor the shards change"),
    ({"transform": double}, LARGE, "stream", "neither the order"),
    ({"method": "stream"}, LARGE, "stream", "neither the order"),
    ({"maxcount": 10}, LARGE, "gather", "1,000,000 samples <= "),
    ({"maxsize": "1GB"}, LARGE, "gather", "1,000,000 samples <= "),
    (SHUFFLE, LARGE, "gather", "1,000,000 samples <= "),
    ({"order": "sort:cls"}, LARGE, "gather", "1,000,000 samples <= "),
    (SHUFFLE, SMALL, "spill", "100,000,000 samples > "),
    ({**SHUFFLE, "memory": "16MiB"}, SMALL, "gather", "100,000,000 samples <= "),
    ({**SHUFFLE, "method": "gather"}, SMALL, "gather", "as asked for"),
    ({**SHUFFLE, "method": "spill"}, LARGE, "spill", "as asked for"),
    ({**KEEP, "method": "spill"}, LARGE, "spill", "as asked for"),
    ({**SHUFFLE, "transform": double}, LARGE, "spill", "a job changes the samples"),
    (
        SHUFFLE,
        changed(LARGE, 3, is_compressed=True),
        "spill",
        "in/000003.tar is compressed",
    ),
    (
        SHUFFLE,
        changed(LARGE, 3, url="pipe:cat x.tar"),
        "spill",
        "pipe:cat x.tar cannot be read at an offset",
    ),
    (SHUFFLE, changed(LARGE, 3, url="-"), "spill", "- cannot be read at an offset"),
    (
        SHUFFLE,
        changed(LARGE, 3, url="simplecache::s3://b/x.tar"),
        "spill",
        "simplecache::s3://b/x.tar cannot be read",
    ),
    (
        SHUFFLE,
        changed(LARGE, 3, kind="partition"),
        "spill",
        "a bag has no shards to gather from",
    ),
    (KEEP, changed(LARGE, 3, kind="partition"), "stream", "neither the order"),
    (KEEP, changed(LARGE, 3, kind="folder"), "gather", "1,000,000 samples <= "),
    (KEEP, changed(LARGE, 3, is_compressed=True), "stream", "neither the order"),
    (SHUFFLE, [], "gather", "0 samples <= "),
]


@pytest.mark.parametrize(
    ("options", "sources", "method", "why"),
    METHODS,
    ids=[str(n) for n in range(len(METHODS))],
)
def test_the_method_and_why(options, sources, method, why):
    plan = plan_build(settings_of(**options), sources)
    assert plan.method == method
    assert plan.why.startswith(why)
    assert f"method {method}: {plan.why}" in plan.summary()


@pytest.mark.parametrize(
    ("options", "sources", "problem"),
    [
        ({"method": "gather"}, 1, "in/000000.tar is compressed: use spill or auto"),
        ({"method": "stream"}, 2, "a folder has no shards: use auto"),
        ({"method": "gather"}, 3, "a bag has no shards to gather from: use spill"),
    ],
)
def test_a_method_that_cannot_be_is_refused(options, sources, problem):
    kinds: dict[int, list[Source]] = {
        1: shards(1, GB, 10, is_compressed=True),
        2: shards(1, GB, 10, kind="folder"),
        3: shards(1, GB, 10, kind="partition"),
    }
    with pytest.raises(PlanError, match=problem):
        plan_build(settings_of(**options), kinds[sources])


@given(
    st.integers(1, 10**13),
    st.integers(1, 10**10),
    st.integers(1 << 20, 1 << 33),
    st.booleans(),
)
@example(10**14, 10**8, 4 * GB, True)  # 1 MB a sample: gather
@example(10**14, 10**10, 4 * GB, True)  # 10 KB a sample: spill
def test_gather_where_its_requests_are_fewer(num_bytes, num_samples, memory, is_remote):
    source = Source(0, "s3://b/0.tar", num_bytes, "", num_samples=num_samples)
    settings = settings_of(**SHUFFLE, memory=memory)
    plan = plan_build(settings, [source], from_store=is_remote)
    slices = (2 * num_bytes / memory) ** 2
    moved = 2 * num_bytes / ((256 if is_remote else 4) << 10)
    assert (plan.method == "gather") == (num_samples <= slices + moved)


# --- sizes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "num_shards", "is_exact"),
    [
        ({}, 100, True),
        ({"maxcount": 10_000}, 100, True),
        ({"maxcount": 9_999}, 101, True),
        ({"maxsize": "1GB"}, 101, False),
        ({"maxsize": "2GB", "maxcount": 10**6}, 51, False),
        ({"maxsize": "2GB", "maxcount": 1000}, 1000, False),
        ({"maxcount": 10_000, "transform": double}, 100, False),
        ({"transform": double}, 100, False),
    ],
)
def test_shards_are_counted(options, num_shards, is_exact):
    plan = plan_build(settings_of(**options), LARGE)
    assert (plan.num_shards, plan.shards_are_exact) == (num_shards, is_exact)
    about = "" if is_exact else "about "
    assert f"-> {about}{num_shards:,} shards" in plan.summary()


def test_samples_that_nothing_counts_are_estimated():
    sources = [*shards(2, 10**6, 10), Source(2, "in/x.tar", 10**6, "")]
    plan = plan_build(settings_of(**SHUFFLE), sources, sample_bytes=2000.0)
    assert (plan.num_samples, plan.is_exact) == (520, False)
    assert not plan.shards_are_exact
    assert "about 520 samples" in plan.summary()
    plan = plan_build(settings_of(**SHUFFLE), sources[:2])
    assert (plan.num_samples, plan.is_exact) == (20, True)


def test_what_cannot_be_read_is_named():
    sources = [*shards(2, 10**6, 10), Source(2, "in/x.tar", 0, "", problem="no file")]
    plan = plan_build(settings_of(errors="skip"), sources)
    assert "cannot read in/x.tar: no file" in plan.summary()


# --- arithmetic -------------------------------------------------------------------


def step_of(plan: Plan, name: str):
    (step,) = [step for step in plan.steps if step.name == name]
    return step


def test_the_plan_and_the_rows_agree_on_sizes():
    assert ROW.itemsize == ROW_BYTES
    assert step_of(plan_build(settings_of(**SHUFFLE), LARGE), "write").read_bytes == (
        100 * GB + 10**6 * EXTENT.itemsize
    )


@pytest.mark.parametrize(
    ("options", "sources", "steps", "most_moved"),
    [
        (KEEP, LARGE, ["stream"], 2.0),
        (SHUFFLE, LARGE, ["scan", "sort", "write"], 3.1),
        (SHUFFLE, shards(100, GB, 10_000, has_index=True), None, 2.1),
        ({"maxsize": "1GB"}, LARGE, ["scan", "sort", "cut", "write"], 3.1),
        (
            {**SHUFFLE, "method": "spill"},
            LARGE,
            ["map", "merge0", "sort", "write"],
            6.1,
        ),
        (
            {**SHUFFLE, "method": "spill", "memory": "1GiB"},
            LARGE,
            ["map", "sort", "write"],
            4.1,
        ),
        (
            {"order": "sort:cls", "maxcount": 9},
            shards(100, GB, 10_000, has_index=True),
            ["scan", "sort", "write"],
            3.1,
        ),
    ],
)
def test_each_byte_is_moved_so_often(options, sources, steps, most_moved):
    plan = plan_build(settings_of(**options), sources)
    if steps is not None:
        assert [step.name for step in plan.steps] == steps
    moved = (plan.read_bytes + plan.written_bytes) / plan.input_bytes
    assert most_moved - 0.15 < moved <= most_moved


def test_requests_of_a_gather():
    sources = shards(100, GB, 10_000, has_index=True)
    plan = plan_build(settings_of(**SHUFFLE), sources)
    scan, sort, write = plan.steps
    # Rows of two inputs are a 48th of all.
    assert (scan.num_tasks, scan.read_requests, scan.write_requests) == (50, 100, 100)
    assert scan.read_bytes == 10**6 * INDEX_BYTES
    # One part needs all of each table: its header, and the rest.
    memory = settings_of().memory
    assert count_parts(10**6, memory) == 2
    assert (sort.num_tasks, sort.read_requests) == (2, 50 * 2 * 3)
    assert (write.num_tasks, write.read_requests) == (100, 10**6 + 200)
    assert write.write_requests == 100 * GB // LOCAL_WRITE_BYTES + 400
    text = plan_build(settings_of(order="sort:__key__", maxcount=10**4), sources)
    assert step_of(text, "sort").read_requests == 50 * 2 * 5


def test_requests_of_a_spill():
    plan = plan_build(settings_of(**SHUFFLE, method="spill"), LARGE)
    memory = settings_of().memory
    level = step_of(plan, "merge0")
    num_runs = 100 * math.ceil(GB / memory)
    assert step_of(plan, "map").num_tasks == 100
    assert level.num_tasks == math.ceil(num_runs / fan_in(memory)) == 13
    assert level.read_requests == num_runs * (GB // 8 // SLICE_BYTES) + 2 * num_runs
    windows = num_windows(100 * GB, 100, memory, 13)
    assert windows == 100 * math.ceil(GB / window_bytes(memory, 13))
    assert step_of(plan, "write").read_requests == windows * 13 + 200


@pytest.mark.parametrize("is_remote", [False, True])
def test_requests_of_a_stream(is_remote):
    """A store is asked for few large pieces, a disk for what suits the cache."""
    dst = "s3://b/out/%06d.tar" if is_remote else "out/%06d.tar"
    settings = read_settings(dst, None, {})
    small, large = shards(10, GB, 10**5), shards(10, GB, 10**3)
    plans = [
        plan_build(settings, each, from_store=is_remote) for each in (small, large)
    ]
    (few,), (many,) = (plan.steps for plan in plans)
    if is_remote:
        assert (
            few.read_requests == many.read_requests == 10 * GB // STORE_READ_BYTES + 20
        )
        assert few.write_requests == 10 * GB // STORE_WRITE_BYTES + 30
    else:
        assert few.read_requests == 10 * GB // LOCAL_READ_BYTES + 40
        assert many.read_requests == 2.1 * 10**4 + 30
        assert few.write_requests == 10 * GB // LOCAL_WRITE_BYTES + 30
    spill: Any = {**SHUFFLE, "method": "spill"}
    spilt = read_settings(dst, None, spill)
    first = step_of(plan_build(spilt, small, from_store=is_remote), "map")
    most = STORE_WRITE_BYTES if is_remote else LOCAL_RUN_BYTES
    assert first.write_requests == 10 * GB // most + 4 * first.num_tasks * 8


def test_the_sort_of_very_many_shards_asks_for_few_slices():
    """A table holds the rows of many inputs, or the slices would be 10**8."""
    many = shards(10**5, GB, 10**4, has_index=True)
    plan = plan_build(settings_of(**SHUFFLE, method="gather"), many)
    num_parts = count_parts(10**9, settings_of().memory)
    scan, sort, _ = plan.steps
    assert scan.num_tasks < 1.1 * num_parts
    assert sort.read_requests == 3 * scan.num_tasks * num_parts < 5 * 10**6


def test_totals_are_the_sums_of_the_steps():
    plan = plan_build(settings_of(**SHUFFLE), LARGE)
    names = ["read_bytes", "written_bytes", "read_requests", "write_requests"]
    document = json.loads(plan.to_bytes())
    for name in names:
        total = sum(getattr(step, name) for step in plan.steps)
        assert getattr(plan, name) == document[name] == total
    assert plan.num_tasks == document["num_tasks"]
    assert plan.num_tasks == sum(step.num_tasks for step in plan.steps)


def test_a_spill_needs_the_disk_twice():
    plan = plan_build(settings_of(**SHUFFLE, method="spill"), LARGE)
    assert plan.temporary_bytes == plan.input_bytes == 100 * GB
    assert plan_build(settings_of(**SHUFFLE), LARGE).temporary_bytes == 0
    assert plan_build(settings_of(), LARGE).temporary_bytes == 0


# --- a value ----------------------------------------------------------------------


def test_a_plan_is_a_value():
    for options in (KEEP, SHUFFLE, {**SHUFFLE, "method": "spill"}):
        plan = plan_build(settings_of(**options), LARGE)
        assert plan == plan_build(settings_of(**options), list(LARGE))
        assert pickle.loads(pickle.dumps(plan)) == plan  # noqa: S301 - our own
        assert hash(plan) == hash(pickle.loads(pickle.dumps(plan)))  # noqa: S301
        assert plan.to_bytes() == plan_build(settings_of(**options), LARGE).to_bytes()
        with pytest.raises(FrozenInstanceError):
            plan.method = "spill"  # type: ignore[misc]


def test_a_plan_is_json():
    plan = plan_build(settings_of(**SHUFFLE), changed(LARGE, 0, url="é.tar"))
    document = json.loads(plan.to_bytes())
    assert document["method"] == "gather"
    assert document["sources"][0]["url"] == "é.tar"
    assert len(document["sources"]) == 100
    assert [step["name"] for step in document["steps"]] == ["scan", "sort", "write"]


def test_a_summary_for_people():
    sources = shards(100, GB, 10_000, has_index=True)
    assert plan_build(settings_of(**SHUFFLE), sources).summary() == (
        "out/train-%06d.tar: 1,000,000 samples, 100.00 GB in 100 inputs -> 100 shards\n"
        "  method gather: 1,000,000 samples <= (2 x 100.00 GB / 134.22 MB)^2 + "
        "2 x 100.00 GB / 4.10 kB = 51,048,571\n"
        "  memory 358.61 MB a task, temporary storage 0 B\n"
        "  step            tasks         read      written         gets         puts\n"
        "  scan               50     48.00 MB     52.00 MB          100          100\n"
        "  sort                2     52.00 MB     26.00 MB          300            6\n"
        "  write             100    100.02 GB    100.05 GB    1,000,200      191,134"
    )


# --- groups and levels ------------------------------------------------------------

SIZES = st.lists(st.integers(0, 1000), max_size=300)


@given(SIZES, st.integers(1, 5000))
def test_map_tasks_take_neighbours_that_fit_a_run(sizes, memory):
    sources = [Source(n, f"{n}", size, "") for n, size in enumerate(sizes)]
    groups = list(group_sources(sources, memory))
    assert [n for a, b in groups for n in range(a, b)] == list(range(len(sizes)))
    held = [sum(sizes[a:b]) for a, b in groups]
    share = max(1, sum(sizes) // MIN_TASKS)
    for (a, b), num_bytes in zip(groups, held, strict=True):
        assert a < b
        assert b == a + 1 or num_bytes <= min(memory, share)
    # Neighbours share a task where they can.
    for one, other in itertools.pairwise(groups):
        first = sizes[other[0]]
        assert first == 0 or sum(sizes[one[0] : one[1]]) + first > min(memory, share)


def test_a_small_data_set_keeps_many_workers_busy():
    sources = shards(1000, 10**6, 10)
    assert MIN_TASKS <= len(list(group_sources(sources, 128 << 20))) <= 2 * MIN_TASKS
    assert count_runs(sources[:3], 128 << 20) == 1
    assert count_runs(sources, 100 * 10**6) == 10
    assert count_runs([], 1) == 1


@given(st.integers(0, 10**7), st.integers(1 << 20, 1 << 34))
def test_runs_are_merged_until_one_task_can_read_them(num_runs, memory):
    levels = merge_levels(num_runs, memory)
    left = [num_runs, *levels]
    assert left[-1] <= max(fan_in(memory), 1) or num_runs == 0
    for before, after in zip(left, levels, strict=False):
        assert before > fan_in(memory)
        assert after == math.ceil(before / fan_in(memory))
    assert fan_in(memory) * SLICE_BYTES <= max(window_bytes(memory), 2 * SLICE_BYTES)


@given(st.integers(0, 10**12), st.integers(0, 10**5), st.integers(1 << 20, 1 << 33))
def test_windows_hold_what_memory_allows(num_bytes, num_shards, memory):
    count = num_windows(num_bytes, num_shards, memory)
    assert count * window_bytes(memory) >= num_bytes * (num_shards > 0)
    assert count <= num_bytes / window_bytes(memory) + num_shards
    for containers in (1, 10, 100_000):
        small = window_bytes(memory, containers)
        assert 1 << 20 <= small <= window_bytes(memory)


@given(st.integers(0, 10**10), st.integers(1 << 20, 1 << 34), st.integers(0, 10**13))
def test_parts_of_the_sort_fit_into_memory(num_rows, memory, text_bytes):
    parts = count_parts(num_rows, memory, text_bytes)
    assert parts >= 1
    needed = (num_rows * ROW_BYTES + text_bytes) * 3
    assert needed <= parts * memory
    assert parts == 1 or needed > (parts - 1) * memory


# --- what fits --------------------------------------------------------------------


def fit(plan, **limits):
    none: dict[str, Any] = {
        "num_workers": 1,
        "worker_limit": None,
        "available_memory": None,
        "free_bytes": None,
    }
    check_fits(plan, **{**none, **limits})


GATHER = plan_build(settings_of(**SHUFFLE), LARGE)
SPILL = plan_build(settings_of(**SHUFFLE, method="spill"), LARGE)


def test_what_fits_exactly_is_done():
    need = GATHER.memory_bytes
    fit(GATHER)
    fit(GATHER, worker_limit=need)
    fit(GATHER, num_workers=8, available_memory=8 * need)
    fit(GATHER, free_bytes=100 * GB)
    fit(SPILL, free_bytes=200 * GB)


@pytest.mark.parametrize(
    ("plan", "limits", "problem"),
    [
        (
            GATHER,
            {"worker_limit": GATHER.memory_bytes - 1},
            "a task takes 358.61 MB, a worker may use 358.61 MB: use --memory 127MiB",
        ),
        (
            GATHER,
            {"worker_limit": 200 << 20},
            "a worker may use 209.72 MB: use --memory 33MiB",
        ),
        (
            GATHER,
            {"worker_limit": 150 << 20},
            "use workers with more than 157.29 MB",
        ),
        (
            GATHER,
            {"num_workers": 8, "available_memory": 2 * GB},
            "8 tasks take 358.61 MB each, 2.00 GB are available: .* --memory 58MiB",
        ),
        (
            GATHER,
            {"free_bytes": 100 * GB - 1},
            r"\(100.00 GB of shards, 0 B temporary\), 100.00 GB are free: free some",
        ),
        (
            SPILL,
            {"free_bytes": 200 * GB - 1},
            r"needs 200.00 GB .*, 100.00 GB temporary\).* or use --method gather if",
        ),
        (SPILL, {"free_bytes": 100 * GB - 1}, "free some, or write elsewhere$"),
    ],
    ids=[str(n) for n in range(7)],
)
def test_what_does_not_fit_is_refused_with_the_remedy(plan, limits, problem):
    with pytest.raises(PlanError, match=problem):
        fit(plan, **limits)


@given(st.integers(BASE_BYTES + (2 << 20), 1 << 33))
def test_the_remedy_is_one(limit):
    assume(limit < task_memory(1 << 33))
    plan = replace(GATHER, memory_bytes=task_memory(1 << 33))
    with pytest.raises(PlanError) as raised:
        fit(plan, worker_limit=limit)
    remedy = int(raised.value.problem.rpartition("--memory ")[2].removesuffix("MiB"))
    assert task_memory(remedy << 20) <= limit < task_memory((remedy + 1) << 20) + 2


# --- scale ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gather", "spill", "stream"])
def test_a_plan_for_a_billion_samples(method):
    order = "keep" if method == "stream" else "shuffle"
    maxcount = None if method == "stream" else 10_000
    printed, peak = run_limited(
        f"""
from shardbuild.build.ordering import count_cuts
from shardbuild.build.plan import Source, plan_build
from shardbuild.build.settings import read_settings
options = {{"order": {order!r}, "method": {method!r}, "maxcount": {maxcount!r}}}
settings = read_settings("s3://b/out/train-%06d.tar", None, options)
sources = [
    Source(n, f"s3://b/in/{{n:06d}}.tar", 10**9, "etag", num_samples=10**4)
    for n in range(10**5)
]
plan = plan_build(settings, sources, from_store=True)
cuts = count_cuts(plan.num_samples, 10**4)
text = plan.to_bytes()
print(plan.method, plan.num_samples, plan.num_shards, len(cuts), len(plan.summary()))
"""
    )
    assert printed[0].split()[:4] == [method, "1000000000", "100000", "100001"]
    assert int(printed[0].split()[4]) < 2000
    assert peak < 1 << 30
