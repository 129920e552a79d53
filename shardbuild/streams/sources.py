"""Where the samples of a pipeline come from, epoch by epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from shardbuild.shards.manifest import load_manifest, names_manifest
from shardbuild.shards.reader import read_samples
from shardbuild.storage.braces import expand_braces
from shardbuild.storage.urls import expand_urls
from shardbuild.streams import filters
from shardbuild.streams.guarding import goes_on
from shardbuild.streams.shardlists import resampled_shards, shard_list, shard_order
from shardbuild.streams.splitters import single_node_only
from shardbuild.streams.stages import Stage

if TYPE_CHECKING:
    from shardbuild.errors import Handler
    from shardbuild.shards.samples import Sample
    from shardbuild.storage.urls import StorageOptions
    from shardbuild.streams.splitters import Splitter

__all__ = ["ShardSource", "Source", "only_fields", "samples_of"]

AnyStage = Callable[[Iterable[Any]], Iterable[Any]]


def only_fields(sample: Sample, fields: tuple[str, ...] | None) -> Sample:
    """The key, the url and these fields of a sample; all of it, if fields is None.

    >>> only_fields({"__key__": "a", "cls": b"3", "txt": b"x"}, ("cls", "jpg"))
    {'__key__': 'a', 'cls': b'3'}
    """
    if fields is None:
        return sample
    names = ("__key__", "__url__", *fields)
    return {name: sample[name] for name in names if name in sample}


class Source(Protocol):
    """What gives the samples of each epoch."""

    def samples(self, epoch: int) -> Iterator[Any]:
        """The samples of an epoch."""
        ...

    def length(self, epoch: int) -> int | None:
        """How many they are, if that is known before they are read."""
        ...


def samples_of(
    source: Source, stages: tuple[AnyStage, ...], epoch: int
) -> Iterator[Any]:
    """The samples of an epoch of a source, through all stages.

    A stage gets an iterator; only one that repeats what is before it gets that as
    something to be iterated again, in an epoch of its own each time.
    """
    if not stages:
        return source.samples(epoch)
    *before, stage = stages
    num_epochs = _epochs_of(stage)
    upstream = _Upstream(source, tuple(before), epoch * num_epochs)
    if isinstance(stage, Stage):
        stage = stage.in_epoch(epoch)
    return iter(stage(upstream if num_epochs > 1 else iter(upstream)))


_ENDLESS = 1 << 32
"""More epochs than anybody reads."""


def _epochs_of(stage: AnyStage) -> int:
    """How many epochs of what is before it one epoch of a stage takes."""
    if not isinstance(stage, Stage):
        return 1
    if stage.function is filters.with_epoch:
        return _ENDLESS
    if stage.function is filters.repeat:
        epochs: int = stage.arguments()["nepochs"]
        return epochs if epochs > 0 else _ENDLESS
    return 1


class _Upstream:
    """What is before a stage; each iteration is the next epoch."""

    def __init__(self, source: Source, stages: tuple[AnyStage, ...], epoch: int):
        self._source = source
        self._stages = stages
        self._epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        epoch = self._epoch
        self._epoch += 1
        return samples_of(self._source, self._stages, epoch)


@dataclass(frozen=True)
class ShardSource:
    """The samples of shards."""

    urls: str | tuple[str, ...]
    """Url specs."""
    length_said: bool | int
    splitter: Splitter | None
    nodesplitter: Splitter | None
    handler: Handler
    is_shuffled: bool
    seed: int
    storage_options: StorageOptions | None
    is_resampled: bool = False
    fields: tuple[str, ...] | None = None
    """What is wanted of each sample; None is all."""
    _known: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was looked up once: urls, and the samples in each."""

    def resampled(self) -> ShardSource:
        """The same shards, drawn endlessly."""
        return dataclasses.replace(self, is_resampled=True)

    def all_urls(self) -> list[str]:
        """The urls of all shards, looked up once."""
        if "urls" not in self._known:
            self._known["urls"] = self._find_urls()
        urls: list[str] = self._known["urls"]
        return urls

    def _find_urls(self) -> list[str]:
        return expand_urls(self.urls, self.storage_options)

    def shard_urls(self, epoch: int) -> Iterator[str]:
        """The urls of this process, in the order of an epoch."""
        return shard_list(
            self._ordered(epoch),
            nodesplitter=self.nodesplitter,
            splitter=self.splitter,
        )

    def _ordered(self, epoch: int) -> Iterable[str]:
        urls = self.all_urls()
        if self.is_resampled:
            return resampled_shards(urls, seed=self.seed, epoch=epoch)
        return shard_order(urls, shuffle=self.is_shuffled, seed=self.seed, epoch=epoch)

    def samples(self, epoch: int) -> Iterator[Sample]:
        """The samples of all shards of this process."""
        for url in self.shard_urls(epoch):
            try:
                yield from self._samples_of(url)
            except Exception as error:  # noqa: BLE001  # the handler decides
                if not goes_on(error, self.handler):
                    return

    def _samples_of(self, url: str) -> Iterator[Sample]:
        reading = read_samples(url, storage_options=self.storage_options)
        with closing(reading) as samples:
            for sample in samples:
                sample["__url__"] = url
                yield only_fields(sample, self.fields)

    def length(self, epoch: int) -> int | None:
        """The samples of this node's shards, for all its workers together."""
        if self.length_said is not True:
            return None if self.length_said is False else self.length_said
        return None if self.is_resampled else self._num_samples(epoch)

    def _num_samples(self, epoch: int) -> int | None:
        if "counts" not in self._known:
            self._known["counts"] = self._counts()
        counts: dict[str, int] | None = self._known["counts"]
        if counts is None:
            return None
        return sum(counts[url] for url in self.node_urls(epoch))

    def node_urls(self, epoch: int) -> Iterator[str]:
        """The urls of this node, for all its workers; all, if nodes are not split."""
        splitter = self.nodesplitter
        if splitter is single_node_only:
            splitter = None
        return shard_list(self._ordered(epoch), nodesplitter=splitter, splitter=None)

    def _counts(self) -> dict[str, int] | None:
        """The samples in each shard, if manifests name them all."""
        specs = [self.urls] if isinstance(self.urls, str) else self.urls
        counts: dict[str, int] = {}
        for url in (url for spec in specs for url in expand_braces(spec)):
            if not names_manifest(url):
                return None
            manifest = load_manifest(url, storage_options=self.storage_options)
            urls = expand_urls(url, self.storage_options)
            shards = zip(urls, manifest.shards, strict=True)
            counts |= {shard: facts.num_samples for shard, facts in shards}
        return counts
