"""Writing a data set: shard after shard, then its manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardbuild.shards.framing import SampleFramer, TarOptions
from shardbuild.shards.index import index_url, save_index
from shardbuild.shards.manifest import make_manifest, manifest_url, save_manifest
from shardbuild.shards.tarformat import shard_tar_bytes
from shardbuild.shards.writer import TarWriter
from shardbuild.storage.stores import remove
from shardbuild.storage.urls import protocol_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from shardbuild.shards.manifest import ShardFacts
    from shardbuild.shards.samples import Sample

__all__ = ["ShardWriter"]


class ShardWriter:
    """Writes samples into shards of limited count and size, one after the other.

    A shard is published when it is full, its index beside it, and the manifest
    when the writer is closed. An exception in the ``with`` block discards the
    shard being written and writes no manifest. There is no empty shard.

    Args:
        pattern: the shards' url, with ``%06d`` or the like for their number.
        maxcount: samples in a shard, at most.
        maxsize: bytes of a shard's tar on disk, at most, before compression: headers,
            padding and end blocks count. A sample that is larger has its own shard.
        post: called with the url of each shard once it is published.
        **kw: ``write_index`` and ``manifest`` (True), ``start`` (the first shard's
            number, 0), and what ``TarWriter`` takes.

    >>> with ShardWriter("memory://doc/set-%06d.tar", maxcount=2) as writer:
    ...     for i in range(3):
    ...         writer.write({"__key__": f"{i:03d}", "cls": i})
    1
    1
    1
    >>> [(shard.url, shard.num_samples) for shard in writer.shards]
    [('memory://doc/set-000000.tar', 2), ('memory://doc/set-000001.tar', 1)]
    """

    def __init__(
        self,
        pattern: str,
        maxcount: int = 100_000,
        maxsize: float = 3e9,
        post: Callable[[str], object] | None = None,
        **kw: Any,
    ) -> None:
        _check_pattern(pattern)
        if maxcount < 1 or maxsize <= 0:
            problem = f"limits of {maxcount} samples and {maxsize} bytes hold nothing"
            raise ValueError(problem)
        self.pattern = pattern
        self.maxcount = maxcount
        self.maxsize = maxsize
        self.post = post
        self.shards: list[ShardFacts] = []
        """What is known of the shards published so far."""
        has_beside = protocol_of(pattern) not in {None, "pipe"}
        self._has_beside = has_beside
        self._write_index = bool(kw.pop("write_index", True)) and has_beside
        self._write_manifest = bool(kw.pop("manifest", True)) and has_beside
        self._start = int(kw.pop("start", 0))
        self._storage = {"storage_options": kw.get("storage_options")}
        self._kw = kw
        names = ("user", "group", "mode", "encoder", "keep_meta", "key_rule")
        options = TarOptions(**{name: kw[name] for name in names if name in kw})
        self._framer = SampleFramer(pattern, options)
        self._stream: TarWriter | None = None
        self._is_open = True
        # Fail now, and not at the first sample, over an option that is not known.
        unknown = set(kw) - {*names, "compress", "checksum", "storage_options"}
        if unknown:
            problem = f"unknown options: {', '.join(sorted(unknown))}"
            raise TypeError(problem)

    def write(self, sample: Sample) -> int:
        """Write a sample; the result is the bytes of its payloads.

        Raises:
            EncodeError: a field cannot be made bytes.
            KeyRuleError: it could not be read back, or its key is in this shard.
            StorageError: a shard cannot be written.
            ValueError: the writer is closed.
        """
        if not self._is_open:
            problem = f"{self.pattern}: the writer is closed"
            raise ValueError(problem)
        frame = self._framer.frame(sample)
        if self._stream is not None and self._is_full(self._stream, frame[4]):
            self._end_shard(self._stream)
        if self._stream is None:
            self._stream = self._next_shard()
        self._stream.append(frame)
        return sum(frame[3])

    def dwrite(self, key: str, **fields: Any) -> int:
        """Write a sample of these fields; ``seg_png`` is the field ``seg.png``."""
        named = {name.replace("_", "."): value for name, value in fields.items()}
        return self.write({"__key__": key, **named})

    def finish(self) -> None:
        """Publish the shard that is being written: the next sample begins another.

        Raises:
            StorageError: it cannot be written.
        """
        if self._stream is not None:
            self._end_shard(self._stream)

    def close(self) -> None:
        """Publish the last shard and the manifest; does nothing the second time.

        Raises:
            StorageError: they cannot be written.
        """
        if not self._is_open:
            return
        self._is_open = False
        self.finish()
        if self._write_manifest:
            url = manifest_url(self.pattern)
            save_manifest(make_manifest(self.shards, url), url, **self._storage)

    def discard(self) -> None:
        """Drop the shard being written and write no manifest; no more is written."""
        self._is_open = False
        if self._stream is not None:
            self._stream.discard()
            self._stream = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def _is_full(self, shard: TarWriter, num_bytes: int) -> bool:
        size = shard_tar_bytes(shard.num_bytes + num_bytes)
        return shard.num_samples >= self.maxcount or size > self.maxsize

    def _next_shard(self) -> TarWriter:
        if not self.shards and self._write_manifest:
            # From here on, one of what was here before would not be true.
            remove(manifest_url(self.pattern), **self._storage)
        return TarWriter(self.pattern % (self._start + len(self.shards)), **self._kw)

    def _end_shard(self, shard: TarWriter) -> None:
        self._stream = None
        if self._has_beside:
            remove(index_url(shard.url), **self._storage)
        shard.close()
        self.shards.append(shard.facts)
        if self._write_index:
            save_index(shard.index, shard.url, **self._storage)
        if self.post is not None:
            self.post(shard.url)


def _check_pattern(pattern: str) -> None:
    try:
        is_numbered = pattern % 0 != pattern % 1
    except (TypeError, ValueError):
        is_numbered = False
    if not is_numbered:
        problem = f"{pattern}: a pattern has one number in it, such as %06d"
        raise ValueError(problem)
