"""Writing one shard."""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from shardbuild.errors import KeyRuleError
from shardbuild.shards.chunks import CHUNK_BYTES, ChunkWriter, join_short
from shardbuild.shards.compress import compression_of, make_compressor
from shardbuild.shards.framing import Encoder, Frame, SampleFramer, TarOptions
from shardbuild.shards.index import ShardIndex, index_url, save_index
from shardbuild.shards.manifest import ShardFacts
from shardbuild.shards.recording import IndexRecorder
from shardbuild.shards.tarformat import end_of_archive, shard_tar_bytes
from shardbuild.storage.gopen import gopen
from shardbuild.storage.stores import remove
from shardbuild.storage.urls import protocol_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from shardbuild.shards.compress import Compressor
    from shardbuild.shards.samples import KeyRule, Sample
    from shardbuild.storage.urls import StorageOptions

__all__ = ["TarWriter", "write_shard"]


class TarWriter:
    """Writes samples into one shard, published whole when it is closed.

    An exception in the ``with`` block publishes nothing. Every byte is what
    Python's ``tarfile`` writes for the same members, sorted by extension. What
    could not be read back as the same sample is refused; such a sample leaves no
    trace, and others may follow it.

    Args:
        fileobj: a url (also ``pipe:command`` and ``-``), or an open binary file,
            which is not closed.
        user: the owner's name in the headers.
        group: the group's name in the headers.
        mode: the members' permissions.
        compress: by default the name decides; True is ``"gz"``, False is none.
        encoder: True turns values into bytes by extension; False takes bytes only;
            a function of the sample, or functions of the value by extension.
        keep_meta: write fields named ``_...`` too.
        checksum: compute the sha256 of the file.
        storage_options: what fsspec is given for the url.
        key_rule: the rule by which the shard will be read.

    >>> with TarWriter("memory://doc/writer.tar") as writer:
    ...     writer.write({"__key__": "n01/7", "txt": "seven", "cls": 7})
    ...     writer.dwrite("n01/8", txt="eight", seg_png=b"...")
    6
    8
    >>> writer.facts.num_samples, writer.facts.num_bytes
    (2, 10240)
    >>> writer.index.members(1)
    [('seg.png', 2560, 3), ('txt', 3584, 5)]
    """

    def __init__(  # noqa: PLR0913 - the signature is the seed's
        self,
        fileobj: str | os.PathLike[str] | BinaryIO,
        user: str = "bigdata",
        group: str = "bigdata",
        mode: int = 0o444,
        compress: str | bool | None = None,  # noqa: FBT001 - the signature is the seed's
        encoder: Encoder = True,  # noqa: FBT002 - the signature is the seed's
        keep_meta: bool = False,  # noqa: FBT001, FBT002 - the signature is the seed's
        *,
        checksum: bool = True,
        storage_options: StorageOptions | None = None,
        key_rule: KeyRule = "first-dot",
    ) -> None:
        options = TarOptions(user, group, mode, encoder, keep_meta, key_rule)
        self._stream: Any
        if isinstance(fileobj, str | os.PathLike):
            self.url = os.fspath(fileobj)
        else:
            self.url = str(getattr(fileobj, "name", "<stream>"))
        self._frame = SampleFramer(self.url, options).frame
        self._compressor = _compressor(self.url, compress)
        self._hash = hashlib.sha256() if checksum else None
        is_standard = (user, group, mode) == ("bigdata", "bigdata", 0o444)
        self._is_standard = is_standard
        self._record = IndexRecorder(is_standard=is_standard)
        self._keys = self._record.keys
        self._parts: list[bytes] = []
        self._pending = 0
        self._max_pending = CHUNK_BYTES
        self._body = 0
        self._is_open = True
        self._facts: ShardFacts | None = None
        # With a method of this object for ``write`` it would be part of a cycle, and
        # one that is forgotten would not be discarded at once.
        write: Callable[[Sequence[Any]], object]
        if isinstance(fileobj, str | os.PathLike):
            self._stream = gopen(self.url, "wb", storage_options=storage_options)
            write = self._stream.writev
        else:
            self._stream = fileobj
            write = partial(_write_all, fileobj)
        self._owns_stream = self._stream is not fileobj
        self._chunks = ChunkWriter(write, self._hash)

    @property
    def num_samples(self) -> int:
        """Samples written so far."""
        return len(self._keys)

    @property
    def num_bytes(self) -> int:
        """Bytes of tar written so far, uncompressed, without the end blocks."""
        return self._body + self._pending

    @property
    def facts(self) -> ShardFacts:
        """What is known of the shard, once it is closed.

        Raises:
            ValueError: it is not closed, or was discarded.
        """
        if self._facts is None:
            problem = f"{self.url}: the facts are known when the shard is closed"
            raise ValueError(problem)
        return self._facts

    @property
    def index(self) -> ShardIndex:
        """Where everything lies, once the shard is closed.

        Raises:
            ValueError: it is not closed, or was discarded.
        """
        num_bytes = self.facts.num_bytes
        return self._record.finish(shard_tar_bytes(self._body), num_bytes or 0)

    def write(self, sample: Sample) -> int:
        """Write a sample; the result is the bytes of its payloads.

        Raises:
            EncodeError: a field cannot be made bytes.
            KeyRuleError: it could not be read back, or its key was written before.
            StorageError: it cannot be written; the shard is discarded.
            ValueError: the writer is closed.
        """
        frame = self._frame(sample)
        self.append(frame)
        return sum(frame[3])

    def dwrite(self, key: str, **fields: Any) -> int:
        """Write a sample of these fields; ``seg_png`` is the field ``seg.png``.

        Raises:
            EncodeError: as ``write``.
            KeyRuleError: as ``write``.
            StorageError: as ``write``.
            ValueError: as ``write``.
        """
        named = {name.replace("_", "."): value for name, value in fields.items()}
        return self.write({"__key__": key, **named})

    def append(self, frame: Frame) -> None:
        """Write a sample that a ``SampleFramer`` of the same options made ready."""
        if not self._is_open:
            raise self._closed()
        key, _, parts, _, num_bytes, _ = frame
        if key in self._keys:
            raise self._twice(key)
        self._record.add(frame)
        self._parts += parts
        self._pending += num_bytes
        if self._pending >= self._max_pending:
            self._flush()

    def write_run(self, buffers: Sequence[Any], rows: ShardIndex) -> None:
        """Write a run of whole samples whose bytes are ready.

        ``rows`` says what they are, from offset 0 of the run, as
        ``ShardIndex.take`` and ``concat_indexes`` make it. The bytes must be what
        ``write`` would make of the same samples with the same options; what
        is not written yet is copied, so the buffers may be used again.

        Raises:
            KeyRuleError: a key was written before; nothing of the run is written.
            StorageError: it cannot be written; the shard is discarded.
            ValueError: the bytes are not as many as ``rows`` says, or not canonical,
                or owner and mode are not the usual ones; or the writer is closed.
        """
        if not self._is_open:
            raise self._closed()
        num_bytes = sum(memoryview(buffer).nbytes for buffer in buffers)
        is_ours = rows.canonical and self._is_standard
        if not is_ours or num_bytes != rows.end:
            problem = f"{self.url}: a run of {num_bytes} bytes is not as its rows say"
            raise ValueError(problem)
        keys = rows.keys()
        fresh = set(keys)
        if len(fresh) < len(keys) or not self._keys.keys().isdisjoint(fresh):
            raise self._twice(_first_twice(keys, self._keys))
        self._flush()
        self._record.add_run(rows)
        self._body += num_bytes
        self._emit(buffers)

    def close(self) -> None:
        """End the shard and publish it; does nothing the second time.

        Raises:
            StorageError: it cannot be written; nothing is published.
        """
        if not self._is_open:
            return
        self._parts.append(end_of_archive(self.num_bytes))
        self._flush()
        with self._discarding():
            if self._compressor is not None:
                self._chunks.put([self._compressor.flush()])
            self._chunks.finish()
            if self._owns_stream:
                self._stream.close()
        self._is_open = False
        digest = self._hash.hexdigest() if self._hash else None
        self._facts = ShardFacts(
            self.url, len(self._keys), self._chunks.num_bytes, digest
        )

    def discard(self) -> None:
        """Publish nothing; does nothing once closed."""
        if self._is_open:
            self._is_open = False
            self._parts.clear()
            if self._owns_stream:
                self._stream.discard()

    def __enter__(self) -> TarWriter:
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

    def _closed(self) -> ValueError:
        return ValueError(f"{self.url}: the writer is closed")

    def _twice(self, key: str) -> KeyRuleError:
        problem = "its key comes twice in this shard: give it another"
        return KeyRuleError(self.url, problem, key)

    def _flush(self) -> None:
        parts = join_short(self._parts, self._pending)
        self._body += self._pending
        self._parts, self._pending = [], 0
        self._emit(parts)

    def _emit(self, buffers: Sequence[Any]) -> None:
        with self._discarding():
            if self._compressor is not None:
                buffers = [self._compressor.compress(bytes(b)) for b in buffers]
            self._chunks.put(buffers)
            if self._compressor is None:
                self._max_pending = self._chunks.room

    @contextlib.contextmanager
    def _discarding(self) -> Iterator[None]:
        """Leave nothing behind when what is done here fails."""
        try:
            yield
        except BaseException:
            self.discard()
            raise


