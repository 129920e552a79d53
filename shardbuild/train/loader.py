"""Batches through torch: a `Loader` of our own, and torchdata's StatefulDataLoader.

Worker ``w`` of ``W`` makes the steps ``w``, ``w + W``, ... counted from where the feed
stands, and torch's DataLoader takes from its workers in turn: so batches come in the
order of the steps, whatever their number. What a worker has read ahead counts for
nothing: the feed of the main process counts what was given to the caller.

Samples of bytes go from a worker to the main process as they are. Arrays become
tensors: a large one in the worker, which hands over the memory itself, a small one
in the main process, because each memory that is handed over costs a file descriptor.
"""

from __future__ import annotations

import copy
import json
import time
import traceback
import weakref
from collections import deque
from contextlib import closing
from functools import partial
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypedDict

import numpy as np

from shardbuild.errors import MissingExtraError, UsageError
from shardbuild.train.ring import Ring, Spot

try:
    import torch
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise  # it is installed, and something that it needs is not
    raise MissingExtraError("a loader", "torch", "torch") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from multiprocessing.context import BaseContext
    from typing import Unpack

    import numpy.typing as npt

__all__ = ["Loader", "LoaderOptions", "StatefulIterable", "Steps"]

_SHARED_BYTES = 1 << 18
"""Arrays from this size on become tensors in the worker."""
_MAX_WORKERS = 1024
_GROUP_BYTES = 1 << 20
_GROUP_SECONDS = 0.02
_MAX_GROUP = 16
"""What a worker sends at once, at most."""
_NOT_YET = -1


class Steps(Protocol):
    """What a loader needs of a feed."""

    @property
    def epoch(self) -> int:
        """The epoch that the next step is of."""

    def __len__(self) -> int:
        """How many steps an epoch has."""

    def steps(
        self, worker: int = 0, num_workers: int = 1
    ) -> Generator[tuple[Any, Any], None, None]:
        """Make every ``num_workers``-th of the rest of this epoch's steps, with facts.

        The first is number ``worker`` from where the feed stands.
        """

    def delivered(self, facts: Any) -> None:
        """Stand behind the step of these facts, whatever came before."""

    def set_epoch(self, epoch: int) -> None:
        """Stand before the first step of an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Tell where the feed stands."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where ``state`` was taken."""


class LoaderOptions(TypedDict, total=False):
    """The options of a `Loader`, all of them optional and with torch's meaning.

    =======================  ====================================================
    multiprocessing_context  ``"fork"`` (torch's default on Linux), ``"spawn"``,
                             ``"forkserver"``, or a context
    prefetch_factor          how many steps a worker reads ahead (default 2); of
                             small ones, how many MiB
    pin_memory               True: tensors in memory that is copied to a GPU faster
    persistent_workers       True: workers stay from one epoch to the next
    timeout                  seconds to wait for a batch (default 0: for ever)
    worker_init_fn           called in each worker with its number
    =======================  ====================================================
    """

    multiprocessing_context: str | BaseContext | None
    prefetch_factor: int | None
    pin_memory: bool
    persistent_workers: bool
    timeout: float
    worker_init_fn: Callable[[int], None] | None


# -- what goes from a worker to the main process -------------------------------


class _Parcel(NamedTuple):
    """A batch and its facts, or what went wrong instead."""

    payload: Any
    facts: Any
    is_plain: bool = False
    """Whether there are only bytes, texts and numbers in it, and no array."""
    error: Exception | None = None


