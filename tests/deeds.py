"""Tasks that tests give to schedulers; a worker imports little for them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

from shardbuild.build.stopping import Stopped, look
from shardbuild.errors import TransformError

if TYPE_CHECKING:
    from pathlib import Path

    from shardbuild.shards.samples import Sample


def double(number: int) -> dict[str, Any]:
    return {"item": number, "twice": 2 * number}


def mark(which: int, number: int) -> dict[str, Any]:
    return {"which": which, "item": number}


def fail_or_wait(folder: Path, number: int) -> dict[str, Any]:
    """One fails as soon as another one is under way; these wait to be stopped."""
    with contextlib.suppress(FileExistsError):
        (folder / "fails").mkdir()
        while not list(folder.glob("started-*")):
            threading.Event().wait(0.01)
        raise TransformError("in.tar", "no good", "a/7")
    (folder / f"started-{number}").touch()
    try:
        for _ in range(6000):
            look()
            threading.Event().wait(0.01)
    except Stopped:
        (folder / f"stopped-{number}").touch()
        raise
    return double(number)


def kill_own_worker(folder: Path, num_times: int, number: int) -> dict[str, Any]:
    """Item 7 kills the process that runs it, the first so many times."""
    if number == 7:
        num_deaths = len(list(folder.iterdir()))
        if num_deaths < num_times:
            (folder / f"{num_deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return double(number)


def kill_in_a_bag(folder: Path, num_times: int, sample: Sample) -> Sample:
    kill_own_worker(folder, num_times, int(sample["__key__"][2:]))
    return sample


def refuse(sample: Sample) -> Sample:
    """A job that one sample is too much for."""
    if sample["__key__"] == "0/000042":
        raise ValueError("not 42")
    return sample


def looking(value: str) -> str:
    look()
    return value


def setting_of(name: str) -> dict[str, Any]:
    return {name: os.environ.get(name)}
