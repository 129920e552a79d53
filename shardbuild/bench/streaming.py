"""Streaming a shard from an object store that is far away."""

from __future__ import annotations

import http.client
import os
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.bench.peers import load_peer
from shardbuild.bench.reading import reader
from shardbuild.bench.shaped_server import Shape, shaped_server
from shardbuild.bench.timing import Contestant
from shardbuild.bench.workloads import Case, Scene, Workload, dialects_case
from shardbuild.errors import ShardbuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["WORKLOADS"]

BLOCK = 1 << 20
RANGE = 8 << 20
NUM_CONNECTIONS = 8


def _case(scene: Scene) -> Case:
    load_peer("s3fs", extra="s3")
    local = dialects_case(scene, "img", "ustar")
    [path] = map(Path, local.urls)
    folder = scene.folder / "bucket"
    folder.mkdir(exist_ok=True)
    if not (folder / path.name).exists():
        os.link(path, folder / path.name)
    endpoint = scene.resources.enter_context(shaped_server(folder, Shape()))
    options = {
        "anon": True,
        "endpoint_url": endpoint,
        "client_kwargs": {"region_name": "us-east-1"},
    }
    return replace(
        local,
        urls=[f"s3://bucket/{path.name}"],
        extra={"endpoint": endpoint, "options": options, "local": path},
    )


def _bytes_reader(name: str, case: Case, copy: Callable[[Any], None]) -> Contestant:
    """Make a contestant that hands a shard's bytes, in order, to what it is given."""

    def check() -> None:
        got = bytearray()
        copy(got.extend)
        if got != case.extra["local"].read_bytes():
            raise ShardbuildError(case.urls[0], f"{name} read something else")

    return Contestant(name, lambda: copy(len), check)


def _get(connection: http.client.HTTPConnection, path: str, start: int) -> bytes:
    ranged = {"Range": f"bytes={start}-{start + RANGE - 1}"}
    connection.request("GET", path, headers=ranged)
    return connection.getresponse().read()


def _baseline(case: Case) -> Sequence[Contestant]:
    netloc = urllib.parse.urlsplit(case.extra["endpoint"]).netloc
    path = f"/bucket/{case.extra['local'].name}"

    def one_get(use: Any) -> None:
        connection = http.client.HTTPConnection(netloc)
        connection.request("GET", path)
        answer = connection.getresponse()
        while block := answer.read(BLOCK):
            use(block)
        connection.close()

    def ranges(use: Any) -> None:
        connections = [
            http.client.HTTPConnection(netloc) for _ in range(NUM_CONNECTIONS)
        ]

        def get_every(first: int) -> list[bytes]:
            step = RANGE * NUM_CONNECTIONS
            starts = range(first * RANGE, case.num_bytes, step)
            return [_get(connections[first], path, start) for start in starts]

        with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
            columns = list(pool.map(get_every, range(NUM_CONNECTIONS)))
        for number in range(sum(map(len, columns))):
            use(columns[number % NUM_CONNECTIONS][number // NUM_CONNECTIONS])
        for connection in connections:
            connection.close()

    return [
        _bytes_reader("8 connections", case, ranges),
        _bytes_reader("one GET", case, one_get),
        _bytes_reader("s3fs open()", case, lambda use: _read_by_s3fs(case, use)),
    ]


def _read_by_s3fs(case: Case, use: Any) -> None:
    """Read as most people do: what the ratio of this workload is to."""
    s3fs = load_peer("s3fs", extra="s3")
    store = s3fs.S3FileSystem(**case.extra["options"])
    with store.open(case.urls[0], "rb") as stream:
        while block := stream.read(BLOCK):
            use(block)


def _ours(case: Case) -> Sequence[Contestant]:
    from shardbuild.shards.reader import read_samples
    from shardbuild.storage.gopen import gopen

    [url], options = case.urls, case.extra["options"]

    def copy(use: Any) -> None:
        block = memoryview(bytearray(1 << 22))
        with gopen(url, storage_options=options) as stream:
            while num_bytes := stream.readinto(block):  # type: ignore[attr-defined]
                use(block[:num_bytes])

    return [
        _bytes_reader("shardbuild", case, copy),
        reader(
            "shardbuild, samples",
            case,
            lambda: read_samples(url, storage_options=options),
        ),
    ]


WORKLOADS = [
    Workload(
        "stream-s3",
        "one shard from a store 20 ms away, 90 MB/s a connection",
        _case,
        _baseline,
        _ours,
        "img",
        1_000,
    )
]
