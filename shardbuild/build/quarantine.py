"""Bad samples, kept as they were with what was wrong, in shards of their own."""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING

from shardbuild.errors import SampleError, ShardbuildError
from shardbuild.shards.writer import TarWriter
from shardbuild.storage import join_url

if TYPE_CHECKING:
    from shardbuild.build.settings import Settings
    from shardbuild.shards.samples import Sample

_FIELD = "quarantine.json"


class Quarantine:
    """A shard of bad samples, opened for the first, published by `close`.

    Each sample is as it was read, with one more field, ``quarantine.json``: key,
    input, position, reason, problem and traceback.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self.name = name
        self.num_samples = 0
        self._settings = settings
        self._writer: TarWriter | None = None

    def add(
        self, position: int, sample: Sample, url: str, error: ShardbuildError
    ) -> None:
        """Put a sample away.

        Args:
            position: of the sample in its input.
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
            "position": position,
            "problem": error.problem,
            "reason": type(cause).__name__,
            "traceback": "".join(traceback.format_exception(cause)),
            "url": url,
        }
        text = json.dumps(about, indent=1)
        kept = {**sample, _FIELD: text.encode()}
        try:
            self._writer.write(kept)
        except SampleError:
            self._writer.write({**kept, "__key__": f"sample-{position:09d}"})
        self.num_samples += 1

    def close(self) -> None:
        """Publish the shard, if there is anything in it."""
        if self._writer is not None:
            self._writer.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            self._writer.discard()


def quarantine_url(settings: Settings, name: str) -> str:
    """Where a quarantine of this name is kept."""
    return join_url(settings.folder, f"{settings.stem}.quarantine-{name}.tar")
