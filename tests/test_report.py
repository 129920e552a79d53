"""What a run says of itself: counts that add up, a document, a summary."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import FrozenInstanceError, fields, replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.build.report import (
    Loss,
    PhaseReport,
    Report,
    Tally,
    add_tallies,
    check_conservation,
    format_bytes,
    parse_bytes,
)
from shardbuild.errors import ManifestError, ShardbuildError

COUNTS = st.integers(0, 10**12)
WORDS = st.text(max_size=10)
LOSSES = st.builds(
    Loss, WORDS, WORDS, st.none() | st.integers(0, 2**60), st.none() | COUNTS
)
REASONS = st.dictionaries(WORDS, st.integers(1, 10**9), max_size=4)
TALLIES = st.builds(
    Tally,
    num_read=st.integers(-9, 10**9),
    num_made=COUNTS,
    num_written=COUNTS,
    num_dropped=COUNTS,
    num_quarantined=COUNTS,
    reasons=REASONS,
    losses=st.lists(LOSSES, max_size=3).map(tuple),
)
PHASES = st.builds(
    PhaseReport,
    name=WORDS,
    num_tasks=COUNTS,
    num_resumed=COUNTS,
    seconds=st.floats(0, 1e9),
    slowest_task_seconds=st.floats(0, 1e9),
    read_bytes=COUNTS,
    written_bytes=COUNTS,
    read_requests=COUNTS,
    write_requests=COUNTS,
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner),
    max_leaves=5,
)
REPORTS = st.builds(
    Report,
    num_read=COUNTS,
    num_made=COUNTS,
    num_written=COUNTS,
    num_dropped=COUNTS,
    num_quarantined=COUNTS,
    reasons=REASONS,
    losses=st.lists(LOSSES, max_size=3).map(tuple),
    num_shards=COUNTS,
    num_bytes=COUNTS,
    seconds=st.floats(0, 1e9),
    method=WORDS,
    order=WORDS,
    manifest=WORDS,
    quarantine=st.lists(WORDS, max_size=2).map(tuple),
    phases=st.lists(PHASES, max_size=2).map(tuple),
    identity=st.dictionaries(WORDS, PLAIN, max_size=3),
)

REPORT = Report(
    num_read=1000,
    num_made=20,
    num_written=1010,
    num_dropped=7,
    num_quarantined=3,
    reasons={"returned None": 7, "ValueError": 3},
    losses=(
        Loss("in/3.tar", "ends too early", 1024, None),
        Loss("in/4.tar", "no such file", None, 1500),
    ),
    num_shards=11,
    num_bytes=123_456_789,
    seconds=2.0,
    method="spill",
    order="shuffle",
    manifest="out/train.json",
    quarantine=("out/train.quarantine-input-000000.tar",),
    phases=(
        PhaseReport("map", 4, 1, 3.5, 1.25, 100, 200, 3, 4),
        PhaseReport("write", 11, 0, 2.5, 0.5, 1000, 2000, 30, 40),
    ),
    identity={"order": "shuffle", "inputs": [["in/3.tar", 10, "x"]]},
)


# --- tallies -------------------------------------------------------------------


@given(st.lists(TALLIES, max_size=5))
def test_tallies_add_up(tallies):
    total = add_tallies(tallies)
    for name in ("num_read", "num_made", "num_written", "num_dropped"):
        assert getattr(total, name) == sum(getattr(one, name) for one in tallies)
    assert total.num_quarantined == sum(one.num_quarantined for one in tallies)
    reasons: Counter[str] = Counter()
    for one in tallies:
        reasons.update(one.reasons)
    assert total.reasons == reasons
    assert list(total.reasons) == sorted(reasons)
    assert total.losses == tuple(loss for one in tallies for loss in one.losses)


@given(TALLIES)
def test_a_tally_travels_as_json(tally):
    assert Tally.from_json(json.loads(json.dumps(tally.to_json()))) == tally
    assert pickle.loads(pickle.dumps(tally)) == tally  # noqa: S301 - our own


@given(TALLIES)
def test_conservation_is_checked(tally):
    gone = tally.num_written + tally.num_dropped + tally.num_quarantined
    assert tally.is_conserved == (tally.num_read + tally.num_made == gone)
    whole = replace(tally, num_read=gone - tally.num_made)
    check_conservation("out/train.json", whole)
    for name in ("num_read", "num_made", "num_written", "num_quarantined"):
        lost = replace(whole, **{name: getattr(whole, name) + 1})
        with pytest.raises(ShardbuildError, match="please report this") as raised:
            check_conservation("out/train.json", lost)
        assert raised.value.url == "out/train.json"
        assert f"{lost.num_read} samples read" in raised.value.problem


def test_what_a_job_drops_on_purpose_is_no_error():
    losses = (Loss("a", "b"), Loss("c", "d", num_samples=10))
    tally = Tally(reasons={"returned None": 100, "ValueError": 2, "KeyError": 1})
    assert tally.num_errors == 3
    assert replace(tally, losses=losses).num_errors == 5
    assert Tally().num_errors == 0


# --- the document --------------------------------------------------------------


@given(REPORTS)
def test_a_report_is_read_back_as_it_was(report):
    assert Report.from_bytes("a.report.json", report.to_bytes()) == report


def test_a_report_is_json_for_others():
    document = json.loads(REPORT.to_bytes())
    assert set(document) == {field.name for field in fields(Report)}
    gone = ("num_written", "num_dropped", "num_quarantined")
    assert document["num_read"] + document["num_made"] == sum(map(document.get, gone))
    assert document["losses"][0] == {
        "url": "in/3.tar",
        "problem": "ends too early",
        "offset": 1024,
        "num_samples": None,
    }
    assert REPORT.to_bytes().endswith(b"}\n")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"\xff\xfe",
        b'{"num_read": 3}',
        REPORT.to_bytes().replace(b'"num_made"', b'"made"'),
        REPORT.to_bytes().replace(b'"losses": [', b'"losses": [7, '),
        REPORT.to_bytes()[:-10],
    ],
    ids=[str(n) for n in range(10)],
)
def test_what_is_no_report_is_refused(data):
    with pytest.raises(ManifestError, match=r"a.json: is not a report"):
        Report.from_bytes("a.json", data)


def test_totals_are_those_of_the_phases():
    totals = REPORT.read_bytes, REPORT.written_bytes
    assert totals == (1100, 2200)
    assert (REPORT.read_requests, REPORT.write_requests) == (33, 44)


def test_a_report_is_a_value():
    assert pickle.loads(pickle.dumps(REPORT)) == REPORT  # noqa: S301 - our own
    with pytest.raises(FrozenInstanceError):
        REPORT.num_read = 1  # type: ignore[misc]


# --- the summary -----------------------------------------------------------------


def test_a_summary_for_people():
    assert REPORT.summary() == (
        "out/train.json: 1,010 samples in 11 shards, 123.46 MB\n"
        "  order shuffle, method spill, 2.0 s, 62 MB/s\n"
        "  1,000 read + 20 made = 1,010 written + 7 dropped + 3 quarantined\n"
        "    7 x returned None\n"
        "    3 x ValueError\n"
        "    lost ? samples of in/3.tar at byte 1024: ends too early\n"
        "    lost 1,500 samples of in/4.tar: no such file"
    )


def test_a_run_without_losses_is_three_lines():
    plain = replace(REPORT, num_made=0, reasons={}, losses=(), seconds=0.0)
    first, second, third = plain.summary().splitlines()
    assert first.startswith("out/train.json")
    assert second.endswith("0.0 s, 0 MB/s")
    assert third.startswith("  1,000 read = 1,010 written")


# --- sizes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_994, "999.99 kB"),
        (999_999, "1.00 MB"),
        (1_500_000, "1.50 MB"),
        (10**9, "1.00 GB"),
        (10**12, "1.00 TB"),
        (10**18, "1000.00 PB"),
    ],
)
def test_bytes_for_people(num_bytes, text):
    assert format_bytes(num_bytes) == text


@given(st.integers(1, 10**15))
def test_sizes_are_read_as_they_are_written(num_bytes):
    read = parse_bytes(format_bytes(num_bytes))
    assert abs(read - num_bytes) <= Decimal("0.005") * num_bytes


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("1", 1),
        ("10_000", 10_000),
        ("1e9", 10**9),
        ("1.5kB", 1500),
        ("1 KiB", 1024),
        (" 2gib ", 2 << 30),
        ("1TB", 10**12),
        ("0.5EiB", 1 << 59),
    ],
)
def test_sizes_as_people_write_them(text, num_bytes):
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize(
    "text", ["", "GB", "1G", "-1", "0", "0.5", "1.0001kB", "1 2", "1MBit", "٣", "nan"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match=r"size|whole number"):
        parse_bytes(text)
