"""Stages that take whole samples as they come, whatever is in them."""

from __future__ import annotations

import sys
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.errors import Handler, reraise_exception
from shardbuild.streams.guarding import apply_each
from shardbuild.streams.seeds import generator

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

    from shardbuild.shards.samples import Sample

__all__ = [
    "info",
    "ishuffle",
    "log_keys",
    "map",
    "pipe",
    "resampled",
    "rsample",
    "select",
    "shuffle",
    "slice",
]


def info(  # noqa: PLR0913  # as in webdataset
    samples: Iterable[Sample],
    /,
    fmt: str | None = None,
    n: int = 3,
    every: int = -1,
    width: int = 50,
    stream: TextIO | None = None,
    name: str = "",
) -> Iterator[Sample]:
    """Write the first ``n`` samples that pass, and after them each ``every``-th.

    >>> import sys
    >>> samples = [{"__key__": "a", "cls": 3}, {"__key__": "b", "cls": 5}]
    >>> _ = list(info(samples, n=1, stream=sys.stdout, name="train"))
    --- train
    __key__ 'a'
    cls 3
    >>> _ = list(info(samples, "{__key__} is {cls}", stream=sys.stdout))
    a is 3
    b is 5

    Args:
        samples: What passes.
        fmt: A line to be formatted with the fields; without it, all are shown.
        n: How many of the first.
        every: Of the others each one whose number it divides; none if negative.
        width: Characters of each value.
        stream: Where to, instead of standard error.
        name: A word to tell several of these apart.
    """
    for number, sample in enumerate(samples, 1):
        if number <= n or (every > 0 and number % every == 0):
            out = sys.stderr if stream is None else stream
            out.write(_described(sample, fmt, width, name))
        yield sample


def _described(sample: Sample, fmt: str | None, width: int, name: str) -> str:
    if fmt is not None:
        return fmt.format(**sample) + "\n"
    lines = [f"{field} {repr(value)[:width]}" for field, value in sample.items()]
    return "\n".join([f"--- {name}", *lines, ""])


def log_keys(
    samples: Iterable[Sample], /, logfile: str | None = None
) -> Iterator[Sample]:
    r"""Append a line for each sample that passes to a file: number and key.

    Between them are the sample's ``__worker__`` and ``__rank__``, if it has them.
    Several processes may write to one file: a line is one write.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("r") as file:
    ...     _ = list(log_keys([{"__key__": "a"}, {"__key__": "b"}], file.name))
    ...     file.read().splitlines()
    ['0\tNone\tNone\ta', '1\tNone\tNone\tb']
    """
    if not logfile:
        yield from samples
        return
    with Path(logfile).open("ab", buffering=0) as stream:
        for number, sample in enumerate(samples):
            names = ("__worker__", "__rank__", "__key__")
            words = [str(sample.get(name)) for name in names]
            stream.write("\t".join([str(number), *words, ""])[:-1].encode() + b"\n")
            yield sample


def shuffle(
    samples: Iterable[Any],
    /,
    bufsize: int = 1000,
    initial: int = 100,
    rng: random.Random | None = None,
    *,
    seed: int = 0,
) -> Iterator[Any]:
    """Shuffle by a buffer: each sample changes places with near ones only.

    For an order that is random over the whole data set, convert it once with
    ``order="shuffle"``, or shuffle the shards too.

    >>> list(shuffle(range(10), bufsize=4, seed=1))
    [1, 0, 2, 4, 7, 8, 9, 5, 3, 6]
    >>> sorted(shuffle(range(10), 4)) == list(range(10))
    True

    Args:
        samples: What is shuffled.
        bufsize: Samples in the buffer, at most.
        initial: Samples in the buffer before the first comes out; it goes on
            growing after that.
        rng: A generator to draw from, instead of a new one of ``seed``.
        seed: Another seed, another order.
    """
    rng = generator(seed, rng)
    initial = min(initial, bufsize)
    buffer: list[Any] = []
    source = iter(samples)
    for sample in source:
        buffer.append(sample)
        if len(buffer) < bufsize:
            buffer.extend(islice(source, 1))
        if len(buffer) >= initial:
            yield _picked(buffer, rng)
    while buffer:
        yield _picked(buffer, rng)


