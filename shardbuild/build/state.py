"""The state folder of a running build: what is where, and what is finished."""

from __future__ import annotations

import hashlib
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from shardbuild.build.sources import listing_url
from shardbuild.build.windows import Containers
from shardbuild.storage import find_bytes, metered, read_bytes, write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shardbuild.build.plan import Source
    from shardbuild.build.settings import Settings

Record = dict[str, Any]
"""What a task did, as JSON has it."""

RUNS_PER_TASK = 1 << 12
"""A run's number is that of its task times this, and its place there."""


def commit_url(settings: Settings, name: str) -> str:
    """Where the record of a finished task is kept."""
    return settings.state_url(f"commits/{name}.json")


def committed(settings: Settings, name: str, work: Callable[[], Record]) -> Record:
    """Do a task's work unless it has been done, and keep its record."""
    options = settings.storage_options
    url = commit_url(settings, name)
    found = find_bytes(url, storage_options=options)
    if found is not None:
        return json.loads(found)  # type: ignore[no-any-return]
    started = time.perf_counter()
    with metered() as meter:
        record = work()
    record |= {
        "task": name,
        "seconds": time.perf_counter() - started,
        "read_bytes": meter.read_bytes,
        "read_requests": meter.read_requests,
        "written_bytes": meter.written_bytes,
        "write_requests": meter.write_requests,
    }
    data = json.dumps(record).encode()
    write_bytes(url, data, storage_options=options)
    return record


def table_url(settings: Settings, tables: str, number: int) -> str:
    """Where a table of a level is kept."""
    return settings.state_url(f"tables/{tables}-{number:06d}")


def part_url(settings: Settings, number: int, what: str) -> str:
    """Where a part of the sorted order is kept."""
    return settings.state_url(f"parts/{number:06d}.{what}")


def run_url(settings: Settings, level: str, container: int) -> str:
    """Where a run is kept: ``container`` numbers the task, and its runs."""
    task, run = divmod(container, RUNS_PER_TASK)
    return settings.state_url(f"runs/{level}-{task:06d}-{run:04d}.tar")


def sources_url(settings: Settings) -> str:
    """Where the urls of all inputs are kept."""
    return settings.state_url("sources.json")


def open_containers(settings: Settings, kind: str) -> Containers:
    """The runs of a level, or the inputs as they are: shards, listings of a folder.

    Args:
        settings: the options of the call.
        kind: the name of the level, or the digest that `write_source_urls` gave.
    """
    options = settings.storage_options
    if kind.startswith(("map", "merge")):
        url_of = partial(run_url, settings, kind)
        return Containers(url_of, frozenset(), options, are_inputs=False)
    if kind not in _known_sources:
        data = read_bytes(sources_url(settings), storage_options=options)
        _known_sources.clear()
        _known_sources[kind] = json.loads(data)
    known = _known_sources[kind]
    return Containers(known["urls"].__getitem__, frozenset(known["listings"]), options)


_known_sources: dict[str, Any] = {}
"""The last list of sources that this process has read: it may be long."""


def write_source_urls(settings: Settings, sources: Iterable[Source]) -> str:
    """Say once, for all tasks, where the extents of each input are.

    Returns:
        What tasks call it by: a hash of it.
    """
    urls, listings = [], []
    for source in sources:
        is_listing = source.kind == "folder"
        urls.append(listing_url(settings, source) if is_listing else source.url)
        if is_listing:
            listings.append(source.number)
    data = json.dumps({"urls": urls, "listings": listings}).encode()
    write_bytes(sources_url(settings), data, storage_options=settings.storage_options)
    return hashlib.sha256(data).hexdigest()


def level_name(level: int) -> str:
    """What the runs and tables of a level are called; level -1 is the map tasks'."""
    return f"merge{level}" if level >= 0 else "map"
