"""One shard front to back: the fast scan where it can, the exact reader elsewhere.

Both begin and end where a sample begins, so that either can take over anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from shardbuild.errors import ShardError
from shardbuild.shards.readcut import samples_of_run
from shardbuild.shards.readhops import HopReader, HopRun
from shardbuild.shards.readkeys import KeyLedger
from shardbuild.shards.readmembers import Found, MemberReader
from shardbuild.shards.readwindow import WINDOW_BYTES, FileWindow, Window
from shardbuild.shards.scangroups import Run, run_of
from shardbuild.shards.scanheaders import HeaderScan
from shardbuild.shards.tarparse import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from shardbuild.shards.index import ShardIndex
    from shardbuild.shards.readfacts import ReadFacts
    from shardbuild.shards.samples import KeyRule, Sample
    from shardbuild.shards.scanindex import FormJudge, IndexColumns

__all__ = ["Lot", "ShardReading"]

_FIRST_READ: Final = 256 << 10
_MAX_EXACT: Final = 256
_HOPS: Final = 64
_LARGE_SAMPLE: Final = 32 << 10
"""Mean bytes of a sample from which on a local file is read by single payloads."""


class Lot(NamedTuple):
    """Some samples that lie one after the other."""

    samples: Iterable[Sample]
    """To be taken before the next lot is asked for."""
    heads: list[int]
    """The offset of each sample's first header."""


