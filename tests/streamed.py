"""Small sets of samples in a folder, and commands run there as a user would."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild import ShardWriter, read_samples

if TYPE_CHECKING:
    from shardbuild.shards.samples import Sample

ROOT = Path(__file__).parents[1]


def numbered(count: int, first: int = 0) -> list[Sample]:
    """Samples with keys in three folders, a text, a class and a file of any bytes."""
    return [
        {
            "__key__": f"n{i % 3:02d}/{i:03d}",
            "cls": b"%d" % (i % 10),
            "png": bytes([i % 256, 0, 255]) * (i + 1),
            "txt": f"text {(i * 37) % 100:03d}".encode(),
        }
        for i in range(first, first + count)
    ]


def write_set(folder: Path, name: str = "a", count: int = 100, size: int = 50) -> None:
    """Write shards ``a-000000.tar`` and so on, with indexes and ``a.json``."""
    with ShardWriter(f"{folder}/{name}-%06d.tar", maxcount=size) as writer:
        for sample in numbered(count):
            writer.write(sample)


def samples_of(url: Path | str) -> list[Sample]:
    return list(read_samples(str(url)))


def keys_of(url: Path | str) -> list[str]:
    return [str(sample["__key__"]) for sample in read_samples(str(url))]


def shell(
    text: str, folder: Path, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which ``shardbuild`` is the command, pipes with care."""
    command = f"{shlex.quote(sys.executable)} -m shardbuild"
    script = f'set -o pipefail\nshardbuild() {{ {command} "$@"; }}\n{text}'
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin:/usr/local/bin"}
    return subprocess.run(
        ["bash", "-c", script],
        check=False,
        capture_output=True,
        cwd=folder,
        env=environment | options.pop("env", {}),
        **options,
    )


def run_shell(text: str, folder: Path) -> bytes:
    """Run a line that has to succeed; what it prints."""
    done = shell(text, folder)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
