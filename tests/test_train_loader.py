"""Batches through torch: exact, resumable, and never a process left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

import shardbuild as sb
from shardbuild.errors import SampleError, StateError, UsageError
from shardbuild.train.batches import Batch, stack
from shardbuild.train.dataset import Dataset
from shardbuild.train.loader import Loader, StatefulIterable

NUM_SAMPLES = 103
NUM_STEPS = 9


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("loader")
    with sb.ShardWriter(f"{folder}/a-%06d.tar", maxcount=17) as writer:
        for number in range(NUM_SAMPLES):
            pixels = np.full((2, 3), number, np.uint8)
            writer.write({"__key__": f"{number:03d}", "npy": pixels, "cls": number})
    return f"{folder}/a.json"


def pairs(url: str) -> Dataset:
    return Dataset(url).decode().to_tuple("__key__", "cls")


def make_feed(url: str, **options: Any) -> Any:
    options = {"global_batch": 12, "shuffle": True, "seed": 5, **options}
    return pairs(url).feed(**options)


def epochs_of(batches: Any, count: int) -> list[list[Any]]:
    return [list(batches) for _ in range(count)]


@pytest.fixture(autouse=True)
def _no_process_is_left():
    yield
    assert multiprocessing.active_children() == []


# -- order ---------------------------------------------------------------------


@pytest.mark.parametrize("last", ["wrap", "mask", "drop"])
@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_batches_are_the_feeds_own_with_any_number_of_workers(url, num_workers, last):
    expected = epochs_of(make_feed(url, last=last), 2)
    loader = make_feed(url, last=last).loader(num_workers)
    found = epochs_of(loader, 2)
    assert found == expected
    assert len(loader) == len(found[0]) == NUM_STEPS - (last == "drop")
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert type(ours) is Batch
        assert ours.epoch == theirs.epoch == 1
        np.testing.assert_array_equal(ours.mask, theirs.mask)
        np.testing.assert_array_equal(ours.positions, theirs.positions)


def test_small_steps_are_sent_several_at_a_time_and_come_one_by_one(url, monkeypatch):
    monkeypatch.setattr("shardbuild.train.loader._GROUP_SECONDS", 1e9)
    expected = epochs_of(make_feed(url, global_batch=1), 3)
    feed = make_feed(url, global_batch=1)
    with feed.loader(3, persistent_workers=True) as loader:
        found: list[Any] = []
        for stop in (70, 71, 90):
            found += islice(loader, stop - len(found))
            assert feed.state_dict()["consumed"] == stop
        assert [ring.note > 1 for ring in loader._rings] == [True] * 3
        assert [found + list(loader), *epochs_of(loader, 2)] == expected


def test_an_error_among_steps_that_are_sent_together_comes_in_its_turn(
    url, monkeypatch
):
    monkeypatch.setattr("shardbuild.train.loader._GROUP_SECONDS", 1e9)
    expected = list(make_feed(url, global_batch=1))
    collate = Fails(ValueError("no"), expected[80][0][0])
    loader = make_feed(url, global_batch=1, collate=collate).loader(2)
    found: list[Any] = []
    with pytest.raises(ValueError, match="no"):
        found.extend(batch for batch in loader)
    assert found == expected[:80]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_may_be_new_processes(url, method):
    loader = make_feed(url).loader(2, multiprocessing_context=method)
    assert list(loader) == list(make_feed(url))


class Stamp:
    """Puts the number of the process into each batch."""

    def __call__(self, batch: Batch) -> Any:
        return os.getpid(), list(batch)


@pytest.mark.parametrize("is_persistent", [False, True])
def test_workers_stay_for_the_next_epoch_only_when_asked(url, is_persistent):
    expected = epochs_of(make_feed(url), 3)
    feed = make_feed(url, collate=Stamp())
    with feed.loader(2, persistent_workers=is_persistent) as loader:
        found = epochs_of(loader, 3)
        assert [[batch for _, batch in epoch] for epoch in found] == expected
        workers = [{pid for pid, _ in epoch} for epoch in found]
        assert all(len(each) == 2 for each in workers)
        assert (workers[0] == workers[1] == workers[2]) is is_persistent
        # Ended early, and set to another place: they go on there.
        next(iter(loader))
        assert [batch for _, batch in loader] == epochs_of(make_feed(url), 4)[3][1:]
        loader.load_state_dict(make_feed(url).state_dict())
        assert [batch for _, batch in loader] == expected[0]


def test_a_data_set_without_indexes_is_streamed_by_workers(tmp_path):
    with sb.TarWriter(f"{tmp_path}/a.tar") as writer:
        for number in range(40):
            writer.write({"__key__": f"{number:02d}", "cls": number})
    expected = epochs_of(make_feed(f"{tmp_path}/a.tar", shuffle=False), 2)
    assert epochs_of(make_feed(f"{tmp_path}/a.tar", shuffle=False).loader(2), 2) == (
        expected
    )


# -- state ---------------------------------------------------------------------


@pytest.mark.parametrize("step", range(NUM_STEPS + 1))
def test_state_counts_what_was_given_and_any_number_of_workers_goes_on(url, step):
    first, second = epochs_of(make_feed(url), 2)
    before = make_feed(url)
    loader = before.loader(1 + step % 3, prefetch_factor=4)
    assert list(islice(loader, step)) == first[:step]
    state = json.loads(json.dumps(loader.state_dict()))
    plain = make_feed(url)
    assert list(islice(plain, step)) == first[:step]
    assert state == plain.state_dict() == before.state_dict()
    after = make_feed(url).loader((2 + step) % 4)
    after.load_state_dict(state)
    rest = [*first[step:], *second]
    assert list(after) + (list(after) if step < NUM_STEPS else []) == rest


def test_a_state_of_another_order_is_refused(url):
    loader = make_feed(url, seed=6).loader(2)
    with pytest.raises(StateError, match="another 'seed'"):
        loader.load_state_dict(make_feed(url).state_dict())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_iteration_that_ended_early_is_gone_on_with(url, num_workers):
    expected = list(make_feed(url))
    loader = make_feed(url).loader(num_workers)
    found = []
    for batch in loader:
        found.append(batch)
        if len(found) == 4:
            break
    assert multiprocessing.active_children() == []
    assert found + list(loader) == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torchs_random_numbers_are_left_alone(url, num_workers):
    before = torch.get_rng_state()
    epochs_of(make_feed(url).loader(num_workers), 2)
    assert torch.equal(torch.get_rng_state(), before)


# -- what goes wrong -----------------------------------------------------------


class Fails:
    """Raises at the batch that begins with a key."""

    def __init__(self, error: BaseException | None, key: str) -> None:
        self.error, self.key = error, key

    def __call__(self, batch: Batch) -> Batch:
        if batch[0][0] == self.key:
            if self.error is not None:
                raise self.error
            if get_worker_info() is not None:
                os.kill(os.getpid(), signal.SIGKILL)
        return batch


class Formats(Exception):  # noqa: N818  # as other people's are
    """Cannot be pickled, as it holds a lock."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} has {number}")
        self.lock = threading.Lock()