def write_shard(
    url: str,
    samples: Iterable[Sample],
    *,
    write_index: bool = True,
    storage_options: StorageOptions | None = None,
    **options: Any,
) -> ShardFacts:
    """Write samples into one shard, then its index beside it.

    ``options`` are those of ``TarWriter``.

    Raises:
        EncodeError: a field cannot be made bytes.
        KeyRuleError: a sample could not be read back, or a key comes twice.
        StorageError: it cannot be written. Nothing is published.

    >>> write_shard("memory://doc/shard.tar", [{"__key__": "a", "cls": 1}]).num_samples
    1
    """
    with TarWriter(url, storage_options=storage_options, **options) as writer:
        for sample in samples:
            writer.write(sample)
        has_index = protocol_of(url) not in {None, "pipe"}
        if has_index:
            # One of what was here before must not be taken for the new shard's.
            remove(index_url(url), storage_options=storage_options)
    if write_index and has_index:
        save_index(writer.index, url, storage_options=storage_options)
    return writer.facts


def _compressor(url: str, compress: str | bool | None) -> Compressor | None:  # noqa: FBT001 - as TarWriter's
    if compress is None:
        compress = compression_of(url) or False
    if compress is False:
        return None
    return make_compressor("gz" if compress is True else compress)


def _first_twice(keys: Iterable[str], written: Iterable[str]) -> str:
    """The first of ``keys``, one of which comes again, that does."""
    seen = set(written)
    found = ""
    for found in keys:
        if found in seen:
            break
        seen.add(found)
    return found


def _write_all(stream: Any, buffers: Iterable[Any]) -> None:
    """Write to a file that may take less than it is given."""
    for buffer in buffers:
        rest = memoryview(buffer)
        while (written := stream.write(rest)) is not None and written < len(rest):
            rest = rest[written:]
