"""Each command's help has an example, and it runs; and so do the seeds' pipelines."""

from __future__ import annotations

import contextlib
import io
import shlex
import socket
from typing import TYPE_CHECKING

import pytest

from shardbuild import TarWriter
from shardbuild.cli.main import COMMANDS, main
from tests.streamed import keys_of, numbered, run_shell, samples_of, write_set

if TYPE_CHECKING:
    from pathlib import Path

NETWORK = ("send", "recv")
STREAMS = (
    *("cat", "mix", "split", "sort", "shuffle", "grep", "proc", "create", "lines"),
    *("table", "from-table", "send", "recv"),
)
SHARED = (
    *("-o", "--output", "-c", "--count", "--slice", "-f", "--fields", "-F"),
    *("--field-mode", "-R", "--rekey", "--storage-option", "--debug"),
)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def examples_of(name: str) -> list[str]:
    """The examples in a command's help, each a line for the shell."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main([name, "--help"]) == 0
    lines = output.getvalue().partition("\nexamples:\n")[2].splitlines()
    return [line.strip() for line in lines]


def make_folder(folder: Path) -> None:
    """Write all that the examples name."""
    write_set(folder)
    write_set(folder, "b")
    for path in folder.glob("b*"):
        new = path.name.replace("b-00000", "b-")
        path.rename(folder / new) if path.name.endswith(".tar") else path.unlink()
    with TarWriter(f"{folder}/joined.tar") as writer:
        for sample in numbered(100):
            writer.write(sample)
    (folder / "photos").mkdir()
    for place in (folder, folder / "photos"):
        (place / "7.jpg").write_bytes(b"\xff\xd8")
    (folder / "plan.txt").write_text("n/7.jpg 7.jpg\nn/7.cls text:3\nm/8.jpg 7.jpg\n")
    (folder / "plan.tsv").write_text("@jpg\tcls\n7.jpg\t3\n7.jpg\t4\n")
    (folder / "words.txt").write_text("one\ntwo\n")
    (folder / "spec.yaml").write_text(
        "- {shards: 'a-000000.tar', weight: 2}\n"
        "- {shards: [a-000001.tar], nrepeats: 2}\n"
    )


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in NETWORK])
def test_examples_run(name, tmp_path):
    make_folder(tmp_path)
    examples = examples_of(name)
    assert examples
    assert all(example.startswith(f"shardbuild {name} ") for example in examples)
    for example in examples:
        if set(example) & set("|<>"):
            run_shell(example, tmp_path)
        else:
            assert main(shlex.split(example)[1:]) == 0


@pytest.mark.parametrize("name", STREAMS)
def test_options_are_called_alike_everywhere(name, capsys):
    assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    for option in SHARED:
        assert f" {option} " in said, option


def test_examples_of_the_network_run_together(tmp_path):
    make_folder(tmp_path)
    (send,), (recv,) = map(examples_of, NETWORK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = f"{send} & {recv} && wait $!".replace("17117", port)
    assert port in both
    run_shell(both, tmp_path)
    assert keys_of("received.tar") == [sample["__key__"] for sample in numbered(100)]


class TestPipelinesOfTarproc:
    """What tarproc's README did, with a set as its own: cls, png, wnid, xml."""

    @pytest.fixture(autouse=True)
    def _imagenet(self, tmp_path):
        (tmp_path / "testdata").mkdir()
        for name, count in (("imagenet-000000", 40), ("sample", 90)):
            with TarWriter(f"testdata/{name}.tar") as writer:
                for i in range(count):
                    fields = {
                        "cls": i * 37 % 50,
                        "png": b"\x89PNG",
                        "wnid.txt": f"n{i}",
                    }
                    writer.write({"__key__": f"{i + 10}", "xml": "None", **fields})

    def test_show(self, tmp_path):
        said = run_shell("shardbuild show - < testdata/imagenet-000000.tar", tmp_path)
        assert b"  10\n    cls       1 B  0\n" in said

    def test_first(self, tmp_path):
        line = "shardbuild first -f wnid.txt testdata/imagenet-000000.tar -S __key__=18"
        assert run_shell(line, tmp_path) == b"n8"
        line = "shardbuild first -S cls=37 -f cls testdata/imagenet-000000.tar"
        assert run_shell(line, tmp_path) == b"37"

    def test_split(self, tmp_path):
        run_shell(
            "shardbuild split - -n 20 -o '_test-%06d.tar' < testdata/sample.tar",
            tmp_path,
        )
        sizes = [len(samples_of(path)) for path in sorted(tmp_path.glob("_test-*.tar"))]
        assert sizes == [20, 20, 20, 20, 10]

    def test_split_of_what_tar_makes(self, tmp_path):
        (tmp_path / "raw").mkdir()
        for i in range(40):
            (tmp_path / "raw" / f"{i}.JPEG").write_bytes(b"j" * 5000)
        run_shell(
            "(cd raw && find . -name '*.JPEG' | tar -T - -cf -) | "
            "shardbuild split - --maxshards=3 -s 50kB -o '_test-%06d.tar' || true",
            tmp_path,
        )
        shards = sorted(tmp_path.glob("_test-*.tar"))
        assert [len(samples_of(path)) for path in shards] == [7, 7, 7]

    def test_reshard(self, tmp_path):
        run_shell(
            "shardbuild cat testdata/sample.tar testdata/sample.tar -R '#' | "
            "shardbuild split - -n 60 -o 'temp-%06d.tar'",
            tmp_path,
        )
        shards = sorted(tmp_path.glob("temp-*.tar"))
        assert [len(samples_of(path)) for path in shards] == [60, 60, 60]

    def test_a_table_of_many_shards_read_by_a_command(self, tmp_path):
        said = run_shell(
            "shardbuild cat 'pipe:cat testdata/imagenet-{000000..000000}.tar' | "
            "shardbuild table - -f cls --no-header | sed 2q",
            tmp_path,
        )
        assert said == b"10\t0\n11\t37\n"

    def test_sort_by_class_and_shuffle(self, tmp_path):
        said = run_shell(
            "shardbuild sort - -s cls -t int "
            "< testdata/imagenet-000000.tar > _sorted.tar && "
            "shardbuild table -c 3 -f 'cls wnid.txt' --no-header _sorted.tar",
            tmp_path,
        )
        rows = sorted((i * 37 % 50, i) for i in range(40))[:3]
        lines = [f"{i + 10}\t{cls}\tn{i}\n" for cls, i in rows]
        assert said.decode() == "".join(lines)
        run_shell(
            "shardbuild shuffle - < testdata/imagenet-000000.tar > _mixed.tar", tmp_path
        )
        before = keys_of("testdata/imagenet-000000.tar")
        assert sorted(keys_of("_mixed.tar")) == before != keys_of("_mixed.tar")

    def test_a_command_for_each_sample_in_parallel(self, tmp_path):
        for workers in ("", "-p 8"):
            run_shell(
                f"shardbuild proc - {workers} "
                "-C 'for f in *.png; do echo . >> $f; done' "
                "< testdata/imagenet-000000.tar > _out.tar",
                tmp_path,
            )
            assert {s["png"] for s in samples_of("_out.tar")} == {b"\x89PNG.\n"}
            assert keys_of("_out.tar") == keys_of("testdata/imagenet-000000.tar")


