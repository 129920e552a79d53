"""What can go wrong, as one tree of exceptions.

    ShardbuildError
    ├── StorageError          a url cannot be opened, read, written or published
    │   └── GopenException    ``gopen`` could not open it
    │       └── PipeError     the command behind a ``pipe:`` url failed
    ├── ShardError            a shard is damaged; knows the byte offset
    │   └── TruncatedShardError
    ├── SampleError           one sample cannot be used; knows its key
    │   ├── EncodeError       a field has no encoder, or its encoder refused it
    │   ├── DecodeError       a field has no decoder, or its bytes are damaged
    │   ├── TransformError    the job raised
    │   └── KeyRuleError      what would be written could not be read back
    ├── TenbinError           a ``.ten`` buffer is damaged, or cannot hold a value
    ├── ManifestError         a manifest or an index is damaged or does not fit
    ├── PlanError             a plan does not fit, or cannot be made
    │   └── UsageError        options are out of range, or do not go together
    ├── StateError            a saved state of a feed does not fit it
    ├── DestinationError      the place to write to holds something else
    └── MissingExtraError     an optional package is not installed

Every message reads ``{url}: {problem}``. ``args`` holds the fields, as given,
and the message is made in ``__str__``: so an error comes home whole from
another process, with its notes.

A stage that takes a ``handler`` asks it about each error: True means that the
sample (or the shard) is left out and reading goes on, False that the stage ends
there as if nothing followed, and a raised exception ends it loudly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NoReturn

__all__ = [
    "DecodeError",
    "DestinationError",
    "EncodeError",
    "GopenException",
    "Handler",
    "KeyRuleError",
    "ManifestError",
    "MissingExtraError",
    "PipeError",
    "PlanError",
    "SampleError",
    "ShardError",
    "ShardbuildError",
    "StateError",
    "StorageError",
    "TenbinError",
    "TransformError",
    "TruncatedShardError",
    "UsageError",
    "ignore_and_continue",
    "ignore_and_stop",
    "reraise_exception",
    "warn_and_continue",
    "warn_and_stop",
]

Handler = Callable[[Exception], bool]
"""What decides about an error: True goes on after it, False ends quietly."""


class ShardbuildError(Exception):
    """Something is wrong with what ``url`` names.

    >>> str(ShardbuildError("a.tar", "no such file"))
    'a.tar: no such file'
    """

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(url, problem)
        self.url = url
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.url}: {self.problem}"


class StorageError(ShardbuildError):
    """A url cannot be opened, read, written or published."""


class GopenException(StorageError):  # noqa: N818  # its name for years
    """``gopen`` could not open a url."""


class PipeError(GopenException):
    """The command behind a ``pipe:`` url failed."""


class ShardError(ShardbuildError):
    """A shard is damaged at a byte offset of its (uncompressed) tar stream.

    >>> str(ShardError("a.tar", "the header's checksum is wrong", 1024))
    "a.tar: at byte 1024: the header's checksum is wrong"
    """

    def __init__(self, url: str, problem: str, offset: int) -> None:
        super().__init__(url, problem)
        self.args = (url, problem, offset)
        self.offset = offset

    def __str__(self) -> str:
        return f"{self.url}: at byte {self.offset}: {self.problem}"


class TruncatedShardError(ShardError):
    """A shard ends before its end-of-archive blocks."""


class SampleError(ShardbuildError):
    """One sample cannot be used.

    >>> str(SampleError("a.tar", "has no field 'jpg'", "n01/0007"))
    "a.tar: sample 'n01/0007': has no field 'jpg'"
    """

    def __init__(self, url: str, problem: str, key: str) -> None:
        super().__init__(url, problem)
        self.args = (url, problem, key)
        self.key = key

    def __str__(self) -> str:
        return f"{self.url}: sample {self.key!r}: {self.problem}"


class EncodeError(SampleError):
    """A field has no encoder, or its encoder refused the value."""


class DecodeError(SampleError):
    """A field has no decoder, or its bytes are damaged."""


class TransformError(SampleError):
    """The job's transform raised."""


class KeyRuleError(SampleError):
    """What would be written could not be read back as the same sample."""


class TenbinError(ShardbuildError, ValueError):
    """A ``.ten`` buffer is damaged, or cannot hold what it is given.

    >>> str(TenbinError("a.ten", "is 3 bytes short"))
    'a.ten: is 3 bytes short'
    """


class ManifestError(ShardbuildError):
    """A manifest or an index is damaged, or does not fit its shards."""


class PlanError(ShardbuildError):
    """A plan does not fit in memory or on disk, or cannot be made."""


class UsageError(PlanError):
    """Options are out of range, or do not go together."""


class StateError(ShardbuildError):
    """A saved state of a feed is none, or is of other data or another order."""


class DestinationError(ShardbuildError):
    """The place to write to holds something else."""


class MissingExtraError(ShardbuildError):
    """An optional package is not installed.

    >>> str(MissingExtraError("s3://b/a.tar", "s3fs", "s3"))
    "s3://b/a.tar: needs the package 's3fs': pip install 'shardbuild[s3]'"
    """

    def __init__(self, url: str, package: str, extra: str) -> None:
        needs = f"needs the package {package!r}: pip install 'shardbuild[{extra}]'"
        super().__init__(url, needs)
        self.args = (url, package, extra)
        self.package = package
        self.extra = extra


# -- what decides about errors ------------------------------------------------


def reraise_exception(exn: Exception) -> NoReturn:
    """Raise the exception again: nothing is left out in silence.

    >>> reraise_exception(StorageError("a.tar", "no such file"))
    Traceback (most recent call last):
    shardbuild.errors.StorageError: a.tar: no such file
    """
    raise exn


def ignore_and_continue(exn: Exception) -> bool:
    """Leave out what the exception hit, say nothing, and go on.

    >>> ignore_and_continue(StorageError("a.tar", "no such file"))
    True
    """
    del exn
    return True


def ignore_and_stop(exn: Exception) -> bool:
    """End at the exception and say nothing.

    >>> ignore_and_stop(StorageError("a.tar", "no such file"))
    False
    """
    del exn
    return False


def warn_and_continue(exn: Exception) -> bool:
    """Leave out what the exception hit, warn, and go on.

    >>> import warnings
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     warn_and_continue(StorageError("a.tar", "no such file"))
    True
    >>> str(caught[0].message)
    "StorageError('a.tar', 'no such file')"
    """
    warnings.warn(repr(exn), stacklevel=2)
    return True


def warn_and_stop(exn: Exception) -> bool:
    """End at the exception, and warn."""
    warnings.warn(repr(exn), stacklevel=2)
    return False
