"""From a url to fsspec, lightly, and from its errors to ours."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys

import pytest

from shardbuild.errors import MissingExtraError, StorageError
from shardbuild.storage.filesystems import (
    filesystem_of,
    is_missing,
    is_on_loop,
    is_permanent,
    protocol_of_filesystem,
    status_of,
    store_error,
    without_caches,
)


def modules_after(code: str) -> set[str]:
    code += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True
    )
    return set(json.loads(answer.stdout))


HEAVY = {"numpy", "fsspec", "s3fs", "gcsfs", "aiohttp", "asyncio", "dask", "tarfile"}


def test_importing_storage_is_light():
    assert not modules_after("import shardbuild.storage") & HEAVY


def test_local_files_need_no_fsspec(tmp_path):
    code = f"""
from shardbuild.storage import *
write_bytes("{tmp_path}/x", b"1")
read_bytes("{tmp_path}/x")
stat_urls(expand_urls("{tmp_path}/*"))
list_names("{tmp_path}")
exists("{tmp_path}/x")
read_range("{tmp_path}/x", 0, 1)
remove("{tmp_path}/x")
"""
    assert not modules_after(code) & (HEAVY | {"subprocess"})


@pytest.mark.parametrize(
    ("package", "extra", "urls"),
    [
        ("s3fs", "s3", ["s3://b/k", "simplecache::s3://b/k", "zip://x::s3://b/z"]),
        ("gcsfs", "gcs", ["gs://b/k", "gcs://b/k"]),
        ("aiohttp", "http", ["http://127.0.0.1:9/x"]),
    ],
)
def test_a_missing_package_names_its_extra(package, extra, urls):
    code = f"""
import sys
sys.modules[{package!r}] = None
from shardbuild.errors import MissingExtraError
from shardbuild.storage import *
for url in {urls!r}:
    for call in (gopen, exists, stat_url, list_names, read_bytes, RangeSource):
        try:
            call(url)
        except MissingExtraError as error:
            assert error.args[1:] == ({package!r}, {extra!r}), error.args
        else:
            raise SystemExit(f"{{call}} of {{url}}")
    try:
        gopen(url, "wb")
    except MissingExtraError:
        pass
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_options_flat_or_by_protocol_and_for_many_protocols(moto):
    flat = moto.storage_options
    by_protocol = {"s3": flat, "gs": {"token": "anon"}, "simplecache": {}}
    for options in (flat, by_protocol, {**flat, "gs": {"token": "anon"}}):
        fs, path = filesystem_of("s3://b/k", options)
        assert path == "b/k"
        assert (fs.key, fs.endpoint_url) == (flat["key"], flat["endpoint_url"])
    memory, _ = filesystem_of("memory://x", by_protocol)
    assert protocol_of_filesystem(memory) == "memory"


def test_the_same_url_and_options_share_a_client(moto):
    options = moto.storage_options
    first, _ = filesystem_of("s3://b/k", options)
    second, _ = filesystem_of("s3://b/other", {"s3": options})
    assert filesystem_of("s3://c/k", dict(options))[0] is first
    assert second.endpoint_url == first.endpoint_url


@pytest.mark.parametrize("form", ["flat", "nested"])
def test_the_caller_s_options_win_over_ours(moto, form):
    own = {
        **moto.storage_options,
        "config_kwargs": {"max_pool_connections": 7},
        "use_listings_cache": True,
    }
    fs, _ = filesystem_of("s3://b/k", own if form == "flat" else {"s3": own})
    assert fs.config_kwargs == {"max_pool_connections": 7}
    assert fs.dircache.use_listings_cache
    ours, _ = filesystem_of("s3://b/k", moto.storage_options)
    assert ours.config_kwargs["max_pool_connections"] >= 32
    assert not ours.dircache.use_listings_cache


def test_options_that_a_store_refuses_are_an_error_with_the_url():
    with pytest.raises(StorageError, match="s3://b/k: "):
        filesystem_of("s3://b/k", {"key": "k", "username": "u"})


