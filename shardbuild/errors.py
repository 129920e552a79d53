"""What can go wrong, as one tree of exceptions.

    ShardbuildError
    ├── StorageError          a url cannot be opened, read, written or published
    │   └── PipeError         the command behind a ``pipe:`` url failed
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
    ├── DestinationError      the place to write to holds something else
    └── MissingExtraError     an optional package is not installed

Every message reads ``{url}: {problem}``. ``args`` holds the fields, as given,
and the message is made in ``__str__``: so an error comes home whole from
another process, with its notes.
"""

from __future__ import annotations

__all__ = [
    "DecodeError",
    "DestinationError",
    "EncodeError",
    "KeyRuleError",
    "ManifestError",
    "MissingExtraError",
    "PipeError",
    "PlanError",
    "SampleError",
    "ShardError",
    "ShardbuildError",
    "StorageError",
    "TenbinError",
    "TransformError",
    "TruncatedShardError",
    "UsageError",
]


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


class PipeError(StorageError):
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
