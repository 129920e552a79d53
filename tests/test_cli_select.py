"""``shardbuild grep`` and ``shardbuild first``."""

from __future__ import annotations

import pytest

from shardbuild import TarWriter
from shardbuild.cli.main import main
from tests.streamed import numbered, samples_of, write_set


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    write_set(tmp_path)
    monkeypatch.chdir(tmp_path)


class TestGrep:
    def test_a_regex_in_the_key(self):
        assert main(["grep", "^n01/.*7$", "a.json", "-o", "x.tar"]) == 0
        wanted = [s for s in numbered(100) if s["__key__"].startswith("n01/")]
        assert samples_of("x.tar") == [s for s in wanted if s["__key__"][-1] == "7"]

    def test_in_a_field_or_another(self):
        argv = ["grep", "7", "a.json", "-k", "cls", "--in", "TXT", "-o", "x.tar"]
        assert main(argv) == 0
        found = samples_of("x.tar")
        assert found == [s for s in numbered(100) if b"7" in s["cls"] + s["txt"]]

    def test_the_others(self):
        assert (
            main(["grep", "^[0-8]$", "a.json", "-k", "cls", "-v", "-o", "x.tar"]) == 0
        )
        assert samples_of("x.tar") == [s for s in numbered(100) if s["cls"] == b"9"]

    def test_a_field_that_is_not_there_holds_nothing(self):
        assert main(["grep", "", "a.json", "-k", "xml", "-o", "x.tar"]) == 0
        assert samples_of("x.tar") == []

    def test_count_counts_what_is_kept(self):
        assert main(["grep", "5$", "a.json", "-c", "3", "-o", "x.tar"]) == 0
        assert [s["__key__"][-3:] for s in samples_of("x.tar")] == ["005", "015", "025"]

    @pytest.mark.parametrize("argv", [[], ["(", "a.json"], ["x"]], ids=" ".join)
    def test_wrong_usage_is_status_2(self, argv):
        assert main(["grep", *argv]) == 2


class TestFirst:
    def test_it_is_shown(self, capsys):
        assert main(["first", "a.json", "-S", "cls=7", "-S", "__key__~^n02"]) == 0
        key, cls, *_ = capsys.readouterr().out.splitlines()
        assert (key, cls.split()) == ("  n02/017", ["cls", "1", "B", "7"])

    def test_or_one_field_of_it_as_it_is(self, capfdbinary):
        assert main(["first", "a.json", "-S", "__key__=n01/031", "-f", "png"]) == 0
        assert capfdbinary.readouterr().out == numbered(100)[31]["png"]

    def test_into_a_file_or_a_shard(self, tmp_path):
        assert main(["first", "a.json", "-f", "txt", "-o", "x.txt"]) == 0
        assert (tmp_path / "x.txt").read_bytes() == b"text 000"
        assert main(["first", "a.json", "-S", "cls=3", "-o", "x.tar"]) == 0
        assert samples_of("x.tar") == [numbered(100)[3]]

    def test_none_is_status_1_and_said(self, capsys):
        assert main(["first", "a.json", "-S", "cls=77"]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == "shardbuild: there is no such sample\n"

    def test_a_field_that_is_not_there_is_an_error(self, capsys):
        assert main(["first", "a.json", "-f", "xml"]) == 1
        assert "has no field 'xml'" in capsys.readouterr().err

    def test_text_that_moves_the_cursor_is_not_printed(self, capsys):
        with TarWriter("x.tar") as writer:
            writer.write({"__key__": "a\x1b[2J", "txt": b"\x1b[31mred"})
        assert main(["first", "x.tar"]) == 0
        assert "\x1b" not in capsys.readouterr().out

    def test_an_expression_is_wrong_usage_and_not_executed(self, tmp_path):
        condition = f"__import__('pathlib').Path('{tmp_path}/hacked').touch()"
        assert main(["first", "a.json", "-S", condition]) == 2
        assert not (tmp_path / "hacked").exists()
