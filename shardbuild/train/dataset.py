"""A data set of shards: a stream of samples, a list of them, and feeds of batches."""

from __future__ import annotations

import dataclasses
import operator
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

import numpy as np

from shardbuild.errors import Handler, SampleError, UsageError, reraise_exception
from shardbuild.streams.fluid import Pipeline
from shardbuild.streams.sources import ShardSource
from shardbuild.streams.splitters import (
    Splitter,
    place_of_node,
    single_node_only,
    split_by_worker,
)
from shardbuild.train.applying import NoResult, apply_stages, check_stages
from shardbuild.train.catalog import Catalog
from shardbuild.train.feed import Feed, Options
from shardbuild.train.selected import SelectedSource
from shardbuild.train.settings import Choice, IndexedSetting, StreamedSetting, strand_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from shardbuild.storage.partcache import PartCache
    from shardbuild.storage.urls import StorageOptions
    from shardbuild.train.batches import Collate
    from shardbuild.train.catalog import Columns
    from shardbuild.train.positions import Last
    from shardbuild.train.settings import OrderOptions
    from shardbuild.train.strand import Strand

__all__ = ["Dataset", "feed_options"]


class Dataset(Pipeline):
    """The samples of shards, and the stages that they pass.

    Samples have ``__key__``, ``__url__`` (the shard they are from) and fields of
    bytes, until ``decode``. Iterated over, shards are read one after another, front
    to back.

    >>> import tempfile
    >>> from shardbuild.shards.shardwriter import ShardWriter
    >>> folder = tempfile.TemporaryDirectory()
    >>> with ShardWriter(f"{folder.name}/train-%06d.tar", maxcount=2) as writer:
    ...     for number in range(5):
    ...         _ = writer.write({"__key__": f"{number}", "cls": number})
    >>> dataset = Dataset(f"{folder.name}/train.json").decode().to_tuple("__key__ cls")
    >>> list(dataset), len(dataset)
    ([('0', 0), ('1', 1), ('2', 2), ('3', 3), ('4', 4)], 5)

    Shards that have indexes, as all of ours do, can be read at any place, and fed to
    training in an exact order:

    >>> dataset[3], dataset["4"], list(dataset[1:3])
    (('3', 3), ('4', 4), [('1', 1), ('2', 2)])
    >>> with dataset.feed(global_batch=2, shuffle=True, seed=1) as feed:
    ...     len(feed), [[key for key, _ in batch] for batch in feed]
    (3, [['3', '1'], ['2', '4'], ['0', '3']])
    >>> folder.cleanup()

    Args:
        urls: A url spec, or several: braces, globs, lists, manifests (`expand_urls`).
        length: What ``len`` gives: True is what the manifests or the indexes say, a
            number that number, False nothing.
        splitter: Which of its node's shards this process iterates over; None is all.
        handler: What decides about a shard that is missing or damaged; if it says
            to go on, the rest of that shard is left out.
        shuffle: Whether shards come in a random order, another in each epoch.
        seed: Another seed, other orders.
        nodesplitter: Which shards are this node's. Unless you say another
            (`split_by_node`), to iterate on more than one node is an error.
        storage_options: What to pass on to fsspec.
    """

    _source: ShardSource

    def __init__(  # noqa: PLR0913  # as in webdataset
        self,
        urls: str | Sequence[str],
        *,
        length: bool | int = True,
        splitter: Splitter | None = split_by_worker,
        handler: Handler = reraise_exception,
        shuffle: bool = False,
        seed: int = 0,
        nodesplitter: Splitter | None = single_node_only,
        storage_options: StorageOptions | None = None,
    ) -> None:
        super().__init__(
            ShardSource(
                urls=urls if isinstance(urls, str) else tuple(urls),
                length_said=length,
                splitter=splitter,
                nodesplitter=nodesplitter,
                handler=handler,
                is_shuffled=shuffle,
                seed=seed,
                storage_options=storage_options,
            )
        )

    def resampled(self) -> Self:
        """The same data set, but shards are drawn with replacement, endlessly.

        All processes draw alike, and then split what was drawn.
        """
        return self._with_source(self._source.resampled())

    def shard_urls(self, epoch: int = 0) -> Iterator[str]:
        """The urls that this process iterates over in an epoch, in order."""
        return self._source.shard_urls(epoch)

    @property
    def has_index(self) -> bool:
        """Whether samples can be read by their places."""
        return self._catalog() is not None

    def _catalog(self) -> Catalog | None:
        """What is known of the shards, looked up once for all that come of this."""
        if isinstance(self._source, SelectedSource):
            return self._source.catalog
        known = self._source._known
        if "catalog" not in known:
            urls, options = self._source.urls, self._source.storage_options
            known["catalog"] = Catalog.find(urls, options)
        catalog: Catalog | None = known["catalog"]
        return catalog

    def catalog(self) -> Catalog:
        """What is known of the shards and their samples.

        Raises:
            UsageError: The shards have no index.
        """
        catalog = self._catalog()
        if catalog is None:
            problem = "not all of its shards have an index: shardbuild index"
            raise UsageError(self.name, problem)
        return catalog

    @property
    def name(self) -> str:
        """The urls, in short, for messages."""
        urls = self._source.urls
        return urls if isinstance(urls, str) else ", ".join(urls[:3])

    def _by_place(self) -> SelectedSource:
        if isinstance(self._source, SelectedSource):
            return self._source
        known = self._source._known
        if "by_place" not in known:
            known["by_place"] = _selected(self._source, self.catalog())
        source: SelectedSource = known["by_place"]
        return source

    def _with_source(self, source: ShardSource) -> Self:
        made = self.at_epoch(self._first_epoch)
        made._source = source
        return made

    def __len__(self) -> int:
        """How many samples there are, of all nodes unless a splitter was chosen.

        Raises:
            TypeError: Nobody knows before they are read.
        """
        try:
            return super().__len__()
        except TypeError:
            if self._source.length_said is not True or not self.has_index:
                raise
        indexed = self.at_epoch(self._next_epoch)
        indexed._source = self._by_place()
        return Pipeline.__len__(indexed)

    @overload
    def __getitem__(self, place: int | str) -> Any: ...

    @overload
    def __getitem__(self, place: slice) -> Self: ...

    def __getitem__(self, place: int | str | slice) -> Any:
        """A sample by its number or its key, through all stages; or a part of all.

        A slice is a data set of its own: it can be read, sliced and fed.

        Raises:
            IndexError: There is no such number.
            KeyError: There is no such key.
            SampleError: The sample is bad.
            UsageError: The shards have no index, or a stage does not make one sample
                of each.
        """
        catalog = self.catalog()
        if isinstance(place, slice):
            return self._with_source(_selected(self._source, catalog[place]))
        if isinstance(place, str):
            found = catalog.find_key(place)
        else:
            found = catalog.place(operator.index(place))
        return self._read([found])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Several samples by their numbers, read together: what torch asks for.

        Raises:
            IndexError: There is no such number.
            SampleError: A sample is bad.
        """
        catalog = self.catalog()
        return self._read([catalog.place(operator.index(i)) for i in numbers])

    def _read(self, places: list[tuple[int, int]]) -> list[Any]:
        check_stages(self._stages)
        table = np.array(places, dtype=np.int64).reshape(-1, 2)
        samples = self._by_place().reader.read(table[:, 0], table[:, 1])
        results = apply_stages(self._stages, samples)
        for sample, result in zip(samples, results, strict=True):
            if isinstance(result, NoResult):
                url, key = str(sample["__url__"]), str(sample["__key__"])
                raise SampleError(url, result.problem, key) from result.error
        return results

    def where(self, condition: Callable[[Columns], NDArray[np.bool_]]) -> Self:
        """Only the samples for which a condition on the index holds; nothing is read.

        The condition gets the columns of one shard after the other, and gives an
        array of truths: ``ds.where(lambda columns: columns.size("jpg") > 10_000)``.

        Raises:
            UsageError: The shards have no index.
            ValueError: What the condition gives is no array of one truth a sample.
        """
        catalog = self.catalog().where(condition)
        return self._with_source(_selected(self._source, catalog))

    def fields(self, *names: str) -> Self:
        """Only these fields of each sample; others are not even read, with an index.

        Raises:
            UsageError: A stage was added before.
        """
        if self._stages:
            raise UsageError("fields", "come before any stage")
        catalog = self._catalog()
        if catalog is None:
            return self._with_source(dataclasses.replace(self._source, fields=names))
        source = dataclasses.replace(_selected(self._source, catalog), fields=names)
        return self._with_source(source)

    def feed(  # noqa: PLR0913  # each has a user
        self,
        global_batch: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
        last: Last = "wrap",
        open_shards: int | None = None,
        block: int | None = None,
        threads: int | None = None,
        collate: Collate | None = None,
        max_bad: int = 10,
        cache: PartCache | None = None,
    ) -> Feed:
        """Batches in an exact order, for one of several ranks, epoch after epoch.

        A batch is a `Batch`: a list of samples, as the stages make them. The stages
        have to make one of each sample; a sample that one of them cannot make is
        replaced by the next in the order, and listed in ``feed.skipped``.

        Without an index, the first epoch is read front to back in lanes of shards,
        by all ranks; after it, or on resuming beyond it, the index is known.

        Args:
            global_batch: Samples of a step, of all ranks together.
            shuffle: Whether the order is random, another one in each epoch.
            seed: Another seed, other orders.
            rank: Which rank this is; as torch, JAX or the environment
                (``RANK``, ``WORLD_SIZE``) say, if it is not given.
            world: How many ranks there are.
            last: What becomes of a last step that is not full. ``"wrap"`` fills it
                up from the beginning of the order, ``"mask"`` too, and tells by
                ``batch.mask`` what counts, ``"drop"`` leaves it out.
            open_shards: Shards that are read in turns at one time, 256 if not said
                (16 without an index). If there are no more, all samples are shuffled
                as one.
            block: Samples of a shard that stay together, as one range of it; a MiB of
                them, if not said. Without an index: samples that are permuted at a
                time in each of the open shards.
            threads: Threads that read and run the stages; one for each core, if not
                said and there are stages. 0 does all in the caller's thread.
            collate: What makes a batch of a `Batch`, such as `stack`.
            max_bad: How many samples in a row may be bad.
            cache: Where parts of the shards of a store are kept.

        Raises:
            UsageError: Options are out of range, or do not go together.
        """
        choice = self._choice(
            shuffle=shuffle,
            seed=seed,
            open_shards=open_shards,
            block=block,
            max_bad=max_bad,
            cache=cache,
        )
        options = feed_options(
            global_batch, rank, world, last=last, threads=threads, collate=collate
        )
        catalog = self._catalog()
        if catalog is None:
            urls = tuple(self._source.all_urls())
            return Feed(StreamedSetting(self.name, urls, choice), options)
        return Feed(IndexedSetting(self.name, [strand_of(catalog, choice)]), options)

    def strand(self, **order: Unpack[OrderOptions]) -> Strand:
        """This data set in an order, as a part of a `Mixture`.

        Raises:
            UsageError: The shards have no index, or an option is out of range.
        """
        return strand_of(self.catalog(), self._choice(**order))

    def _choice(self, **order: Unpack[OrderOptions]) -> Choice:
        check_stages(self._stages)
        if self._source.is_resampled:
            raise UsageError("resampled", "draws shards: a feed has its own order")
        return Choice(
            **order,
            fields=self._source.fields,
            storage_options=self._source.storage_options,
            stages=self._stages,
        )

    def to_bag(self, npartitions: int | None = None) -> Any:
        """A bag of Dask: each partition a run of the samples, through all stages.

        Raises:
            UsageError: The shards have no index.
        """
        from shardbuild.train.bag import to_bag

        return to_bag(self, npartitions)

    def close(self) -> None:
        """Close the shards that reading single samples opened."""
        for source in (self._source, self._source._known.get("by_place")):
            if isinstance(source, SelectedSource):
                source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _selected(source: ShardSource, catalog: Catalog) -> SelectedSource:
    """The same shards, read by a catalog of them."""
    values = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    return SelectedSource(**{**values, "catalog": catalog, "_known": {}})


def feed_options(  # those of a feed
    global_batch: int,
    rank: int | None,
    world: int | None,
    *,
    last: Last,
    threads: int | None,
    collate: Collate | None,
) -> Options:
    """How batches are made; by which rank, if that is not said, the place tells.

    Raises:
        UsageError: Of rank and world only one is given.
    """
    if (rank is None) != (world is None):
        raise UsageError(f"rank {rank}, world {world}", "say both, or none")
    if rank is None or world is None:
        rank, world = place_of_node()
    return Options(global_batch, rank, world, last, threads, collate)
