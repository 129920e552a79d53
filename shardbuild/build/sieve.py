"""Samples through a job, with everything that goes wrong counted by reason."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from shardbuild.build.ordering import place_hash
from shardbuild.build.quarantine import Quarantine
from shardbuild.build.report import NOT_WANTED, Loss, Tally
from shardbuild.build.sources import known_samples, read_source
from shardbuild.errors import (
    PlanError,
    SampleError,
    ShardbuildError,
    ShardError,
    StorageError,
    TransformError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from shardbuild.build.plan import Source
    from shardbuild.build.settings import Settings
    from shardbuild.shards.samples import Sample


_MAX_MADE = 16
_MADE_BYTES = 1 << 20


class Sieve:
    """Reads one input, applies the job, and keeps account of every sample.

    What is bad is raised, skipped or put into quarantine, as the settings say. The
    end of the ``with`` block closes the input and publishes the quarantine; an
    exception discards it.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        samples: Iterator[Sample] | None = None,
    ) -> None:
        self._samples = samples
        self.settings = settings
        self.source = source
        self.num_read = self.num_made = self.num_written = 0
        self.reasons: Counter[str] = Counter()
        self.losses: list[Loss] = []
        self.quarantine = Quarantine(settings, _quarantine_name(source))
        self.keys_sum = 0
        """A fingerprint of all keys with their places; adds up over pieces."""
        self.key = ""
        """Of the sample that was read last, as it came."""
        self.key_hash = 0
        """The hash of that key with its place."""
        self._raw: Sample = {}

    def __enter__(self) -> Sieve:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        close = getattr(self._samples, "close", None)
        if close is not None:
            close()
        if error is None:
            self.quarantine.close()
        else:
            self.quarantine.discard()

    def samples(self) -> Iterator[tuple[int, int, Sample]]:
        """What the job makes of each sample: (position, place among its like, it).

        A job that works long leaves nothing of ours in the processor's cache. So what
        it made is kept until there is some, and then dealt with in one go.
        """
        transform = self.settings.transform
        if transform is None:
            for position, sample in self._read():
                yield position, 0, sample
            return
        made: list[tuple[int, Sample, list[Sample], str, int]] = []
        num_bytes = 0
        for position, sample in self._read():
            results = self._transformed(transform, position, sample)
            made.append((position, sample, results, self.key, self.key_hash))
            num_bytes += _num_bytes(sample)
            if num_bytes >= _MADE_BYTES or len(made) >= _MAX_MADE:
                yield from self._recalled(made)
                made, num_bytes = [], 0
        yield from self._recalled(made)

    def _recalled(
        self, made: list[tuple[int, Sample, list[Sample], str, int]]
    ) -> Iterator[tuple[int, int, Sample]]:
        """Give out what was made, each as if its sample had just been read."""
        for position, self._raw, results, self.key, self.key_hash in made:
            for sub, one in enumerate(results):
                yield position, sub, one

    def _transformed(
        self, transform: Callable[[Sample], Any], position: int, sample: Sample
    ) -> list[Sample]:
        """What the job makes of one sample; nothing, if it is bad or not wanted."""
        self._raw = sample
        try:
            made = transform(dict(sample))
            results = made if isinstance(made, list) else [made]
            checked = [self._checked(one, sample) for one in results]
        except Exception as error:  # noqa: BLE001 - a job may raise anything
            self.reject(position, sample, self._blame(error, sample))
            return []
        wanted = [one for one in checked if one is not None]
        if not wanted:
            self.reasons[NOT_WANTED] += 1
            return []
        self.num_made += len(wanted) - 1
        return wanted

    def _read(self) -> Iterator[tuple[int, Sample]]:
        rekey, number = self.settings.rekey, self.source.number
        position = self.source.first
        try:
            if self._samples is None:
                self._samples = read_source(self.settings, self.source)
            for sample in self._samples:
                key = _key_of(sample)
                if key is None:
                    self._refuse(position, sample)
                    position += 1
                    continue
                self.key = key
                self.key_hash = place_hash(key, number, position)
                self.keys_sum += self.key_hash
                if rekey:
                    sample["__key__"] = new_key(number, key)
                self.num_read += 1
                yield position, sample
                position += 1
        except (ShardError, StorageError) as error:
            self.lose(error)

    def _refuse(self, position: int, sample: Any) -> None:
        """Deal with what a bag holds that is no sample."""
        self.num_read += 1
        key = f"sample-{position:09d}"
        fields = sample if isinstance(sample, dict) else {"txt": repr(sample)}
        problem = "is no sample: a dict with a text for '__key__'"
        error = SampleError(self.source.url, problem, key)
        self._raw = {**fields, "__key__": key}
        self.reject(position, self._raw, error)

    def _checked(self, made: Any, sample: Sample) -> Sample | None:
        if made is None:
            return None
        if not isinstance(made, dict):
            problem = f"the job returned {type(made).__name__}, not a sample"
            raise TransformError(self.source.url, problem, sample["__key__"])
        if "__key__" not in made:
            return {"__key__": sample["__key__"], **made}
        return made

    def _blame(self, error: Exception, sample: Sample) -> ShardbuildError:
        if isinstance(error, TransformError):
            return error
        problem = f"the job raised {type(error).__name__}: {error}"
        blamed = TransformError(self.source.url, problem, sample["__key__"])
        blamed.__cause__ = error
        return blamed

    def reject(self, position: int, sample: Sample, error: ShardbuildError) -> None:
        """Deal with a bad sample, or with a bad one that a job made of a good one."""
        if self.settings.errors == "raise":
            raise error
        cause = error.__cause__
        self.reasons[type(cause or error).__name__] += 1
        if self.settings.errors == "quarantine":
            raw = self._raw if self.settings.transform else sample
            self.quarantine.add(position, raw, self.source.url, error)
        self._check_budget(error)

    def lose(self, error: ShardbuildError, num_read: int | None = None) -> None:
        """Deal with an input of which the rest, or all, cannot be read.

        Args:
            error: what is wrong with it.
            num_read: how many samples came before, if they are not counted yet.
        """
        if self.settings.errors == "raise":
            raise error
        known = known_samples(self.settings, self.source)
        missing = None if known is None else max(0, known - (num_read or self.num_read))
        offset = error.offset if isinstance(error, ShardError) else None
        self.losses.append(Loss(self.source.url, error.problem, offset, missing))
        self._check_budget(error)

    def _check_budget(self, error: ShardbuildError) -> None:
        most = self.settings.max_errors
        if most is not None and self.tally().num_errors > most:
            raise budget_error(most) from error

    def tally(self) -> Tally:
        """What became of the samples so far."""
        num_rejected = sum(self.reasons.values())
        return Tally(
            num_read=self.num_read,
            num_made=self.num_made,
            num_written=self.num_written,
            num_dropped=num_rejected - self.quarantine.num_samples,
            num_quarantined=self.quarantine.num_samples,
            reasons=dict(self.reasons),
            losses=tuple(self.losses),
        )

    def note_hashes(self, hashes: NDArray[np.uint64]) -> None:
        """Account for samples that were found, but not read."""
        self.keys_sum += sum(hashes.tolist())
        self.num_read += len(hashes)


def _num_bytes(sample: Sample) -> int:
    """About how much a sample holds; a bag's may hold anything."""
    return sum(len(value) for value in sample.values() if isinstance(value, bytes))


def _key_of(sample: Any) -> str | None:
    key = sample.get("__key__") if isinstance(sample, dict) else None
    return key if isinstance(key, str) else None


def _quarantine_name(source: Source) -> str:
    piece = "" if source.last is None else f"-{source.first:09d}"
    return f"input-{source.number:06d}{piece}"


def new_key(shard: int, key: str) -> str:
    """The key that ``rekey`` gives a sample of an input shard.

    >>> new_key(3, "cats/7")
    '000003/cats/7'
    """
    return f"{shard:06d}/{key}"


def budget_error(max_errors: int) -> PlanError:
    """What ends a run that lost more than it may."""
    problem = "more samples were bad or lost: see the cause, or raise the limit"
    return PlanError(f"max_errors {max_errors}", problem)
