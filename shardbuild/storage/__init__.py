"""Bytes in and out of anywhere: open, publish, list, fetch by ranges, count."""

from __future__ import annotations

from shardbuild.storage.fetch import RangeSource, read_many, read_range
from shardbuild.storage.gopen import gopen, gopen_schemes
from shardbuild.storage.heap import keep_freed_memory
from shardbuild.storage.listing import FileFacts, find_files
from shardbuild.storage.meter import Meter, metered
from shardbuild.storage.parallel import map_parallel
from shardbuild.storage.publish import (
    AtomicFile,
    find_bytes,
    open_atomic,
    read_bytes,
    remove_leftovers,
    write_bytes,
)
from shardbuild.storage.stores import (
    UrlFacts,
    exists,
    free_bytes,
    list_names,
    remove,
    remove_tree,
    stat_url,
    stat_urls,
)
from shardbuild.storage.urls import (
    StorageOptions,
    expand_urls,
    is_remote,
    join_url,
    local_path,
    protocol_of,
    resolve_listed,
    slice_of,
    split_url,
)

__all__ = [
    "AtomicFile",
    "FileFacts",
    "Meter",
    "RangeSource",
    "StorageOptions",
    "UrlFacts",
    "exists",
    "expand_urls",
    "find_bytes",
    "find_files",
    "free_bytes",
    "gopen",
    "gopen_schemes",
    "is_remote",
    "join_url",
    "list_names",
    "local_path",
    "map_parallel",
    "metered",
    "open_atomic",
    "protocol_of",
    "read_bytes",
    "read_many",
    "read_range",
    "remove",
    "remove_leftovers",
    "remove_tree",
    "resolve_listed",
    "slice_of",
    "split_url",
    "stat_url",
    "stat_urls",
    "write_bytes",
]

# Whoever comes here is about to move samples.
keep_freed_memory()
