"""From what a user writes to a list of urls."""

from __future__ import annotations

import os
import re
import string
from typing import TYPE_CHECKING, Any

from shardbuild.errors import ManifestError, StorageError
from shardbuild.storage.braces import expand_braces
from shardbuild.storage.publish import read_bytes
from shardbuild.storage.urlparts import (
    StorageOptions,
    is_remote,
    join_url,
    local_path,
    path_span,
    protocol_of,
    split_slice,
    split_url,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "StorageOptions",
    "expand_urls",
    "is_remote",
    "join_url",
    "local_path",
    "protocol_of",
    "resolve_all_listed",
    "resolve_listed",
    "slice_of",
    "split_url",
]

_PLAIN = frozenset("/._-" + string.ascii_letters + string.digits)


def expand_urls(
    spec: str | Sequence[str], storage_options: StorageOptions | None = None
) -> list[str]:
    """The urls that one spec, or a list of them, stands for, in order.

    A spec is a url; a url with braces (``{000..999}``) or, on a file system or a
    store, with ``*``, ``?``, ``[...]`` and ``**`` (sorted, files only); ``@`` and a
    file of specs, one a line, ``#`` for comments; a manifest (``.json``). What
    lists and manifests name is relative to them, and is never a ``pipe:``. A
    local file whose name really holds such signs is taken as it is.

    >>> expand_urls(["x-{00..02}.tar", "pipe:cat {a,b}.tar", "-"])
    ['x-00.tar', 'x-01.tar', 'x-02.tar', 'pipe:cat a.tar', 'pipe:cat b.tar', '-']

    Raises:
        StorageError: A pattern matches nothing, or a list names no url.
        ManifestError: A ``.json`` is no manifest.
    """
    if not isinstance(spec, str):
        return [url for part in spec for url in expand_urls(part, storage_options)]
    if spec == "-" or _exists_locally(spec):
        return _expand_document(spec, storage_options)
    urls = []
    for url in expand_braces(spec):
        if url.startswith("@"):
            urls += _expand_list(url[1:], storage_options)
        elif protocol_of(url) == "pipe":
            urls.append(url)
        elif _has_glob(url):
            urls += _expand_glob(url, storage_options)
        else:
            urls += _expand_document(url, storage_options)
    return urls


def slice_of(url: str) -> tuple[str, int, int | None]:
    """`split_slice`, but a local file that really has such a name is taken whole.

    >>> slice_of("/nonexistent/x.tar#2,4")
    ('/nonexistent/x.tar', 2, 4)

    Raises:
        StorageError: The slice ends before it begins.
    """
    return (url, 0, None) if _exists_locally(url) else split_slice(url)


def _exists_locally(spec: str) -> bool:
    path = local_path(spec)
    return path is not None and path != "" and os.path.lexists(path)


def _expand_document(url: str, options: StorageOptions | None) -> list[str]:
    if not split_or_whole(url).lower().endswith(".json"):
        return [url]
    return _read_manifest(url, options)


def split_or_whole(url: str) -> str:
    """The path of a url, where its suffix stands."""
    if protocol_of(url) in (None, "pipe"):
        return ""
    start, end = path_span(url)
    return url[start:end]


def _expand_list(url: str, options: StorageOptions | None) -> list[str]:
    text = read_bytes(url, storage_options=options).decode("utf-8-sig")
    lines = (line.strip() for line in text.splitlines())
    specs = [line for line in lines if line and not line.startswith("#")]
    if not specs:
        raise StorageError(url, "names no urls")
    for line in specs:
        if line.startswith(("@", "pipe:")) or line == "-":
            raise StorageError(url, f"a list may not name {line!r}")
    folder = split_url(url)[0]
    listed = (_join_spec(folder, line) for line in specs)
    return [found for spec in listed for found in expand_urls(spec, options)]


def _join_spec(folder: str, spec: str) -> str:
    """``join_url``, but a folder's own signs keep no meaning in the spec."""
    if protocol_of(spec) != "file" or os.path.isabs(spec) or not folder:
        return spec
    return join_url(folder, spec)


