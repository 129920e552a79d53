"""How often workers may die of one task before a run gives up."""

from __future__ import annotations

from typing import Final

from shardbuild.errors import ShardbuildError

MAX_DEATHS = 8
"""So many workers may die while they run the same task."""
GUARD: Final = "a script has to start them under if __name__ == '__main__'"


def check_deaths(num_deaths: int, cause: BaseException, hint: str = "") -> None:
    """Give up if there were too many.

    >>> check_deaths(2, OSError())
    >>> check_deaths(8, OSError())
    Traceback (most recent call last):
      ...
    shardbuild.errors.ShardbuildError: workers: 8 workers died while they ran the same \
task: if they ran out of memory, give each more or use a smaller --memory, then run \
the same command again

    Raises:
        ShardbuildError: as many workers have died of the same task.
    """
    if num_deaths < MAX_DEATHS:
        return
    problem = (
        f"{num_deaths} workers died while they ran the same task: if they ran out of "
        "memory, give each more or use a smaller --memory, then run the same command "
        f"again{hint}"
    )
    raise ShardbuildError("workers", problem) from cause
