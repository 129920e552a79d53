"""``shardbuild send`` and ``shardbuild recv``, and ZMQ urls of other commands."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from shardbuild.cli.main import main
from tests.streamed import ROOT, keys_of, numbered, samples_of, write_set


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    write_set(tmp_path)
    monkeypatch.chdir(tmp_path)


def start(*argv: str) -> subprocess.Popen[bytes]:
    """Start a command that runs beside this process."""
    command = [sys.executable, "-m", "shardbuild", *argv]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def test_what_is_sent_is_received(tmp_path):
    url = f"+ipc://{tmp_path}/socket"
    with start("send", "a.json", "-o", f"zpush{url}", "-f", "cls png") as sender:
        argv = ["recv", f"zpull{url}", "--timeout", "60", "-o", "x.tar"]
        assert main(argv) == 0
        assert sender.wait() == 0
    assert samples_of("x.tar") == [
        {name: one[name] for name in ("__key__", "cls", "png")} for one in numbered(100)
    ]


def test_the_end_comes_when_all_producers_have_ended(tmp_path):
    url = f"+ipc://{tmp_path}/socket"
    with (
        start("send", "a-000000.tar", "-o", f"zpush{url}") as one,
        start("cat", "a-000001.tar", "-o", f"zpush{url}") as other,
    ):
        argv = ["recv", f"zpull{url}", "--producers", "2", "--timeout", "60"]
        assert main([*argv, "-o", "x.tar"]) == 0
        assert (one.wait(), other.wait()) == (0, 0)
    expected = Counter(sample["__key__"] for sample in numbered(100))
    assert Counter(keys_of("x.tar")) == expected


def test_a_silent_source_is_an_error(tmp_path, capsys):
    argv = ["recv", f"zpull+ipc://{tmp_path}/socket", "--timeout", "0.2", "-o", "x.tar"]
    assert main(argv) == 1
    said = capsys.readouterr().err
    assert "zpull+ipc" in said
    assert "0.2" in said
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["send", "a.json", "-o", "x.tar"],
        ["send", "a.json"],
        ["recv", "a.json", "-o", "x.tar"],
        ["recv", "zpull://127.0.0.1:9", "--producers", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(argv):
    assert main(argv) == 2
