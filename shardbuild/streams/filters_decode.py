"""The stage that decodes fields."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from shardbuild.codecs.handlers import Decoder
from shardbuild.errors import DecodeError, Handler, reraise_exception
from shardbuild.streams.guarding import apply_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["decode"]


def decode(  # noqa: PLR0913  # as in webdataset, and one of ours
    samples: Iterable[Sample],
    /,
    *handlers: Any,
    handler: Handler = reraise_exception,
    pre: Sequence[Callable[[str, bytes], Any]] | None = None,
    post: Sequence[Callable[[str, bytes], Any]] | None = None,
    only: str | Iterable[str] | None = None,
    partial: bool = False,
    allow_pickle: bool = False,
) -> Iterator[Sample]:
    """Decode the fields of samples by their extensions.

    A text says what pictures become: ``"rgb8"``, ``"pil"``...; without one they stay
    bytes. A function is given ``".jpg"`` and the bytes, and gives what they become, or
    None if it knows nothing of them; the first that knows decides. What none knows
    is decoded as `shardbuild.codecs.decoders` says, or stays bytes.

    >>> samples = [{"__key__": "a", "cls": b"3", "x": b"4"}]
    >>> list(decode(samples, lambda name, data: int(data) if name == ".x" else None))
    [{'__key__': 'a', 'cls': 3, 'x': 4}]
    >>> list(decode(samples, only="x y"))
    [{'__key__': 'a', 'cls': b'3', 'x': b'4'}]

    Args:
        samples: Samples whose fields are bytes.
        handlers: Texts and functions, as said.
        handler: What decides about errors.
        pre: Functions that are asked first, instead of what unpacks ``.gz``.
        post: Functions that are asked last, instead of our own decoders.
        only: The fields that are decoded, a list or a text with blanks; None is all.
        partial: Whether fields may be decoded already.
        allow_pickle: Whether pickles are decoded: they run what their maker wants.

    Raises:
        DecodeError: A field's bytes are damaged, or it is decoded already; unless the
            handler bears it.
        UsageError: A handler is no function and no text that we know.
    """
    decoder = Decoder(handlers, pre, post, only=only, allow_pickle=allow_pickle)
    function = decoder if partial else functools.partial(_decoded, decoder)
    return apply_each(samples, function, handler)


def _decoded(decoder: Decoder, sample: Sample) -> Sample:
    for name, value in sample.items():
        if name.startswith("_") or (decoder.only and name not in decoder.only):
            continue
        if not isinstance(value, bytes):
            url, key = sample.get("__url__", "<memory>"), sample.get("__key__", "")
            problem = f"field {name!r} is a {type(value).__name__}: decoded already"
            raise DecodeError(str(url), problem, str(key))
    return decoder(sample)
