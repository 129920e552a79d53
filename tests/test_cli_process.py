"""``shardbuild proc``: a command on each sample's files."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild import TarWriter
from shardbuild.cli.main import main
from shardbuild.cli.scratch import Naming, read_scratch, write_scratch
from shardbuild.errors import SampleError
from tests.commands import running_command
from tests.streamed import keys_of, numbered, run_shell, samples_of, write_set


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    write_set(tmp_path, count=12, size=12)
    monkeypatch.chdir(tmp_path)


PROC = ["proc", "a-000000.tar", "-o", "x.tar"]


class TestProc:
    def test_what_the_command_leaves_is_the_sample(self):
        command = "tr a-z A-Z < sample.txt > sample.upper && rm sample.png"
        assert main([*PROC, "-C", command]) == 0
        assert samples_of("x.tar") == [
            {
                "__key__": one["__key__"],
                "cls": one["cls"],
                "txt": one["txt"],
                "upper": one["txt"].upper(),
            }
            for one in numbered(12)
        ]

    def test_in_parallel_in_order(self, tmp_path):
        # The first ones take longest: they wait for the last one of their row.
        command = (
            f"i=$(cat sample.cls); d={tmp_path}/done-; touch $d$i; "
            "if [ $((i % 3)) -lt 2 ]; then until [ -e $d$((i + 1)) ]; do :; done; fi"
        )
        assert main([*PROC, "-c", "9", "-p", "3", "-C", command]) == 0
        assert samples_of("x.tar") == numbered(9)

    def test_more_samples_of_one(self):
        command = "cp sample.txt sample-b.txt; cp sample.cls sample-a.CLS; rm sample.*"
        assert main([*PROC, "-C", command, "--separator", "/", "-c", "2"]) == 0
        assert samples_of("x.tar") == [
            {"__key__": f"{one['__key__']}/-{part}", name: one[name]}
            for one in numbered(2)
            for part, name in (("a", "cls"), ("b", "txt"))
        ]

    def test_chosen_fields_files_and_names(self):
        command = "ls > sample.ls; touch sample.tmp log.txt; mkdir sample.dir"
        argv = [*PROC, "-C", command, "-f", "label:cls", "-b", "s", "-c", "1"]
        command = "ls > s.ls; touch s.tmp log.txt; mkdir s.dir; ln -s s.ls s.link"
        argv[argv.index("-C") + 1] = command
        assert main([*argv, "-E", "tmp$"]) == 0
        (sample,) = samples_of("x.tar")
        names = sample.pop("ls").decode().split()
        assert names == ["__key__", "s.label", "s.ls"]
        assert sample == {"__key__": "n00/000", "label": b"0"}
        assert main([*argv, "-I", "label"]) == 0
        assert samples_of("x.tar") == [{"__key__": "n00/000", "label": b"0"}]

    def test_the_key_is_a_file_and_a_script_may_run(self, tmp_path):
        (tmp_path / "run.py").write_text(
            "import pathlib as p; p.Path('sample.k').write_bytes("
            "p.Path('__key__').read_bytes())"
        )
        argv = [*PROC, "--script", "run.py", "--interpreter", "python3", "-c", "2"]
        assert main([*argv, "-R", "#"]) == 0
        assert [s["k"] for s in samples_of("x.tar")] == [b"n00/000", b"n01/001"]
        assert keys_of("x.tar") == ["000000000", "000000001"]

    def test_what_the_command_prints_is_not_the_output(self, tmp_path):
        run_shell(
            "shardbuild proc a-000000.tar -C 'echo hello' 2> said.txt > x.tar", tmp_path
        )
        assert samples_of("x.tar") == numbered(12)
        assert (tmp_path / "said.txt").read_text() == 12 * "hello\n"

    def test_the_scratch_is_gone(self, tmp_path):
        (tmp_path / "scratch").mkdir()
        assert main([*PROC, "-C", "pwd > sample.pwd", "-w", "scratch"]) == 0
        places = {Path(s["pwd"].decode().strip()) for s in samples_of("x.tar")}
        assert len(places) == 12
        assert {place.parent.parent for place in places} == {tmp_path / "scratch"}
        assert list((tmp_path / "scratch").iterdir()) == []


class TestErrors:
    FAILING = "touch sample.seen; test $(cat sample.cls) -ne 5"

    def test_a_failing_command_ends_the_run(self, capsys, tmp_path):
        assert main([*PROC, "-C", self.FAILING, "-p", "2"]) == 1
        said = capsys.readouterr().err
        assert said == (
            "shardbuild: proc: sample 'n02/005': the command ended with exit status 1\n"
        )
        assert not (tmp_path / "x.tar").exists()

    def test_or_its_sample_is_left_out_and_that_is_said(self, capsys):
        assert main([*PROC, "-C", self.FAILING, "-e", "skip", "-p", "4"]) == 0
        assert keys_of("x.tar") == [
            s["__key__"] for s in numbered(12) if s["cls"] != b"5"
        ]
        told = "shardbuild: 1 sample skipped: the command failed\n"
        assert capsys.readouterr().err == told

    def test_or_what_files_there_are_is_taken(self):
        assert main([*PROC, "-C", self.FAILING, "-e", "ignore"]) == 0
        assert [s["seen"] for s in samples_of("x.tar")] == 12 * [b""]

    def test_no_files_at_all_is_an_error(self, capsys):
        assert main([*PROC, "-C", "rm sample.*"]) == 1
        assert "the command left no files of it" in capsys.readouterr().err

    def test_a_program_that_is_not_there_is_an_error(self, capsys):
        assert main([*PROC, "-C", "true", "--interpreter", "no-such-shell"]) == 1
        assert "no-such-shell" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "argv",
        [
            [],
            ["-C", "true", "--script", "a.sh"],
            ["--script", "nowhere.sh"],
            ["-C", "true", "-b", "../x"],
            ["-C", "true", "-b", "a.b"],
            ["-C", "true", "-w", "nowhere"],
            ["-C", "true", "-p", "0"],
            ["-C", "true", "-I", "("],
            ["-C", "true", "-e", "continue"],
        ],
        ids=" ".join,
    )
    def test_wrong_usage_is_status_2(self, argv):
        assert main(["proc", "a-000000.tar", *argv]) == 2

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_one_that_is_told_to_end_ends_its_commands(self, tmp_path, number):
        room = tmp_path / "room"
        room.mkdir()
        command = f"echo $$ > {tmp_path}/pid-$$; exec sleep 1000"
        argv = [
            "proc",
            f"{tmp_path}/a-000000.tar",
            "-p",
            "2",
            "-C",
            command,
            "-w",
            room,
        ]
        with running_command(*argv, "-o", tmp_path / "x.tar") as running:
            running.wait_for(tmp_path / "pid-*", 2)
            os.kill(running.process.pid, number)
            assert running.finish()[0] == 128 + number
        for pid in tmp_path.glob("pid-*"):
            assert not Path(f"/proc/{pid.name.removeprefix('pid-')}").exists()
        assert list(room.iterdir()) == []


class TestScratch:
    @given(
        st.dictionaries(
            st.text("abc./\0é", min_size=1, max_size=6).filter(
                lambda name: not name.startswith("__")
            ),
            st.binary(max_size=5),
            max_size=4,
        )
    )
    def test_no_name_leads_out_of_the_folder(self, tmp_path_factory, fields):
        outer = tmp_path_factory.mktemp("outer")
        folder = outer / "inner"
        folder.mkdir()
        sample = {"__key__": "../../a", **fields}
        try:
            write_scratch(folder, sample, Naming())
        except SampleError:
            assert any("/" in name or "\0" in name for name in fields)
        else:
            assert len(list(folder.iterdir())) == len(fields) + 1
        assert [path.name for path in outer.iterdir()] == ["inner"]

    def test_a_field_from_elsewhere_with_a_path_for_a_name_is_refused(self, tmp_path):
        sample = {"__key__": "a", "x/../../../hacked": b""}
        with pytest.raises(SampleError, match="can be no file's name"):
            write_scratch(tmp_path, sample, Naming())

    def test_a_name_that_is_too_long_is_refused(self, tmp_path):
        with pytest.raises(SampleError, match="can be no file's name"):
            write_scratch(tmp_path, {"__key__": "a", "é" * 130: b""}, Naming())

    def test_meta_fields_are_files_where_their_names_are_plain(self, tmp_path):
        sample = {"__key__": "a", "__url__": "b", "__../x__": "c", "__n__": 3}
        (tmp_path / "scratch").mkdir()
        write_scratch(tmp_path / "scratch", sample, Naming())
        names = sorted(path.name for path in (tmp_path / "scratch").iterdir())
        assert names == ["__key__", "__url__"]

    def test_files_of_one_field_are_an_error(self, tmp_path):
        for name in ("sample.jpg", "sample.JPG"):
            (tmp_path / name).touch()
        with pytest.raises(SampleError, match="two files for its field 'jpg'"):
            read_scratch(tmp_path, "a", Naming())

    def test_what_goes_in_comes_out(self, tmp_path):
        sample = {"__key__": "n01/7", "jpg": b"1", "seg.png": b"2"}
        write_scratch(tmp_path, sample, Naming())
        assert read_scratch(tmp_path, "n01/7", Naming()) == [sample]

    def test_include_and_exclude_look_at_names(self):
        naming = Naming(include=re.compile("png$"), exclude=re.compile("seg"))
        taken = [n for n in ("sample.png", "sample.seg.png", "x") if naming.takes(n)]
        assert taken == ["sample.png"]


def test_a_key_with_a_path_in_it_changes_no_file(tmp_path):
    with TarWriter("k.tar") as writer:
        writer.write({"__key__": "deep/folder/k", "txt": b"1"})
    assert main(["proc", "k.tar", "-C", "ls > sample.ls", "-o", "x.tar"]) == 0
    (sample,) = samples_of("x.tar")
    assert sample["__key__"] == "deep/folder/k"
    assert sample["ls"].split() == [b"__key__", b"sample.ls", b"sample.txt"]