def resolve_listed(manifest_url: str, shard_url: str) -> str:
    """The url of a shard that a manifest names, if a manifest may name it.

    >>> resolve_listed("s3://b/train.json", "train-000000.tar")
    's3://b/train-000000.tar'
    >>> resolve_listed("s3://b/train.json", "/etc/passwd")
    Traceback (most recent call last):
    ...
    shardbuild.errors.ManifestError: s3://b/train.json: names the local file \
'/etc/passwd'

    Raises:
        ManifestError: It is a command or a stream, or a local file named by a
            manifest from elsewhere.
    """
    if protocol_of(shard_url) in (None, "pipe") or not shard_url:
        raise ManifestError(manifest_url, f"names {shard_url!r}, which is no shard")
    url = join_url(split_url(manifest_url)[0], shard_url)
    if is_remote(manifest_url) and not is_remote(url):
        raise ManifestError(manifest_url, f"names the local file {shard_url!r}")
    return url


def resolve_all_listed(manifest_url: str, shard_urls: Sequence[str]) -> list[str]:
    """`resolve_listed` of many; plain names beside the manifest at once.

    >>> resolve_all_listed("s3://b/train.json", ["train-000000.tar", "s3://c/x.tar"])
    ['s3://b/train-000000.tar', 's3://c/x.tar']

    Raises:
        ManifestError: A manifest may not name one of them.
    """
    beside = resolve_listed(manifest_url, "x")
    are_plain = (
        set("".join(shard_urls)) <= _PLAIN
        and not any(name[:1] in ("", "/", "-") for name in shard_urls)
        and beside.endswith("x")
    )
    if are_plain:
        folder = beside[:-1]
        return [folder + name for name in shard_urls]
    return [resolve_listed(manifest_url, name) for name in shard_urls]


def _read_manifest(url: str, options: StorageOptions | None) -> list[str]:
    import json

    data = read_bytes(url, storage_options=options)
    try:
        shards = json.loads(data)["shardlist"]
        names = [shard["url"] for shard in shards]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ManifestError(url, "has no list of shards") from error
    if not all(isinstance(name, str) for name in names):
        raise ManifestError(url, "lists a shard whose url is no text")
    return [resolve_listed(url, name) for name in names]


def _has_glob(url: str) -> bool:
    """Whether a url's path has ``*``, ``?`` or ``[...]`` to be matched."""
    signs = r"[*]" if protocol_of(url) in ("http", "https") else r"[*?]|\[[^\]]+\]"
    return re.search(signs, split_or_whole(url)) is not None


def _expand_glob(url: str, options: StorageOptions | None) -> list[str]:
    path = local_path(url)
    try:
        found = _local_glob(url, path) if path else _store_glob(url, options)
    except StorageError as error:
        raise StorageError(url, f"cannot be listed: {error.problem}") from error
    if not found:
        raise StorageError(url, "matches no file")
    return found


def _local_glob(url: str, path: str) -> list[str]:
    import glob

    prefix = url[: len(url) - len(path)]
    found = glob.iglob(path, recursive=True)
    return sorted(
        prefix + (name if prefix else _as_path(name))
        for name in found
        if not os.path.isdir(name)
    )


def _as_path(name: str) -> str:
    """A file's name as a url that nothing takes for a command or a store."""
    return name if local_path(name) == name else f"./{name}"


def _store_glob(url: str, options: StorageOptions | None) -> list[str]:
    from shardbuild.storage.filesystems import (
        filesystem_of,
        store_error,
        without_caches,
    )

    start, end = path_span(url)
    target, target_options = without_caches(url, options)
    fs, pattern = filesystem_of(target, target_options)
    try:
        fs.invalidate_cache()
        found: dict[str, Any] = fs.glob(pattern, detail=True)
    except Exception as error:
        raise store_error(url, error) from error
    names = [name for name, info in found.items() if info.get("type") != "directory"]
    hidden = split_url(url)[1].startswith(".")
    shown = [n for n in names if hidden or not n.rpartition("/")[2].startswith(".")]
    if not shown and fs.exists(pattern):
        return [url]
    head, tail = url[:start], url[end:]
    return sorted(_unstripped(head, name, url[start:end]) + tail for name in shown)


def _unstripped(head: str, name: str, pattern: str) -> str:
    """A name that a file system found, in the form that the user wrote."""
    protocol = head[: head.rindex("://") + 3] if "://" in head else ""
    if protocol and name.startswith(protocol.rpartition("::")[2]):
        return head + name[len(protocol.rpartition("::")[2]) :]
    return head + (name if pattern.startswith("/") else name.lstrip("/"))
