"""What a url says, without opening it: pure functions on strings.

A url is one of: a local path (also with ``:`` in it), ``file:`` and a path, any
``protocol://`` that fsspec knows, links of those chained with ``::``,
``pipe:command``, and ``-``.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping
from typing import Any

from shardbuild.errors import StorageError

__all__ = [
    "StorageOptions",
    "is_remote",
    "join_url",
    "local_path",
    "protocol_of",
    "split_slice",
    "split_url",
]

StorageOptions = Mapping[str, Any]
"""Options for fsspec: flat (``{"key": ...}``), or by protocol (``{"s3": {...}}``)."""

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
# A first link that has no path of its own: what follows is another url.
_BARE_LINK = re.compile(r"([a-z][a-z0-9+.\-]*)::(?=[A-Za-z][A-Za-z0-9+.\-]*(?:://|::))")
_LOCAL_PROTOCOLS = ("file", "local")
_SLICE = re.compile(r"(.+)#([0-9]+)(?:,([0-9]+))?", re.DOTALL)


def protocol_of(url: str) -> str | None:
    """The protocol that opens a url, in lower case; None for ``-``.

    >>> [protocol_of(url) for url in ("a:b.tar", "S3://b/k", "pipe:cat x", "-")]
    ['file', 's3', 'pipe', None]
    >>> protocol_of("simplecache::s3://b/k"), protocol_of("zip://a::s3://b/z.zip")
    ('simplecache', 'zip')
    """
    if url == "-":
        return None
    if url.startswith("pipe:"):
        return "pipe"
    match = _PROTOCOL.match(url) or _BARE_LINK.match(url)
    if match is None:
        return "file"
    protocol = match[1].lower()
    return "file" if protocol in _LOCAL_PROTOCOLS and "::" not in url else protocol


def local_path(url: str) -> str | None:
    """The path of a local file or folder; None for every other url.

    >>> local_path("a:b.tar"), local_path("file:///d/x.tar"), local_path("s3://b/k")
    ('a:b.tar', '/d/x.tar', None)
    """
    if protocol_of(url) != "file":
        return None
    return url[len(_local_prefix(url)) :]


def is_remote(url: str) -> bool:
    """Whether bytes of this url come from a store that fsspec opens.

    >>> is_remote("s3://b/k"), is_remote("x.tar"), is_remote("pipe:cat x")
    (True, False, False)
    """
    return protocol_of(url) not in (None, "pipe", "file")


def _local_prefix(url: str) -> str:
    for protocol in _LOCAL_PROTOCOLS:
        if url[: len(protocol) + 3].lower() == f"{protocol}://":
            return url[: len(protocol) + 3]
    return url[:5] if url.startswith("file:") else ""


def path_span(url: str) -> tuple[int, int]:
    """Where in a url its path stands: what globs and names apply to.

    In a chain that is the path of the first link that has one; the query of an
    http url is no part of its path.
    """
    start = 0
    if protocol_of(url) == "file":
        return len(_local_prefix(url)), len(url)
    while match := _BARE_LINK.match(url, start):
        start = match.end()
    end = len(url)
    head = _PROTOCOL.match(url, start)
    if head is not None:
        start = head.end()
        end = next_link(url, start)
        if head[1].lower() in ("http", "https"):
            query = re.search(r"[?#]", url[start:end])
            end = start + query.start() if query else end
    return start, end


def next_link(url: str, start: int) -> int:
    """Where the ``::`` stands that ends the link that holds ``start``."""
    end = url.find("::", start)
    return len(url) if end < 0 else end


def join_url(base: str, name: str) -> str:
    """The url of ``name`` in the folder ``base``; a name that is a url stays.

    >>> join_url("s3://b/out", "train-000000.tar"), join_url("", "x.tar")
    ('s3://b/out/train-000000.tar', 'x.tar')
    >>> join_url("zip://dir::s3://b/z.zip", "x.tar")
    'zip://dir/x.tar::s3://b/z.zip'
    >>> join_url("http://h/d?token=1", "x.tar"), join_url("/d", "s3://b/k")
    ('http://h/d/x.tar?token=1', 's3://b/k')
    """
    if protocol_of(name) != "file" or _local_prefix(name) or name.startswith("/"):
        return name
    _check_has_folder(base)
    start, end = path_span(base)
    path = base[start:end]
    middle = "" if not path or path.endswith("/") else "/"
    return base[:end] + middle + name + base[end:]


def split_url(url: str) -> tuple[str, str]:
    """The folder of a url and its name there: the reverse of ``join_url``.

    >>> split_url("s3://b/out/train.json"), split_url("train.json")
    (('s3://b/out', 'train.json'), ('', 'train.json'))

    Raises:
        StorageError: ``pipe:`` and ``-`` are in no folder.
    """
    _check_has_folder(url)
    start, end = path_span(url)
    folder, slash, name = url[start:end].rpartition("/")
    if slash and not folder.rstrip("/"):
        folder += slash
    return url[:start] + folder + url[end:], name


def split_slice(url: str) -> tuple[str, int, int | None]:
    """A url without its ``#first,last``, and the samples that this names.

    Both ends count, ``#n`` is one sample, and without a slice it is all of them:
    0 and None. The text behind ``pipe:`` is the shell's, so it has no slice. Only
    the text is looked at: see `slice_of` for files with such names.

    >>> split_slice("s3://b/x.tar#10,19"), split_slice("x.tar#3")
    (('s3://b/x.tar', 10, 19), ('x.tar', 3, 3))
    >>> split_slice("x#1.tar"), split_slice("pipe:cat x#3")
    (('x#1.tar', 0, None), ('pipe:cat x#3', 0, None))

    Raises:
        StorageError: The slice ends before it begins.
    """
    match = None if protocol_of(url) == "pipe" else _SLICE.fullmatch(url)
    if match is None:
        return url, 0, None
    first = int(match[2])
    last = first if match[3] is None else int(match[3])
    if last < first:
        raise StorageError(url, f"its slice ends at {last}, before it begins")
    return match[1], first, last


def _check_has_folder(url: str) -> None:
    if protocol_of(url) in (None, "pipe"):
        raise StorageError(url, "is a stream: it has no folder and no name")


def local_folder(path: str) -> str:
    """The folder that holds a local path, never empty.

    >>> local_folder("x.tar"), local_folder("/x.tar"), local_folder("d/x.tar")
    ('.', '/', 'd')
    """
    return os.path.dirname(path) or "."
