"""Samples out of shards."""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

from shardbuild.shards.readfacts import ReadFacts
from shardbuild.shards.readruns import ShardReading
from shardbuild.shards.readwindow import FileWindow, StreamWindow, Window
from shardbuild.storage.gopen import gopen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardbuild.shards.samples import KeyRule, Sample
    from shardbuild.storage.urlparts import StorageOptions

__all__ = ["ReadFacts", "read_samples", "read_stream"]


def read_samples(
    url: str,
    *,
    storage_options: StorageOptions | None = None,
    key_rule: KeyRule = "first-dot",
    facts: ReadFacts | None = None,
) -> Iterator[Sample]:
    with gopen(url, storage_options=storage_options) as stream:
        yield from read_stream(stream, url, key_rule=key_rule, facts=facts)


def read_stream(
    stream: BinaryIO,
    url: str,
    *,
    key_rule: KeyRule = "first-dot",
    facts: ReadFacts | None = None,
) -> Iterator[Sample]:
    window = _window_of(stream, url)
    try:
        yield from ShardReading(window, key_rule, facts or ReadFacts()).samples()
    finally:
        window.close()


def _window_of(stream: BinaryIO, url: str) -> Window:
    if isinstance(stream, io.FileIO) and stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return FileWindow(stream, url)
    return StreamWindow(stream, url)
