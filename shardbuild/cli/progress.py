"""A bar on the terminal that tells how far a conversion is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

if TYPE_CHECKING:
    from types import TracebackType

    from shardbuild.build.settings import Progress

__all__ = ["ProgressBar"]


class ProgressBar:
    """Shows `Progress` on a terminal: one line a phase; elsewhere, nothing.

    >>> with ProgressBar() as progress:
    ...     pass  # convert(..., progress=progress)
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._phase: str | None = None
        self._bar: Any = None

    def __call__(self, progress: Progress) -> None:
        """Show how far the run is now."""
        if not self._stream.isatty():
            return
        if progress.phase != self._phase:
            self.close()
            self._phase = progress.phase
            self._bar = tqdm(
                desc=progress.phase,
                total=progress.num_bytes,
                unit="B",
                unit_scale=True,
                dynamic_ncols=True,
                file=self._stream,
            )
        told = f"{progress.num_samples:,} samples"
        if progress.num_errors:
            told += f", {progress.num_errors:,} lost"
        self._bar.set_postfix_str(told, refresh=False)
        self._bar.update(progress.bytes_done - self._bar.n)

    def close(self) -> None:
        """End the line; safe to do twice."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
