"""Sources of samples, and the stages that they pass, one after another."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

from shardbuild.streams import filters
from shardbuild.streams.lengths import length_after
from shardbuild.streams.sources import Source, samples_of
from shardbuild.streams.stages import fluid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Pipeline"]


class Pipeline:
    """A source of samples and the stages that they pass.

    A stage makes a new pipeline: what it is called on stays as it is. Each iteration
    is another epoch, from 0 on: what is random comes in another order, which is the
    same in every program. `at_epoch` chooses where to begin.

    >>> from shardbuild.streams.mixing import RoundRobin
    >>> pipeline = RoundRobin(["ace", "bdf"]).shuffle(6)
    >>> "".join(pipeline), "".join(pipeline)
    ('dfabce', 'cedfab')
    >>> "".join(pipeline.at_epoch(1)), "".join(pipeline.listed(6).unlisted())
    ('cedfab', 'dfabce')
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stages: tuple[Callable[[Iterable[Any]], Iterable[Any]], ...] = ()
        self._first_epoch = 0
        self._next_epoch = 0

    def __iter__(self) -> Iterator[Any]:
        epoch = self._next_epoch
        self._next_epoch += 1
        return self.iterate(epoch)

    def iterate(self, epoch: int) -> Iterator[Any]:
        """The samples of an epoch."""
        return samples_of(self._source, self._stages, epoch)

    def __len__(self) -> int:
        """How many samples the next epoch has.

        Raises:
            TypeError: Nobody knows before they are read.
        """
        length = self._source.length(self._next_epoch)
        for stage in self._stages:
            length = length_after(stage, length)
        if length is None:
            raise TypeError(
                f"the length of this {type(self).__name__} is not known before it is"
                " read: read the shards of a manifest, or say with_length(n)"
            )
        return length

    def at_epoch(self, epoch: int) -> Self:
        """The same pipeline, whose next iteration is this epoch."""
        made = copy.copy(self)
        made._first_epoch = made._next_epoch = epoch
        return made

    def compose(self, *stages: Callable[[Iterable[Any]], Iterable[Any]]) -> Self:
        """Add stages: functions of samples, as in `shardbuild.streams.curried`."""
        made = self.at_epoch(self._first_epoch)
        made._stages = (*self._stages, *stages)
        return made

    associate = fluid(filters.associate)
    batched = fluid(filters.batched)
    dbcache = fluid(filters.dbcache)
    decode = fluid(filters.decode)
    extract_keys = fluid(filters.extract_keys)
    info = fluid(filters.info)
    listed = fluid(filters.listed)
    log_keys = fluid(filters.log_keys)
    map = fluid(filters.map)
    map_dict = fluid(filters.map_dict)
    map_tuple = fluid(filters.map_tuple)
    pipe = fluid(filters.pipe)
    rename = fluid(filters.rename)
    rename_keys = fluid(filters.rename_keys)
    repeat = fluid(filters.repeat)
    rsample = fluid(filters.rsample)
    select = fluid(filters.select)
    shuffle = fluid(filters.shuffle)
    slice = fluid(filters.slice)
    to_tuple = fluid(filters.to_tuple)
    unbatched = fluid(filters.unbatched)
    unlisted = fluid(filters.unlisted)
    with_epoch = fluid(filters.with_epoch)
    with_length = fluid(filters.with_length)
