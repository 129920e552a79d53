"""``shardbuild sort`` and ``shardbuild shuffle``."""

from __future__ import annotations

import gc
import signal
from collections import Counter
from pathlib import Path

import pytest

from shardbuild import ShardWriter
from shardbuild.cli.main import main
from tests.commands import running_command
from tests.limited import run_limited
from tests.streamed import keys_of, numbered, run_shell, samples_of, write_set


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    write_set(tmp_path)
    monkeypatch.chdir(tmp_path)


class TestSort:
    def test_by_key(self):
        assert main(["sort", "a.json", "-o", "x.tar"]) == 0
        assert samples_of("x.tar") == sorted(numbered(100), key=lambda s: s["__key__"])

    def test_equal_fields_keep_the_order_of_the_input(self):
        assert main(["sort", "a.json", "-s", "cls", "-o", "x.tar"]) == 0
        assert samples_of("x.tar") == sorted(numbered(100), key=lambda s: s["cls"])

    def test_backwards(self):
        assert main(["sort", "a.json", "-s", "txt", "-r", "-o", "x.tar"]) == 0
        ordered = sorted(numbered(100), key=lambda s: s["txt"])
        assert samples_of("x.tar") == ordered[::-1]

    @pytest.mark.parametrize(
        ("kind", "order"),
        [("text", ["-1.5", "10", "9"]), ("float", ["-1.5", "9", "10"])],
    )
    def test_as_what_it_is(self, kind, order):
        with ShardWriter("n-%06d.tar") as writer:
            for text in ("9", "10", "-1.5"):
                writer.write({"__key__": f"k{text[-1]}", "score": text.encode()})
        argv = ["sort", "n-000000.tar", "-s", "score", "-t", kind, "-o", "x.tar"]
        assert main(argv) == 0
        assert [one["score"].decode() for one in samples_of("x.tar")] == order

    def test_the_first_of_all_with_some_fields(self):
        argv = ["sort", "a.json", "-s", "txt", "-c", "3", "-f", "txt", "-o", "x.tar"]
        assert main(argv) == 0
        assert [s["txt"] for s in samples_of("x.tar")] == [
            b"text 000",
            b"text 001",
            b"text 002",
        ]

    def test_a_missing_field_is_an_error(self, capsys, tmp_path):
        assert main(["sort", "a.json", "-s", "xml", "-o", "x.tar"]) == 1
        assert "has no field 'xml'" in capsys.readouterr().err
        assert not (tmp_path / "x.tar").exists()

    def test_an_error_leaves_no_file_open(self, capsys):
        gc.collect()
        gc.disable()  # nobody but us closes what we opened
        try:
            assert main(["sort", "a.json", "-s", "xml", "-o", "x.tar"]) == 1
            files = Path("/proc/self/fd").iterdir()
            opened = [str(file.readlink()) for file in files if file.is_symlink()]
        finally:
            gc.enable()
        assert "xml" in capsys.readouterr().err
        assert not [path for path in opened if path.endswith(".tar")]

    def test_equal_keys_are_kept_with_new_ones(self, capsys):
        argv = ["sort", "a.json", "a-000000.tar", "-o", "x.tar"]
        assert main(argv) == 1
        said = capsys.readouterr().err
        assert said.startswith(
            "shardbuild: x.tar: sample 'n00/000': its key comes twice"
        )
        assert "--rekey" in said
        assert main([*argv, "-R", "{record:03d}/{key}"]) == 0
        twice = [*numbered(100), *numbered(50)]
        ordered = sorted(twice, key=lambda s: s["__key__"])
        assert samples_of("x.tar") == [
            {**one, "__key__": f"{i:03d}/{one['__key__']}"}
            for i, one in enumerate(ordered)
        ]

    def test_compressed_input_and_output_that_is_input(self):
        assert main(["cat", "a-000000.tar", "-o", "z.tar.gz"]) == 0
        assert main(["sort", "z.tar.gz", "-r", "-o", "z.tar.gz"]) == 0
        assert keys_of("z.tar.gz") == sorted(keys_of("a-000000.tar"), reverse=True)

    def test_an_empty_input_gives_an_empty_shard(self):
        assert main(["grep", "nothing", "a.json", "-o", "empty.tar"]) == 0
        assert main(["sort", "empty.tar", "-o", "x.tar"]) == 0
        assert samples_of("x.tar") == []

    def test_missing_shards_may_be_permitted(self, capsys):
        argv = ["sort", "a-000000.tar", "nowhere.tar", "-o", "x.tar"]
        assert main(argv) == 1
        for more in ([], ["-R", "{key}"]):
            capsys.readouterr()
            assert main([*argv, "--allow-missing", *more]) == 0
            told = "shardbuild: nowhere.tar: is missing: left out\n"
            assert capsys.readouterr().err == told
            assert keys_of("x.tar") == sorted(keys_of("a-000000.tar"))

    @pytest.mark.parametrize(
        "argv",
        [["-t", "date"], ["-o", "x-%06d.tar"], ["--tmpdir", "nowhere"], ["-p", "0"]],
        ids=" ".join,
    )
    def test_wrong_usage_is_status_2(self, argv):
        assert main(["sort", "a.json", *argv]) == 2