class _Sent:
    """What torch's queue carries: a worker's next parcels, or their place in a ring."""

    __slots__ = ("parcels", "seconds", "spot", "worker")

    def __init__(
        self,
        worker: int,
        parcels: list[_Parcel],
        spot: Spot | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.worker = worker
        self.parcels = parcels
        self.spot = spot
        self.seconds = seconds
        """What it took to make them."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Sent, (self.worker, self.parcels, self.spot, self.seconds)

    def pin_memory(self) -> _Sent:
        """Called by torch, in a thread of the main process."""
        pinned = [
            parcel._replace(payload=_changed(parcel.payload, _pinned))
            for parcel in self.parcels
        ]
        return _Sent(self.worker, pinned)


_PLAIN = frozenset({bytes, str, int, float, bool, type(None)})


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        parts: Iterable[Any] = value.values()
    elif isinstance(value, list | tuple):
        parts = value
    else:
        return type(value) in _PLAIN
    return _PLAIN.issuperset(map(type, parts)) or all(map(_is_plain, parts))


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """Apply ``change`` to all that is in lists, tuples and dicts.

    What nothing changes in stays the same object; nothing is changed in place.
    """
    if isinstance(value, dict):
        parts: Iterable[Any] = value.values()
        names: Iterable[Any] = value
    elif isinstance(value, list | tuple):
        parts, names = value, range(len(value))
    else:
        return change(value)
    new = {
        name: made
        for name, part in zip(names, parts, strict=True)
        if type(part) not in _PLAIN and (made := _changed(part, change)) is not part
    }
    return _with(value, new) if new else value


def _with(container: Any, new: dict[Any, Any]) -> Any:
    """Make a copy of a container in which some of its parts are other ones."""
    if isinstance(container, tuple):
        parts = [new.get(place, part) for place, part in enumerate(container)]
        kind: Any = type(container)
        return kind(*parts) if hasattr(container, "_fields") else kind(parts)
    made = copy.copy(container)  # with all attributes: a batch has some
    for name, part in new.items():
        made[name] = part
    return made


def _tensor(value: Any, least_bytes: int = 0) -> Any:
    """Make a tensor of an array, in the same memory if torch can have it."""
    if type(value) is not np.ndarray or value.nbytes < least_bytes:
        return value
    return _tensor_of(value)


def _tensor_of(array: npt.NDArray[Any]) -> Any:
    if array.dtype.hasobject or array.dtype.kind not in "biufc":
        return array  # text, dates, objects
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(step < 0 for step in array.strides):
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except TypeError:  # a type of numbers that torch has not, such as float128
        return array


def _pinned(value: Any) -> Any:
    return value.pin_memory() if isinstance(value, torch.Tensor) else value


def _parcels(
    feed: Steps, worker: int, num_workers: int, least_bytes: int
) -> Generator[_Parcel]:
    """Give the steps of a worker; an error is the last of them."""
    change = partial(_tensor, least_bytes=least_bytes)
    try:
        with closing(feed.steps(worker, num_workers)) as steps:
            for payload, facts in steps:
                is_plain = _is_plain(payload)
                made = payload if is_plain else _changed(payload, change)
                yield _Parcel(made, facts, is_plain)
    except Exception as error:  # noqa: BLE001  # raised in the main process
        yield _Parcel(None, None, error=_portable(error, worker))


def _portable(error: Exception, worker: int) -> Exception:
    """Give what can be sent in place of an error: itself, if it can."""
    lines = "".join(traceback.format_exception(error))
    try:
        sent = ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:  # noqa: BLE001  # anything: other people's classes run here
        sent = None
    if type(sent) is not type(error):
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"in worker {worker} of the loader:\n{lines}")
    return error


# -- our own loader ------------------------------------------------------------


class _Standing:
    """Where the feed stands, in memory that workers share."""

    def __init__(self, text: str) -> None:
        room = max(1 << 16, 4 * len(text.encode()))
        self._memory = torch.zeros(8 + room, dtype=torch.uint8).share_memory_()

    def write(self, text: str) -> bool:
        """Say whether there was room."""
        data = text.encode()
        if 8 + len(data) > len(self._memory):
            return False
        framed = bytearray(len(data).to_bytes(8, "little") + data)
        self._memory[: len(framed)] = torch.frombuffer(framed, dtype=torch.uint8)
        return True

    def read(self) -> str:
        length = int.from_bytes(bytes(self._memory[:8].numpy()), "little")
        return bytes(self._memory[8 : 8 + length].numpy()).decode()


class _ForWorkers(IterableDataset):  # type: ignore[misc]  # torch is not looked into
    """What torch copies into each worker."""

    def __init__(
        self,
        feed: Steps,
        least_bytes: int,
        standing: _Standing | None,
        rings: list[Ring],
    ) -> None:
        self._feed = feed
        self._least_bytes = least_bytes
        self._standing = standing
        self._rings = rings

    def __iter__(self) -> Iterator[_Sent]:
        info = get_worker_info()
        if self._standing is not None:
            self._feed.load_state_dict(json.loads(self._standing.read()))
        parcels = _parcels(self._feed, info.id, info.num_workers, self._least_bytes)
        if not self._rings:
            return (_Sent(info.id, [parcel]) for parcel in parcels)
        return self._through(self._rings[info.id], parcels, info.id)

    def _through(
        self, ring: Ring, parcels: Generator[_Parcel], worker: int
    ) -> Generator[_Sent]:
        ring.reset()
        with closing(parcels):
            start = time.perf_counter()
            while group := list(islice(parcels, ring.note or 1)):
                spot = ring.put(group)
                seconds = time.perf_counter() - start
                yield _Sent(worker, group if spot is None else [], spot, seconds)
                start = time.perf_counter()


def _as_it_is(sent: _Sent) -> _Sent:
    return sent


class Loader:
    """The batches of a feed, made by processes of torch; numpy arrays as tensors.

    An iteration gives the rest of the feed's epoch, and so the next one gives the next
    epoch. The feed counts each batch as it is given, so that its state (the loader's
    is the same) is exact at every batch, and may be taken up with any ``num_workers``.
    Ended early, by ``break`` or by an exception, an iteration ends its workers; the
    next one goes on at the first batch that was not given.

    What raises in a worker is raised here, with its own type, and where it happened
    in its notes. Torch's random numbers are left alone.

    >>> import shardbuild as sb, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with sb.ShardWriter(f"{folder.name}/a-%06d.tar", maxcount=4) as writer:
    ...     for number in range(10):
    ...         _ = writer.write({"__key__": f"{number}", "cls": number})
    >>> dataset = sb.Dataset(f"{folder.name}/a.json").decode().to_tuple("cls")
    >>> feed = dataset.feed(global_batch=4, collate=sb.stack)
    >>> [batch for (batch,) in feed.loader(num_workers=2)]
    [tensor([0, 1, 2, 3]), tensor([4, 5, 6, 7]), tensor([8, 9, 0, 1])]
    >>> folder.cleanup()

    Args:
        feed: What gives the steps.
        num_workers: Processes; with none, the feed reads in this one.
        options: See `LoaderOptions`.

    Raises:
        UsageError: ``num_workers`` is out of range, or an option needs workers.
    """

    def __init__(
        self, feed: Steps, num_workers: int = 0, **options: Unpack[LoaderOptions]
    ) -> None:
        if not 0 <= num_workers <= _MAX_WORKERS:
            raise UsageError(
                "num_workers", f"{num_workers} is not in 0..{_MAX_WORKERS}"
            )
        known = LoaderOptions.__annotations__
        if unknown := sorted(set(options) - set(known)):
            raise UsageError("loader", f"{unknown[0]!r} is none of {sorted(known)}")
        if not num_workers and (needing := sorted(set(options) - {"pin_memory"})):
            raise UsageError(needing[0], "needs num_workers of at least 1")
        self._feed = feed
        self._num_workers = num_workers
        self._options = options
        self._is_pinned = options.get("pin_memory", False)
        self._is_persistent = options.get("persistent_workers", False)
        self._standing: _Standing | None = None
        self._torch_loader: Any = None
        self._torch_iterator: Any = None
        self._rings: list[Ring] = []
        self._iteration: Callable[[], Generator[Any, None, None] | None] = _none

    def __len__(self) -> int:
        """How many steps an epoch has."""
        return len(self._feed)

    def __iter__(self) -> Iterator[Any]:
        self._end_iteration()
        iteration = self._iterate() if self._num_workers else self._iterate_here()
        self._iteration = weakref.ref(iteration)
        return iteration

    def state_dict(self) -> dict[str, Any]:
        """The feed's state: where it stands after what was given."""
        return self._feed.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on, at the next iteration, where a state was taken."""
        self._end_iteration()
        self._feed.load_state_dict(state)

    def close(self) -> None:
        """End the iteration and the workers; the feed stays open."""
        self._end_iteration()
        self._end_workers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_iteration(self) -> None:
        if (iteration := self._iteration()) is not None:
            iteration.close()

    def _end_workers(self) -> None:
        iterator, self._torch_iterator, self._torch_loader = (
            self._torch_iterator,
            None,
            None,
        )
        if iterator is not None:
            # What torch does when the iterator is collected; but a traceback, or a
            # notebook, may keep that for long.
            iterator._shutdown_workers()

    def _iterate_here(self) -> Generator[Any, None, None]:
        with closing(self._feed.steps(0, 1)) as steps:
            for payload, facts in steps:
                batch = payload if _is_plain(payload) else self._tensors(payload)
                self._feed.delivered(facts)
                yield batch

    def _tensors(self, payload: Any) -> Any:
        batch = _changed(payload, _tensor)
        return _changed(batch, _pinned) if self._is_pinned else batch

    def _iterate(self) -> Generator[Any, None, None]:
        is_kept = False
        try:
            self._start()
            for parcel in self._in_turn():
                if parcel.error is not None:
                    raise parcel.error
                batch = parcel.payload
                if not parcel.is_plain:
                    batch = _changed(batch, _tensor)
                self._feed.delivered(parcel.facts)
                is_kept = self._is_persistent
                yield batch
                is_kept = False
            is_kept = self._is_persistent
        finally:
            if not is_kept:
                self._end_workers()

    def _in_turn(self) -> Iterator[_Parcel]:
        """What workers send, in the order of the steps."""
        waiting: list[deque[_Parcel]] = [deque() for _ in range(self._num_workers)]
        turn = num_sent = 0
        for sent in self._torch_iterator:
            if sent.spot is None:
                waiting[sent.worker] += sent.parcels
            else:
                num_sent += 1
                if num_sent == 2 * self._num_workers + 1:
                    self._group(sent)
                waiting[sent.worker] += self._rings[sent.worker].take(sent.spot)
            while waiting[turn]:
                yield waiting[turn].popleft()
                turn = (turn + 1) % self._num_workers

    def _group(self, sent: _Sent) -> None:
        """Have workers send several small and quick steps at once.

        Torch takes some 0.5 ms for each thing that a worker sends: for a small batch
        that is more than to make it.
        """
        if sent.spot is None or self._rings[0].note:
            return
        by_time = _GROUP_SECONDS / max(sent.seconds, 1e-6)
        by_size = _GROUP_BYTES / sent.spot.length
        for ring in self._rings:
            ring.note = int(max(1, min(by_time, by_size, _MAX_GROUP)))

    def _start(self) -> None:
        """Have workers that start where the feed stands."""
        if self._is_persistent:
            text = json.dumps(self._feed.state_dict())
            if self._standing is None or not self._standing.write(text):
                self._end_workers()
                self._standing = _Standing(text)
                self._standing.write(text)
        if self._torch_loader is None:
            least_bytes, self._rings = 0, []
            if not self._is_pinned:  # torch pins what it finds in its queue
                least_bytes = _SHARED_BYTES
                num_slots = (self._options.get("prefetch_factor") or 2) + 1
                self._rings = [Ring(num_slots) for _ in range(self._num_workers)]
            self._torch_loader = DataLoader(
                _ForWorkers(self._feed, least_bytes, self._standing, self._rings),
                batch_size=None,
                collate_fn=_as_it_is,
                num_workers=self._num_workers,
                # One of its own: else each iteration would draw from torch's, and a
                # run that was resumed in an epoch would go on with other numbers.
                generator=torch.Generator(),
                **self._options,
            )
        self._torch_iterator = iter(self._torch_loader)


def _none() -> None:
    return None


# -- for torchdata's StatefulDataLoader -----------------------------------------


class StatefulIterable(IterableDataset):  # type: ignore[misc]  # as above
    """A feed for torchdata's StatefulDataLoader, with ``batch_size=None``.

    Each iteration of the loader is another epoch: the first one the rest of the
    epoch in which the feed stands. A state of the loader is taken up exactly by a
    loader with the same ``num_workers``; torchdata refuses another number with an
    AssertionError. `feed_state` finds the feed's own state in it, which any number of
    workers can take up.

    >>> import shardbuild as sb, tempfile
    >>> from torchdata.stateful_dataloader import StatefulDataLoader
    >>> folder = tempfile.TemporaryDirectory()
    >>> with sb.ShardWriter(f"{folder.name}/a-%06d.tar", maxcount=4) as writer:
    ...     for number in range(8):
    ...         _ = writer.write({"__key__": f"{number}", "cls": number})
    >>> dataset = sb.Dataset(f"{folder.name}/a.json").decode().to_tuple("cls")
    >>> feed = dataset.feed(global_batch=4, collate=sb.stack)
    >>> loader = StatefulDataLoader(feed.iterable(), batch_size=None, num_workers=2)
    >>> [batch for (batch,) in loader]
    [tensor([0, 1, 2, 3]), tensor([4, 5, 6, 7])]
    >>> loader.state_dict()["_snapshot"]["_last_yielded_worker_id"]
    1
    >>> StatefulIterable.feed_state(loader.state_dict())["epoch"]
    1
    >>> del loader
    >>> folder.cleanup()
    """

    def __init__(self, feed: Steps) -> None:
        self._feed = feed
        self._epoch = feed.epoch
        self._is_started = False
        self._is_loaded = False
        # Workers end with their epoch, and the next ones are copies of what the main
        # process has: only memory that all share can tell which epoch is next.
        self._next_epochs = torch.full((_MAX_WORKERS,), _NOT_YET).share_memory_()

    def __len__(self) -> int:
        """How many steps an epoch has."""
        return len(self._feed)

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        if self._is_loaded:
            self._is_loaded = False
        elif (epoch := int(self._next_epochs[worker])) != _NOT_YET:
            self._feed.set_epoch(epoch)
            self._epoch, self._is_started = epoch, False
        self._next_epochs[worker] = self._epoch + 1
        # Behind a step of its own, a worker's next one is the last of a round.
        first = num_workers - 1 if self._is_started else worker
        return self._iterate(first, num_workers)

    def _iterate(self, first: int, num_workers: int) -> Iterator[Any]:
        if self._feed.epoch != self._epoch:
            return  # the state is of the epoch's end
        with closing(self._feed.steps(first, num_workers)) as steps:
            for payload, facts in steps:
                self._feed.delivered(facts)
                self._is_started = True
                yield payload

    def state_dict(self) -> dict[str, Any]:
        """Tell where this worker stands: called by torchdata, in each worker."""
        return {
            "epoch": self._epoch,
            "is_started": self._is_started,
            "feed": self._feed.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where a worker stood: called by torchdata, in each worker."""
        self._feed.load_state_dict(state["feed"])
        self._epoch = state["epoch"]
        self._is_started = state["is_started"]
        self._is_loaded = True

    @staticmethod
    def feed_state(loader_state: dict[str, Any]) -> dict[str, Any]:
        """Find the feed's state in the state of a StatefulDataLoader.

        Raises:
            UsageError: It is of another version of torchdata, or not of this class.
        """
        try:
            if "_snapshot" in loader_state:
                snapshot = loader_state["_snapshot"]
                worker = snapshot["_last_yielded_worker_id"]
                holder = snapshot["_worker_snapshots"][f"worker_{worker}"]
                state = holder["dataset_state"]
            else:
                state = loader_state["dataset_state"]
            found: dict[str, Any] = state["feed"]
        except (KeyError, TypeError) as error:
            problem = f"there is no {error} where torchdata 0.11 has the feed's state"
            raise UsageError("StatefulDataLoader", problem) from error
        return found
