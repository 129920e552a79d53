"""Decoding a sample by a list of functions, each of which may take a field or not.

A handler takes ``.`` and a field's extension, and its bytes. It gives the decoded
value, or None if the field is not its own, or `Continue` with other bytes and
another extension for the handlers after it. What no handler takes stays bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from shardbuild.codecs.decoders import decoder_of
from shardbuild.codecs.encoders import handler_name
from shardbuild.codecs.images import IMAGE_EXTENSIONS, ImageSpec, decode_image
from shardbuild.codecs.packing import gunzip
from shardbuild.errors import DecodeError, MissingExtraError, UsageError

__all__ = [
    "Continue",
    "Decoded",
    "Decoder",
    "Handler",
    "basichandlers",
    "gzfilter",
    "handle_extension",
    "imagehandler",
]

Handler = Callable[[str, bytes], Any]
"""``handler(".seg.png", data)``; None: not mine."""


@dataclass(frozen=True, slots=True)
class Continue:
    """A handler's answer: go on with these bytes, under this extension."""

    key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Decoded:
    """A handler's answer: this is the value, even if it is None."""

    value: Any


def handle_extension(extensions: str, f: Callable[[bytes], Any]) -> Handler:
    """Make a handler that decodes fields of some extensions by ``f(data)``.

    Extensions are separated by blanks, and match in any case, by whole
    components, from the last: ``jpg`` takes ``seg.jpg``, and ``seg.jpg`` does not
    take ``jpg``.

    >>> upper = handle_extension("txt note.md", bytes.upper)
    >>> upper(".a.TXT", b"a"), upper(".note.md", b"b"), upper(".md", b"c")
    (b'A', b'B', None)
    """
    names = tuple("." + name.lstrip(".") for name in extensions.lower().split())
    return partial(_by_extension, names, f)


def _by_extension(
    names: tuple[str, ...], f: Callable[[bytes], Any], key: str, data: bytes
) -> Any:
    return f(data) if f".{key.lower()}".endswith(names) else None


def imagehandler(
    imagespec: ImageSpec, extensions: Iterable[str] = IMAGE_EXTENSIONS
) -> Handler:
    """Make a handler that decodes pictures as `shardbuild.codecs.images.decode_image`.

    Raises:
        UsageError: there is no such image spec.

    >>> imagehandler("l8")(".PGM", b"P5 3 1 255 abc").tolist()
    [[97, 98, 99]]
    """
    if imagespec not in get_args(ImageSpec):
        known = ", ".join(get_args(ImageSpec))
        raise UsageError("decode", f"no image spec {imagespec!r}: there are {known}")
    return partial(_by_spec, imagespec, frozenset(extensions))


def _by_spec(spec: ImageSpec, extensions: frozenset[str], key: str, data: bytes) -> Any:
    return decode_image(data, spec) if handler_name(key) in extensions else None


def gzfilter(key: str, data: bytes) -> Continue | None:
    """Unpack what ends in ``.gz``, as often as it does.

    >>> from shardbuild.codecs.packing import gzip
    >>> gzfilter(".txt.gz", gzip(b"a")), gzfilter(".txt", b"a")
    (Continue(key='.txt', data=b'a'), None)
    """
    if handler_name(key) != "gz":
        return None
    while handler_name(key) == "gz":
        key, data = key.rpartition(".")[0], gunzip(data)
    return Continue(key, data)


def basichandlers(key: str, data: bytes, *, allow_pickle: bool = False) -> Any:
    """Decode all that `shardbuild.codecs.decoders.decode_field` does but pictures.

    >>> basichandlers(".cls", b"3"), basichandlers(".json", b"null")
    (3, Decoded(value=None))
    """
    decode = decoder_of(handler_name(key), allow_pickle=allow_pickle)
    if decode is None:
        return None
    value = decode(data)
    return Decoded(None) if value is None else value


class Decoder:
    """Decodes samples, field by field, by the first handler that takes the field.

    ``handlers`` are functions and image specs (``"rgb8"``), or one. ``pre`` are asked
    before them (`gzfilter` unless you say otherwise), ``post`` after them
    (`basichandlers`). ``only`` names the fields to decode. Fields that begin with
    ``_`` are text if they are UTF-8; what is not bytes is decoded already.

    >>> decode = Decoder([handle_extension("n", len)], only="n cls")
    >>> decode({"__key__": b"a", "n": b"abc", "cls": b"7", "txt": b"x"})
    {'__key__': 'a', 'n': 3, 'cls': 7, 'txt': b'x'}

    Raises:
        UsageError: a handler is no function and no image spec.
    """

    def __init__(
        self,
        handlers: Sequence[Handler | ImageSpec] | Handler | ImageSpec = (),
        pre: Sequence[Handler] | None = None,
        post: Sequence[Handler] | None = None,
        *,
        only: str | Iterable[str] | None = None,
        allow_pickle: bool = False,
    ) -> None:
        if pre is None:
            pre = (gzfilter,)
        if post is None:
            post = (partial(basichandlers, allow_pickle=allow_pickle),)
        own = (
            (handlers,) if isinstance(handlers, str) or callable(handlers) else handlers
        )
        self.handlers = tuple(map(_as_handler, (*pre, *own, *post)))
        if isinstance(only, str):
            only = only.split()
        self.only = None if only is None else frozenset(only)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return a copy of a sample, decoded.

        Raises:
            DecodeError: names the field whose bytes are damaged, or that is None.
            MissingExtraError: a handler needs a package that is not installed.
        """
        return {
            name: self._decoded(name, value, sample) for name, value in sample.items()
        }

    decode = __call__

    def decode1(self, key: str, data: bytes) -> Any:
        """Decode one field, of the extension ``key``: what a handler raises comes."""
        key = "." + key
        for handler in self.handlers:
            answer = handler(key, data)
            if isinstance(answer, Continue):
                key, data = answer.key, answer.data
            elif isinstance(answer, Decoded):
                return answer.value
            elif answer is not None:
                return answer
        return data

    def _decoded(self, name: str, value: Any, sample: dict[str, Any]) -> Any:
        try:
            if value is None:
                raise ValueError("is None")  # noqa: TRY301  # one place names it
            if not isinstance(value, bytes):
                return value
            if name.startswith("_"):
                return value.decode()
            if self.only is not None and name not in self.only:
                return value
            return self.decode1(name, value)
        except (MemoryError, MissingExtraError):
            raise
        except Exception as error:
            url, key = sample.get("__url__", "<memory>"), sample.get("__key__", "")
            problem = f"field {name!r}: {error}"
            raise DecodeError(str(url), problem, str(key)) from error


def _as_handler(handler: Handler | ImageSpec) -> Handler:
    if isinstance(handler, str):
        return imagehandler(handler)
    if not callable(handler):
        raise UsageError("decode", f"{handler!r} is no function and no image spec")
    return handler
