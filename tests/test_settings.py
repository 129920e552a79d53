"""The options of a conversion: what is taken, and what is refused with its remedy."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.build.jobs import Job
from shardbuild.build.ordering import Limits, Order
from shardbuild.build.settings import (
    DEFAULT_MEMORY,
    Progress,
    Settings,
    read_settings,
)
from shardbuild.errors import PlanError
from shardbuild.shards.tarformat import shard_tar_bytes

if TYPE_CHECKING:
    from shardbuild.build.settings import BuildOptions

PATTERN = "out/train-%06d.tar"


def shrink(sample):
    return sample


def settings_of(transform=None, **options) -> Settings:
    return read_settings(PATTERN, transform, cast("BuildOptions", options))


def test_without_options_nothing_changes_but_the_place():
    assert settings_of() == Settings(
        pattern=PATTERN,
        order=Order("keep"),
        maxcount=None,
        maxsize=None,
        method="auto",
        errors="raise",
        max_errors=None,
        memory=DEFAULT_MEMORY,
        overwrite=False,
        rekey=False,
        label_from=None,
        key_rule="first-dot",
        storage_options=None,
        transform=None,
    )


def test_options_that_are_none_are_as_if_they_were_not_given():
    # The command line passes on all of its options.
    nothing = dict.fromkeys(
        ("seed", "maxcount", "maxsize", "max_errors", "memory", "label_from")
    )
    assert settings_of(**nothing) == settings_of()


@pytest.mark.parametrize(
    ("pattern", "manifest", "state", "shard"),
    [
        ("train-%06d.tar", "train.json", ".train.build", "train-000007.tar"),
        ("o/a_%d.tar.gz", "o/a.json", "o/.a.build", "o/a_7.tar.gz"),
        ("/o/%04d.tar", "/o/dataset.json", "/o/.dataset.build", "/o/0007.tar"),
        (
            "s3://b/o/train-%06d.tar",
            "s3://b/o/train.json",
            "s3://b/o/.train.build",
            "s3://b/o/train-000007.tar",
        ),
        (
            "memory://o/a.b-%02d-of-9.tar",
            "memory://o/a.b--of-9.json",
            "memory://o/.a.b--of-9.build",
            "memory://o/a.b-07-of-9.tar",
        ),
    ],
)
def test_all_that_a_run_writes_is_beside_its_shards(pattern, manifest, state, shard):
    settings = read_settings(pattern, None, {})
    assert settings.manifest == manifest
    assert settings.report == manifest.removesuffix(".json") + ".report.json"
    assert settings.state == state
    assert settings.state_url("x/y.json") == f"{state}/x/y.json"
    assert settings.shard_url(7) == shard


@pytest.mark.parametrize(
    "pattern",
    [
        "train.tar",
        "train-%s.tar",
        "train-%x.tar",
        "train-%6d.tar",
        "train-%-6d.tar",
        "train-%+d.tar",
        "train-%.3d.tar",
        "train-%(shard)d.tar",
        "train-%06d-%06d.tar",
        "train-%06d-%%.tar",
        "%06d/train.tar",
        "%02d/train-%06d.tar",
        "50%/train-%06d.tar",
        "a%20b/train-%06d.tar",
        "train-{000000..000009}.tar",
        "train-",
        "",
    ],
)
def test_a_pattern_needs_one_place_for_the_number(pattern):
    with pytest.raises(PlanError, match="one place for the shard's number") as raised:
        read_settings(pattern, None, {})
    assert raised.value.url == pattern


@pytest.mark.parametrize("pattern", ["-", "pipe:cat > %06d.tar"])
def test_shards_do_not_go_into_a_stream(pattern):
    with pytest.raises(PlanError, match="is a stream"):
        read_settings(pattern, None, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_count": 10}, "option 'max_count': there is none .*maxcount"),
        ({"order": "random"}, "order 'random': use keep, shuffle or sort"),
        ({"maxcount": 0}, "maxcount 0: use at least 1"),
        ({"maxcount": -3}, "maxcount -3: use at least 1"),
        ({"maxcount": 2.5}, "maxcount 2.5: use a whole number"),
        ({"maxcount": "many"}, "maxcount 'many': use a whole number"),
        ({"maxsize": 10_239}, "maxsize 10239: use at least 10240"),
        ({"maxsize": 0}, "maxsize 0: use at least 10240"),
        ({"maxsize": "10kB"}, "maxsize 10000: use at least 10240"),
        ({"maxsize": "1 gigabyte"}, "maxsize '1 gigabyte': use a number of bytes"),
        ({"maxsize": "-1GB"}, "maxsize '-1GB': use a number of bytes"),
        ({"maxsize": float("inf")}, "maxsize inf: use a number of bytes"),
        ({"maxsize": float("nan")}, "maxsize nan: use a number of bytes"),
        ({"maxsize": [1]}, r"maxsize \[1\]: use a number of bytes"),
        ({"maxsize": "2TB"}, "maxsize 2000000000000: use at most 1000000000000"),
        ({"memory": 1 << 19}, "memory 524288: use at least 1048576"),
        ({"max_errors": -1}, "max_errors -1: use at least 0"),
        ({"max_errors": 0.1}, "max_errors 0.1: use a whole number"),
        ({"seed": "7"}, "seed '7': use a whole number"),
        ({"seed": 0.5}, "seed 0.5: use a whole number"),
        ({"method": "groupby"}, "method 'groupby': use auto, stream, gather, spill"),
        ({"errors": "ignore"}, "errors 'ignore': use raise, skip, quarantine"),
        ({"key_rule": "dot"}, "key_rule 'dot': use first-dot, last-dot"),
        ({"label_from": "name"}, "label_from 'name': use folder"),
        ({"method": "stream", "maxcount": 3}, "method 'stream': .*gather or spill"),
        ({"method": "stream", "maxsize": "1GB"}, "method 'stream': .*gather or spill"),
        (
            {"method": "stream", "order": "shuffle"},
            "method 'stream': .*gather or spill",
        ),
        ({"method": "stream", "order": "sort:cls"}, "method 'stream': .*gather or"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(options, message):
    with pytest.raises(PlanError, match=message):
        settings_of(**options)


def test_a_job_is_not_gathered():
    with pytest.raises(PlanError, match="moves samples unchanged: use spill"):
        settings_of(shrink, method="gather")
    # A job that leaves samples as they are is no transform.
    copy = Job("copy.py", "transform = None")
    assert settings_of(copy, method="gather").transform is None
    resize = Job("resize.py", "def transform(sample): return sample")
    assert settings_of(resize, method="spill").transform is resize


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({}, Limits(None, 10**9 // 10240 * 10240 - 1024)),
        ({"maxcount": 10}, Limits(10, None)),
        ({"maxcount": np.int64(10)}, Limits(10, None)),
        ({"maxsize": 10_240}, Limits(None, 9216)),
        ({"maxsize": 20_479.9}, Limits(None, 9216)),
        ({"maxsize": "1MB"}, Limits(None, 1_000_000 // 10240 * 10240 - 1024)),
        ({"maxsize": 2e6, "maxcount": 3}, Limits(3, 1_995_776)),
    ],
)
def test_limits_of_a_shard(options, limits):
    settings = settings_of(**options)
    assert settings.limits == limits
    assert settings.is_sized == bool(options)
    json.dumps(settings.describe())


@given(st.integers(10_240, 10**12))
def test_the_largest_body_makes_a_shard_of_maxsize_at_most(maxsize):
    body = settings_of(maxsize=maxsize).limits.max_body_bytes
    assert body is not None
    assert shard_tar_bytes(body) <= maxsize < shard_tar_bytes(body + 512)


def test_memory_is_a_size():
    assert settings_of(memory="64MiB").memory == 64 << 20
    assert settings_of(memory=2e6).memory == 2_000_000


def test_settings_say_what_decides_the_bytes_and_nothing_else():
    base = settings_of()
    neutrals: list[dict[str, Any]] = [
        {"method": "spill"},
        {"errors": "skip"},
        {"max_errors": 3},
        {"memory": 1 << 30},
        {"overwrite": True},
        {"scheduler": "sync"},
        {"workers": 2},
        {"seed": 7},
        {"storage_options": {"anon": True}},
    ]
    for neutral in neutrals:
        assert settings_of(**neutral).describe() == base.describe()
    different: list[dict[str, Any]] = [
        {},
        {"order": "shuffle"},
        {"order": "shuffle", "seed": 7},
        {"order": "sort:cls"},
        {"order": "sort:cls:text"},
        {"maxcount": 3},
        {"maxsize": "1GB"},
        {"rekey": True},
        {"label_from": "folder"},
        {"key_rule": "last-dot"},
        {"transform": shrink},
    ]
    described = {json.dumps(settings_of(**options).describe()) for options in different}
    assert len(described) == len(different)


def test_settings_travel_to_workers_and_are_keys_of_caches():
    options = {"storage_options": {"client_kwargs": {"endpoint_url": "http://a"}}}
    settings = settings_of(Job("a.py", "def transform(s): return s"), **options)
    again = pickle.loads(pickle.dumps(settings))  # noqa: S301 - our own
    assert again == settings
    assert hash(again) == hash(settings)
    with pytest.raises(FrozenInstanceError):
        settings.memory = 1  # type: ignore[misc]


def test_progress_travels():
    progress = Progress("map", 10, 3, 10**9, 10**8)
    assert pickle.loads(pickle.dumps(progress)) == progress  # noqa: S301 - our own
    assert (progress.num_samples, progress.num_errors) == (0, 0)