class TestShuffle:
    def test_all_are_there_and_the_seed_decides(self):
        for seed, name in (("1", "x"), ("1", "y"), ("2", "z")):
            assert main(["shuffle", "a.json", "--seed", seed, "-o", f"{name}.tar"]) == 0
        one, again, other = (keys_of(f"{name}.tar") for name in "xyz")
        assert one == again != other
        expected = Counter(sample["__key__"] for sample in numbered(100))
        assert Counter(one) == Counter(other) == expected

    def test_workers_do_not(self, tmp_path):
        for workers in ("1", "3"):
            argv = ["shuffle", "a.json", "-p", workers, "-o", f"x{workers}.tar"]
            assert main(argv) == 0
        one, three = (tmp_path / f"x{n}.tar" for n in "13")
        assert one.read_bytes() == three.read_bytes()

    def test_equal_keys_of_two_shards_are_kept_with_new_ones(self):
        argv = ["shuffle", "a-000000.tar", "a-000000.tar", "-R", "#", "-o", "x.tar"]
        assert main(argv) == 0
        found = Counter(sample["txt"] for sample in samples_of("x.tar"))
        assert found == Counter(2 * [sample["txt"] for sample in numbered(50)])


def test_standard_input_and_output_and_nothing_left_behind(tmp_path):
    (tmp_path / "room").mkdir()
    run_shell(
        "cat a-000000.tar | shardbuild sort - -s txt --tmpdir room | "
        "shardbuild shuffle - --tmpdir room --seed 3 > x.tar",
        tmp_path,
    )
    assert Counter(keys_of("x.tar")) == Counter(keys_of("a-000000.tar"))
    assert list((tmp_path / "room").iterdir()) == []


def test_more_data_than_memory(tmp_path):
    with ShardWriter(f"{tmp_path}/large-%06d.tar", maxsize=10**8) as writer:
        for i in range(3000):
            sample = {
                "__key__": f"{i * 7919 % 3000:06d}",
                "bin": bytes([i % 256]) * 10**5,
            }
            writer.write(sample)
    argv = ["sort", f"{tmp_path}/large.json", "--memory", "8MiB", "-o", "/dev/null"]
    _, peak = run_limited(
        f"from shardbuild.cli.main import main; assert not main({argv})"
    )
    assert peak < 200 << 20  # of 300 MB


def test_one_that_is_told_to_end_leaves_nothing_behind(tmp_path):
    room = tmp_path / "room"
    room.mkdir()
    url = f"pipe:touch {tmp_path}/began; exec sleep 1000"
    with running_command("sort", url, "--tmpdir", room, "-o", "/dev/null") as command:
        command.wait_for(tmp_path / "began")
        command.signal(signal.SIGTERM)
        assert command.finish()[0] == 128 + signal.SIGTERM
    assert list(room.iterdir()) == []
