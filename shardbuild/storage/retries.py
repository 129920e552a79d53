"""Asking a store again, with growing waits, as long as that can help."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from shardbuild.storage.filesystems import is_permanent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["retried", "waits"]

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_ATTEMPTS = 6
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0


async def retried(url: str, ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """What ``ask`` answers, after up to 6 attempts over about 6 seconds.

    The store's own client has retried some failures before we see them; this
    also covers answers that break off, and those that the client gives up.

    >>> attempts = []
    >>> async def ask():
    ...     attempts.append(1)
    ...     if len(attempts) < 3:
    ...         raise ConnectionResetError("connection lost")
    ...     return "answer"
    >>> asyncio.run(retried("s3://b/k", ask)), len(attempts)
    ('answer', 3)
    """
    for wait in waits():
        try:
            return await ask()
        except Exception as error:
            if is_permanent(error):
                raise
            logger.info("%s: asking again in %.1f s after %r", url, wait, error)
        await asyncio.sleep(wait)
    return await ask()


def waits() -> Iterator[float]:
    """The seconds before each new attempt.

    >>> list(waits())
    [0.1, 0.2, 0.4, 0.8, 1.6]
    """
    wait = _FIRST_WAIT_SECONDS
    for _ in range(_ATTEMPTS - 1):
        yield wait
        wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
