"""Asking again, and when not to."""

from __future__ import annotations

import asyncio

import pytest

from shardbuild.storage.retries import retried


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The waits that were asked for, without waiting."""
    asked: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds):
        asked.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    return asked


def failing(errors):
    async def ask():
        if errors:
            raise errors.pop(0)
        return "answer"

    return ask


def test_a_passing_failure_is_waited_out_longer_and_longer(waits):
    errors = [ConnectionResetError(), TimeoutError(), OSError("short"), OSError()]
    assert asyncio.run(retried("u", failing(errors))) == "answer"
    assert waits == [0.1, 0.2, 0.4, 0.8]


def test_what_never_ends_is_given_up(waits):
    errors = [ConnectionResetError(n) for n in range(10)]
    with pytest.raises(ConnectionResetError, match="5"):
        asyncio.run(retried("u", failing(errors)))
    assert len(waits) == 5


@pytest.mark.parametrize(
    "error", [FileNotFoundError("x"), PermissionError("x"), ValueError("x")]
)
def test_what_cannot_help_is_not_tried(waits, error):
    with pytest.raises(type(error)):
        asyncio.run(retried("u", failing([error])))
    assert waits == []


def test_a_cancelled_ask_is_not_asked_again(waits):
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(retried("u", failing([asyncio.CancelledError()])))
    assert waits == []


def test_asking_again_is_logged(caplog):
    with caplog.at_level("INFO", logger="shardbuild"):
        asyncio.run(retried("s3://b/k", failing([ConnectionResetError("lost")])))
    assert "s3://b/k: asking again in 0.1 s" in caplog.text
