"""What handlers answer, and what stages make of it."""

from __future__ import annotations

import pickle

import pytest

from shardbuild.errors import (
    MissingExtraError,
    StorageError,
    ignore_and_continue,
    ignore_and_stop,
    reraise_exception,
    warn_and_continue,
    warn_and_stop,
)
from shardbuild.streams.guarding import apply_each

ERROR = StorageError("a.tar", "no such file")


def test_ignoring_answers_without_a_word() -> None:
    assert ignore_and_continue(ERROR) is True
    assert ignore_and_stop(ERROR) is False


def test_warning_answers_and_names_the_error() -> None:
    with pytest.warns(UserWarning, match=r"a\.tar.*no such file"):
        assert warn_and_continue(ERROR) is True
    with pytest.warns(UserWarning, match=r"a\.tar.*no such file"):
        assert warn_and_stop(ERROR) is False


def test_reraising_raises_the_same_error() -> None:
    with pytest.raises(StorageError) as caught:
        reraise_exception(ERROR)
    assert caught.value is ERROR


@pytest.mark.parametrize(
    "handler",
    [
        reraise_exception,
        ignore_and_continue,
        ignore_and_stop,
        warn_and_continue,
        warn_and_stop,
    ],
)
def test_handlers_travel_to_other_processes(handler) -> None:
    assert pickle.loads(pickle.dumps(handler)) is handler  # noqa: S301


def test_an_error_names_the_sample_and_its_shard() -> None:
    samples = [{"__key__": "n/7", "__url__": "a.tar"}]
    with pytest.raises(KeyError) as caught:
        list(apply_each(samples, lambda sample: sample["cls"]))
    assert caught.value.__notes__ == ["a.tar: sample 'n/7'"]


@pytest.mark.parametrize(
    "error", [MemoryError("x"), MissingExtraError("<ten>", "torch", "torch")]
)
def test_what_would_hit_every_sample_is_raised(error: Exception) -> None:
    def fail(sample: int) -> None:
        raise error

    with pytest.raises(type(error)):
        list(apply_each([1, 2], fail, ignore_and_continue))


def test_errors_of_the_source_do_not_go_to_the_handler() -> None:
    def source():
        yield 1
        raise StorageError("a.tar", "gone")

    results = apply_each(source(), str, ignore_and_continue)
    assert next(results) == "1"
    with pytest.raises(StorageError, match="gone"):
        next(results)
