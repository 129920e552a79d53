"""One holder at a time, and none that is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from shardbuild.errors import StorageError
from shardbuild.storage.claims import claim_file

HOLD = """
import sys
from shardbuild.storage.claims import claim_file
claim = claim_file(sys.argv[1])
print("held" if claim else "not held", flush=True)
sys.stdin.read()
"""


def holder(path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", HOLD, str(path)]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    return child


def test_one_at_a_time_also_among_threads(tmp_path):
    path = f"{tmp_path}/d/x.claim"
    with claim_file(path):  # type: ignore[union-attr]
        assert claim_file(path) is None
        assert claim_file(f"{tmp_path}/d/y.claim") is not None
    assert not os.path.exists(path)  # noqa: PTH110
    again = claim_file(path)
    assert again is not None
    again.release()
    again.release()


def test_a_killed_process_s_claim_is_over(tmp_path):
    path = f"{tmp_path}/x.claim"
    child = holder(path)
    assert claim_file(path) is None
    child.send_signal(signal.SIGKILL)
    child.communicate()
    claim = claim_file(path)
    assert claim is not None
    claim.release()


def test_waiting_ends_when_the_holder_is_killed(tmp_path):
    path = f"{tmp_path}/x.claim"
    child = holder(path)
    killer = threading.Timer(0.05, child.kill)
    killer.start()
    claim = claim_file(path, wait=True)
    assert child.wait() == -signal.SIGKILL
    assert claim is not None
    claim.release()
    child.communicate()
    killer.join()


def test_many_who_wait_come_one_by_one(tmp_path):
    path, inside, most = f"{tmp_path}/x.claim", 0, 0

    def work():
        nonlocal inside, most
        for _ in range(50):
            with claim_file(path, wait=True):  # type: ignore[union-attr]
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_a_forked_child_takes_no_claim_away(tmp_path):
    path = f"{tmp_path}/x.claim"
    claim = claim_file(path)
    assert claim is not None
    child = os.fork()
    if child == 0:
        claim.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert claim_file(path) is None
    claim.release()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/x.claim"):
        claim_file(f"{tmp_path}/file/x.claim")