@pytest.mark.parametrize("options", [{}, {"persistent_workers": True}])
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (KeyError("jpg"), KeyError, "jpg"),
        (SampleError("a.tar", "is bad", "7"), SampleError, "a.tar: sample '7': is bad"),
        (Formats("x", 3), RuntimeError, "Formats: x has 3"),
    ],
)
def test_an_error_in_a_worker_is_raised_as_it_is(url, error, kind, message, options):
    expected = list(make_feed(url))
    collate = Fails(error, expected[3][0][0])
    feed = make_feed(url, collate=collate)
    loader = feed.loader(2, **options)
    found: list[Any] = []
    with pytest.raises(kind, match=message) as raised:
        found.extend(batch for batch in loader)
    assert found == expected[:3]
    assert "in worker 1 of the loader" in raised.value.__notes__[0]
    assert "tests/test_train_loader.py" in raised.value.__notes__[0]
    assert multiprocessing.active_children() == []
    collate.key = "none"
    assert list(loader) == expected[3:]
    loader.close()


def test_a_worker_that_dies_ends_the_iteration(url):
    expected = list(make_feed(url))
    loader = make_feed(url, collate=Fails(None, expected[4][0][0])).loader(2)
    with pytest.raises(RuntimeError, match=r"killed by signal|exited unexpectedly"):
        list(loader)
    assert multiprocessing.active_children() == []