class TestPipelinesOfTarp:
    def test_shuffle_and_split(self, tmp_path):
        write_set(tmp_path)
        run_shell(
            "cat a-000000.tar | shardbuild shuffle - -o - | "
            "shardbuild split - -n 20 -o 'output-%06d.tar'",
            tmp_path,
        )
        keys = [k for path in tmp_path.glob("output-*.tar") for k in keys_of(path)]
        assert sorted(keys) == sorted(keys_of("a-000000.tar"))

    def test_folders_of_classes_become_shards_that_are_moved_away(self, tmp_path):
        for label in ("cat", "dog"):
            (tmp_path / "raw" / label).mkdir(parents=True)
            for i in range(6):
                (tmp_path / "raw" / label / f"{label}{i}.png").write_bytes(b"\x89PNG")
        (tmp_path / "bucket").mkdir()
        run_shell(
            """
            cd raw
            for classdir in *; do
                test -d $classdir || continue
                for image in $classdir/*.png; do
                    imageid=$(basename $image .png)
                    echo "$imageid.txt text:$classdir"
                    echo "$imageid.png file:$image"
                done
            done |
            sort |
            shardbuild create -o - - |
            shardbuild split - -n 5 -o '../dataset-%06d.tar' --only-shards \
                -p 'cp %s ../bucket/; rm %s'
            """,
            tmp_path,
        )
        assert list(tmp_path.glob("dataset-*")) == []
        shards = sorted((tmp_path / "bucket").iterdir())
        found = [sample for path in shards for sample in samples_of(path)]
        assert len(shards) == 3
        assert found == [
            {"__key__": f"{label}{i}", "png": b"\x89PNG", "txt": label.encode()}
            for label in ("cat", "dog")
            for i in range(6)
        ]
