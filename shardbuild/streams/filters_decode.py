"""The stage that decodes fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardbuild.codecs.decoders import decode_field
from shardbuild.errors import DecodeError, Handler, reraise_exception
from shardbuild.streams.guarding import apply_each

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from shardbuild.shards.samples import Sample

__all__ = ["decode"]


def decode(
    samples: Iterable[Sample],
    /,
    *handlers: str | Callable[[str, bytes], Any],
    handler: Handler = reraise_exception,
    only: str | Collection[str] | None = None,
    partial: bool = False,
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
        only: The fields that are decoded, a list or a text with blanks; None is all.
        partial: Whether fields may be decoded already.

    Raises:
        DecodeError: A field's bytes are damaged, or it is decoded already; unless the
            handler bears it.
    """
    return apply_each(samples, _SampleDecoder(handlers, only, partial=partial), handler)


class _SampleDecoder:
    def __init__(
        self,
        handlers: Iterable[str | Callable[[str, bytes], Any]],
        only: str | Collection[str] | None,
        *,
        partial: bool,
    ) -> None:
        self._handlers = list(handlers)
        self._only = only.split() if isinstance(only, str) else only
        self._partial = partial

    def __call__(self, sample: Sample) -> Sample:
        return {
            name: self._decoded(name, value, sample)
            if not name.startswith("_") and (self._only is None or name in self._only)
            else value
            for name, value in sample.items()
        }

    def _decoded(self, name: str, value: Any, sample: Sample) -> Any:
        if not isinstance(value, bytes):
            if self._partial:
                return value
            problem = f"field {name!r} is a {type(value).__name__}: decoded already"
            raise DecodeError(sample.get("__url__", ""), problem, sample["__key__"])
        images: Any = None
        for known in self._handlers:
            if isinstance(known, str):
                images = images or known
                continue
            result = known(f".{name}", value)
            if result is not None:
                return result
        return decode_field(
            name,
            value,
            images=images,
            key=str(sample.get("__key__", "")),
            url=str(sample.get("__url__", "")),
        )
