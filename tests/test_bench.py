"""The bench measures what it says, and finds those who do not do the work."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shardbuild.bench import decoding, peers
from shardbuild.bench.alone import Soloist
from shardbuild.bench.catalog import WORKLOADS
from shardbuild.bench.datasets import (
    DIALECTS,
    make_photo_samples,
    make_small_samples,
    renamed,
    write_compressed,
    write_tar,
)
from shardbuild.bench.memory import run_watched
from shardbuild.bench.results import as_records, as_table
from shardbuild.bench.session import kept_bytecode, run_workload, scratch_folder
from shardbuild.bench.shaped_server import Shape, shaped_server
from shardbuild.bench.shards import TotalSize, measure_shards
from shardbuild.bench.targets import TARGETS, Target, judge
from shardbuild.bench.timing import Contestant, Lap, Timing, measure
from shardbuild.bench.workloads import (
    Scene,
    check_any_order,
    check_file,
    check_samples,
)
from shardbuild.cli import bench
from shardbuild.cli.main import main
from shardbuild.errors import MissingExtraError, SampleError, ShardbuildError
from shardbuild.shards.writer import write_shard


@pytest.fixture(scope="module")
def bytecode(tmp_path_factory):
    with kept_bytecode(tmp_path_factory.mktemp("bytecode")):
        yield


@pytest.fixture
def scene(tmp_path, bytecode):
    return Scene(tmp_path, num_samples=40, num_photos=20, num_workers=2)


# webdataset and wids leave the files that they read to the garbage collector.
leaking_peers = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


# Rounds


def test_contestants_take_turns_there_and_back_again():
    ran: list[str] = []
    pair = [Contestant(name, functools.partial(ran.append, name)) for name in "ab"]
    measure([("ours", each) for each in pair], 3, warm_up=False)
    assert "".join(ran) == "abbaab"


def test_a_warm_up_is_not_timed():
    ran = []
    one = Contestant("one", run=lambda: ran.append(1))
    [timing] = measure([("ours", one)], 2, warm_up=True)
    assert len(ran) == 3
    assert len(timing.wall) == len(timing.cpu) == 2


@pytest.mark.parametrize("warm_up", [True, False])
def test_work_is_checked_once_and_reset_before_every_run(warm_up):
    happened = []
    one = Contestant(
        "one",
        run=lambda: happened.append("run"),
        check=lambda: happened.append("check"),
        reset=lambda: happened.append("reset"),
    )
    measure([("ours", one)], 2, warm_up=warm_up)
    checked = ["reset", "run", "check", "reset"]
    unchecked = ["reset", "run", "reset"]
    assert happened == checked + unchecked * (1 + warm_up)


def test_wrong_work_ends_the_bench():
    def check():
        raise ShardbuildError("a.tar", "is wrong")

    with pytest.raises(ShardbuildError, match="is wrong"):
        measure([("ours", Contestant("one", lambda: None, check))], 1, warm_up=True)


def test_peak_memory_is_kept_where_it_is_known():
    known = Contestant("known", run=lambda: 5)
    unknown = Contestant("unknown", run=lambda: None)
    timings = measure([("ours", known), ("peer", unknown)], 2, warm_up=False)
    assert [timing.peak_bytes for timing in timings] == [(5, 5), ()]


def test_who_is_quick_runs_for_as_long_as_is_asked_and_the_mean_counts():
    slow = iter([Lap(3.0, 2.0, 5)] * 2)
    quick = iter([Lap(0.4, 0.1, 7), Lap(0.2, 0.3, 9), Lap(0.6, 0.2, 8)] * 2)
    happened: list[str] = []
    timings = measure(
        [
            ("ours", Contestant("slow", lambda: next(slow))),
            (
                "peer",
                Contestant(
                    "quick",
                    lambda: next(quick),
                    reset=lambda: happened.append("reset"),
                    check=lambda: happened.append("check"),
                ),
            ),
        ],
        2,
        warm_up=False,
        least_seconds=1.0,
    )
    assert not list(slow) + list(quick)
    assert [timing.wall for timing in timings] == [
        (3.0, 3.0),
        pytest.approx((0.4, 0.4)),
    ]
    assert timings[1].cpu == pytest.approx((0.2, 0.2))
    assert [timing.peak_bytes for timing in timings] == [(5, 5), (9, 9)]
    assert happened == [*["reset"] * 3, "check", *["reset"] * 5]


# Data


def test_the_same_seed_makes_the_same_samples():
    assert make_small_samples(3, seed=1) == make_small_samples(3, seed=1)
    assert make_small_samples(3, seed=1) != make_small_samples(3, seed=2)
    photos = make_photo_samples(3, seed=1, num_distinct=2)
    assert len({photo["jpg"] for photo in photos}) == 3


def test_small_samples_have_the_sizes_that_targets_are_about():
    for sample in make_small_samples(50, seed=0):
        assert len(sample["bin"]) == 3000
        assert len(sample["cls"]) == 20
        assert 180 <= len(sample["json"]) <= 200


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_is_read_back_by_tarfile(name, tmp_path):
    samples = make_small_samples(5, seed=0)
    write_tar(tmp_path / "a.tar", samples, DIALECTS[name])
    got = peers.read_by_tarfile([str(tmp_path / "a.tar")], "r:")
    check_samples(name, got, renamed(samples, DIALECTS[name]))


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("ustar", b"0"),
        ("pax-mtime", b"x0"),
        ("long-ustar", b"0"),
        ("long-gnu", b"L0"),
        ("long-pax", b"x0"),
        ("foreign-pax", b"x0"),
    ],
)
def test_a_dialect_has_the_headers_it_stands_for(name, types, tmp_path):
    write_tar(tmp_path / "a.tar", make_small_samples(1, seed=0), DIALECTS[name])
    with (tmp_path / "a.tar").open("rb") as stream:
        found = b""
        while (block := stream.read(512))[:1] != b"\0":
            found += block[156:157]
            size = int(block[124:135], 8)
            stream.seek(-(-size // 512) * 512, 1)
    assert found == types * 3


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressing_makes_the_same_bytes_every_time(suffix, tmp_path):
    write_tar(tmp_path / "a.tar", make_small_samples(3, seed=0))
    made = []
    for name in ("b", "c"):
        write_compressed(tmp_path / "a.tar", tmp_path / f"{name}.tar{suffix}")
        made.append((tmp_path / f"{name}.tar{suffix}").read_bytes())
    assert made[0] == made[1]


def test_data_is_made_once(scene):
    path = scene.shard("small")
    made = path.stat().st_mtime_ns
    assert scene.shard("small").stat().st_mtime_ns == made
    assert scene.samples("small") is scene.samples("small")
    assert scene.shards("small", 4) == scene.shards("small", 4)


def test_shards_of_one_number_are_not_those_of_another(scene):
    for num_shards in (4, 8):
        urls = [str(path) for path in scene.shards("small", num_shards)]
        assert len(urls) == num_shards
        check_samples("all", peers.read_by_tarfile(urls, "r:"), scene.small)


# Checks


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda samples: samples[:-1], "is missing"),
        (lambda samples: [*samples, samples[0]], "differs"),
        (lambda samples: [samples[1], samples[0], *samples[2:]], "differs"),
        (lambda samples: [{**samples[0], "cls": b"9"}, *samples[1:]], "differs"),
        (lambda samples: [{**samples[0], "txt": b""}, *samples[1:]], "differs"),
    ],
    ids=["missing", "surplus", "swapped", "changed", "extra-field"],
)
def test_a_contestant_that_reads_something_else_is_found(spoil, problem):
    samples = make_small_samples(4, seed=0)
    check_samples("a.tar", samples, samples)
    with pytest.raises(SampleError, match=problem):
        check_samples("a.tar", spoil(samples), samples)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda samples: samples[:-1], "is missing"),
        (lambda samples: [*samples, samples[0]], "differs"),
        (lambda samples: [*samples[1:], samples[1]], "differs"),
        (lambda samples: [{**samples[0], "cls": b"9"}, *samples[1:]], "differs"),
        (lambda samples: [{**samples[0], "__key__": "x"}, *samples[1:]], "differs"),
    ],
    ids=["missing", "surplus", "twice", "changed", "renamed"],
)
def test_who_reads_something_else_in_another_order_is_found(spoil, problem):
    samples = make_small_samples(4, seed=0)
    check_any_order("a.tar", samples[::-1], samples)
    with pytest.raises(SampleError, match=problem):
        check_any_order("a.tar", spoil(samples), samples)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda samples: samples[:-1], "is missing"),
        (lambda samples: [*samples, samples[0]], "comes twice"),
        (lambda samples: samples[::-1], "differs"),
        (lambda samples: [{**samples[0], "cls": 9}, *samples[1:]], "differs"),
        (lambda samples: [_darkened(samples[0]), *samples[1:]], "differs"),
    ],
    ids=["missing", "surplus", "swapped", "label", "pixel"],
)
def test_who_decodes_something_else_is_found(spoil, problem):
    photos = make_photo_samples(3, seed=0)
    decoded = [decoding.decode_bare(photo) for photo in photos]
    decoding.check_decoded("a.tar", decoded, photos)
    with pytest.raises(SampleError, match=problem):
        decoding.check_decoded("a.tar", spoil(decoded), photos)


def _darkened(sample: dict[str, Any]) -> dict[str, Any]:
    pixels = sample["jpg"].copy()
    pixels[-1, -1, -1] ^= 1
    return {**sample, "jpg": pixels}


def test_a_contestant_that_writes_other_bytes_is_found(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    check_file(tmp_path / "a", tmp_path / "a")
    with pytest.raises(ShardbuildError, match="not the same bytes"):
        check_file(tmp_path / "a", tmp_path / "b")


def test_a_missing_peer_names_the_extra_that_brings_it():
    with pytest.raises(MissingExtraError, match=r"shardbuild\[bench\]") as raised:
        peers.load_peer("a_peer_that_nobody_has.module")
    assert raised.value.package == "a_peer_that_nobody_has"


# Targets


def _timing(name: str, *wall: float, peak: tuple[int, ...] = ()) -> Timing:
    return Timing(name, "ours", wall, tuple(2 * each for each in wall), peak)


@pytest.fixture
def targets(monkeypatch):
    def use(*made):
        monkeypatch.setattr("shardbuild.bench.targets.TARGETS", made)

    return use


def test_a_target_is_met_by_the_median_of_paired_ratios(targets):
    targets(Target("w", 3, ("other",)))
    # The medians of the times alone would give 4 / 2; the rounds give 3, 3, 1.
    timings = [_timing("shardbuild", 1, 2, 4), _timing("other", 3, 6, 4)]
    [verdict] = judge("w", timings)
    assert verdict.measured.median == 3
    assert verdict.is_met


@pytest.mark.parametrize(("bound", "is_met"), [(2, True), (2.1, False)])
def test_a_target_against_several_is_against_the_best_of_each_round(
    bound, is_met, targets
):
    targets(Target("w", bound, ("a", "b")))
    timings = [_timing("shardbuild", 1, 1), _timing("a", 2, 9), _timing("b", 9, 2)]
    [verdict] = judge("w", timings)
    assert verdict.measured.median == 2
    assert verdict.is_met is is_met


@pytest.mark.parametrize("measured", ["wall", "cpu"])
@pytest.mark.parametrize(("bound", "is_met"), [(1.5, True), (1.4, False)])
def test_a_target_on_a_cost_is_an_upper_bound(measured, bound, is_met, targets):
    targets(Target("w", bound, ("other",), measured))
    [verdict] = judge("w", [_timing("shardbuild", 3), _timing("other", 2)])
    assert verdict.measured.median == 1.5
    assert verdict.is_met is is_met


def test_a_target_on_memory_is_an_upper_bound(targets):
    targets(Target("w", 7, (), "bytes"), Target("w", 1.5, ("other",), "memory"))
    timings = [_timing("shardbuild", 1, peak=(8,)), _timing("other", 1, peak=(4,))]
    assert [verdict.is_met for verdict in judge("w", timings)] == [False, False]
    assert [verdict.measured.median for verdict in judge("w", timings)] == [8, 2]


@pytest.mark.parametrize(("bound", "is_met"), [(3.0, True), (2.9, False)])
def test_a_target_on_seconds_is_an_upper_bound(bound, is_met, targets):
    targets(Target("w", bound, (), "seconds"))
    [verdict] = judge("w", [_timing("shardbuild", 1, 3, 9)])
    assert verdict.measured.median == 3
    assert verdict.is_met is is_met


def test_a_target_whose_peers_did_not_run_is_not_judged(targets):
    targets(Target("w", 3, ("other",)), Target("v", 3, ("other",)))
    assert judge("w", [_timing("shardbuild", 1)]) == []


def test_each_target_is_of_a_workload():
    assert {target.workload for target in TARGETS} <= set(WORKLOADS)


# Workloads


@leaking_peers
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_runs_with_its_peers_and_judges_all_its_targets(name, scene):
    result = run_workload(WORKLOADS[name], scene, 1, with_peers=True)
    wanted = [target for target in TARGETS if target.workload == name]
    assert [verdict.target for verdict in result.verdicts] == wanted
    assert {timing.role for timing in result.timings} >= {"baseline", "ours"}
    table = as_table(result)
    for timing in result.timings:
        assert timing.name in table
    records = [json.loads(json.dumps(record)) for record in as_records(result)]
    kinds = [record["kind"] for record in records]
    assert kinds.count("timing") == len(result.timings)
    assert kinds.count("target") == len(wanted)
    assert all(record["workload"] == name for record in records)


def _soloist(scene: Scene) -> Soloist:
    workload = WORKLOADS["read-small"]
    workload.prepare(scene)
    scene.save("small")
    return Soloist("read-small", "ours", 0, scene)


def test_a_soloist_runs_in_a_process_of_its_own_as_often_as_it_is_asked(scene):
    with closing(_soloist(scene)) as soloist:
        laps = [soloist.lap() for _ in range(3)]
    assert all(lap.wall > 0 for lap in laps)
    assert all(lap.peak_bytes is None for lap in laps)


def test_what_a_soloist_cannot_do_is_an_error(scene):
    with closing(_soloist(scene)) as soloist:
        soloist.lap()
        for path in scene.folder.glob("*.tar"):
            path.unlink()
        with pytest.raises(ShardbuildError, match=r"\.tar: no such file"):
            soloist.lap()


def test_a_soloist_that_dies_is_an_error_and_not_waited_for(scene):
    soloist = _soloist(scene)
    with closing(soloist):
        soloist.lap()
        soloist._process.kill()
        with pytest.raises(ShardbuildError, match="ended with status -9"):
            soloist.lap()


def test_other_processes_load_the_samples_that_were_saved(scene):
    scene.save("small")
    again = Scene(scene.folder, scene.num_samples, scene.num_photos, seed=99)
    assert again.small == scene.small


def test_a_workload_that_needs_torch_says_so():
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # as where it is not installed
        "from shardbuild.cli.main import main\n"
        "sys.exit(main(['bench', 'loader-small', '--samples', '20']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "shardbuild[torch]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_says_which_floors_were_missed(scene, targets):
    targets(
        Target("read-small", 1e9, ("readinto",)),
        Target("read-small", 1e-9, ("readinto",)),
        Target("read-small", 1, (), "bytes"),
    )
    result = run_workload(WORKLOADS["read-small"], scene, 1, with_peers=False)
    assert [verdict.is_met for verdict in result.verdicts[:2]] == [False, True]
    assert as_table(result).count("NOT MET") == 1


# The far object server


@pytest.fixture
def far_object(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 4096)
    with shaped_server(tmp_path, Shape(0.001, 1e9)) as url:
        yield f"{url}/bucket/a.bin"


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [("0-0", 0, 1), ("5-300000", 5, 300001), ("1048570-", 1048570, 1048576)],
)
def test_the_server_gives_ranges(wanted, start, stop, far_object):
    request = urllib.request.Request(far_object, headers={"Range": f"bytes={wanted}"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/1048576"
        assert answer.read() == (bytes(range(256)) * 4096)[start:stop]


def test_the_server_gives_a_whole_object_and_its_size(far_object):
    with urllib.request.urlopen(far_object) as answer:
        assert answer.read() == bytes(range(256)) * 4096
    head = urllib.request.Request(far_object, method="HEAD")
    with urllib.request.urlopen(head) as answer:
        assert answer.headers["Content-Length"] == "1048576"
        assert answer.read() == b""


@pytest.mark.parametrize(
    ("suffix", "headers", "status"),
    [("x", {}, 404), ("", {"Range": "bytes=1048576-"}, 416)],
)
def test_the_server_refuses_what_is_not_there(suffix, headers, status, far_object):
    request = urllib.request.Request(far_object + suffix, headers=headers)
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request)
    with raised.value:
        assert raised.value.code == status


# Memory


def test_memory_of_a_process_and_its_children_is_seen():
    grandchild = "b = bytearray(64 << 20); input()"
    child = (
        "import subprocess, sys\n"
        f"c = subprocess.Popen([sys.executable, '-c', {grandchild!r}],\n"
        "                     stdin=subprocess.PIPE)\n"
        "b = bytearray(32 << 20)\n"
        "import threading; threading.Event().wait(0.5)\n"
        "c.communicate(b'\\n')\n"
    )
    peak = run_watched([sys.executable, "-c", child])
    assert peak is not None
    assert peak > 96 << 20


def test_a_watched_command_that_fails_is_an_error():
    with pytest.raises(ShardbuildError, match="told why"):
        run_watched([sys.executable, "-c", "raise SystemExit('told why')"])


# The command


TINY = ["--rounds", "1", "--samples", "20", "--photos", "4"]


def _bench(*arguments: str) -> int:
    return bench.run(bench.parse(arguments))


def test_the_command_prints_a_table(capsys, tmp_path):
    assert _bench("read-small", "index-img", *TINY, "--folder", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "read-small: " in out
    assert "index-img: " in out
    assert "readinto" in out
    assert "webdataset " not in out.partition("\n")[2]
    assert list(tmp_path.iterdir()) == []


@leaking_peers
def test_the_command_prints_json_lines(capsys):
    assert _bench("write-small", *TINY, "--json", "--peers") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["kind"] == "machine"
    names = {line["contestant"] for line in lines[1:] if line["kind"] == "timing"}
    assert {"raw write", "shardbuild", "webdataset mtime=0", "tarfile"} <= names
    targets = [line for line in lines if line["kind"] == "target"]
    assert [line["bound"] for line in targets] == [14, 10]


def test_strict_tells_a_missed_floor_by_its_status(capsys, targets):
    targets(Target("read-small", 1e9, ("readinto",)))
    assert _bench("read-small", *TINY) == 0
    assert _bench("read-small", *TINY, "--strict") == 1
    assert "NOT MET" in capsys.readouterr().out


def test_full_takes_the_sizes_that_the_floors_are_about(capsys, monkeypatch):
    row = replace(WORKLOADS["read-small"], full_size=30)
    monkeypatch.setattr(bench, "WORKLOADS", {"read-small": row})
    assert _bench(*TINY, "--json") == 0
    assert _bench(*TINY, "--json", "--full") == 0
    assert _bench(*TINY) == 0
    *lines, hint = capsys.readouterr().out.splitlines()
    timings = [json.loads(line) for line in lines if '"timing"' in line]
    sizes = {(timing["num_samples"], timing["is_full"]) for timing in timings}
    assert sizes == {(20, False), (30, True)}
    assert hint.endswith("--full")


def test_a_bench_that_is_told_to_stop_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-m", "shardbuild", "bench", "read-small", "convert"]
    sizes = ["--samples", "20", "--photos", "2000", "--rounds", "9", "--json"]
    with subprocess.Popen(
        [*command, *sizes, "--folder", str(tmp_path)], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        while b"timing" not in child.stdout.readline():
            pass
        assert list(tmp_path.iterdir())
        child.terminate()
    assert child.returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_workload_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as raised:
        bench.parse(["read-everything"])
    assert raised.value.code == 2
    assert "read-small" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [True, False])
def test_a_workload_whose_package_is_missing_is_told_not_hidden(
    as_json, capsys, monkeypatch
):
    def missing(scene):
        raise MissingExtraError("shardbuild bench", "s3fs", "s3")

    far = replace(WORKLOADS["stream-s3"], prepare=missing)
    monkeypatch.setattr(bench, "WORKLOADS", {"stream-s3": far})
    assert _bench(*TINY, *["--json"] * as_json) == 0
    out = capsys.readouterr().out
    assert "not run" in out
    assert "shardbuild[s3]" in out
    with pytest.raises(MissingExtraError):
        _bench("stream-s3", *TINY)


def test_the_scratch_folder_goes_where_it_is_told_and_away(tmp_path):
    with scratch_folder(str(tmp_path)) as folder:
        assert Path(folder).parent == tmp_path
        (Path(folder) / "a.tar").touch()
    assert list(tmp_path.iterdir()) == []


def test_tarfile_itself_writes_the_reference(tmp_path):
    write_tar(tmp_path / "a.tar", make_small_samples(2, seed=0))
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    assert {(each.uname, each.mode, each.mtime) for each in members} == {
        ("bigdata", 0o444, 0)
    }
    assert (tmp_path / "a.tar").stat().st_size % 10240 == 0


# --- shards ------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path):
    """Two shards: the second has other fields, and a key of the first."""
    first, second = f"{tmp_path}/a-0.tar", f"{tmp_path}/a-1.tar"
    write_shard(
        first, [{"__key__": f"{i}", "cls": i, "txt": "x" * i} for i in range(9)]
    )
    write_shard(second, [{"__key__": "3", "cls": 3}, {"__key__": "q", "txt": "q"}])
    return f"{tmp_path}/a-{{0..1}}.tar"


def test_shards_are_measured_and_their_fields_counted(shards):
    first, second = measure_shards(shards, max_samples=5)
    assert (first.num_samples, first.num_bytes) == (5, 5 + 0 + 1 + 2 + 3 + 4)
    assert first.fields == ((("cls", "txt"), 5),)
    assert second.fields == ((("cls",), 1), (("txt",), 1))
    assert (first.num_duplicates, second.num_duplicates) == (0, 1)
    assert first.samples_per_second * first.seconds == pytest.approx(5)
    assert first.bytes_per_second * first.seconds == pytest.approx(15)


def test_total_size_counts_what_passes():
    total = TotalSize()
    samples: list[dict[str, Any]] = [
        {"__key__": "a", "jpg": b"123", "n": 4},
        {"__key__": "b", "x": b"1"},
    ]
    assert list(map(total, samples)) == samples
    assert (total.total, total.count) == (4, 2)


def test_the_seeds_bench_prints_what_it_printed(shards):
    command = [sys.executable, "-m", "shardbuild.bench"]
    done = subprocess.run(
        [*command, "-c", "5", "-d", "rgb8", shards],
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.split("=== ")[1:]
    assert re.search(r"^#samples/sec: +[0-9]+\.[0-9]{2}$", first, re.MULTILINE)
    assert re.search(r"^#bytes/sec: {3} +[0-9]+\.[0-9]{2}$", first, re.MULTILINE)
    assert "sample keys:\n    ('cls', 'txt'): 5\n" in first
    assert "comes again: 1" in second
    missing = subprocess.run(
        [*command, f"{shards}.gone"], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 1
    assert missing.stderr.startswith("shardbuild.bench: ")
    assert "Traceback" not in missing.stderr


def test_the_command_measures_shards_too(shards, capsys):
    assert main(["bench", shards, "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["num_samples"] for record in records] == [9, 2]
    assert records[0]["fields"] == [[["cls", "txt"], 9]]
    assert main(["bench", shards.replace(".tar", ".gone")]) == 1
