"""The place that is written to: what may go on, what is refused, what is cleared."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardbuild.build.destination import Destination, make_identity
from shardbuild.build.plan import Source, plan_build
from shardbuild.build.quarantine import quarantine_url
from shardbuild.build.report import Report
from shardbuild.build.settings import read_settings
from shardbuild.errors import DestinationError
from shardbuild.shards.index import index_url
from shardbuild.shards.manifest import ShardFacts, make_manifest, save_manifest
from shardbuild.storage import exists, list_names, write_bytes
from shardbuild.storage.publish import temporary_name

if TYPE_CHECKING:
    from shardbuild.build.settings import BuildOptions

INPUTS = [Source(n, f"in/{n}.tar", 10**6, f"mtime{n}") for n in range(3)]


def destination_of(pattern, sources=INPUTS, transform=None, **options):
    chosen = cast("BuildOptions", {"maxcount": 10, **options})
    settings = read_settings(pattern, transform, chosen)
    return Destination(settings, make_identity(settings, plan_build(settings, sources)))


def publish(destination, num_shards=3, sources=INPUTS):
    """Leave what a finished run leaves."""
    settings = destination.settings
    for number in range(num_shards):
        write_bytes(settings.shard_url(number), b"shard")
        write_bytes(index_url(settings.shard_url(number)), b"index")
    facts = [ShardFacts(settings.shard_url(n), 10, 5) for n in range(num_shards)]
    report = Report(
        num_read=10 * num_shards,
        num_made=0,
        num_written=10 * num_shards,
        num_dropped=0,
        num_quarantined=0,
        reasons={},
        losses=(),
        num_shards=num_shards,
        num_bytes=5 * num_shards,
        seconds=1.0,
        method="gather",
        order="keep",
        manifest=settings.manifest,
        identity=destination.identity,
    )
    write_bytes(settings.report, report.to_bytes())
    save_manifest(make_manifest(facts, settings.manifest, {}), settings.manifest)
    return report


def names_in(folder):
    return {path.name for path in Path(folder).glob("*")}


@pytest.fixture
def pattern(tmp_path):
    return f"{tmp_path}/out/train-%06d.tar"


def test_an_empty_place_is_free(pattern, tmp_path):
    assert destination_of(pattern).find_report() is None
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert destination_of(pattern).find_report() is None
    assert names_in(tmp_path / "out") == {"notes.txt"}


def test_the_same_command_goes_on(pattern, tmp_path):
    destination_of(pattern).start()
    write_bytes(f"{tmp_path}/out/.train.build/commits/map-000000.json", b"{}")
    write_bytes(f"{tmp_path}/out/train-000000.tar", b"shard")
    assert destination_of(pattern).find_report() is None
    assert exists(f"{tmp_path}/out/.train.build/commits/map-000000.json")
    assert exists(f"{tmp_path}/out/train-000000.tar")


def test_what_does_not_decide_the_bytes_may_differ(pattern):
    destination_of(pattern).start()
    others: list[dict[str, Any]] = [
        {"workers": 2},
        {"scheduler": "sync"},
        {"max_errors": 3},
        {"seed": 7},
    ]
    for options in others:
        assert destination_of(pattern, **options).find_report() is None


def double(sample):
    return [sample, sample]


OTHERS = [
    ({"maxcount": 20}, "maxcount 10, not 20"),
    ({"maxsize": "1GB"}, "maxsize None, not 1000000000"),
    ({"order": "shuffle"}, "order 'keep', not 'shuffle'; seed None, not 0"),
    ({"order": "sort:cls"}, "order 'keep', not 'sort:cls:int'"),
    ({"errors": "skip"}, "errors 'raise', not 'skip'"),
    ({"method": "spill"}, "method 'gather', not 'spill'"),
    ({"memory": "1MiB"}, "memory 134217728, not 1048576"),
    ({"rekey": True}, "rekey False, not True"),
    ({"key_rule": "last-dot"}, "key_rule 'first-dot', not 'last-dot'"),
    ({"transform": double}, "job None, not {.*double"),
    ({"sources": INPUTS[:2]}, "3 other inputs"),
    ({"sources": [*INPUTS[:2], INPUTS[0]]}, "3 other inputs"),
    (
        {"sources": [*INPUTS[:2], Source(2, "in/2.tar", 10**6, "mtime9")]},
        "in/2.tar has changed since",
    ),
    (
        {"sources": [Source(n, f"in/{n}.tar", 10**6, "new") for n in range(3)]},
        "in/0.tar has changed since, and 2 more",
    ),
]


@pytest.mark.parametrize(("options", "difference"), OTHERS)
def test_another_command_is_refused_with_what_differs(pattern, options, difference):
    destination_of(pattern).start()
    other = destination_of(pattern, **options)
    with pytest.raises(DestinationError, match=difference) as raised:
        other.find_report()
    assert "an unfinished run of another command" in str(raised.value)
    assert "use --overwrite, or another place" in str(raised.value)
    assert raised.value.url == other.settings.manifest


SAME_BYTES = ({"memory": "1MiB"}, {"method": "spill"})


@pytest.mark.parametrize("options", SAME_BYTES)
def test_a_result_got_in_another_way_is_the_same_result(pattern, options):
    destination = destination_of(pattern)
    publish(destination)
    found = destination_of(pattern, **options).find_report()
    assert found is not None
    assert found.identity == destination.identity


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_overwrites_is_gone_on_with(pattern, tmp_path, overwrite):
    publish(destination_of(pattern, seed=1))
    stopped = destination_of(pattern, seed=2, overwrite=True)
    assert stopped.find_report() is None
    stopped.start()
    commit = f"{stopped.settings.state}/commits/write-000000.json"
    write_bytes(commit, b"{}")
    again = destination_of(pattern, seed=2, overwrite=overwrite)
    assert again.find_report() is None
    again.start()
    assert exists(commit)


def test_only_our_own_leftovers_are_swept(pattern, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    others = [temporary_name("train-val-000000.tar"), ".notes.tmp", "x.tmp"]
    ours = [temporary_name("train-000000.tar"), temporary_name("train.json")]
    for name in [*others, *ours]:
        (out / name).touch()
    destination_of(pattern).sweep()
    assert sorted(path.name for path in out.iterdir()) == sorted(others)


@pytest.mark.parametrize(
    ("options", "difference"), [o for o in OTHERS if o[0] not in SAME_BYTES]
)
def test_a_result_of_another_command_is_refused(pattern, options, difference):
    publish(destination_of(pattern))
    with pytest.raises(DestinationError, match=difference) as raised:
        destination_of(pattern, **options).find_report()
    assert "the result of another command" in str(raised.value)


@pytest.mark.parametrize("name", ["train_%06d.tar", "train-%04d.tar", "train-%06d.tgz"])
def test_other_names_of_shards_are_another_command(pattern, tmp_path, name):
    # They share a manifest, so that one would be taken for the other.
    publish(destination_of(pattern))
    other = destination_of(f"{tmp_path}/out/{name}")
    assert other.settings.manifest == destination_of(pattern).settings.manifest
    with pytest.raises(DestinationError, match=r"shards 'train-%06d.tar', not"):
        other.find_report()


def test_a_finished_run_is_found(pattern, tmp_path):
    report = publish(destination_of(pattern))
    before = names_in(tmp_path / "out")
    assert destination_of(pattern).find_report() == report
    assert names_in(tmp_path / "out") == before


def test_what_is_left_of_a_state_is_not_gone_on_with(pattern, tmp_path):
    # Killed while it removed its state, a run has left records and no identity.
    state = tmp_path / "out" / ".train.build"
    write_bytes(f"{state}/commits/write-000000.json", b"{}")
    assert destination_of(pattern).find_report() is None
    assert not state.exists()
    report = publish(destination_of(pattern))
    write_bytes(f"{state}/commits/write-000000.json", b"{}")
    assert destination_of(pattern).find_report() == report
    assert not state.exists()


@pytest.mark.parametrize("lacking", ["train.json", "train.report.json"])
def test_without_manifest_or_report_nothing_is_finished(pattern, tmp_path, lacking):
    publish(destination_of(pattern))
    (tmp_path / "out" / lacking).unlink()
    with pytest.raises(DestinationError, match=r"is there already, 7 files in all"):
        destination_of(pattern).find_report()


def test_a_manifest_of_others_is_not_written_over(pattern, tmp_path):
    write_bytes(f"{tmp_path}/out/train.json", b"{}")
    with pytest.raises(DestinationError, match="is there already") as raised:
        destination_of(pattern).find_report()
    assert raised.value.url == f"{tmp_path}/out/train.json"


def test_a_damaged_report_is_no_report(pattern, tmp_path):
    publish(destination_of(pattern))
    write_bytes(f"{tmp_path}/out/train.report.json", b"{}")
    with pytest.raises(DestinationError, match="is there already, 8 files"):
        destination_of(pattern).find_report()


def test_a_data_set_with_a_shard_missing_is_not_finished(pattern, tmp_path):
    publish(destination_of(pattern))
    (tmp_path / "out" / "train-000001.tar").unlink()
    with pytest.raises(DestinationError, match="1 shards of 3 in all") as raised:
        destination_of(pattern).find_report()
    assert raised.value.url == f"{tmp_path}/out/train-000001.tar"


OURS = [
    "train-000000.tar",
    "train-000000.tar.npz",
    "train-000012.tar",
    "train-1234567.tar",
    "train.json",
    "train.report.json",
    "train.quarantine-input-000003.tar",
    "train.quarantine-shard-000000.tar",
]
NOT_OURS = [
    "train-2-000000.tar",
    "train-val-000000.tar",
    "train-00000.tar",
    "train-7.tar",
    "train-0000007.tar",
    "train-000000.tar.gz",
    "train-000000.tar.bak",
    "train-000000.tar.npz.npz",
    "train-000000.tar.idx",
    "train-00000a.tar",
    "train-00000٣.tar",
    "train--00001.tar",
    "xtrain-000000.tar",
    "train_000000.tar",
    "Train-000000.tar",
    "train.json.bak",
    "train.json.npz",
    "train.jsonl",
    "train2.json",
    "train.report.json.old",
    "train.quarantine-notes.tar",
    "train.quarantine-input-3.tar",
    "val.json",
    "val-000000.tar",
    ".val.build",
    ".train-000000.tar",
    ".train.build.bak",
    "train-.tar",
    "train-%06d.tar",
]
NAMES = st.one_of(
    st.sampled_from(OURS + NOT_OURS),
    st.from_regex(r"\.?train[-_.]?[0-9]{0,8}\.?(tar|json)(\.npz)?", fullmatch=True),
)


def is_of_pattern(name):
    """Whether a run could have written it, by trying all it could have written."""
    numbers = {int(part) for part in name.replace(".", "-").split("-") if is_int(part)}
    shards = {f"train-{number:06d}.tar" for number in numbers}
    quarantine = {
        f"train.quarantine-{of}-{number:06d}.tar"
        for of in ("input", "shard")
        for number in numbers
    }
    indexes = {f"{name}.npz" for name in shards | quarantine}
    return name in shards | quarantine | indexes | {"train.json", "train.report.json"}


def is_int(text):
    return text.isascii() and text.isdigit()


@given(st.sets(NAMES, max_size=12))
@example(set(OURS + NOT_OURS))
def test_overwriting_clears_what_is_ours_and_nothing_else(names):
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            write_bytes(f"{folder}/{name}", b"data")
        (Path(folder) / "train").mkdir()
        write_bytes(f"{folder}/train/train-000000.tar", b"data")
        write_bytes(f"{folder}/.train.build/tables/map-000000", b"data")
        kept = {name for name in names if not is_of_pattern(name)}
        overwriting = destination_of(f"{folder}/train-%06d.tar", overwrite=True)
        assert overwriting.find_report() is None
        # Nothing that was published goes before the new run starts.
        assert names_in(folder) == names | {"train"}
        overwriting.start()
        assert names_in(folder) == kept | {"train", ".train.build"}
        assert names_in(f"{folder}/train") == {"train-000000.tar"}
        assert names_in(f"{folder}/.train.build") == {"identity.json"}
        # And what is left stands in nobody's way.
        assert destination_of(f"{folder}/train-%06d.tar").find_report() is None


@given(st.sets(NAMES, max_size=12))
def test_what_would_be_cleared_is_what_stands_in_the_way(names):
    ours = sorted(filter(is_of_pattern, names))
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            write_bytes(f"{folder}/{name}", b"data")
        destination = destination_of(f"{folder}/train-%06d.tar")
        if not ours:
            assert destination.find_report() is None
            return
        with pytest.raises(
            DestinationError, match=f"{len(ours)} files in all"
        ) as error:
            destination.find_report()
        assert error.value.url == f"{folder}/{ours[0]}"
        assert names_in(folder) == names


def test_names_that_a_run_gives_are_among_those_it_clears(pattern, tmp_path):
    destination = destination_of(pattern, overwrite=True)
    publish(destination)
    settings = destination.settings
    for name in ("input-000000", "shard-000000"):
        write_bytes(quarantine_url(settings, name), b"shard")
    destination.start()
    assert names_in(tmp_path / "out") == {".train.build"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("called", ["plain", "dotted", "linked", "file:"])
def test_an_input_is_never_written_over(tmp_path, monkeypatch, overwrite, called):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked").symlink_to("out")
    folder = {
        "plain": "out",
        "dotted": f"{tmp_path}/in/../out/",
        "linked": "linked",
        "file:": f"file://{tmp_path}/out",
    }[called]
    (tmp_path / "in").mkdir()
    write_bytes("out/train-000001.tar", b"precious")
    sources = [*INPUTS, Source(3, f"{folder}/train-000001.tar", 8, "")]
    destination = destination_of("out/train-%06d.tar", sources, overwrite=overwrite)
    with pytest.raises(DestinationError, match="is an input of this run") as raised:
        destination.find_report()
    assert "train-000001.tar" in raised.value.url
    assert Path("out/train-000001.tar").read_bytes() == b"precious"


def test_inputs_may_lie_beside_the_output(pattern, tmp_path):
    names = ["val-000000.tar", "train-1.tar", "train-000000.tar.gz"]
    sources = [Source(n, f"{tmp_path}/out/{one}", 8, "") for n, one in enumerate(names)]
    sources += [Source(3, "pipe:cat x", 0, ""), Source(4, "in/train-000000.tar", 8, "")]
    sources += [Source(5, "-", 0, "")]
    destination = destination_of(pattern, sources, method="spill", overwrite=True)
    assert destination.find_report() is None


def test_finishing_leaves_the_data_set_and_nothing_else(pattern, tmp_path):
    destination = destination_of(pattern)
    destination.start()
    publish(destination)
    for name in ("train-000000.tar", "train.json", "train.quarantine-input-000000.tar"):
        write_bytes(f"{tmp_path}/out/{temporary_name(name)}", b"half")
    destination.finish()
    assert names_in(tmp_path / "out") == {
        *(f"train-00000{n}.tar" for n in range(3)),
        *(f"train-00000{n}.tar.npz" for n in range(3)),
        "train.json",
        "train.report.json",
    }


def test_it_is_the_same_in_a_store(moto_bucket):
    options = moto_bucket.storage_options
    pattern = f"{moto_bucket.url}/out/train-%06d.tar"
    destination = destination_of(pattern, storage_options=options, overwrite=True)
    folder = f"{moto_bucket.url}/out"
    for name in [*OURS, "train-2-000000.tar", ".train.build/tables/map-000000"]:
        write_bytes(f"{folder}/{name}", b"data", storage_options=options)
    plain = destination_of(pattern, storage_options=options)
    with pytest.raises(DestinationError, match="is there already, 8 files"):
        plain.find_report()
    assert destination.find_report() is None
    destination.start()
    names = list_names(folder, storage_options=options)
    assert sorted(names) == [".train.build", "train-2-000000.tar"]
    assert plain.find_report() is None
    with pytest.raises(DestinationError, match="maxcount 10, not 20"):
        destination_of(pattern, storage_options=options, maxcount=20).find_report()
    plain.finish()
    assert list_names(folder, storage_options=options) == ["train-2-000000.tar"]
