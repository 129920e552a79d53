"""Stages: plain functions, samples in, an iterator out.

Samples come first and are taken one at a time, when one is asked for. Options are
checked at once. Where a stage takes a ``handler``, that decides about the errors of
single samples; where it draws at random, a ``seed`` (0 unless you say another), or a
generator ``rng``, decides what comes.

The same stages are methods of `shardbuild.Dataset`, and, without
samples, functions in `shardbuild.streams.curried`.

>>> samples = [{"__key__": "a", "cls": b"3"}, {"__key__": "b", "cls": b"5"}]
>>> list(to_tuple(decode(samples), "__key__ cls"))
[('a', 3), ('b', 5)]
"""

from __future__ import annotations

from shardbuild.streams.fields import (
    compose,
    getfirst,
    parse_field_spec,
    pipeline,
    transform_with,
    transformer,
)
from shardbuild.streams.filters_batches import (
    batched,
    default_collation_fn,
    listed,
    unbatched,
    unlisted,
)
from shardbuild.streams.filters_cache import dbcache
from shardbuild.streams.filters_decode import decode
from shardbuild.streams.filters_epochs import repeat, with_epoch, with_length
from shardbuild.streams.filters_fields import (
    associate,
    extract_keys,
    map_dict,
    rename,
    rename_keys,
)
from shardbuild.streams.filters_samples import (
    info,
    ishuffle,
    log_keys,
    map,  # noqa: A004  # as in webdataset
    pipe,
    resampled,
    rsample,
    select,
    shuffle,
    slice,  # noqa: A004
)
from shardbuild.streams.filters_tuples import map_tuple, to_tuple

__all__ = [
    "associate",
    "batched",
    "compose",
    "dbcache",
    "decode",
    "default_collation_fn",
    "extract_keys",
    "getfirst",
    "info",
    "ishuffle",
    "listed",
    "log_keys",
    "map",
    "map_dict",
    "map_tuple",
    "parse_field_spec",
    "pipe",
    "pipeline",
    "rename",
    "rename_keys",
    "repeat",
    "resampled",
    "rsample",
    "select",
    "shuffle",
    "slice",
    "to_tuple",
    "transform_with",
    "transformer",
    "unbatched",
    "unlisted",
    "with_epoch",
    "with_length",
]