class ShardReading:
    """One pass over the samples in a window, from where it begins."""

    __slots__ = (
        "_at_once",
        "_exact",
        "_facts",
        "_hops",
        "_judge",
        "_key_rule",
        "_ledger",
        "_patience",
        "_scan",
        "_window",
    )

    def __init__(
        self,
        window: Window,
        key_rule: KeyRule,
        facts: ReadFacts,
        *,
        is_fragment: bool = False,
    ) -> None:
        self._window = window
        self._key_rule = key_rule
        self._facts = facts
        self._ledger = KeyLedger()
        self._exact = MemberReader(window, key_rule, self._ledger, facts)
        self._exact.is_fragment = is_fragment
        self._scan = HeaderScan(window.buffer)
        self._hops: HopReader | None = None
        self._judge: FormJudge | None = None
        self._at_once = _FIRST_READ
        self._patience = 1

    def samples(self) -> Iterator[Iterable[Sample]]:
        """Read all samples, some at a time: each lot before the next is asked for.

        Raises:
            ShardError: The shard is damaged, or its samples are not whole.
        """
        return (self._samples_of(part) for part in self.parts(payloads=True))

    def lots(self, columns: IndexColumns | None = None) -> Iterator[Lot]:
        """Read all samples, with where each begins; fill ``columns``, if given.

        Raises:
            ShardError: As `samples`.
        """
        for part in self.parts(payloads=True):
            if isinstance(part, Found):
                if columns:
                    key = part.sample["__key__"]
                    columns.add_found(part._replace(sample={"__key__": key}))
                heads = [part.head]
            else:
                run = part.run if isinstance(part, HopRun) else part
                base = 0 if run is not part else self._window.base
                if columns:
                    columns.add_run(run, base)
                heads = (run.heads[:-1] + base).tolist()
            yield Lot(self._samples_of(part), heads)

    def _samples_of(self, part: Run | HopRun | Found) -> Iterable[Sample]:
        if isinstance(part, Found):
            return (part.sample,)
        if isinstance(part, HopRun):
            return part.samples()
        return samples_of_run(part, self._window.buffer)

    def index(
        self, on_damage: Callable[[ShardError], None] | None = None
    ) -> ShardIndex:
        """Read where all samples lie.

        With ``on_damage``, damage is told and ends the index before it.

        Raises:
            ShardError: As `samples`.
        """
        from shardbuild.shards.scanindex import FormJudge, IndexColumns

        columns = IndexColumns()
        self._judge = judge = FormJudge(self._window)
        self._exact.on_member = judge.see_member
        facts = self._facts
        try:
            for part in self.parts(payloads=False):
                if isinstance(part, Found):
                    columns.add_found(part)
                elif isinstance(part, Run):
                    columns.add_run(part, self._window.base)
        except ShardError as error:
            if on_damage is None:
                raise
            on_damage(error)
            return columns.finish(error.offset, canonical=False)
        canonical = judge.see_end(facts, is_fragment=self._exact.is_fragment)
        return columns.finish(facts.num_bytes, canonical=canonical)

    def parts(self, *, payloads: bool) -> Iterator[Run | HopRun | Found]:
        """Read all samples, by runs where the scan can; a run's data is in the window.

        With ``payloads`` the samples outside of runs hold their fields too.
        """
        offset: int | None = self._window.base
        while offset is not None:
            before = self._facts.num_samples
            part: Run | HopRun | None
            if self._is_hopping():
                part = self._hops_at(offset) if payloads else None
                stop = int(part.run.heads[-1]) if part else 0
            else:
                part = self._run_at(offset)
                stop = self._window.base + int(part.heads[-1]) if part else 0
            if part is None:
                yield from self._exactly(offset, payloads=payloads)
                offset = self._exact.offset
            else:
                self._patience = 1
                self._look_ahead(stop - offset, self._facts.num_samples - before)
                yield part
                offset = stop

    def _is_hopping(self) -> bool:
        return isinstance(self._window, FileWindow) and self._window.hopping

    def _look_ahead(self, num_bytes: int, num_samples: int) -> None:
        """Read as suits the size of the samples that have come."""
        if isinstance(self._window, FileWindow) and num_samples:
            on = num_bytes > num_samples * _LARGE_SAMPLE
            if on is not self._window.hopping:
                self._window.hop(on=on)

    def _exactly(self, offset: int, *, payloads: bool) -> Iterator[Found]:
        count = _HOPS if self._is_hopping() else self._patience
        self._patience = min(2 * self._patience, _MAX_EXACT)
        before = self._facts.num_samples
        yield from self._exact.samples(offset, count, payloads=payloads)
        after = self._exact.offset
        if after is not None:
            self._look_ahead(after - offset, self._facts.num_samples - before)

    def _run_at(self, offset: int) -> Run | None:
        window = self._window
        if not window.at_end and window.end - offset < self._at_once // 8:
            self._refill(offset)
        elif (offset - window.base) % BLOCK:
            window.fill(offset, 0)
        run = self._try_run(offset)
        if run is None and not window.at_end and offset > window.base:
            self._refill(offset)
            run = self._try_run(offset)
        return run

    def _refill(self, offset: int) -> None:
        self._window.fill(offset, self._at_once)
        self._at_once = min(4 * self._at_once, WINDOW_BYTES)

    def _try_run(self, offset: int) -> Run | None:
        """The run that begins at an offset, noted; None if there is none."""
        window = self._window
        start = (offset - window.base) // BLOCK
        stop = (window.end - window.base) // BLOCK
        chain = self._scan.chain(start, stop) if start < stop else None
        run = run_of(chain, window.buffer, self._key_rule) if chain else None
        if run is None:
            return None
        run = self._noted(run)
        if self._judge and run and chain:
            self._judge.see_run(run, chain)
        return run

    def _hops_at(self, offset: int) -> HopRun | None:
        """The run of large samples that begins at an offset, noted."""
        if self._hops is None:
            assert isinstance(self._window, FileWindow)
            self._hops = HopReader(self._window, self._key_rule)
        found = self._hops.run_at(offset)
        run = self._noted(found.run) if found else None
        return found._replace(run=run) if found and run else None

    def _noted(self, run: Run) -> Run | None:
        """What of a run is sure as far as keys go; its counts are taken."""
        count = self._ledger.add(run.keys)
        if count < len(run.keys):
            # The exact reader finds the key that is there again.
            if not count:
                return None
            run = run.first(count)
        facts = self._facts
        facts.num_samples += count
        facts.num_members += len(run.starts)
        facts.skipped.update(run.skipped)
        return run

    def close(self) -> None:
        """Give the memory back."""
        if self._hops:
            self._hops.close()
        self._scan.close()
        self._window.close()
