"""``shardbuild split``: shards of limited size."""

from __future__ import annotations

import pytest

from shardbuild import load_manifest, verify
from shardbuild.cli.main import main
from tests.streamed import keys_of, numbered, samples_of, write_set


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    write_set(tmp_path, count=60, size=60)
    monkeypatch.chdir(tmp_path)


IN = "a-000000.tar"


def test_by_count_with_a_manifest(capsys):
    assert main(["split", IN, "-n", "25", "-o", "o/x-%03d.tar"]) == 0
    assert capsys.readouterr().out == "o/x-%03d.tar: 60 samples in 3 shards\n"
    assert [len(samples_of(f"o/x-{i:03d}.tar")) for i in range(3)] == [25, 25, 10]
    assert load_manifest("o/x.json").num_samples == 60
    assert verify(["o/x.json"]).findings == ()


def test_by_size_samples_stay_whole(tmp_path):
    assert main(["split", IN, "-s", "20kB", "-o", "x-%06d.tar"]) == 0
    shards = sorted(tmp_path.glob("x-*.tar"))
    assert len(shards) > 5
    assert max(shard.stat().st_size for shard in shards) <= 20_480
    assert [one for shard in shards for one in samples_of(shard)] == numbered(60)


def test_a_first_number_and_a_name_of_its_own(tmp_path):
    assert main(["split", IN, "-n", "40", "--start", "7"]) == 0
    assert len(samples_of("split-000007.tar")) == 40
    assert len(samples_of("split-000008.tar")) == 20
    assert not (tmp_path / "split-000000.tar").exists()


def test_a_command_after_each_shard_gets_its_name_quoted(tmp_path):
    (tmp_path / "o d'd $(touch hacked)").mkdir()
    post = "cat %s > /dev/null && echo %s >> seen.txt"
    pattern = "o d'd $(touch hacked)/x-%06d.tar"
    assert main(["split", IN, "-n", "30", "-o", pattern, "-p", post]) == 0
    seen = (tmp_path / "seen.txt").read_text().splitlines()
    assert seen == [pattern % 0, pattern % 1]
    assert not (tmp_path / "hacked").exists()


def test_a_command_that_fails_ends_the_run(tmp_path, capsys):
    argv = ["split", IN, "-n", "20", "-o", "x-%06d.tar", "--post", "exit 3; : %s"]
    assert main(argv) == 1
    assert "x-000000.tar: --post ended with exit status 3" in capsys.readouterr().err
    assert not (tmp_path / "x-000001.tar").exists()
    assert not (tmp_path / "x.json").exists()


def test_shards_may_go_once_the_command_has_them(tmp_path):
    (tmp_path / "there").mkdir()
    argv = [
        "split",
        IN,
        "-n",
        "20",
        "-o",
        "x-%06d.tar",
        "-p",
        "cp %s there",
        "--delete",
    ]
    assert main(argv) == 0
    assert list(tmp_path.glob("x*")) == []
    assert len(list((tmp_path / "there").iterdir())) == 3


def test_only_the_shards(tmp_path):
    assert main(["split", IN, "-n", "40", "-o", "x-%06d.tar", "--only-shards"]) == 0
    names = sorted(path.name for path in tmp_path.glob("x*"))
    assert names == ["x-000000.tar", "x-000001.tar"]


@pytest.mark.parametrize(("most", "kept"), [("2", 40), ("3", 60), ("9", 60)])
def test_no_more_shards_than_wanted(tmp_path, most, kept):
    argv = ["split", IN, "-n", "20", "-o", "x-%06d.tar", "--maxshards", most]
    assert main([*argv, "-p", "echo %s >> seen.txt"]) == 0
    assert load_manifest("x.json").num_samples == kept
    shards = sorted(path.name for path in tmp_path.glob("x-*.tar"))
    assert sum(len(keys_of(name)) for name in shards) == kept
    assert (tmp_path / "seen.txt").read_text().split() == shards


def test_shards_may_go_into_commands(tmp_path):
    argv = ["split", IN, "-n", "30", "-o", "pipe:cat > p-%06d.tar"]
    assert main(argv) == 0
    assert [*samples_of("p-000000.tar"), *samples_of("p-000001.tar")] == numbered(60)


@pytest.mark.parametrize(
    "argv",
    [
        ["-o", "x.tar"],
        ["-o", "x-%q.tar"],
        ["-n", "0"],
        ["-s", "1G"],
        ["--start", "-1"],
        ["--delete"],
        ["--post", "gzip"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(argv, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert main(["split", IN, *argv]) == 2
    assert sorted(tmp_path.iterdir()) == before
