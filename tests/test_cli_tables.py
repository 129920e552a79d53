"""``shardbuild table`` and ``shardbuild from-table``."""

from __future__ import annotations

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild import TarWriter
from shardbuild.cli.main import main
from shardbuild.cli.tables import parse_tsv_line, tsv_line
from tests.streamed import numbered, samples_of, write_set


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    write_set(tmp_path, count=5)
    monkeypatch.chdir(tmp_path)


IN = "a-000000.tar"


class TestTable:
    def test_tsv(self, capfd):
        assert main(["table", IN, "-f", "cls txt", "-c", "2"]) == 0
        assert capfd.readouterr().out == (
            "__key__\tcls\ttxt\nn00/000\t0\ttext 000\nn01/001\t1\ttext 037\n"
        )

    def test_without_keys_and_header_into_a_file(self, tmp_path):
        argv = ["table", IN, "-f", "label:cls", "--no-key", "--no-header"]
        assert main([*argv, "-o", "x.tsv"]) == 0
        assert (tmp_path / "x.tsv").read_text() == "0\n1\n2\n3\n4\n"

    def test_csv(self, tmp_path):
        with TarWriter("odd.tar") as writer:
            writer.write({"__key__": "a", "txt": 'two\nlines, "quoted"', "cls": 1})
        argv = ["table", "odd.tar", "-f", "txt cls", "--format", "csv", "-o", "x.csv"]
        assert main(argv) == 0
        with (tmp_path / "x.csv").open(newline="") as file:
            assert list(csv.reader(file)) == [
                ["__key__", "txt", "cls"],
                ["a", 'two\nlines, "quoted"', "1"],
            ]

    def test_json_of_all_fields_with_their_values(self, capfd):
        with TarWriter("j.tar") as writer:
            writer.write({"__key__": "a", "json": {"w": [1]}, "cls": 3, "txt": "ï"})
            writer.write({"__key__": "b", "json": b"{broken", "cls": b"x"})
        assert main(["table", "j.tar", "--format", "json"]) == 0
        rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        assert rows == [
            {"__key__": "a", "cls": 3, "json": {"w": [1]}, "txt": "ï"},
            {"__key__": "b", "cls": "x", "json": "{broken"},
        ]

    def test_a_missing_field_is_an_error_or_an_empty_cell(self, capfd):
        argv = ["table", IN, "-f", "xml cls", "-c", "1", "--no-header"]
        assert main(argv) == 1
        assert "has no field 'xml'" in capfd.readouterr().err
        assert main([*argv, "-F", "ignore"]) == 0
        assert capfd.readouterr().out == "n00/000\t\t0\n"

    def test_bytes_that_are_no_text_are_an_error(self, capfd):
        assert main(["table", IN, "--format", "json", "-o", "x.json"]) == 1
        assert "field 'png' is no UTF-8 text" in capfd.readouterr().err

    def test_a_table_needs_columns(self):
        assert main(["table", IN]) == 2


class TestFromTable:
    @pytest.mark.parametrize("kind", ["tsv", "csv"])
    def test_a_table_gives_its_samples_back(self, kind):
        with TarWriter("odd.tar") as writer:
            for i, text in enumerate(["", "a\tb\nc\r\n", "\\n \"q\" 'r', é", "plain"]):
                writer.write({"__key__": f"n/{i}", "txt": text, "cls": i})
        fields = ["-f", "txt cls", "--format", kind]
        assert main(["table", "odd.tar", *fields, "-o", "x"]) == 0
        assert main(["from-table", "x", "--format", kind, "-o", "y.tar"]) == 0
        assert samples_of("y.tar") == samples_of("odd.tar")

    def test_files_and_made_keys(self, tmp_path):
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "1.jpg").write_bytes(b"\xff\0")
        (tmp_path / "plan.tsv").write_text("@jpg\tcls\n1.jpg\t7\n1.jpg\t8\n")
        argv = ["from-table", "plan.tsv", "-C", "d", "-k", "k{record:02d}"]
        assert main([*argv, "-o", "x.tar"]) == 0
        assert samples_of("x.tar") == [
            {"__key__": "k00", "cls": b"7", "jpg": b"\xff\0"},
            {"__key__": "k01", "cls": b"8", "jpg": b"\xff\0"},
        ]

    @pytest.mark.parametrize(
        ("plan", "problem"),
        [
            ("", "plan.tsv: is empty"),
            ("a\ta\nx\ty\n", "its names"),
            ("a\tb\nx\n", "plan.tsv: row 1: has 1 cells where there are 2 names"),
            ("a\nx\\y\n", "plan.tsv:2: '\\\\y' means nothing"),
            ("@a\npipe:touch hacked\n", "which is no file"),
            ("@a\n-\n", "which is no file"),
            ("@a\nnowhere\n", "nowhere"),
        ],
    )
    def test_what_is_no_plan_is_an_error(self, tmp_path, capsys, plan, problem):
        (tmp_path / "plan.tsv").write_text(plan)
        assert main(["from-table", "plan.tsv", "-o", "x.tar"]) == 1
        assert problem in capsys.readouterr().err
        assert not (tmp_path / "x.tar").exists()
        assert not (tmp_path / "hacked").exists()


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_a_line_gives_its_cells_back(cells):
    line = tsv_line(cells)
    assert "\n" not in line
    assert parse_tsv_line(line) == cells


def test_numbered_samples_as_json_lines(capfd):
    argv = ["table", IN, "--format", "json", "-f", "cls txt", "--no-key"]
    assert main(argv) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert rows == [
        {"cls": int(one["cls"]), "txt": one["txt"].decode()} for one in numbered(5)
    ]
