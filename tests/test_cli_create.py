"""``shardbuild create`` and ``shardbuild lines``."""

from __future__ import annotations

import pytest

from shardbuild.cli.main import main
from tests.streamed import keys_of, samples_of


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "7.jpg").write_bytes(b"\xff\xd8\0")
    (tmp_path / "photos" / "pipe:7").write_bytes(b"odd")
    monkeypatch.chdir(tmp_path)


class TestCreate:
    def test_lines_of_one_key_make_a_sample(self, tmp_path):
        (tmp_path / "plan.txt").write_text(
            "n01/7.jpg photos/7.jpg\n"
            "n01/7.cls\ttext:3\n"
            "\n"
            "n01/8.txt  text:two words,\ta tab \n"
            "n01/8.JPG file:photos/7.jpg\n"
            "n01/9.odd file:photos/pipe:7"
        )
        assert main(["create", "plan.txt", "-o", "x.tar"]) == 0
        assert samples_of("x.tar") == [
            {"__key__": "n01/7", "cls": b"3", "jpg": b"\xff\xd8\0"},
            {"__key__": "n01/8", "jpg": b"\xff\xd8\0", "txt": b"two words,\ta tab"},
            {"__key__": "n01/9", "odd": b"odd"},
        ]

    def test_sources_relative_to_a_folder(self, tmp_path):
        (tmp_path / "plan.txt").write_text("a.jpg 7.jpg\nb.jpg 7.jpg\n")
        argv = ["create", "plan.txt", "-C", "photos", "-c", "1", "-o", "x.tar"]
        assert main(argv) == 0
        assert samples_of("x.tar") == [{"__key__": "a", "jpg": b"\xff\xd8\0"}]

    def test_a_file_whose_name_is_like_a_command(self, tmp_path):
        (tmp_path / "plan.txt").write_text("a.jpg file:pipe:7\nb.jpg 7.jpg\n")
        argv = ["create", "plan.txt", "--dir", "photos", "-o", "x.tar"]
        assert main(argv) == 0
        assert [s["jpg"] for s in samples_of("x.tar")] == [b"odd", b"\xff\xd8\0"]

    def test_commands_run_only_when_that_is_permitted(self, tmp_path, capsys):
        (tmp_path / "plan.txt").write_text(
            "a.txt text:x\nb.txt pipe:touch ran; echo hi"
        )
        argv = ["create", "plan.txt", "-o", "x.tar"]
        assert main(argv) == 2
        said = capsys.readouterr().err
        assert said.startswith(
            "shardbuild: plan.txt:2: names 'pipe:touch ran; echo hi'"
        )
        assert "--allow-pipe" in said
        assert not (tmp_path / "ran").exists()
        assert not (tmp_path / "x.tar").exists()
        assert main([*argv, "--allow-pipe"]) == 0
        assert samples_of("x.tar")[1] == {"__key__": "b", "txt": b"hi\n"}

    def test_a_command_that_fails_is_an_error(self, tmp_path, capsys):
        (tmp_path / "plan.txt").write_text("a.txt pipe:echo a; exit 3")
        argv = ["create", "plan.txt", "--allow-pipe", "-o", "x.tar"]
        assert main(argv) == 1
        assert "exit status 3" in capsys.readouterr().err
        assert not (tmp_path / "x.tar").exists()

    @pytest.mark.parametrize(
        ("plan", "problem"),
        [
            ("README photos/7.jpg", "plan.txt:1: 'README' is no part of a sample"),
            (".a.txt text:x", "hidden"),
            ("a.txt -", "plan.txt:1: names '-'"),
            ("a.x\0 text:1", "plan.txt:1: sample 'a': its field"),
            ("a.txt", "plan.txt:1: names no source"),
            ("a.txt nowhere.txt", "nowhere.txt: "),
            ("a.txt text:1\na.TXT text:2", "plan.txt:2: sample 'a': its field 'txt'"),
            ("a.txt text:1\nb.txt text:1\na.cls text:2", "its key comes twice"),
            ("../a.txt text:1", "leads out of the folder"),
            ("/a.txt text:1", "leads out of the folder"),
        ],
    )
    def test_what_makes_no_sample_is_an_error(self, tmp_path, capsys, plan, problem):
        (tmp_path / "plan.txt").write_text(plan)
        assert main(["create", "plan.txt", "-o", "x.tar"]) == 1
        assert problem in capsys.readouterr().err
        assert not (tmp_path / "x.tar").exists()


class TestLines:
    def test_each_line_is_a_sample_of_its_bytes(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"one\n\n two \r\n\xff")
        (tmp_path / "b.txt").write_bytes(b"last\n")
        assert main(["lines", "a.txt", "b.txt", "-o", "x.tar"]) == 0
        assert [s["txt"] for s in samples_of("x.tar")] == [
            b"one",
            b"",
            b" two \r",
            b"\xff",
            b"last",
        ]
        assert keys_of("x.tar") == [f"{i:09d}" for i in range(5)]

    def test_keys_and_field(self, tmp_path):
        (tmp_path / "a.txt").write_text("a\nb\n")
        argv = ["lines", "a.txt", "-k", "l/{:03d}", "--field", "caption.TXT"]
        assert main([*argv, "-o", "x.tar"]) == 0
        assert samples_of("x.tar") == [
            {"__key__": "l/000", "caption.txt": b"a"},
            {"__key__": "l/001", "caption.txt": b"b"},
        ]

    def test_a_key_that_is_always_the_same_is_wrong_usage(self):
        assert main(["lines", "a.txt", "-k", "same"]) == 2
