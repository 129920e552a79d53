"""From a url to an fsspec file system, and from its errors to ours.

Imports fsspec, s3fs and gcsfs only when a url needs them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any

from shardbuild.errors import MissingExtraError, ShardbuildError, StorageError
from shardbuild.storage.urlparts import StorageOptions, next_link, protocol_of

__all__ = ["filesystem_of", "is_permanent", "store_error", "without_caches"]

_EXTRAS = {
    "s3": ("s3fs", "s3"),
    "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "gcs": ("gcsfs", "gcs"),
    "http": ("aiohttp", "http"),
    "https": ("aiohttp", "http"),
    "scp": ("paramiko", "sftp"),
    "sftp": ("paramiko", "sftp"),
    "ssh": ("paramiko", "sftp"),
}
_NO_LISTING_CACHE = frozenset(("s3", "s3a", "gs", "gcs", "http", "https"))
_SSH = ("scp", "sftp", "ssh")
# What fsspec does not know by itself.
_OURS = {
    "ftps": "shardbuild.storage.ftp.SecureFTPFileSystem",
    "scp": "shardbuild.storage.sftp.SCPFileSystem",
}
_CACHES = ("simplecache", "filecache", "blockcache", "cached")
_S3_POOL_CONNECTIONS = 64  # botocore's 10 would queue the ranges of two readers
_PERMANENT_ERRNOS = frozenset(
    (errno.EINVAL, errno.ENAMETOOLONG, errno.ENOSYS, errno.EROFS, errno.ENOSPC)
)
_PERMANENT_ERRORS = (
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    PermissionError,
    ShardbuildError,
    TypeError,
    ValueError,
)
_NOT_FOUND = 404
_GONE = 410
_PRECONDITION_FAILED = 412
_RETRIED_STATUSES = frozenset((408, 425, 429))


def filesystem_of(url: str, options: StorageOptions | None = None) -> tuple[Any, str]:
    """The fsspec file system of a url, and the url's path in it.

    fsspec keeps one instance a process and set of options, so this is cheap,
    and after a fork it gives the child an instance of its own.

    Raises:
        MissingExtraError: The package for this protocol is not installed.
        StorageError: fsspec does not know the protocol, or refuses the options.
    """
    try:
        from fsspec.core import url_to_fs

        _register_ours()
        chosen = _options_for(url, options or {})
        if protocol_of(url) in ("gs", "gcs") and _is_emulated(chosen):
            return _emulated_gcs(url, chosen)
        return url_to_fs(url, **chosen)  # type: ignore[no-any-return]
    except ImportError as error:
        protocol = _protocol_without_package(url)
        package, extra = _EXTRAS.get(protocol, (protocol, protocol))
        raise MissingExtraError(url, package, extra) from error
    except Exception as error:
        raise store_error(url, error) from error


def _register_ours() -> None:
    """Tell fsspec of our file systems, where nobody has told it of another."""
    from fsspec import available_protocols, register_implementation

    for protocol in _OURS.keys() - set(available_protocols()):
        register_implementation(protocol, _OURS[protocol])


def _is_emulated(options: dict[str, Any]) -> bool:
    from fsspec.config import conf

    configured = conf.get("gs", {}) | conf.get("gcs", {}) | options
    configured |= options.get("gs", {}) | options.get("gcs", {})
    host = os.environ.get("STORAGE_EMULATOR_HOST", "")
    return bool(configured.get("endpoint_url")) or host not in ("", "default")


def _emulated_gcs(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """A gcsfs without its probe of each bucket's kind.

    Its default class asks the storage control service over gRPC before the
    first call: against an emulator each of these stalls for a minute.
    """
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    from gcsfs.core import GCSFileSystem

    own = {name: options.pop(name, {}) for name in ("gs", "gcs")}
    fs = GCSFileSystem(**(own["gcs"] | own["gs"] | options))
    return fs, fs._strip_protocol(url)


def without_caches(
    url: str, options: StorageOptions | None
) -> tuple[str, StorageOptions | None]:
    """The url and options behind ``simplecache::`` and its kin, for writing.

    >>> without_caches("simplecache::s3://b/k", {"cache_storage": "/c", "s3": {}})
    ('s3://b/k', {'s3': {}})
    """
    while protocol_of(url) in _CACHES:
        url = url.partition("::")[2]
        options = {k: v for k, v in (options or {}).items() if isinstance(v, Mapping)}
    return url, options


def _links(url: str) -> list[str]:
    links = []
    start = 0
    while start <= len(url):
        end = next_link(url, start)
        links.append(url[start:end])
        start = end + 2
    return links


def _protocols(url: str) -> list[str]:
    return [link.partition("://")[0].lower() for link in _links(url)]


def _protocol_without_package(url: str) -> str:
    from importlib.util import find_spec

    for protocol in _protocols(url):
        if protocol in _EXTRAS and find_spec(_EXTRAS[protocol][0]) is None:
            return protocol
    return protocol_of(url) or "-"


def _options_for(url: str, options: StorageOptions) -> dict[str, Any]:
    """The caller's options without those meant for other protocols.

    One mapping serves all urls of a call, so ``{"s3": {...}, "gs": {...}}`` and
    flat options may stand in it together.
    """
    from fsspec.registry import available_protocols

    known = set(available_protocols())
    protocols = _protocols(url)
    chosen = {
        name: dict(value) if isinstance(value, Mapping) else value
        for name, value in options.items()
        if name in protocols or name not in known or not isinstance(value, Mapping)
    }
    for protocol in protocols:
        ours = _our_defaults(protocol)
        if ours:
            flat = set(chosen) if protocol == protocols[0] else set()
            below = {name: ours[name] for name in ours.keys() - flat}
            chosen[protocol] = {**below, **chosen.get(protocol, {})}
    return chosen


def _our_defaults(protocol: str) -> dict[str, Any]:
    """Options of ours, under whatever the user configured for fsspec."""
    from fsspec.config import conf

    ours: dict[str, Any] = {}
    if protocol in _NO_LISTING_CACHE:
        ours["use_listings_cache"] = False
    if protocol in ("s3", "s3a"):
        ours["config_kwargs"] = {"max_pool_connections": _S3_POOL_CONNECTIONS}
    if protocol in _SSH:
        from shardbuild.storage.sftp import KnownHosts

        ours["host_key_policy"] = KnownHosts  # fsspec's own would trust anybody
    return {k: v for k, v in ours.items() if k not in conf.get(protocol, {})}


def protocol_of_filesystem(fs: Any) -> str:
    """The first name of a file system's protocol."""
    protocol = fs.protocol
    return protocol if isinstance(protocol, str) else str(protocol[0])


