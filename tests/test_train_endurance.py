"""A feed holds no more after a million samples, and nothing after it was left."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from shardbuild.errors import SampleError
from shardbuild.shards.index import index_url
from shardbuild.train.dataset import Dataset
from tests.epochs import ROOT, Epoch, Settings, resting, run_epoch, write_linked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MILLION = 1_000_000
MIB = 1 << 20


def assert_flat(epoch: Epoch, num_samples: int, learned_bytes: int = 0) -> None:
    """Every sample came once, and the last tenth held what the first one held."""
    assert epoch.num_given == epoch.num_seen == num_samples
    most = 1.1 * epoch.memory[0] + learned_bytes * num_samples
    assert max(epoch.memory) <= most, epoch.memory
    # What threads are just reading stays open beside what is kept open.
    assert max(epoch.descriptors) <= epoch.descriptors[0] + 8, epoch.descriptors
    assert max(epoch.threads) <= epoch.threads[0], epoch.threads
    assert epoch.at_end == epoch.at_rest


# An epoch of a million samples


@pytest.fixture(scope="module")
def few_large(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("few")
    write_linked(folder, 20, MILLION // 20)
    return f"{folder}/s.json"


@pytest.fixture(scope="module")
def many_small(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("many")
    write_linked(folder, 1000, MILLION // 1000)
    return f"{folder}/s.json"


def test_a_shuffled_epoch_of_few_large_shards_is_flat(few_large: str) -> None:
    feed = {"shuffle": True, "seed": 7, "threads": 0}
    epoch = run_epoch(Settings(few_large, MILLION, MILLION // 20, feed))
    assert_flat(epoch, MILLION)


def test_a_shuffled_epoch_of_many_small_shards_in_threads_is_flat(
    many_small: str,
) -> None:
    feed = {"shuffle": True, "seed": 7, "threads": 2, "open_shards": 32}
    epoch = run_epoch(Settings(many_small, MILLION, MILLION // 1000, feed))
    assert_flat(epoch, MILLION)
    assert max(epoch.threads) > 1
    assert max(epoch.descriptors) < 100  # of a thousand shards


def test_an_epoch_forward_through_a_stage_is_flat(many_small: str) -> None:
    settings = Settings(many_small, MILLION, MILLION // 1000, {}, has_stage=True)
    epoch = run_epoch(settings)
    assert_flat(epoch, MILLION)
    assert max(epoch.threads) > 1
    assert max(epoch.descriptors) < 50


@pytest.mark.parametrize("threads", [0, 2])
def test_an_epoch_of_shards_without_index_keeps_their_indexes_alone(
    threads: int, tmp_path: Path
) -> None:
    urls = write_linked(tmp_path, 100, 1000)
    for url in urls:
        os.unlink(index_url(url))  # noqa: PTH108 - a url
    feed = {"shuffle": True, "seed": 7, "open_shards": 8, "threads": threads}
    epoch = run_epoch(Settings(urls, 100_000, 1000, feed))
    # It keeps their indexes, which the second epoch is read by.
    assert_flat(epoch, 100_000, learned_bytes=60)
    assert max(epoch.descriptors) < 20  # of a hundred shards


# A consumer that goes away


@pytest.fixture
def small(tmp_path: Path) -> str:
    write_linked(tmp_path, 10, 100)
    return f"{tmp_path}/s.json"


@pytest.fixture(params=["indexed", "streamed"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> str | list[str]:
    """A small data set, by its manifest or as shards without an index."""
    made = write_linked(tmp_path, 10, 100)
    if request.param == "indexed":
        return f"{tmp_path}/s.json"
    for url in made:
        os.unlink(index_url(url))  # noqa: PTH108 - a url
    return made


@pytest.fixture
def rest() -> Iterator[Callable[[], None]]:
    """Asserts that as many files are open, and threads alive, as before the test."""
    gc.collect()
    before = resting()

    def check() -> None:
        assert resting() == before, [thread.name for thread in threading.enumerate()]

    yield check
    check()


def feed_of(urls: str | list[str], threads: int, **options: Any) -> Any:
    return Dataset(urls).feed(
        global_batch=16, rank=0, world=1, threads=threads, shuffle=True, **options
    )


@pytest.mark.parametrize("threads", [0, 2])
class TestAConsumerThatGoesAway:
    def test_stops_early(
        self, threads: int, urls: str | list[str], rest: Callable[[], None]
    ) -> None:
        with closing(feed_of(urls, threads)) as feed:
            for number, _ in enumerate(feed):
                if number == 3:
                    break
        rest()

    def test_takes_one_batch_and_forgets_the_feed(
        self, threads: int, urls: str | list[str], rest: Callable[[], None]
    ) -> None:
        feed = feed_of(urls, threads)
        assert len(next(iter(feed))) == 16
        del feed
        gc.collect()
        rest()

    def test_raises(
        self, threads: int, urls: str | list[str], rest: Callable[[], None]
    ) -> None:
        def consume() -> None:
            with closing(feed_of(urls, threads)) as feed:
                for number, _ in enumerate(feed):
                    assert 1 // (3 - number)

        with pytest.raises(AssertionError):
            consume()
        rest()

    def test_never_begins(
        self, threads: int, urls: str | list[str], rest: Callable[[], None]
    ) -> None:
        feed = feed_of(urls, threads)
        iter(feed)
        feed.close()
        feed.close()
        rest()

    def test_is_told_of_a_stage_that_raises(
        self, threads: int, urls: str | list[str], rest: Callable[[], None]
    ) -> None:
        def refuse(sample: dict[str, Any]) -> Any:
            if sample["__key__"] == "000042":
                raise ZeroDivisionError
            return sample

        dataset = Dataset(urls).map(refuse)
        options: dict[str, Any] = {"rank": 0, "world": 1, "max_bad": 0}
        feed = dataset.feed(global_batch=16, threads=threads, shuffle=True, **options)
        with pytest.raises(SampleError, match="000042"), closing(feed):
            list(feed)
        rest()


_INTERRUPTED = textwrap.dedent(
    """
    import sys, threading
    from contextlib import closing
    from shardbuild.train.dataset import Dataset
    from tests.epochs import resting

    def slow(sample, said=[]):
        if not said and sample["__key__"] == "000042":
            said.append(print("at work", flush=True))
        threading.Event().wait(0.01)
        return sample

    before = resting()
    dataset = Dataset(sys.argv[1]).map(slow)
    feed = dataset.feed(
        global_batch=500, rank=0, world=1, shuffle=True, threads=int(sys.argv[2])
    )
    try:
        with closing(feed):
            for batch in feed:
                pass
    except KeyboardInterrupt:
        assert resting() == before, (resting(), before, threading.enumerate())
        print("interrupted", flush=True)
    """
)


@pytest.mark.parametrize("threads", [0, 2])
def test_an_interrupt_in_the_middle_of_a_batch_leaves_nothing(
    threads: int, small: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED, small, str(threads)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "at work\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (0, "interrupted\n", "")
    # The session's other processes, had there been any, would still be found.
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)