def ishuffle(
    data: Iterable[Any], bufsize: int = 1000, initial: int = 100, *, seed: int = 0
) -> Iterator[Any]:
    """`shuffle`, under the name and with the parameters that tarproc gave it.

    >>> sorted(ishuffle([3, 1, 2], bufsize=2))
    [1, 2, 3]
    """
    return shuffle(data, bufsize, initial, seed=seed)


def _picked(buffer: list[Any], rng: random.Random) -> Any:
    """Take one of the buffer; the last takes its place."""
    at = rng.randint(0, len(buffer) - 1)
    buffer[at], buffer[-1] = buffer[-1], buffer[at]
    return buffer.pop()


def select(
    samples: Iterable[Any],
    /,
    predicate: Callable[[Any], Any],
    handler: Handler = reraise_exception,
) -> Iterator[Any]:
    """Let those pass for which the predicate is true.

    >>> list(select(range(6), lambda number: number % 3 == 0))
    [0, 3]
    """
    pairs = apply_each(samples, lambda sample: (sample, predicate(sample)), handler)
    return (sample for sample, is_wanted in pairs if is_wanted)


def map(  # noqa: A001  # as in webdataset
    samples: Iterable[Any],
    /,
    f: Callable[[Any], Any],
    handler: Handler = reraise_exception,
) -> Iterator[Any]:
    """Apply a function to each sample; where it gives None, nothing passes.

    A new sample that has no ``__key__`` gets that of the one it was made from.

    >>> list(map([{"__key__": "a", "cls": 3}], lambda sample: {"twice": 6}))
    [{'__key__': 'a', 'twice': 6}]
    >>> list(map([1, 2, 3], lambda number: number if number > 1 else None))
    [2, 3]
    """

    def mapped(sample: Any) -> Any:
        result = f(sample)
        if isinstance(result, dict) and isinstance(sample, dict):
            return _with_key(result, sample)
        return result

    results = apply_each(samples, mapped, handler)
    return (result for result in results if result is not None)


def _with_key(result: Sample, sample: Sample) -> Sample:
    if "__key__" in result or "__key__" not in sample:
        return result
    return {"__key__": sample["__key__"], **result}


def slice(samples: Iterable[Any], /, *args: int | None) -> Iterator[Any]:  # noqa: A001
    """Let a part pass: ``stop``, or ``start, stop`` and perhaps ``step``.

    >>> list(slice("abcdef", 2)), list(slice("abcdef", 1, None, 2))
    (['a', 'b'], ['b', 'd', 'f'])

    Raises:
        ValueError: A number is negative.
    """
    return islice(samples, *args)


def rsample(
    samples: Iterable[Any],
    /,
    p: float = 0.5,
    rng: random.Random | None = None,
    *,
    seed: int = 0,
) -> Iterator[Any]:
    """Let each sample pass with probability ``p``.

    >>> list(rsample(range(10), 0.3, seed=1)) == list(rsample(range(10), 0.3, seed=1))
    True

    Raises:
        ValueError: ``p`` is not in [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"a probability is in [0, 1], and p={p!r}")
    draw = generator(seed, rng).random
    return (sample for sample in samples if draw() < p)


def resampled(
    samples: Iterable[Any],
    /,
    n: int | None = None,
    rng: random.Random | None = None,
    *,
    seed: int = 0,
) -> Iterator[Any]:
    """Draw from the samples, or urls, with replacement: ``n`` times, or endlessly.

    All of them are held in memory, so this is for urls rather than for samples.

    >>> list(resampled(["a.tar", "b.tar", "c.tar"], 5, seed=1))
    ['a.tar', 'c.tar', 'a.tar', 'b.tar', 'a.tar']

    Raises:
        ValueError: There is nothing to draw from, and something is asked for.
    """
    rng = generator(seed, rng)
    held = list(samples)
    if not held and n != 0:
        raise ValueError("there is nothing to draw from")
    return islice((rng.choice(held) for _ in count()), n)


def pipe(
    samples: Iterable[Any],
    /,
    f: Callable[..., Iterable[Any]],
    *args: Any,
    **kwargs: Any,
) -> Iterator[Any]:
    """Pass all samples through a function of iterators of your own.

    >>> import itertools
    >>> list(pipe([1, 2, 3], itertools.accumulate, initial=0))
    [0, 1, 3, 6]
    """
    return iter(f(samples, *args, **kwargs))
