"""Indexes that were learned by reading: kept on disk, gone with their process."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import shardbuild as sb
from shardbuild.train.learned import LearnedIndexes


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def index(tmp_path_factory):
    url = f"{tmp_path_factory.mktemp('learned')}/a.tar"
    with sb.TarWriter(url) as writer:
        writer.write({"__key__": "a", "cls": 1})
    return sb.scan_shard(url)


def test_what_was_put_in_comes_out_also_of_a_pickled_copy(index):
    learned = LearnedIndexes()
    assert not learned
    learned[7] = index
    copy = pickle.loads(pickle.dumps(learned))  # noqa: S301
    copy[2] = index  # a worker's
    assert 7 in learned
    assert 3 not in learned
    assert list(learned) == [2, 7]
    assert learned[2].members(0) == index.members(0)
    with pytest.raises(KeyError):
        learned[3]
    del learned[2]
    assert list(copy) == [7]


def test_nothing_is_left(index, tmp_path):
    learned = LearnedIndexes()
    learned[0] = index
    assert list(tmp_path.iterdir())
    del learned
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_and_no_other(tmp_path):
    code = (
        "import sys; from shardbuild.train.learned import LearnedIndexes\n"
        "learned = LearnedIndexes(); len(learned); print(flush=True)\n"
        "sys.stdin.read()"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(sb.__file__).parents[1],
        )
        for _ in range(2)
    ]
    for child in children:
        assert child.stdout
        child.stdout.readline()
    before = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert len(before) == 2
    children[0].send_signal(signal.SIGKILL)
    children[0].wait()
    learned = LearnedIndexes()
    assert len(learned) == 0
    after = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert len(after & before) == 1
    for child in children:
        child.communicate()
    del learned
    assert not list(tmp_path.iterdir())
