"""Which shards are whose: by node, and by worker of a node's loader.

``rank`` and ``world_size`` number the nodes, or rather their processes that train;
``worker`` and ``num_workers`` the processes that read for one of those. They are
asked of torch, if the program has imported it and it knows; then of JAX, if the program
has initialised ``jax.distributed``; else of ``RANK`` and ``WORLD_SIZE``, ``WORKER`` and
``NUM_WORKERS`` in the environment.

Splitters take urls lazily: what they are given may be endless.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from shardbuild.errors import UsageError

__all__ = [
    "Place",
    "Splitter",
    "current_place",
    "place_of_node",
    "single_node_only",
    "split",
    "split_by_node",
    "split_by_worker",
]

T = TypeVar("T")
Splitter = Callable[[Iterable[str]], Iterable[str]]
"""Takes all urls, gives those that are this process's."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which of how many this process is."""

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    num_workers: int = 1


def split(urls: Iterable[T], rank: int, world: int) -> Iterator[T]:
    """Give one part of ``world``: each url is in the part of exactly one rank.

    >>> [list(split("abcde", rank, 2)) for rank in range(2)]
    [['a', 'c', 'e'], ['b', 'd']]

    Raises:
        ValueError: ``rank`` is not one of ``world``.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is none of {world}")
    return islice(urls, rank, None, world)


def current_place() -> Place:
    """Which process this is.

    >>> current_place()
    Place(rank=0, world_size=1, worker=0, num_workers=1)

    Raises:
        UsageError: A variable of the environment is not what it should be.
    """
    rank, world_size = place_of_node()
    worker, num_workers = _place_of_worker() or _from_environment(
        "WORKER", "NUM_WORKERS"
    )
    return Place(rank, world_size, worker, num_workers)


def place_of_node(group: Any = None) -> tuple[int, int]:
    """Rank and world size of this process, as torch, JAX or the environment say.

    ``group`` is a process group of torch, if not the one of all.

    >>> place_of_node()
    (0, 1)

    Raises:
        UsageError: A variable of the environment is not what it should be.
    """
    return (
        _place_by_torch(group)
        or _place_by_jax()
        or _from_environment("RANK", "WORLD_SIZE")
    )


def split_by_node(urls: Iterable[str], group: Any = None) -> Iterator[str]:
    """Give this node's part of the urls.

    ``group`` is a process group of torch, if not the one of all.

    >>> list(split_by_node(["a.tar", "b.tar"]))
    ['a.tar', 'b.tar']
    """
    return split(urls, *place_of_node(group))


def single_node_only(urls: Iterable[str], group: Any = None) -> Iterator[str]:
    """Give all urls, if there is one node.

    >>> list(single_node_only(["a.tar", "b.tar"]))
    ['a.tar', 'b.tar']

    Raises:
        UsageError: There are several, and all would read the same.
    """
    _, world_size = place_of_node(group)
    if world_size > 1:
        raise UsageError(
            "nodesplitter",
            f"there are {world_size} nodes: say nodesplitter=split_by_node, or another",
        )
    return iter(urls)


def split_by_worker(urls: Iterable[str]) -> Iterator[str]:
    """Give this worker's part of the urls; the first worker warns if some get none.

    >>> list(split_by_worker(["a.tar", "b.tar"]))
    ['a.tar', 'b.tar']
    """
    place = current_place()
    if isinstance(urls, Sized) and not place.worker and len(urls) < place.num_workers:
        warnings.warn(
            f"{place.num_workers} workers for {len(urls)} shards: some have nothing"
            " to read",
            stacklevel=2,
        )
    return split(urls, place.worker, place.num_workers)


def _place_by_torch(group: Any) -> tuple[int, int] | None:
    """Rank and world size, if torch knows."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available():
        return None
    if not distributed.is_initialized():
        return None
    return distributed.get_rank(group), distributed.get_world_size(group)


def _place_by_jax() -> tuple[int, int] | None:
    """Rank and world size, if JAX knows."""
    distributed = sys.modules.get("jax.distributed")
    if distributed is None or not distributed.is_initialized():
        return None
    # What `initialize` was told. `jax.process_index` says the same, but starts the
    # devices first, and that waits for all other processes.
    state = getattr(sys.modules.get("jax._src.distributed"), "global_state", None)
    if state is None:
        jax = sys.modules["jax"]
        return jax.process_index(), jax.process_count()
    return state.process_id, state.num_processes


def _place_of_worker() -> tuple[int, int] | None:
    """Worker and their number, if this is a worker of a loader of torch."""
    data = sys.modules.get("torch.utils.data")
    info = data.get_worker_info() if data is not None else None
    return None if info is None else (info.id, info.num_workers)


def _from_environment(number: str, total: str) -> tuple[int, int]:
    if number not in os.environ or total not in os.environ:
        return 0, 1
    words = os.environ[number], os.environ[total]
    try:
        part, parts = map(int, words)
    except ValueError:
        part, parts = -1, 0
    if not 0 <= part < parts:
        problem = f"{number}={words[0]!r} is none of {total}={words[1]!r}"
        raise UsageError("environment", problem)
    return part, parts