def is_on_loop(fs: Any) -> bool:
    """Whether this is the thread that runs the file system's event loop."""
    import asyncio

    try:
        return asyncio.get_running_loop() is fs.loop
    except RuntimeError:
        return False


def is_async(fs: Any) -> bool:
    """Whether a file system answers several requests at once.

    Asked of its class: fsspec's caches pass on what they do not know themselves to
    the store behind them, this attribute too.
    """
    return bool(getattr(type(fs), "async_impl", False))


def is_cache(fs: Any) -> bool:
    """Whether a file system keeps local copies of another's files."""
    return protocol_of_filesystem(fs) in _CACHES


def store_error(url: str, error: BaseException) -> ShardbuildError:
    """Our error for one of a store's, its kind in words.

    >>> str(store_error("s3://b/k", FileNotFoundError("b/k")))
    's3://b/k: no such file'
    """
    if isinstance(error, ShardbuildError):
        return error
    if is_missing(error):
        return StorageError(url, "no such file")
    if status_of(error) == _PRECONDITION_FAILED:
        return StorageError(url, "changed while it was read")
    if isinstance(error, PermissionError):
        return StorageError(url, f"permission denied: {_words(error)}")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return StorageError(url, "no space left on the device")
    return StorageError(url, _words(error))


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    if type(error) is OSError:
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that a client library's exception carries, if any."""
    if isinstance(error.__cause__, Exception) and not hasattr(error, "response"):
        found = status_of(error.__cause__)
        if found is not None:
            return found
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        meta = response.get("ResponseMetadata", {})
        return meta.get("HTTPStatusCode") if isinstance(meta, Mapping) else None
    # A status of aiohttp's that came with an answer, or a code of gcsfs's; other
    # exceptions of aiohttp have a code that no server sent.
    name = "status" if hasattr(error, "request_info") else "code"
    if name == "code" and not type(error).__module__.startswith("gcsfs."):
        return None
    value = getattr(error, name, None)
    return int(value) if value is not None else None


def is_missing(error: BaseException) -> bool:
    """Whether the store said that there is no such thing.

    fsspec's http reports every failure of ``info`` as FileNotFoundError: a
    refused connection must not look like an absent file, so its cause counts.
    """
    if not isinstance(error, FileNotFoundError):
        return False
    cause = error.__cause__
    if cause is None or isinstance(cause, FileNotFoundError):
        return True
    status = status_of(cause)
    if status is not None:
        return status in (_NOT_FOUND, _GONE)
    return not isinstance(cause, OSError | TimeoutError)


def is_permanent(error: BaseException) -> bool:
    """Whether asking again cannot help."""
    if isinstance(error, _PERMANENT_ERRORS):
        return True
    if isinstance(error, FileNotFoundError):
        return is_missing(error)
    status = status_of(error)
    if status is not None and 400 <= status < 500:
        return status not in _RETRIED_STATUSES
    return isinstance(error, OSError) and error.errno in _PERMANENT_ERRNOS
