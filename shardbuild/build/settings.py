"""The options of a conversion, read once."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from shardbuild.build.jobs import Job, describe_transform
from shardbuild.build.ordering import Limits, Order, parse_order
from shardbuild.build.report import parse_bytes
from shardbuild.errors import UsageError
from shardbuild.shards.manifest import manifest_url, report_url
from shardbuild.shards.samples import KeyRule
from shardbuild.storage import join_url, protocol_of, split_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardbuild.storage import StorageOptions

Method = Literal["auto", "stream", "gather", "spill"]
ErrorPolicy = Literal["raise", "skip", "quarantine"]

DEFAULT_MEMORY = 128 << 20
_DEFAULT_MAXSIZE = 1_000_000_000
_END_BYTES = 1024
_RECORD_BYTES = 10240
_MAX_MAXSIZE = 10**12
_NUMBER = re.compile(r"%(?:0\d+)?d")


class BuildOptions(TypedDict, total=False):
    """The options of `convert`, `write_shards` and `make_plan`, all of them optional.

    ==================  =========================================================
    order               ``"keep"`` (default), ``"shuffle"``, or
                        ``"sort:FIELD[:text|int|float]"``
    seed                int; which shuffle (default 0)
    maxcount            most samples in an output shard
    maxsize             most bytes of an output shard on disk (as a tar), such as
                        ``10**9`` or ``"1GB"``; without both, shards of the input
                        stay as they are if that can be, else shards of 1 GB are
                        written
    method              ``"auto"``, ``"stream"``, ``"gather"`` or ``"spill"``
    errors              what a bad sample or a damaged shard does: ``"raise"``
                        (default), ``"skip"`` or ``"quarantine"``
    max_errors          more of them than this fail the run
    memory              bytes of samples that one task may hold (default
                        ``"128MiB"``)
    overwrite           True: replace what is at the destination
    rekey               True: put the number of the input shard before each key
    label_from          ``"folder"``: add a ``cls`` to each sample of a folder
    key_rule            ``"first-dot"`` (the format's) or ``"last-dot"``
    storage_options     passed on to fsspec
    scheduler, workers  where tasks run: see `choose_scheduler`
    progress            called with a `Progress` after each task
    ==================  =========================================================
    """

    order: str
    seed: int
    maxcount: int | None
    maxsize: float | str | None
    method: Method
    errors: ErrorPolicy
    max_errors: int | None
    memory: float | str | None
    overwrite: bool
    rekey: bool
    label_from: Literal["folder"] | None
    key_rule: KeyRule
    storage_options: StorageOptions | None
    scheduler: Any
    workers: int | None
    progress: Callable[[Any], None] | None


@dataclass(frozen=True)
class Settings:
    """A checked set of options, with where things go."""

    pattern: str
    order: Order
    maxcount: int | None
    maxsize: int | None
    method: Method
    errors: ErrorPolicy
    max_errors: int | None
    memory: int
    overwrite: bool
    rekey: bool
    label_from: Literal["folder"] | None
    key_rule: KeyRule
    storage_options: StorageOptions | None = field(hash=False)
    transform: Callable[[Any], Any] | None = field(default=None, hash=False)

    @property
    def manifest(self) -> str:
        return manifest_url(self.pattern)

    @property
    def report(self) -> str:
        return report_url(self.pattern)

    @property
    def stem(self) -> str:
        """The name of the data set: the manifest's, without ``.json``."""
        return split_url(self.manifest)[1].removesuffix(".json")

    @property
    def folder(self) -> str:
        """Where the shards go."""
        return split_url(self.pattern)[0]

    @property
    def state(self) -> str:
        """The folder for the state of the running build."""
        return join_url(self.folder, f".{self.stem}.build")

    def shard_url(self, number: int) -> str:
        return self.pattern % number

    def state_url(self, name: str) -> str:
        return f"{self.state}/{name}"

    @property
    def is_sized(self) -> bool:
        """Whether the caller asked for shards of a certain size."""
        return self.maxcount is not None or self.maxsize is not None

    @property
    def limits(self) -> Limits:
        """What one output shard may hold."""
        maxsize = self.maxsize if self.is_sized else _DEFAULT_MAXSIZE
        if maxsize is None:
            return Limits(self.maxcount, None)
        body = maxsize // _RECORD_BYTES * _RECORD_BYTES - _END_BYTES
        return Limits(self.maxcount, body)

    def describe(self) -> dict[str, Any]:
        """What decides the bytes of the output, but for the input's."""
        return {
            "job": describe_transform(self.transform),
            "key_rule": self.key_rule,
            "label_from": self.label_from,
            "maxcount": self.maxcount,
            "maxsize": self.maxsize,
            "order": str(self.order),
            "rekey": self.rekey,
            "seed": self.order.seed if self.order.kind == "shuffle" else None,
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    phase: str
    num_tasks: int
    tasks_done: int
    num_bytes: int
    """Bytes that the tasks of this phase are expected to move."""
    bytes_done: int
    num_samples: int = field(default=0)
    """Samples that the tasks of this phase have handled."""
    num_errors: int = field(default=0)


def read_settings(
    pattern: str, transform: Callable[[Any], Any] | None, options: BuildOptions
) -> Settings:
    """Check the options of a call.

    Args:
        pattern: urls of the output shards, with one ``%06d`` for the number.
        transform: a function of a sample, a `Job`, or None.
        options: the other options of the call.

    Raises:
        UsageError: one of them is out of range or does not go with another.

    >>> read_settings("out/a-%06d.tar", None, {}).state
    'out/.a.build'
    """
    _check_pattern(pattern)
    _check_names(options)
    if isinstance(transform, Job):
        transform.check()
        transform = transform if transform.transform else None
    seed = options.get("seed")
    settings = Settings(
        pattern=pattern,
        order=parse_order(options.get("order", "keep"), _read_int("seed", seed) or 0),
        maxcount=_read_int("maxcount", options.get("maxcount")),
        maxsize=_read_size("maxsize", options.get("maxsize")),
        method=options.get("method", "auto"),
        errors=options.get("errors", "raise"),
        max_errors=_read_int("max_errors", options.get("max_errors")),
        memory=_read_size("memory", options.get("memory")) or DEFAULT_MEMORY,
        overwrite=options.get("overwrite", False),
        rekey=options.get("rekey", False),
        label_from=options.get("label_from"),
        key_rule=options.get("key_rule", "first-dot"),
        storage_options=options.get("storage_options"),
        transform=transform,
    )
    _check_numbers(settings)
    _check_choices(settings)
    return settings


def _check_pattern(pattern: str) -> None:
    if protocol_of(pattern) in (None, "pipe"):
        raise UsageError(pattern, "is a stream: shards need a folder to go to")
    name = split_url(pattern)[1]
    if len(_NUMBER.findall(name)) != 1 or pattern.count("%") != 1:
        problem = (
            "needs one place for the shard's number, such as 'train-%06d.tar', and no "
            "other '%'"
        )
        raise UsageError(pattern, problem)


def _check_names(options: BuildOptions) -> None:
    unknown = sorted(set(options) - set(BuildOptions.__annotations__))
    if unknown:
        known = ", ".join(sorted(BuildOptions.__annotations__))
        problem = f"there is none (there are: {known})"
        raise UsageError(f"option {unknown[0]!r}", problem)


def _read_int(name: str, value: int | None) -> int | None:
    try:
        return None if value is None else operator.index(value)
    except TypeError as error:
        raise UsageError(f"{name} {value!r}", "use a whole number") from error


def _read_size(name: str, value: float | str | None) -> int | None:
    try:
        if isinstance(value, str):
            return parse_bytes(value)
        return None if value is None else int(value)
    except (OverflowError, TypeError, ValueError) as error:
        problem = "use a number of bytes, or text such as '1GB' or '512MiB'"
        raise UsageError(f"{name} {value!r}", problem) from error


def _check_numbers(settings: Settings) -> None:
    ranges: dict[str, tuple[int, int | None]] = {
        "maxcount": (1, None),
        "maxsize": (_RECORD_BYTES, _MAX_MAXSIZE),
        "memory": (1 << 20, None),
        "max_errors": (0, None),
    }
    for name, (least, most) in ranges.items():
        value = getattr(settings, name)
        if value is not None and value < least:
            raise UsageError(f"{name} {value!r}", f"use at least {least}")
        if value is not None and most is not None and value > most:
            raise UsageError(f"{name} {value!r}", f"use at most {most}")


def _check_choices(settings: Settings) -> None:
    choices = {"method": Method, "errors": ErrorPolicy, "key_rule": KeyRule}
    for name, literal in choices.items():
        value = getattr(settings, name)
        if value not in get_args(literal):
            raise UsageError(f"{name} {value!r}", f"use {', '.join(get_args(literal))}")
    if settings.label_from not in (None, "folder"):
        raise UsageError(f"label_from {settings.label_from!r}", "use folder")
    if settings.method == "stream" and (
        settings.is_sized or settings.order.kind != "keep"
    ):
        problem = "keeps the order and the shards: use gather or spill"
        raise UsageError("method 'stream'", problem)
    if settings.method == "gather" and settings.transform is not None:
        problem = "moves samples unchanged: use spill for a job"
        raise UsageError("method 'gather'", problem)
