"""Bad samples are kept as they were, whatever is wrong with them."""

from __future__ import annotations

import json

import pytest

from shardbuild.build.quarantine import Quarantine, quarantine_url
from shardbuild.build.settings import read_settings
from shardbuild.errors import SampleError, TransformError
from shardbuild.shards.reader import read_samples


@pytest.fixture
def settings(tmp_path):
    return read_settings(f"{tmp_path}/out/train-%06d.tar", None, {})


def put_away(settings, samples, error=None):
    """Samples put into quarantine, read back: (sample, what is said of it)."""
    error = error or SampleError("in/0.tar", "is bad", "a")
    quarantine = Quarantine(settings, "input-000000")
    for position, sample in enumerate(samples):
        quarantine.add(position, sample, "in/0.tar", error)
    assert quarantine.num_samples == len(samples)
    quarantine.close()
    found = []
    for sample in read_samples(quarantine_url(settings, "input-000000")):
        about = json.loads(sample.pop("quarantine.json"))
        found.append((sample, about))
    return found


def test_a_bad_sample_is_kept_as_it_was_with_what_was_wrong(settings):
    error = TransformError("in/0.tar", "the job raised ValueError: no size", "a")
    try:
        int("no size")
    except ValueError as cause:
        error.__cause__ = cause
    sample = {"__key__": "a", "jpg": b"\xff\xd8", "txt": b"text"}
    ((kept, about),) = put_away(settings, [sample], error)
    assert kept == sample
    trace = about.pop("traceback")
    assert about == {
        "key": "a",
        "position": 0,
        "problem": "the job raised ValueError: no size",
        "reason": "ValueError",
        "url": "in/0.tar",
    }
    assert "test_quarantine.py" in trace
    assert 'int("no size")' in trace


@pytest.mark.parametrize("key", ["a.b", "", "/a", "a/../b", "__x__/a", "a\0"])
def test_a_key_that_no_shard_may_hold_becomes_another(settings, key):
    good = {"__key__": "good", "txt": b"1"}
    bad = {"__key__": key, "txt": b"2"}
    (_, first), (kept, second) = put_away(settings, [good, bad])
    assert first["key"] == "good"
    assert kept["txt"] == b"2"
    assert second["key"] == key


def test_a_key_may_come_often(settings):
    # A job that makes several bad samples of one puts the one away for each.
    quarantine = Quarantine(settings, "input-000000")
    error = SampleError("in/0.tar", "is bad", "a")
    for _ in range(4):
        quarantine.add(7, {"__key__": "a", "txt": b"text"}, "in/0.tar", error)
    quarantine.close()
    samples = list(read_samples(quarantine_url(settings, "input-000000")))
    assert [sample["txt"] for sample in samples] == [b"text"] * 4
    assert {json.loads(s["quarantine.json"])["key"] for s in samples} == {"a"}


def test_fields_that_no_shard_may_hold_are_told_by_their_type(settings):
    sample = {"__key__": "a", "txt": "text", "obj": object(), "cls": 7.5}
    ((kept, about),) = put_away(settings, [sample])
    assert kept == {"__key__": "a", "txt": b"text"}
    assert about["not_kept"] == {"obj": "object", "cls": "float"}


def test_names_that_no_shard_may_hold_are_told_by_their_type(settings):
    sample = {"__key__": "a", "txt": b"1", "TXT": b"2", "": b"3"}
    ((kept, about),) = put_away(settings, [sample])
    assert kept["__key__"] == "sample-000000000-0"
    assert about["key"] == "a"
    assert about["not_kept"] == {"": "bytes", "TXT": "bytes", "txt": "bytes"}


def test_without_bad_samples_there_is_no_shard(settings, tmp_path):
    quarantine = Quarantine(settings, "input-000000")
    quarantine.close()
    quarantine.discard()
    assert not (tmp_path / "out").exists()


def test_what_is_discarded_leaves_nothing(settings, tmp_path):
    quarantine = Quarantine(settings, "input-000000")
    error = SampleError("in/0.tar", "is bad", "a")
    quarantine.add(0, {"__key__": "a", "txt": b""}, "in/0.tar", error)
    quarantine.discard()
    quarantine.close()
    assert list((tmp_path / "out").iterdir()) == []
