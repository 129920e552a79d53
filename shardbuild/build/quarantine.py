"""Bad samples, kept as they were with what was wrong, in shards of their own."""

from __future__ import annotations

import contextlib
import json
import traceback
from typing import TYPE_CHECKING, Any

from shardbuild.codecs.encoders import encode_field
from shardbuild.errors import EncodeError, SampleError, ShardbuildError
from shardbuild.shards.writer import TarWriter
from shardbuild.storage import join_url

if TYPE_CHECKING:
    from shardbuild.build.settings import Settings
    from shardbuild.shards.samples import Sample

_FIELD = "quarantine.json"


class Quarantine:
    """A shard of bad samples, opened for the first, published by `close`.

    Each sample is as it was read, with one more field, ``quarantine.json``: key,
    input, position, reason, problem and traceback. A key that no shard may hold, or
    this one holds already, becomes ``sample-...``, and fields that no shard may hold
    are left out: then ``not_kept`` tells their types.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self.name = name
        self.num_samples = 0
        self._settings = settings
        self._writer: TarWriter | None = None

    def add(
        self,
        position: int,
        sample: Sample,
        url: str,
        error: ShardbuildError,
        *,
        place: str = "position",
    ) -> None:
        """Put a sample away.

        Args:
            position: of the sample in its input.
            place: what the position counts: ``position`` samples, or ``offset`` bytes.
            sample: its fields as they were read.
            url: of its input.
            error: what was wrong.
        """
        if self._writer is None:
            self._writer = TarWriter(
                quarantine_url(self._settings, self.name),
                storage_options=self._settings.storage_options,
                key_rule=self._settings.key_rule,
            )
        cause = error.__cause__ or error
        about = {
            "key": sample["__key__"],
            place: position,
            "problem": error.problem,
            "reason": type(cause).__name__,
            "traceback": "".join(traceback.format_exception(cause)),
            "url": url,
        }
        kept = _encodable(sample)
        named = {"__key__": f"sample-{position:09d}-{self.num_samples}"}
        try:
            _write(self._writer, sample, kept, about)
        except SampleError:
            try:
                _write(self._writer, sample, {**kept, **named}, about)
            except SampleError:
                _write(self._writer, sample, named, about)
        self.num_samples += 1

    def close(self) -> None:
        """Publish the shard, if there is anything in it."""
        if self._writer is not None:
            self._writer.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            self._writer.discard()


def _encodable(sample: Sample) -> Sample:
    """The fields of a sample that have an encoder, which those of shards always do."""
    kept = {}
    for name, value in sample.items():
        with contextlib.suppress(EncodeError):
            meta = name.startswith("_")
            kept[name] = value if meta else encode_field(name, value)
    return kept


def _write(
    writer: TarWriter, sample: Sample, fields: Sample, about: dict[str, Any]
) -> None:
    lost = sorted(set(sample) - set(fields))
    if lost:
        types = {name: type(sample[name]).__qualname__ for name in lost}
        about = {**about, "not_kept": types}
    writer.write({**fields, _FIELD: json.dumps(about, indent=1).encode()})


def quarantine_url(settings: Settings, name: str) -> str:
    """Where a quarantine of this name is kept."""
    return join_url(settings.folder, f"{settings.stem}.quarantine-{name}.tar")
