"""Tars to read in tests: made by ``tarfile``, and what ``tarfile`` finds in them."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardbuild.shards.samples import KeyRule, Sample, split_member

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK = 512

FORMATS = {
    "ustar": tarfile.USTAR_FORMAT,
    "gnu": tarfile.GNU_FORMAT,
    "pax": tarfile.PAX_FORMAT,
}


@dataclass(frozen=True)
class Entry:
    """One member to be written."""

    name: str
    data: bytes = b""
    kind: bytes = tarfile.REGTYPE
    mtime: float = 0


def make_tar(entries: Iterable[Entry], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format) as tar:
        for entry in entries:
            member = tarfile.TarInfo(entry.name)
            member.type = entry.kind
            member.mtime = entry.mtime
            member.linkname = "target" if entry.kind != tarfile.REGTYPE else ""
            member.size = len(entry.data)
            tar.addfile(member, io.BytesIO(entry.data))
    return stream.getvalue()


def entries_of(samples: Iterable[Sample], mtime: float = 0) -> Iterator[Entry]:
    for sample in samples:
        for field in sorted(sample):
            if field != "__key__":
                name = f"{sample['__key__']}.{field}"
                yield Entry(name, sample[field], mtime=mtime)


def make_samples(count: int, num_bytes: int = 700, first: int = 0) -> list[Sample]:
    """Samples of three fields, one of them of ``num_bytes`` and a bit."""
    return [
        {
            "__key__": f"dir/{i:06d}",
            "cls": b"%d" % (i % 10),
            "jpg": bytes([i % 251]) * (num_bytes + i % 600),
            "seg.png": b"\0" * (i % 3),
        }
        for i in range(first, first + count)
    ]


def by_tarfile(data: bytes, key_rule: KeyRule = "first-dot") -> list[Sample]:
    """The samples in a tar as ``tarfile`` reads it; members of a key in one place."""
    samples: list[Sample] = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            parts = split_member(member.name, key_rule) if member.isreg() else None
            if parts is None:
                continue
            key, field = parts
            if not samples or samples[-1]["__key__"] != key:
                samples.append({"__key__": key})
            assert field not in samples[-1]
            content: Any = tar.extractfile(member)
            samples[-1][field] = content.read()
    return samples


class Trickle(io.RawIOBase):
    """A stream that gives a few bytes at a time, as sockets and pipes do."""

    def __init__(self, data: bytes, sizes: Iterable[int] = (1, 511, 7, 512, 3000)):
        self._stream = io.BytesIO(data)
        self._sizes = list(sizes)
        self._turn = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._turn += 1
        size = self._sizes[self._turn % len(self._sizes)]
        data = self._stream.read(min(size, len(buffer)))
        buffer[: len(data)] = data
        return len(data)
