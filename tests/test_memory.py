"""Peak memory is a property of the plan, not of the data: measured in real workers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Client, LocalCluster

import shardbuild as sb
from shardbuild.shards.manifest import make_manifest, save_manifest
from shardbuild.shards.writer import write_shard
from tests.building import assert_conserved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardbuild.shards.manifest import ShardFacts

GIB = 1 << 30
MOST = 400 << 20
"""What a worker may take: the interpreter, its libraries, and all that is read."""


def peak_bytes() -> int:
    """The most memory that this process ever had resident."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.fixture
def client() -> Iterator[Client]:
    """Two fresh workers, so that a peak is that of one run."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def write_samples(url: str, num_bytes: int, sample_bytes: int) -> ShardFacts:
    noise = random.Random(url).randbytes(sample_bytes + 4096)
    num_samples = num_bytes // sample_bytes

    def samples() -> Iterator[sb.Sample]:
        for i in range(num_samples):
            start = i % 4096
            payload = noise[start : start + sample_bytes]
            yield {"__key__": f"{Path(url).stem}/{i:07d}", "bin": payload, "cls": b"1"}

    return write_shard(url, samples(), checksum=False)


def peaks(client: Client) -> list[int]:
    return list(client.run(peak_bytes).values())


@pytest.fixture(scope="module")
def two_gib(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Half of the bytes in small samples, half in large ones."""
    folder = tmp_path_factory.mktemp("two")
    shards = [
        write_samples(f"{folder}/in-{n:03d}.tar", GIB // 4, 3000 if n % 2 else 100_000)
        for n in range(8)
    ]
    url = f"{folder}/in.json"
    save_manifest(make_manifest(shards, url), url)
    return url


def times_moved(report: sb.Report) -> float:
    """How often each byte was read or written, as it was counted meanwhile."""
    moved = sum(phase.read_bytes + phase.written_bytes for phase in report.phases)
    return moved / report.num_bytes


@pytest.mark.parametrize(("method", "most_moved"), [("gather", 2.1), ("spill", 4.2)])
def test_reshuffling_two_gib_stays_under_400_mib_a_worker(
    two_gib: str, method: Any, most_moved: float, client: Client, tmp_path: Path
) -> None:
    before = peaks(client)
    report = sb.convert(
        two_gib,
        f"{tmp_path}/s-%06d.tar",
        order="shuffle",
        maxsize=GIB // 2,
        method=method,
        scheduler=client,
    )
    assert_conserved(report)
    assert report.num_bytes > 2 * GIB
    assert most_moved - 0.25 < times_moved(report) <= most_moved
    assert max(peaks(client)) < MOST
    assert max(peaks(client)) > max(before)
    for path in tmp_path.glob("*.tar"):
        path.unlink()


def test_what_keeps_its_order_is_read_once_and_written_once(
    two_gib: str, client: Client, tmp_path: Path
) -> None:
    report = sb.convert(two_gib, f"{tmp_path}/s-%06d.tar", scheduler=client)
    assert [phase.name for phase in report.phases] == ["stream"]
    assert times_moved(report) == pytest.approx(2.0, abs=0.01)
    for path in tmp_path.glob("*.tar"):
        path.unlink()


def shorten(sample: sb.Sample) -> sb.Sample:
    return {**sample, "bin": sample["bin"][:100]}


def test_a_map_over_one_shard_of_four_gib_stays_under_400_mib_a_worker(
    client: Client, tmp_path: Path
) -> None:
    shard = write_samples(f"{tmp_path}/in.tar", 4 * GIB, 100_000)
    assert shard.num_bytes is not None
    assert shard.num_bytes > 4 * GIB
    report = sb.convert(shard.url, f"{tmp_path}/s-%06d.tar", shorten, scheduler=client)
    assert_conserved(report)
    assert report.num_written == shard.num_samples
    assert max(peaks(client)) < MOST
    for path in tmp_path.glob("*.tar"):
        path.unlink()
