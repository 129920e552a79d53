"""From small samples that are alike, each read in one piece, to their fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardbuild.shards.places import Row
    from shardbuild.shards.samples import Sample

__all__ = ["cut_small"]

Cuts: TypeAlias = "Iterable[tuple[int, bytes, Row]]"
"""Of each sample its place in the list, what was read of it, and its row."""


def cut_small(
    cuts: Cuts, samples: list[Sample], names: tuple[str, ...], text: str, url: str
) -> None:
    """Put samples into a list, each where it belongs.

    Args:
        cuts: Of each sample its place in the list, what was read of it, and its row:
            see `Places`.
        samples: The list.
        names: Those of the fields.
        text: All keys of the shard, to which the rows point.
        url: Of the shard.

    >>> samples = [{}, {}]
    >>> row = [512, 1030, 0, 1, 0, 2, 1027, 1030]
    >>> part = b"hi" + bytes(1025) + b"you"
    >>> cut_small([(1, part, row)], samples, ("a", "b"), "k", "x.tar")
    >>> samples
    [{}, {'__key__': 'k', '__url__': 'x.tar', 'a': b'hi', 'b': b'you'}]
    """
    cut = _CUTS.get(len(names), _cut_many)
    cut(cuts, samples, names, text, url)


# The common widths are written out, as in `readcut`.


def _cut_1(
    cuts: Cuts, samples: list[Sample], names: tuple[str, ...], text: str, url: str
) -> None:
    (f,) = names
    for at, part, (_, _, k, m, a, b) in cuts:
        samples[at] = {"__key__": text[k:m], "__url__": url, f: part[a:b]}


def _cut_2(
    cuts: Cuts, samples: list[Sample], names: tuple[str, ...], text: str, url: str
) -> None:
    f, g = names
    for at, part, (_, _, k, m, a, b, c, d) in cuts:
        samples[at] = {
            "__key__": text[k:m],
            "__url__": url,
            f: part[a:b],
            g: part[c:d],
        }


def _cut_3(
    cuts: Cuts, samples: list[Sample], names: tuple[str, ...], text: str, url: str
) -> None:
    f, g, h = names
    for at, part, (_, _, k, m, a, b, c, d, i, j) in cuts:
        samples[at] = {
            "__key__": text[k:m],
            "__url__": url,
            f: part[a:b],
            g: part[c:d],
            h: part[i:j],
        }


def _cut_many(
    cuts: Cuts, samples: list[Sample], names: tuple[str, ...], text: str, url: str
) -> None:
    for at, part, (_, _, k, m, *ends) in cuts:
        sample: Sample = {"__key__": text[k:m], "__url__": url}
        for name, start, stop in zip(names, ends[::2], ends[1::2], strict=True):
            sample[name] = part[start:stop]
        samples[at] = sample


_CUTS: Final = {1: _cut_1, 2: _cut_2, 3: _cut_3}