def test_an_exception_of_the_caller_ends_the_workers_at_the_latest_on_closing(url):
    with make_feed(url).loader(2) as loader:
        with pytest.raises(ZeroDivisionError) as raised:
            next(len(batch) / 0 for batch in loader)
        assert raised.value.__traceback__ is not None
        assert list(loader) == list(make_feed(url))[1:]


INTERRUPTED = """
import itertools, multiprocessing, sys
from shardbuild.train.dataset import Dataset

def run():
    feed = Dataset(sys.argv[1]).feed(global_batch=12, shuffle=True)
    loader = feed.loader(2, persistent_workers=sys.argv[2] == "True")
    try:
        for epoch in itertools.count():
            for batch in loader:
                print("batch", flush=True)
    except KeyboardInterrupt:
        loader.close()
        print("left:", multiprocessing.active_children(), flush=True)

if __name__ == "__main__":
    run()
"""


@pytest.mark.parametrize("is_persistent", [False, True])
def test_interrupted_all_processes_end(url, tmp_path, is_persistent):
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    child = subprocess.Popen(
        [sys.executable, str(script), url, str(is_persistent)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    with child.stdout as printed:
        assert printed.readline() == "batch\n"
        os.killpg(child.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
        *_, last = printed
    assert child.wait() == 0
    assert last == "left: []\n"
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


def test_a_program_may_end_with_all_open(url):
    script = (
        "import sys\n"
        "import shardbuild as sb\n"
        "feed = sb.Dataset(sys.argv[1]).feed(global_batch=12)\n"
        "loader = feed.loader(2)\n"
        "iterator = iter(loader)\n"
        "print(len(next(iterator)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, url], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("12\n", "")


def test_bad_samples_that_workers_find_are_listed_here(url):
    def check(sample: Any) -> Any:
        if sample[1] % 20 == 7:
            raise ValueError("is no good")
        return sample

    def made() -> Any:
        return pairs(url).map(check).feed(12, shuffle=True, seed=5)

    here, there = made(), made()
    assert list(there.loader(2)) == list(here)
    assert sorted(here.skipped) == sorted(there.skipped)
    assert {one.key for one in there.skipped} >= {"007", "027", "047", "067", "087"}


# -- tensors -------------------------------------------------------------------


def columns(batch: Batch) -> Any:
    """What arrays there are, large and small, which torch can have or cannot."""
    number = np.arange(len(batch))
    pixels = np.zeros((len(batch), 3, 100, 100), np.uint8) + number[:, None, None, None]
    return {
        "large": pixels.astype(np.uint8),
        "large, not in order": np.moveaxis(pixels, 1, -1),
        "backwards": number[::-1],
        "big-endian": number.astype(">i4"),
        "fixed": np.frombuffer(b"abc", np.uint8),
        "half": number.astype(np.float16),
        "bool": number > 3,
        "scalar": np.array(3.5),
        "nothing": np.zeros((0, 2)),
        "texts": np.array(["a"]),
        "objects": np.array([None]),
        "long": np.zeros(1, np.longdouble),
        "date": np.zeros(1, "M8[s]"),
        "nested": (b"x", "y", 1, None, [number, {"deep": number}]),
    }


NOT_TENSORS = {"texts", "objects", "long", "date"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_arrays_become_tensors_where_torch_has_such_and_all_else_stays(
    url, num_workers
):
    loader = make_feed(url, collate=columns).loader(num_workers)
    expected = columns(Batch([0] * 12))
    expected["deep"] = expected.pop("nested")[4][0]
    for batch in loader:
        nested = batch.pop("nested")
        assert nested[:4] == (b"x", "y", 1, None)
        batch["deep"] = nested[4][1]["deep"]
        for name, array in expected.items():
            found = batch[name]
            assert isinstance(found, np.ndarray) is (name in NOT_TENSORS)
            if name not in NOT_TENSORS:
                assert isinstance(found, torch.Tensor)
                assert tuple(found.shape) == array.shape
            np.testing.assert_array_equal(np.asarray(found), array)
    fixed = batch["fixed"]
    fixed += 1


def test_arrays_in_samples_become_tensors_and_the_batch_stays_one(url):
    dataset = Dataset(url).decode()
    feed = dataset.feed(12, last="mask")
    *_, last = feed.loader(2)
    assert type(last) is Batch
    assert last.mask is not None
    assert last.mask.tolist() == [True] * 7 + [False] * 5
    for sample in last[:7]:
        assert sample["npy"].shape == (2, 3)
        assert sample["npy"].dtype == torch.uint8
        assert set(sample["npy"].flatten().tolist()) == {sample["cls"]}
        assert int(sample["__key__"]) == sample["cls"]


def test_an_array_is_a_tensor_in_the_same_memory(url):
    made: list[np.ndarray] = []

    def collate(batch: Batch) -> Any:
        made.append(np.array([number for _, number in batch]))
        return made[-1]

    batches = list(make_feed(url, collate=collate, threads=0).loader(0))
    made[2][0] = 12345
    assert batches[2][0] == 12345


def test_stacked_batches_are_tensors(url):
    keys, numbers, mask = list(make_feed(url, collate=stack, last="mask").loader(2))[-1]
    assert numbers.dtype == torch.int64
    assert mask.dtype == torch.bool
    assert len(keys) == len(numbers) == len(mask) == 12


# -- options -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_workers", "options", "message"),
    [
        (-1, {}, "num_workers: -1"),
        (2, {"shuffle": True}, "'shuffle' is none of"),
        (2, {"batch_size": 3}, "'batch_size' is none of"),
        (0, {"persistent_workers": True}, "persistent_workers: needs num_workers"),
        (0, {"prefetch_factor": 2}, "prefetch_factor: needs num_workers"),
    ],
)
def test_options_that_make_no_sense_are_refused(url, num_workers, options, message):
    with pytest.raises(UsageError, match=message):
        make_feed(url).loader(num_workers, **options)


def test_a_loader_without_torch_names_the_extra(url):
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import shardbuild as sb\n"
        "feed = sb.Dataset(sys.argv[1]).feed(global_batch=4)\n"
        "assert len(next(iter(feed))) == 4\n"
        "try:\n"
        "    feed.loader(2)\n"
        "except sb.MissingExtraError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, url], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "a loader: needs the package 'torch': pip install 'shardbuild[torch]'\n"
    )


# -- torch's and torchdata's own loaders ------------------------------------------


def as_it_is(batch: Any) -> Any:
    return batch


def stateful(url: str, num_workers: int, **options: Any) -> Any:
    return StatefulDataLoader(
        make_feed(url).iterable(),
        batch_size=None,
        collate_fn=as_it_is,
        num_workers=num_workers,
        **options,
    )


@pytest.mark.parametrize("options", [{}, {"persistent_workers": True}])
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_torchdata_gives_epoch_after_epoch(url, num_workers, options):
    if num_workers == 0:
        options = {}
    loader = stateful(url, num_workers, **options)
    assert len(loader) == NUM_STEPS
    assert epochs_of(loader, 3) == epochs_of(make_feed(url), 3)
    del loader


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("step", [0, 1, 4, 5, NUM_STEPS - 1, NUM_STEPS])
def test_torchdata_goes_on_exactly_and_tells_the_feeds_state(url, step, num_workers):
    first, second = epochs_of(make_feed(url), 2)
    loader = stateful(url, num_workers)
    assert list(islice(loader, step)) == first[:step]
    state = json.loads(json.dumps(loader.state_dict()))
    after = stateful(url, num_workers)
    after.load_state_dict(state)
    assert list(after) == first[step:]
    assert list(after) == second
    feed = make_feed(url)
    feed.load_state_dict(StatefulIterable.feed_state(state))
    rest = list(Loader(feed, 1))
    assert rest == (first[step:] or second)
    del loader, after


def test_torchdata_wants_the_same_number_of_workers(url):
    loader = stateful(url, 2)
    next(iter(loader))
    state = loader.state_dict()
    after = stateful(url, 1)
    after.load_state_dict(state)
    with pytest.raises(AssertionError):
        next(iter(after))
    with pytest.raises(UsageError, match="where torchdata"):
        StatefulIterable.feed_state({"epoch": 3})
    del loader, after


def test_torch_reads_a_data_set_by_its_numbers(url):
    loader: Any = DataLoader(
        pairs(url),
        batch_size=10,
        sampler=range(NUM_SAMPLES - 1, -1, -1),
        num_workers=2,
        collate_fn=as_it_is,
    )
    found = [number for batch in loader for _, number in batch]
    assert found == list(range(NUM_SAMPLES))[::-1]