@pytest.mark.parametrize("how", ["option", "environment", "nested"])
def test_an_emulated_gcs_is_not_probed(gcs, monkeypatch, how):
    options = dict(gcs.storage_options)
    if how == "environment":
        endpoint = options.pop("endpoint_url")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
    fs, path = filesystem_of(
        "gs://b/k", {"gs": options} if how == "nested" else options
    )
    assert path == "b/k"
    assert not hasattr(fs, "_is_zonal_bucket")
    assert os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] == "false"


def test_caches_are_passed_by_for_writing():
    options = {"cache_storage": "/c", "s3": {"key": "k"}}
    assert without_caches("s3://b/k", options) == ("s3://b/k", options)
    nested = "filecache::simplecache::s3://b/k"
    assert without_caches(nested, options) == ("s3://b/k", {"s3": {"key": "k"}})
    assert without_caches("simplecache::s3://b/k", None) == ("s3://b/k", {})


class AnswerError(OSError):
    """As aiohttp's ClientResponseError: a status that came with an answer."""

    request_info = "GET"

    def __init__(self, status):
        super().__init__(f"answer {status}")
        self.status = status


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class S3AnswerError(Exception):
    """As botocore's ClientError."""

    def __init__(self, status):
        super().__init__(str(status))
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    ("error", "missing", "permanent"),
    [
        (FileNotFoundError("x"), True, True),
        (caused(FileNotFoundError("x"), KeyError("x")), True, True),
        (caused(FileNotFoundError("x"), AnswerError(404)), True, True),
        (caused(FileNotFoundError("x"), AnswerError(410)), True, True),
        (caused(FileNotFoundError("x"), S3AnswerError(404)), True, True),
        (caused(FileNotFoundError("x"), AnswerError(503)), False, False),
        (caused(FileNotFoundError("x"), ConnectionRefusedError()), False, False),
        (caused(FileNotFoundError("x"), TimeoutError()), False, False),
        (PermissionError("x"), False, True),
        (IsADirectoryError("x"), False, True),
        (NotImplementedError("x"), False, True),
        (StorageError("u", "x"), False, True),
        (OSError(errno.EINVAL, "x"), False, True),
        (OSError(errno.ENOSPC, "x"), False, True),
        (OSError(errno.EIO, "x"), False, False),
        (caused(OSError(errno.EIO, "x"), S3AnswerError(500)), False, False),
        (caused(OSError(errno.EIO, "x"), S3AnswerError(400)), False, True),
        (ConnectionResetError("x"), False, False),
        (TimeoutError("x"), False, False),
        (AnswerError(400), False, True),
        (AnswerError(403), False, True),
        (AnswerError(408), False, False),
        (AnswerError(429), False, False),
        (AnswerError(500), False, False),
        (AnswerError(503), False, False),
    ],
)
def test_which_errors_mean_absent_and_which_are_for_good(error, missing, permanent):
    assert is_missing(error) is missing
    assert is_permanent(error) is permanent


def test_a_code_that_no_server_sent_is_no_status():
    import aiohttp

    assert status_of(aiohttp.http_exceptions.ContentLengthError("short")) is None
    assert status_of(OSError(5, "x")) is None
    from gcsfs.retry import HttpError

    assert status_of(HttpError({"code": 503})) == 503


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError("b/k"), "u: no such file"),
        (PermissionError("Forbidden"), "u: permission denied: "),
        (OSError(errno.ENOSPC, "full"), "u: no space left on the device"),
        (OSError(errno.EIO, "Input/output error"), "u: Input/output error"),
        (OSError("3 of 5 bytes"), "u: 3 of 5 bytes"),
        (KeyError("x"), "u: KeyError: 'x'"),
        (TimeoutError(), "u: TimeoutError"),
        (AnswerError(412), "u: changed while it was read"),
    ],
)
def test_errors_in_words(error, text):
    assert str(store_error("u", error)).startswith(text)


def test_our_own_errors_stay_what_they_are():
    error = MissingExtraError("u", "s3fs", "s3")
    assert store_error("v", error) is error


def test_the_loop_s_thread_is_known(moto):
    fs, _ = filesystem_of("s3://b/k", moto.storage_options)

    async def ask() -> bool:
        return is_on_loop(fs)

    assert not is_on_loop(fs)
    assert asyncio.run_coroutine_threadsafe(ask(), fs.loop).result(60)
