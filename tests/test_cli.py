"""The command line: what it takes, prints, and returns."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import tarfile
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shardbuild import load_index, load_manifest, read_samples
from shardbuild.build.settings import Progress
from shardbuild.cli import index, options, show
from shardbuild.cli.joboptions import add_job_options, read_job_options
from shardbuild.cli.main import COMMANDS, main
from shardbuild.cli.preview import preview
from shardbuild.cli.printing import plain, printable
from shardbuild.cli.progress import ProgressBar
from shardbuild.errors import ShardError
from shardbuild.shards.index import save_index
from shardbuild.storage import exists, write_bytes

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
        value = {1: (1, 2.5, None, True, Path("c")), "paths": {Path("b"), Path("a")}}
        expected = {"1": [1, 2.5, None, True, "c"], "paths": ["a", "b"]}
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
        assert preview("txt", ("a" + "é" * 5000).encode()).startswith("aéé")

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
        assert "--upscale, --no-upscale default: False" in said

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

    def test_a_shard_without_samples_says_so(self, tmp_path, capsys):
        shard = tmp_path / "a.tar"
        shard.write_bytes(tar_bytes({}))
        assert main(["show", str(shard)]) == 0
        assert capsys.readouterr().out == f"{shard}\n  no samples\n"

    def test_options_may_stand_between_urls(self, shard, capsys):
        assert main(["show", str(shard), "--count", "1", str(shard)]) == 0
        assert capsys.readouterr().out.count("a/000") == 2


class TestVerify:
    def test_whole_shards_are_status_0(self, shard, capsys):
        assert main(["verify", str(shard)]) == 0
        num_bytes = f"{shard.stat().st_size:,}"
        expected = f"1 shard, 3 samples, {num_bytes} bytes: whole\n"
        assert capsys.readouterr().out == expected

    def test_each_finding_is_a_line_and_status_1(self, shard, capsys):
        data = shard.read_bytes()
        shard.write_bytes(data[:2048])
        assert main(["verify", str(shard)]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"{shard}: ")
        assert lines[-1].endswith("1 finding")

    def test_json_is_the_report_and_nothing_else(self, shard, capsys):
        assert main(["verify", "--json", str(shard)]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["findings"] == []
        assert report["num_samples"] == 3
        shard.write_bytes(shard.read_bytes()[:2048])
        assert main(["verify", "--json", str(shard)]) == 1
        assert len(json.loads(capsys.readouterr().out)["findings"]) == 1


@pytest.fixture
def shards(tmp_path):
    """Two shards of others: ``v2/part-0-of-2.tar`` and ``v2/part-1-of-2.tar``."""
    folder = tmp_path / "v2"
    folder.mkdir()
    for shard in range(2):
        members = {f"{shard}{n}.txt": b"text" * n for n in range(4)}
        (folder / f"part-{shard}-of-2.tar").write_bytes(tar_bytes(members))
    return sorted(folder.glob("*.tar"))


class TestIndex:
    def test_one_shard_gets_its_index_alone(self, shard, capsys):
        assert main(["index", str(shard)]) == 0
        assert capsys.readouterr().out == f"{shard}.npz: 3 samples\n"
        index = load_index(str(shard), num_bytes=shard.stat().st_size)
        assert index is not None
        assert index.keys() == ["a/000", "a/001", "a/002"]
        assert sorted(path.name for path in shard.parent.iterdir()) == [
            shard.name,
            f"{shard.name}.npz",
        ]

    def test_several_shards_get_a_manifest_that_verifies(self, shards, capsys):
        assert main(["index", *map(str, shards)]) == 0
        manifest = shards[0].parent / "part.json"
        assert f"{manifest}: 2 shards, 8 samples\n" in capsys.readouterr().out
        listed = json.loads(manifest.read_text())["shardlist"]
        assert [(one["url"], one["nsamples"]) for one in listed] == [
            ("part-0-of-2.tar", 4),
            ("part-1-of-2.tar", 4),
        ]
        sums = [hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards]
        facts = load_manifest(str(manifest)).shards
        assert [fact.sha256 for fact in facts] == sums
        assert main(["verify", str(manifest)]) == 0
        before = manifest.read_bytes()
        assert main(["index", *map(str, shards)]) == 0
        assert manifest.read_bytes() == before

    def test_json_says_what_was_written_and_nothing_else(self, shard, capsys):
        manifest = f"{shard.parent}/all.json"
        assert main(["index", "--json", "--manifest", manifest, str(shard)]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["manifest"] == manifest
        assert said["shards"][0]["num_samples"] == 3
        assert said["shards"][0]["num_bytes"] == shard.stat().st_size

    def test_a_shard_of_a_store_that_changes_while_it_is_read_gets_no_manifest(
        self, shard, capsys, monkeypatch
    ):
        url, manifest = "memory://changing/a.tar", "memory://changing/a.json"
        write_bytes(url, shard.read_bytes())

        def save_index_and_replace_the_shard(found, at, **options):
            save_index(found, at, **options)
            write_bytes(url, shard.read_bytes())

        monkeypatch.setattr(index, "save_index", save_index_and_replace_the_shard)
        assert main(["index", "--manifest", manifest, url]) == 1
        assert f"{url}: has changed while it was read" in capsys.readouterr().err
        assert not exists(manifest)

    def test_a_compressed_shard_is_known_by_its_file(self, shard):
        zipped = shard.with_name("z-000000.tar.gz")
        zipped.write_bytes(gzip.compress(shard.read_bytes()))
        manifest = shard.with_name("z.json")
        assert main(["index", "--manifest", str(manifest), str(zipped)]) == 0
        (facts,) = load_manifest(str(manifest)).shards
        assert facts.num_bytes == zipped.stat().st_size
        assert facts.sha256 == hashlib.sha256(zipped.read_bytes()).hexdigest()

    def test_peers_get_their_own_forms(self, shard):
        assert main(["index", "--peers", "energon,dali", str(shard)]) == 0
        offsets = np.frombuffer(Path(f"{shard}.idx").read_bytes(), "<u8")
        assert offsets.tolist() == [0, 2048, 4096, 6144]
        lines = shard.with_suffix(".idx").read_text().splitlines()
        assert lines[0] == "v1.2 3"
        assert lines[1] == "cls 512 1 a/000.cls txt 1536 6 a/000.txt"

    def test_peers_have_no_form_for_a_compressed_shard(self, shard, capsys):
        zipped = shard.with_name("z.tar.gz")
        zipped.write_bytes(gzip.compress(shard.read_bytes()))
        assert main(["index", "--peers", "dali", str(zipped)]) == 1
        assert f"{zipped}: is compressed" in capsys.readouterr().err

    def test_a_name_that_dali_cannot_hold_is_named(self, tmp_path, capsys):
        shard = tmp_path / "a.tar"
        shard.write_bytes(tar_bytes({"a b.txt": b""}))
        assert main(["index", "--peers", "dali", str(shard)]) == 1
        assert "'a b.txt'" in capsys.readouterr().err

    def test_another_manifest_is_not_replaced_unless_asked(self, shards, capsys):
        names = [str(shard) for shard in shards]
        manifest = shards[0].parent / "part.json"
        assert main(["index", "--manifest", str(manifest), names[0]]) == 0
        before = manifest.read_bytes()
        assert main(["index", *names]) == 1
        assert "--overwrite" in capsys.readouterr().err
        assert manifest.read_bytes() == before
        assert main(["index", "--overwrite", *names]) == 0
        assert len(load_manifest(str(manifest)).shards) == 2

    def test_a_manifest_that_says_other_things_is_not_replaced(self, shards, capsys):
        names = [str(shard) for shard in shards]
        assert main(["index", *names]) == 0
        shards[1].write_bytes(tar_bytes({"other.txt": b""}))
        assert main(["index", *names]) == 1
        assert "part.json: says other things" in capsys.readouterr().err

    def test_shards_without_a_common_name_want_a_manifest_named(
        self, shard, shards, capsys
    ):
        assert main(["index", str(shard), *map(str, shards)]) == 1
        assert "--manifest" in capsys.readouterr().err

    @pytest.mark.parametrize("url", ["-", "pipe:cat a.tar"])
    def test_a_stream_has_no_place_for_an_index(self, url, capsys):
        assert main(["index", url]) == 1
        assert "no place beside it" in capsys.readouterr().err

    def test_a_damaged_shard_gets_neither_index_nor_manifest(self, shards, capsys):
        shards[1].write_bytes(shards[1].read_bytes()[:1024])
        assert main(["index", *map(str, shards)]) == 1
        assert f"{shards[1]}: at byte" in capsys.readouterr().err
        left = sorted(path.name for path in shards[0].parent.iterdir())
        assert left[:1] == ["part-0-of-2.tar"]
        assert "part-1-of-2.tar.npz" not in left
        assert "part.json" not in left


class TestConvert:
    def convert(self, *argv: str | Path) -> int:
        return main(["convert", *map(str, argv), "--scheduler", "sync"])

    def test_the_summary_is_on_stdout_and_nothing_on_stderr(
        self, shard, tmp_path, capsys
    ):
        assert self.convert(shard, tmp_path / "out" / "a-%06d.tar") == 0
        captured = capsys.readouterr()
        assert "3 read = 3 written" in captured.out
        assert captured.err == ""

    def test_json_is_the_report_and_nothing_else(self, shard, tmp_path, capsys):
        assert self.convert(shard, tmp_path / "out" / "a-%06d.tar", "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert report["num_read"] == report["num_written"] == 3

    @pytest.mark.parametrize("flags", [["--plan"], ["--plan", "--json"]])
    def test_a_plan_writes_nothing(self, shard, tmp_path, capsys, flags):
        out = tmp_path / "out"
        assert self.convert(shard, out / "a-%06d.tar", *flags) == 0
        assert not out.exists()
        said = capsys.readouterr().out
        if "--json" in flags:
            assert json.loads(said)["method"] == "stream"
        else:
            assert "stream" in said

    def test_several_sources_and_options_between_them(self, shards, tmp_path, capsys):
        out = tmp_path / "out"
        first, second = map(str, shards)
        dst = str(out / "a-%06d.tar")
        argv = ["convert", first, "--order", "shuffle", second, "--seed", "3", dst]
        assert main([*argv, "--maxcount", "3", "--scheduler", "sync"]) == 0
        manifest = load_manifest(str(out / "a.json"))
        assert [facts.num_samples for facts in manifest.shards] == [3, 3, 2]

    def test_a_jobs_options_reach_its_transform(self, shard, tmp_path):
        job_file = write_job(
            tmp_path, "return {**sample, 'txt': f'{prefix}{count}'}", "prefix, count=2"
        )
        out = tmp_path / "out"
        flags: list[str | Path] = ["--job", job_file, "--prefix", "p"]
        assert self.convert(shard, out / "a-%06d.tar", *flags) == 0
        samples = read_samples(str(out / "a-000000.tar"))
        assert [sample["txt"] for sample in samples] == [b"p2"] * 3

    def test_a_jobs_options_are_checked_and_in_the_help(self, tmp_path, capsys):
        job_file = str(write_job(tmp_path, "return sample", "size: int, wide=1"))
        base = ["convert", "a.tar", "b-%06d.tar", "--job", job_file]
        assert main(base) == 2
        assert "required: --size" in capsys.readouterr().err
        assert main([*base, "--size", "large"]) == 2
        assert "argument --size:" in capsys.readouterr().err
        assert main([*base, "--size", "1", "--height", "2"]) == 2
        assert "--height" in capsys.readouterr().err
        assert main(["convert", "--help", "--job", job_file]) == 0
        said = capsys.readouterr().out
        assert "options of the job" in said
        assert "A job for a test." in said
        assert "--size INT" in said

    def test_a_jobs_defaults_are_converts_unless_given(self, shard, tmp_path):
        job_file = write_job(tmp_path, "return sample", "")
        with job_file.open("a") as stream:
            stream.write("defaults = {'maxcount': 1}\n")
        for flags, num_shards in [([], 3), (["--maxcount", "2"], 2)]:
            out = tmp_path / f"out{num_shards}"
            dst = out / "a-%06d.tar"
            assert self.convert(shard, dst, "--job", job_file, *flags) == 0
            assert len(load_manifest(str(out / "a.json")).shards) == num_shards

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("def transform(sample): return (", "cannot run the job file"),
            ("x = 1", "defines no transform"),
            ("def transform(sample, *, seed=1): ...", "--seed is already one of"),
            ("def transform(sample, *, sizes: list = ()): ...", "option sizes is"),
            ("transform = None\ndefaults = {'speed': 1}", "no option of convert"),
        ],
    )
    def test_a_job_that_cannot_be_used_is_named(self, tmp_path, capsys, text, problem):
        job_file = tmp_path / "job.py"
        job_file.write_text(text)
        assert self.convert("a.tar", "b-%06d.tar", "--job", job_file) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"shardbuild: {job_file}: ")
        assert problem in said

    def test_a_job_that_is_not_there_is_named(self, tmp_path, capsys):
        job_file = tmp_path / "no.py"
        assert self.convert("a.tar", "b-%06d.tar", "--job", job_file) == 1
        assert str(job_file) in capsys.readouterr().err
        assert main(["convert", "a.tar", "b-%06d.tar", "--job"]) == 2

    def test_a_damaged_shard_is_an_error_with_url_and_offset(
        self, shard, tmp_path, capsys
    ):
        shard.write_bytes(shard.read_bytes()[:2048])
        assert self.convert(shard, tmp_path / "out" / "a-%06d.tar") == 1
        assert f"shardbuild: {shard}: at byte" in capsys.readouterr().err

    def test_allowed_losses_are_told_and_status_0(self, shard, tmp_path, capsys):
        job_file = write_job(tmp_path, "raise ValueError('no use')", "")
        flags: list[str | Path] = ["--job", job_file, "--errors", "skip"]
        assert self.convert(shard, tmp_path / "out" / "a-%06d.tar", *flags) == 0
        assert "3 x ValueError" in capsys.readouterr().out
        flags += ["--max-errors", "2", "--overwrite"]
        assert self.convert(shard, tmp_path / "out" / "a-%06d.tar", *flags) == 1

    def test_a_terminal_shows_a_bar_with_bytes_and_samples(self, shard, tmp_path):
        reader, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (24, 100))
        command = [sys.executable, "-m", "shardbuild", "convert", shard]
        command += [tmp_path / "out" / "a-%06d.tar", "--scheduler", "sync"]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=terminal, check=True, cwd=ROOT
        )
        os.close(terminal)
        shown = os.read(reader, 1 << 16).decode()
        os.close(reader)
        assert "3 samples" in shown
        assert "100%" in shown
        assert b"3 read = 3 written" in done.stdout


def write_job(folder: Path, body: str, options_text: str) -> Path:
    """Write a job file whose transform has this body and these options."""
    parameters = ", ".join(filter(None, ["sample", options_text and "*", options_text]))
    path = folder / "job.py"
    path.write_text(
        f'"""A job for a test."""\ndef transform({parameters}):\n    {body}\n'
    )
    return path


class TestProgressBar:
    def test_nothing_is_shown_where_no_terminal_is(self):
        stream = io.StringIO()
        with ProgressBar(stream) as progress:
            progress(Progress("write", 2, 1, 100, 50))
        assert stream.getvalue() == ""

    def test_each_phase_has_its_line_with_samples_and_losses(self):
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        stream = Terminal()
        with ProgressBar(stream) as progress:
            progress(Progress("map", 2, 1, 100, 40, 6_000))
            progress(Progress("map", 2, 2, 100, 100, 12_000, 3))
            progress(Progress("write", 2, 1, 100, 50, 6_000))
        last_states = [
            line.rpartition("\r")[2] for line in stream.getvalue().strip().split("\n")
        ]
        assert len(last_states) == 2
        assert last_states[0].startswith("map: 100%")
        assert "12,000 samples, 3 lost" in last_states[0]
        assert last_states[1].startswith("write:  50%")
