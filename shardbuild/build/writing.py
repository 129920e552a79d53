"""Writing what tasks have put in order: runs, and output shards."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from shardbuild.build.folders import read_listed
from shardbuild.build.report import Loss, Tally
from shardbuild.build.sieve import new_key
from shardbuild.build.sources import read_extent
from shardbuild.build.windows import read_windows
from shardbuild.errors import (
    KeyRuleError,
    SampleError,
    ShardbuildError,
    ShardError,
    StorageError,
)
from shardbuild.shards.reader import scan_fragment
from shardbuild.storage import map_parallel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardbuild.build.quarantine import Quarantine
    from shardbuild.build.settings import Settings
    from shardbuild.build.windows import Containers
    from shardbuild.shards.samples import Sample
    from shardbuild.shards.writer import TarWriter

    _Parsed = tuple[str, int, Sample | ShardbuildError]


class Copier:
    """Brings samples from where they are into an output shard, in a given order.

    A window that is whole and already in the form of our shards is written as it
    is; any other goes through reader and writer, sample by sample, so that what is
    bad in it is dealt with as the settings say.
    """

    def __init__(
        self,
        settings: Settings,
        containers: Containers,
        writer: TarWriter,
        quarantine: Quarantine,
    ) -> None:
        self.settings = settings
        self.containers = containers
        self.writer = writer
        self.quarantine = quarantine
        # Samples of runs have their new keys.
        self._rekeys = settings.rekey and containers.are_inputs
        self.reasons: Counter[str] = Counter()
        self.losses: list[Loss] = []

    def copy(self, extents: NDArray[np.void]) -> None:
        """Write the samples that these extents hold."""
        size = self.containers.window_bytes(self.settings.memory, extents)
        for window, mine, starts in read_windows(extents, self.containers, size):
            is_tar = self.containers.listings.isdisjoint(mine["container"].tolist())
            if not (is_tar and self._copy_whole(window, starts)):
                self._copy_each(window, mine, starts)

    def _copy_whole(self, window: memoryview, starts: NDArray[np.int64]) -> bool:
        """Write a window as it is, if that is what its samples would become."""
        if self._rekeys:
            return False
        try:
            rows = scan_fragment(window, "window", key_rule=self.settings.key_rule)
        except ShardError:
            return False
        if not rows.canonical or not np.array_equal(rows.sample_offsets, starts):
            return False
        try:
            self.writer.write_run([window], rows)
        except KeyRuleError:
            return False
        return True

    def _copy_each(
        self, window: memoryview, extents: NDArray[np.void], starts: NDArray[np.int64]
    ) -> None:
        edges = zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        places = zip(extents, edges, strict=True)

        def parse(
            place: tuple[np.void, tuple[int, int]],
        ) -> tuple[str, int, Sample | ShardbuildError]:
            extent, (start, stop) = place
            number, offset = int(extent["container"]), int(extent["offset"])
            url = self.containers.url_of(number)
            try:
                return url, offset, self._parse(window[start:stop], number, url, offset)
            except (ShardError, StorageError) as error:
                return url, offset, error

        # The files of a folder are asked for one by one, and a store takes its time.
        each = map_parallel if self.containers.listings else map
        for url, offset, parsed in each(parse, places):
            if isinstance(parsed, ShardbuildError):
                self._lose(url, offset, parsed)
                continue
            try:
                self.writer.write(parsed)
            except SampleError as error:
                self._reject(offset, parsed, url, error)

    def _parse(self, data: memoryview, number: int, url: str, offset: int) -> Sample:
        settings = self.settings
        if number in self.containers.listings:
            options = settings.storage_options
            samples = list(read_listed([bytes(data)], storage_options=options))
        else:
            samples = list(read_extent(data, url, offset, settings.key_rule))
        if len(samples) != 1:
            problem = f"holds {len(samples)} samples where its index has one"
            raise ShardError(url, problem, offset)
        sample = samples[0]
        if self._rekeys:
            sample["__key__"] = new_key(number, sample["__key__"])
        return sample

    def _lose(self, url: str, offset: int, error: ShardbuildError) -> None:
        if self.settings.errors == "raise":
            raise error
        self.losses.append(Loss(url, error.problem, offset, 1))

    def _reject(
        self, offset: int, sample: Sample, url: str, error: ShardbuildError
    ) -> None:
        if isinstance(error, KeyRuleError) and not self.settings.rekey:
            error.add_note("if two input shards have this key: use --rekey")
        if self.settings.errors == "raise":
            raise error
        self.reasons[type(error).__name__] += 1
        if self.settings.errors == "quarantine":
            self.quarantine.add(offset, sample, url, error, place="offset")

    def tally(self) -> Tally:
        """What became of the samples: what could not be read again was not read."""
        put_away = self.quarantine.num_samples
        return Tally(
            num_read=-len(self.losses),
            num_written=self.writer.num_samples,
            num_dropped=sum(self.reasons.values()) - put_away,
            num_quarantined=put_away,
            reasons=dict(self.reasons),
            losses=tuple(self.losses),
        )
