"""The command line: what it takes, prints, and returns."""

from __future__ import annotations

import argparse
import io
import json
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shardbuild.cli import options, show
from shardbuild.cli.joboptions import add_job_options, read_job_options
from shardbuild.cli.main import COMMANDS, main
from shardbuild.cli.preview import preview
from shardbuild.cli.printing import plain, printable
from shardbuild.errors import ShardError

ROOT = Path(__file__).parents[1]


def tar_bytes(members: dict[str, bytes]) -> bytes:
    """Make a tar with the standard library, as others do."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@pytest.fixture
def shard(tmp_path):
    """A shard of three samples that another program wrote."""
    members = {}
    for number in range(3):
        members[f"a/{number:03}.cls"] = str(number).encode()
        members[f"a/{number:03}.txt"] = f"text {number}".encode()
    path = tmp_path / "train-000000.tar"
    path.write_bytes(tar_bytes(members))
    return path


class TestMain:
    def test_each_command_has_help(self, capsys):
        for name, command in COMMANDS.items():
            assert main([name, "--help"]) == 0
            said = capsys.readouterr().out
            assert said.startswith(f"usage: shardbuild {name}")
            assert "--debug" in said
            assert command.summary

    def test_the_help_lists_each_command_and_loads_none(self):
        code = (
            "import sys; from shardbuild.cli.main import main; main(['--help']);"
            "print([m for m in ('numpy', 'dask', 'PIL') if m in sys.modules])"
        )
        said = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        assert all(f"\n  {name} " in said for name in COMMANDS)
        assert said.endswith("[]\n")

    @pytest.mark.parametrize(
        "argv",
        [
            [],
            ["frobnicate"],
            ["show"],
            ["show", "a.tar", "--count", "0"],
            ["verify", "--jso", "a.tar"],
            ["convert", "a.tar"],
            ["convert", "a.tar", "b-%06d.tar", "--order", "sort"],
            ["convert", "a.tar", "b-%06d.tar", "--maxsize", "1G"],
            ["convert", "a.tar", "b-%06d.tar", "--no-such-option"],
            ["convert", "a.tar", "b-%06d.tar", "--errors", "ignore"],
            ["index", "a.tar", "--peers", "mosaic"],
            ["show", "a.tar", "--storage-option", "nothing"],
        ],
        ids=" ".join,
    )
    def test_wrong_usage_is_status_2_and_says_why(self, argv, capsys):
        assert main(argv) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("usage: shardbuild")

    def test_a_refused_value_is_told_in_our_words(self, capsys):
        main(["convert", "a.tar", "b-%06d.tar", "--maxsize", "1G"])
        assert "argument --maxsize: '1G' is no size" in capsys.readouterr().err

    def test_an_error_is_one_line_and_status_1(self, tmp_path, capsys):
        missing = tmp_path / "no\x1b[31m.tar"
        assert main(["show", str(missing)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("shardbuild: ")
        assert captured.err.count("\n") == 1
        assert r"no\x1b[31m.tar" in captured.err

    def test_notes_of_an_error_are_in_its_line(self, monkeypatch, capsys):
        def fail(args: argparse.Namespace) -> int:
            error = ShardError("a.tar", "is\nbad", 512)
            error.add_note("in task 7")
            raise error

        monkeypatch.setattr(show, "run", fail)
        assert main(["show", "a.tar"]) == 1
        said = capsys.readouterr().err
        assert said == "shardbuild: a.tar: at byte 512: is bad; in task 7\n"

    def test_a_bug_is_one_line_too_and_debug_shows_where(self, monkeypatch, capsys):
        def fail(args: argparse.Namespace) -> int:
            raise ZeroDivisionError("by zero")

        monkeypatch.setattr(show, "run", fail)
        assert main(["show", "a.tar"]) == 1
        said = capsys.readouterr().err
        assert said == "shardbuild: ZeroDivisionError: by zero (--debug shows where)\n"
        with pytest.raises(ZeroDivisionError):
            main(["show", "a.tar", "--debug"])

    def test_ctrl_c_is_130(self, monkeypatch, capsys):
        def interrupt(args: argparse.Namespace) -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr(show, "run", interrupt)
        assert main(["show", "a.tar"]) == 130
        assert capsys.readouterr().err == "shardbuild: interrupted\n"

    def test_a_reader_that_goes_away_is_no_error(self, tmp_path):
        members = {f"{n:05}.txt": b"t" * 60 for n in range(5000)}
        shard = tmp_path / "a.tar"
        shard.write_bytes(tar_bytes(members))
        command = [sys.executable, "-m", "shardbuild", "show", "--count", "1e6", shard]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.readline()
            child.stdout.close()
            assert child.stderr.read() == b""
            assert child.wait() == 128 + signal.SIGPIPE

    def test_a_broken_pipe_elsewhere_is_an_error(self, monkeypatch, capsys):
        def fail(args: argparse.Namespace) -> int:
            raise BrokenPipeError(32, "Broken pipe")

        monkeypatch.setattr(show, "run", fail)
        assert main(["show", "a.tar"]) == 1
        assert "Broken pipe" in capsys.readouterr().err

    def test_python_m_shardbuild_is_the_command(self):
        command = [sys.executable, "-m", "shardbuild", "--version"]
        said = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert said.stdout.startswith("shardbuild ")


class TestOptions:
    @given(st.integers(1, 10**18))
    def test_a_plain_number_is_that_many_bytes(self, number):
        assert options.parse_bytes(str(number)) == number

    @pytest.mark.parametrize(
        ("text", "num_bytes"),
        [
            ("1kB", 10**3),
            ("1KB", 10**3),
            ("1KiB", 2**10),
            ("1.5 GiB", 3 * 2**29),
            ("2tb", 2 * 10**12),
            ("3e9", 3 * 10**9),
            ("3E9", 3 * 10**9),
            ("1_000_000", 10**6),
            ("0.5kB", 500),
            ("7B", 7),
        ],
    )
    def test_sizes_as_people_write_them(self, text, num_bytes):
        assert options.parse_bytes(text) == num_bytes

    @pytest.mark.parametrize(
        "text", ["", "0", "-1", "1G", "1 GBs", "0.3", "1e", "nan", "inf", "1e-3", "x"]
    )
    def test_what_is_no_size_is_refused_by_name(self, text):
        with pytest.raises(ValueError, match="is no"):
            options.parse_bytes(text)

    @pytest.mark.parametrize("text", ["", "0", "-3", "1.5", "nan", "inf", "many"])
    def test_what_is_no_count_is_refused(self, text):
        with pytest.raises(ValueError, match=r"is no|is not"):
            options.parse_count(text)

    def test_storage_options_are_gathered(self):
        argv = ["a.tar", "--storage-option", "anon=true"]
        argv += ["--storage-option", "secret=a=b"]
        given_options = options.storage_options(show.parse(argv))
        assert given_options == {"anon": True, "secret": "a=b"}
        assert options.storage_options(show.parse(["a.tar"])) is None


class TestPrinting:
    @given(st.text())
    def test_printable_text_moves_no_cursor(self, text):
        shown = printable(text)
        assert shown.isprintable()
        assert shown == text or not text.isprintable()

    def test_plain_leaves_only_what_json_has(self):
        value = {1: (1, 2.5, None, True), "paths": {Path("b"), Path("a")}}
        expected = {"1": [1, 2.5, None, True], "paths": ["a", "b"]}
        assert json.loads(json.dumps(plain(value))) == expected


class TestPreview:
    @given(st.sampled_from(["txt", "json", "jpg", "npy", "cls", "bin"]), st.binary())
    def test_any_bytes_give_one_short_safe_line(self, extension, data):
        shown = preview(extension, data)
        assert shown
        assert shown.isprintable()
        assert len(shown) <= 60

    @given(st.text(min_size=1))
    def test_any_text_gives_one_short_safe_line(self, text):
        shown = preview("txt", text.encode("utf-8", "surrogatepass"))
        assert shown.isprintable()
        assert len(shown) <= 60

    def test_a_cut_in_the_middle_of_a_letter_is_still_text(self):
        assert preview("txt", ("ab" + "é" * 5000).encode()).startswith("abéé")

    def test_pictures_tell_their_dimensions(self):
        stream = io.BytesIO()
        Image.new("L", (640, 480)).save(stream, "JPEG")
        assert preview("seg.JPG", stream.getvalue()) == "JPEG picture, 640 x 480, L"
        assert preview("jpg", b"text") == "not a picture that Pillow can open"

    def test_a_decompression_bomb_is_not_opened(self):
        header = b"P6 100000 100000 255 "
        assert preview("ppm", header) == "not a picture that Pillow can open"

    @pytest.mark.parametrize(
        ("shape", "shown"),
        [((), "array, one float32"), ((2, 3), "array, 2 x 3 float32")],
    )
    def test_arrays_tell_shape_and_type(self, shape, shown):
        stream = io.BytesIO()
        np.save(stream, np.zeros(shape, np.float32))
        assert preview("npy", stream.getvalue()) == shown
        assert preview("npy", b"\x93NUMPY") == "not an array that numpy can open"

    def test_nothing_and_bad_json(self):
        assert preview("txt", b"") == "empty"
        assert preview("json", b"{") == "{"
        assert preview("json", b'"\\ud800"') == r"\ud800"[:0] + '"\\ud800"'


if TYPE_CHECKING:
    from shardbuild import Sample


def job(
    sample: Sample,
    *,
    size: int,
    quality: float = 0.9,
    mode: Literal["fit", "fill"] = "fit",
    upscale: bool = False,
    font: str | None = None,
) -> Sample:
    """Resize pictures
    without distortion.

    Args:
        sample: What to resize.
        size: The longer side,
            in pixels: 100% of it.
        quality (float): JPEG's.

    Raises:
        OSError: No picture.
    """
    return sample


class TestJobOptions:
    def parse(self, *argv: str) -> dict[str, object]:
        parser = argparse.ArgumentParser(exit_on_error=False)
        add_job_options(parser, job)
        return read_job_options(parser.parse_args(argv), job)

    def test_annotations_say_how_values_are_read(self):
        given_options = self.parse("--size", "64", "--mode", "fill", "--upscale")
        expected = {"size": 64, "quality": 0.9, "mode": "fill", "upscale": True}
        assert given_options == expected | {"font": None}
        assert self.parse("--size=1", "--font", "serif")["font"] == "serif"

    def test_the_docstring_is_the_help(self):
        parser = argparse.ArgumentParser()
        add_job_options(parser, job)
        said = " ".join(parser.format_help().split())
        assert "Resize pictures without distortion." in said
        assert "--size INT The longer side, in pixels: 100% of it." in said
        assert "--quality FLOAT JPEG's. (default: 0.9)" in said
        assert "--upscale, --no-upscale (default: False)" in said

    def test_what_cannot_be_an_option_is_refused_by_name(self):
        def transform(sample: object, *, sizes: dict[str, int]) -> object:
            return sample, sizes

        with pytest.raises(ValueError, match="option sizes is dict"):
            add_job_options(argparse.ArgumentParser(), transform)

    def test_an_option_of_converts_own_is_refused_by_name(self):
        parser = argparse.ArgumentParser()
        parser.add_argument("--size")
        with pytest.raises(ValueError, match=r"--size is already one of convert's"):
            add_job_options(parser, job)


class TestShow:
    def test_shows_keys_extensions_sizes_and_texts(self, shard, capsys):
        assert main(["show", str(shard)]) == 0
        expected = [
            str(shard),
            "  a/000",
            "    cls  1 B  0",
            "    txt  6 B  text 0",
        ]
        assert capsys.readouterr().out.splitlines()[:4] == expected

    def test_count_is_a_limit_and_more_is_told(self, shard, capsys):
        main(["show", "--count", "2", str(shard)])
        said = capsys.readouterr().out
        assert "a/001" in said
        assert "a/002" not in said
        assert said.endswith("  and more: 2 samples shown\n")
        main(["show", "--count", "3", str(shard)])
        assert "and more" not in capsys.readouterr().out

    def test_json_is_one_object_a_sample_and_nothing_else(self, shard, capsys):
        assert main(["show", str(shard), str(shard), "--json", "--count", "2"]) == 0
        samples = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [sample["key"] for sample in samples] == ["a/000", "a/001"] * 2
        assert samples[1] == {
            "fields": {
                "cls": {"num_bytes": 1, "preview": "1"},
                "txt": {"num_bytes": 6, "preview": "text 1"},
            },
            "key": "a/001",
            "url": str(shard),
        }

    def test_options_may_stand_between_urls(self, shard, capsys):
        assert main(["show", str(shard), "--count", "1", str(shard)]) == 0
        assert capsys.readouterr().out.count("a/000") == 2
