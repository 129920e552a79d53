"""Stages between samples and batches of them."""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["batched", "default_collation_fn", "listed", "unbatched", "unlisted"]


def default_collation_fn(
    samples: list[Any],
    combine_tensors: bool = True,  # noqa: FBT001, FBT002  # as in webdataset
    combine_scalars: bool = True,  # noqa: FBT001, FBT002
) -> Any:
    """Make one batch: a tuple of columns from tuples, a dict of them from dicts.

    A column of numbers becomes an array, one of arrays or tensors an array or a
    tensor with one more dimension, any other a list.

    >>> default_collation_fn([(1, "a"), (2, "b")])
    (array([1, 2]), ['a', 'b'])
    >>> default_collation_fn([{"cls": 1}, {"cls": 2}], combine_scalars=False)
    {'cls': [1, 2]}

    Raises:
        ValueError: The samples differ in their fields, or in their arrays' shapes.
    """
    rows = [row if isinstance(row, dict) else dict(enumerate(row)) for row in samples]
    names = rows[0].keys()
    for row in rows:
        if row.keys() != names:
            raise ValueError(
                f"samples of one batch differ in their fields: {list(names)} and"
                f" {list(row)}"
            )
    kinds = {"combine_tensors": combine_tensors, "combine_scalars": combine_scalars}
    columns = {n: _column(n, [row[n] for row in rows], **kinds) for n in names}
    return columns if isinstance(samples[0], dict) else tuple(columns.values())


def _column(
    name: Any,
    values: list[Any],
    *,
    combine_tensors: bool,
    combine_scalars: bool,
) -> Any:
    first = values[0]
    if isinstance(first, (int, float)):
        if not combine_scalars:
            return values
        import numpy as np

        return np.array(values)
    if not combine_tensors:
        return values
    # Whose package was never imported, of those there is no value.
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if torch is not None and isinstance(first, torch.Tensor):
        _check_shapes(name, values)
        return torch.stack(values)
    if numpy is not None and isinstance(first, numpy.ndarray):
        _check_shapes(name, values)
        return numpy.array(values)
    return values


def _check_shapes(name: Any, values: list[Any]) -> None:
    shapes = sorted({tuple(value.shape) for value in values})
    if len(shapes) > 1:
        raise ValueError(f"arrays of {name!r} differ in shape: {shapes}")


def batched(
    samples: Iterable[Any],
    /,
    batchsize: int = 20,
    collation_fn: Callable[[list[Any]], Any] | None = default_collation_fn,
    partial: bool = True,  # noqa: FBT001, FBT002  # as in webdataset
) -> Iterator[Any]:
    """Make batches of ``batchsize`` samples, collated.

    >>> list(batched([(1, "a"), (2, "b"), (3, "c")], 2))
    [(array([1, 2]), ['a', 'b']), (array([3]), ['c'])]
    >>> list(batched([1, 2, 3], 2, collation_fn=sum, partial=False))
    [3]

    Args:
        samples: Samples, tuples, or what ``collation_fn`` takes.
        batchsize: Samples in a batch.
        collation_fn: What makes a batch of a list of samples; None leaves the list.
        partial: Whether a last batch of fewer samples comes out.

    Raises:
        ValueError: ``batchsize`` is not positive.
    """
    lists = listed(samples, batchsize, partial)
    return lists if collation_fn is None else _collated(lists, collation_fn)


def _collated(
    lists: Iterable[list[Any]], collation_fn: Callable[[list[Any]], Any]
) -> Iterator[Any]:
    for samples in lists:
        yield collation_fn(samples)


def listed(
    samples: Iterable[Any],
    /,
    batchsize: int = 20,
    partial: bool = True,  # noqa: FBT001, FBT002  # as in webdataset
) -> Iterator[list[Any]]:
    """Make lists of ``batchsize`` samples.

    >>> list(listed([1, 2, 3], 2)), list(listed([1, 2, 3], 2, partial=False))
    ([[1, 2], [3]], [[1, 2]])

    Raises:
        ValueError: ``batchsize`` is not positive.
    """
    if batchsize < 1:
        raise ValueError(f"a batch of {batchsize} samples")
    return _lists(iter(samples), batchsize, partial=partial)


def _lists(
    samples: Iterator[Any], batchsize: int, *, partial: bool
) -> Iterator[list[Any]]:
    while batch := list(islice(samples, batchsize)):
        if partial or len(batch) == batchsize:
            yield batch


def unlisted(samples: Iterable[list[Any]], /) -> Iterator[Any]:
    """Let the samples of lists come one by one.

    >>> list(unlisted([[1, 2], [3]]))
    [1, 2, 3]

    Raises:
        TypeError: What comes is no list.
    """
    for batch in samples:
        if not isinstance(batch, list):
            raise TypeError(f"a {type(batch).__name__}, where a list is expected")
        yield from batch


def unbatched(samples: Iterable[Any], /) -> Iterator[Any]:
    """Let the samples of batches come one by one: tuples of tuples, dicts of dicts.

    >>> list(unbatched([([1, 2], ["a", "b"])])), list(unbatched([{"cls": [1, 2]}]))
    ([(1, 'a'), (2, 'b')], [{'cls': 1}, {'cls': 2}])

    Raises:
        TypeError: What comes is no batch.
        ValueError: Its columns differ in length.
    """
    for batch in samples:
        if isinstance(batch, dict):
            for row in _rows(batch.values()):
                yield dict(zip(batch, row, strict=True))
        elif isinstance(batch, (tuple, list)):
            yield from _rows(batch)
        else:
            raise TypeError(
                f"a {type(batch).__name__}, where a batch is expected: a tuple, a list"
                " or a dict of columns"
            )


def _rows(columns: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    held = list(columns)
    lengths = sorted({len(column) for column in held})
    if len(lengths) != 1:
        raise ValueError(f"columns of one batch differ in length: {lengths}")
    for at in range(lengths[0]):
        yield tuple(column[at] for column in held)
