"""``shardbuild cat``, and what commands that move samples have in common."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from shardbuild import save_index, scan_shard
from shardbuild.cli.main import main
from shardbuild.shards.index import load_index
from shardbuild.storage.schemes import gopen_schemes
from tests.streamed import (
    ROOT,
    keys_of,
    numbered,
    run_shell,
    samples_of,
    shell,
    write_set,
)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    write_set(tmp_path)
    monkeypatch.chdir(tmp_path)


ALL = "a-{000000..000001}.tar"


class TestCat:
    def test_shards_become_one(self):
        assert main(["cat", ALL, "-o", "all.tar"]) == 0
        assert samples_of("all.tar") == numbered(100)

    @pytest.mark.parametrize("spec", ["a.json", "a-*.tar", "@list.txt"])
    def test_urls_are_expanded(self, tmp_path, spec):
        (tmp_path / "list.txt").write_text("a-000000.tar\na-000001.tar\n")
        assert main(["cat", spec, "-o", "all.tar"]) == 0
        assert samples_of("all.tar") == numbered(100)

    def test_in_parallel_it_gives_the_same_bytes(self, tmp_path):
        write_set(tmp_path, "many", count=100, size=7)
        assert main(["cat", "many.json", "-p", "4", "-o", "all.tar"]) == 0
        assert main(["cat", "many.json", "-o", "one.tar"]) == 0
        same = (tmp_path / "all.tar").read_bytes() == (
            tmp_path / "one.tar"
        ).read_bytes()
        assert same
        assert samples_of("all.tar") == numbered(100)

    def test_the_name_says_how_it_is_compressed(self, tmp_path):
        assert main(["cat", ALL, "-o", "all.tar.gz"]) == 0
        assert (tmp_path / "all.tar.gz").read_bytes()[:2] == b"\x1f\x8b"
        assert samples_of("all.tar.gz") == numbered(100)

    def test_in_turns(self):
        assert main(["cat", ALL, "-m", "2", "-c", "4", "-o", "x.tar"]) == 0
        samples = numbered(100)
        assert samples_of("x.tar") == [samples[i] for i in (0, 50, 1, 51)]

    def test_some_shards_some_samples_some_fields_new_keys(self):
        argv = ["cat", "a.json", "--shards", "1:", "--slice", "0:40:10", "-c", "3"]
        argv += ["-f", "image:jpg,png cls", "-R", "b/{record:03d}", "-o", "x.tar"]
        assert main(argv) == 0
        samples = numbered(100)
        assert samples_of("x.tar") == [
            {
                "__key__": f"b/{number:03d}",
                "cls": samples[i]["cls"],
                "image": samples[i]["png"],
            }
            for number, i in enumerate((50, 60, 70))
        ]

    def test_a_missing_field_is_an_error_or_a_choice(self, capsys):
        argv = ["cat", "a-000000.tar", "-o", "x.tar", "-f", "xml cls"]
        assert main(argv) == 1
        assert "sample 'n00/000': has no field 'xml'" in capsys.readouterr().err
        assert main([*argv, "-F", "ignore"]) == 0
        assert [sorted(s) for s in samples_of("x.tar")] == [["__key__", "cls"]] * 50
        assert main([*argv, "-F", "skip"]) == 0
        assert samples_of("x.tar") == []
        told = "shardbuild: 50 samples skipped: a field is missing\n"
        assert capsys.readouterr().err == told

    def test_a_shuffle_buffer_keeps_all_and_the_seed_decides(self, tmp_path):
        argv = ["cat", "a.json", "--shuffle", "30", "--seed"]
        for seed, name in (("1", "x"), ("1", "y"), ("2", "z")):
            assert main([*argv, seed, "-o", f"{name}.tar"]) == 0
        one, again, other = (keys_of(f"{name}.tar") for name in "xyz")
        assert one == again != other
        assert (
            sorted(one)
            == sorted(other)
            == sorted(keys_of("a-000000.tar") + keys_of("a-000001.tar"))
        )

    def test_equal_keys_in_one_shard_name_the_option_that_helps(self, capsys, tmp_path):
        argv = ["cat", "a-000000.tar", "a-000000.tar", "-o", "x.tar"]
        assert main(argv) == 1
        said = capsys.readouterr().err
        assert "x.tar: sample 'n00/000': its key comes twice" in said
        assert "--rekey" in said
        assert said.count("\n") == 1
        assert not (tmp_path / "x.tar").exists()
        assert main([*argv, "--rekey", "{record:02d}/{key}"]) == 0
        assert keys_of("x.tar")[49:51] == ["49/n01/049", "50/n00/000"]

    def test_a_shard_may_be_replaced_by_what_is_read_from_it(self):
        save_index(scan_shard("a-000000.tar"), "a-000000.tar")
        assert main(["cat", "a-000000.tar", "-c", "5", "-o", "a-000000.tar"]) == 0
        assert samples_of("a-000000.tar") == numbered(5)
        assert load_index("a-000000.tar") is None

    def test_a_missing_shard_is_an_error_or_told(self, capsys):
        argv = ["cat", "a-{000000..000002}.tar", "-p", "2", "-o", "x.tar"]
        assert main(argv) == 1
        assert capsys.readouterr().err.startswith("shardbuild: a-000002.tar: ")
        assert main([*argv, "--allow-missing"]) == 0
        told = "shardbuild: a-000002.tar: is missing: left out\n"
        assert capsys.readouterr().err == told
        assert samples_of("x.tar") == numbered(100)

    def test_a_percent_sign_is_no_pattern(self):
        assert main(["cat", "a-000000.tar", "-c", "1", "-o", "100%done%20d.tar"]) == 0
        assert samples_of("100%done%20d.tar") == numbered(1)

    def test_a_damaged_input_publishes_nothing(self, tmp_path, capsys):
        whole = (tmp_path / "a-000001.tar").read_bytes()
        (tmp_path / "a-000001.tar").write_bytes(whole[:40_000])
        for extra in ([], ["-p", "3"]):
            assert main(["cat", ALL, "-o", "x.tar", *extra]) == 1
            assert capsys.readouterr().err.startswith("shardbuild: a-000001.tar: at")
            assert not (tmp_path / "x.tar").exists()

    @pytest.mark.parametrize(
        "argv",
        [
            ["cat"],
            ["cat", "a.json", "-o", "x-%06d.tar"],
            ["cat", "a.json", "-c", "0"],
            ["cat", "a.json", "--slice", "-5:"],
            ["cat", "a.json", "-f", "jpg,cls"],
            ["cat", "a.json", "-R", "same"],
            ["cat", "a.json", "-R", "{key.__class__}"],
            ["cat", "a.json", "-p", "2", "-m", "2"],
            ["cat", "a.json", "-F", "drop"],
            ["cat", "a.json", "--timeout", "never"],
        ],
        ids=" ".join,
    )
    def test_wrong_usage_is_status_2_and_writes_nothing(self, argv, capsys, tmp_path):
        before = sorted(tmp_path.iterdir())
        assert main(argv) == 2
        assert capsys.readouterr().out == ""
        assert sorted(tmp_path.iterdir()) == before


class TestPipes:
    def test_samples_go_through_shell_pipes(self, tmp_path):
        run_shell(
            "shardbuild sort a-000000.tar -o - | shardbuild split - -n 20 "
            "-o 'out-%06d.tar'",
            tmp_path,
        )
        keys = [key for i in range(3) for key in keys_of(f"out-{i:06d}.tar")]
        assert keys == sorted(keys_of("a-000000.tar"))

    def test_a_reader_that_goes_away_is_a_quiet_end(self, tmp_path):
        write_set(tmp_path, "large", count=1500, size=1500)
        command = [sys.executable, "-m", "shardbuild", "cat", "large-000000.tar"]
        environment = {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.read(10)
            child.stdout.close()
            assert child.stderr.read() == b""
            assert child.wait() == 128 + signal.SIGPIPE

    def test_a_writer_that_fails_is_not_a_short_stream(self, tmp_path):
        done = shell("shardbuild cat nothing.tar | shardbuild cat - -o x.tar", tmp_path)
        assert done.returncode == 1
        assert b"nothing.tar: " in done.stderr
        assert not (tmp_path / "x.tar").exists()


class TestShow:
    def test_fields_and_count(self, capsys):
        assert main(["show", "a-000000.tar", "-c", "1", "-f", "cls label:txt"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "a-000000.tar",
            "  n00/000",
            "    cls    1 B  0",
            "    label  8 B  text 000",
            "  and more: 1 sample shown",
        ]

    def test_json_of_chosen_fields(self, capsys):
        assert main(["show", "a.json", "-c", "1", "-f", "xml txt", "--json"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [list(json.loads(line)["fields"]) for line in lines] == [["txt"]] * 2


class TestSchemes:
    """A variable says by what command urls of a kind are read."""

    def test_of_the_environment_are_read_by_the_command_line(self, monkeypatch):
        monkeypatch.setenv("GOPEN_OBJ", "cat $(basename {})")
        assert main(["cat", "obj://store/a-000000.tar", "-o", "b.tar"]) == 0
        assert samples_of("b.tar") == numbered(50)

    def test_are_those_of_one_command(self, monkeypatch):
        monkeypatch.setenv("GOPEN_OBJ", "cat $(basename {})")
        assert main(["show", "obj://store/a-000000.tar"]) == 0
        assert "obj" not in gopen_schemes

    def test_that_make_no_sense_are_told_in_one_line(self, monkeypatch, capsys):
        monkeypatch.setenv("GOPEN_OBJ", " ")
        assert main(["show", "a-000000.tar"]) == 1
        assert capsys.readouterr().err == "shardbuild: GOPEN_OBJ: holds no command\n"
