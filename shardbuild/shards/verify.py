"""Reading shards again, to name every difference from what is known of them."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from shardbuild.errors import ManifestError, ShardError, StorageError
from shardbuild.shards.index import load_index
from shardbuild.shards.manifest import Manifest, ShardFacts, load_manifest
from shardbuild.shards.reader import scan_stream
from shardbuild.shards.readfacts import ReadFacts
from shardbuild.shards.samples import KEY_RULES
from shardbuild.shards.uniquekeys import UniqueKeys
from shardbuild.storage.gopen import gopen
from shardbuild.storage.urls import expand_urls, protocol_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shardbuild.shards.index import ShardIndex
    from shardbuild.shards.samples import KeyRule
    from shardbuild.storage.urls import StorageOptions

__all__ = ["Finding", "VerifyReport", "verify"]

MAX_DUPLICATES = 10_000
"""So many keys that come twice are named; of more there is the number."""

_DRAIN_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference.

    >>> print(Finding("a.tar", "count", "it has 6 samples, not 7"))
    a.tar: count: it has 6 samples, not 7
    """

    url: str
    kind: str
    """``manifest``, ``unreadable``, ``damaged``, ``count``, ``bytes``, ``sha256``,
    ``md5``, ``index`` or ``duplicate``."""
    problem: str
    offset: int | None = None
    """In the uncompressed tar, where there is one place."""
    key: str | None = None
    """Of the sample, where there is one."""

    def __str__(self) -> str:
        where = "" if self.offset is None else f"at byte {self.offset}: "
        who = "" if self.key is None else f"sample {self.key!r}: "
        return f"{self.url}: {self.kind}: {where}{who}{self.problem}"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was read, and what was found."""

    findings: tuple[Finding, ...]
    num_shards: int
    num_samples: int
    """In the shards that could be read."""
    num_bytes: int
    """Of all files read."""


def verify(
    urls: str | Sequence[str],
    *,
    storage_options: StorageOptions | None = None,
    memory_bytes: int = 256 << 20,
    key_rule: KeyRule = "first-dot",
) -> VerifyReport:
    """Read shards again and name every difference.

    Of each shard, in one pass: that it is whole and well formed, and that the index
    beside it, if there is one, says what is in it. Of shards that a manifest lists,
    also their number of samples, their bytes and their checksums. Of all together,
    that no key comes twice. Nothing found means that all of this holds.

    Args:
        urls: manifests (``.json``) and shards, as ``expand_urls`` takes them.
        storage_options: what fsspec is given.
        memory_bytes: for comparing keys; what does not fit goes to temporary files.
        key_rule: where keys end, unless a manifest's facts name a ``key_rule``.

    Raises:
        StorageError: ``urls`` match nothing, or a manifest cannot be read. Shards
            that cannot be read are findings.

    >>> from shardbuild.shards.shardwriter import ShardWriter
    >>> with ShardWriter("memory://doc/verify-%d.tar") as writer:
    ...     writer.dwrite("a", cls=1)
    1
    >>> verify("memory://doc/verify.json")
    VerifyReport(findings=(), num_shards=1, num_samples=1, num_bytes=10240)
    """
    findings: list[Finding] = []
    shards = list(_shards_of(urls, storage_options, key_rule, findings))
    reading = _Reading(findings, storage_options)
    with UniqueKeys(memory_bytes) as keys:
        for number, shard in enumerate(shards):
            index = reading.read(shard)
            if index is not None:
                keys.add(number, index.keys())
        findings += _duplicates(keys, [shard.url for shard in shards])
    return VerifyReport(
        tuple(findings), len(shards), reading.num_samples, reading.num_bytes
    )


@dataclass(frozen=True, slots=True)
class _Shard:
    url: str
    key_rule: KeyRule
    expected: ShardFacts | None
    """What the manifest says of it."""


def _shards_of(
    urls: str | Sequence[str],
    storage_options: StorageOptions | None,
    key_rule: KeyRule,
    findings: list[Finding],
) -> Iterator[_Shard]:
    """The shards to read; what is wrong with their manifests is found here."""
    for spec in [urls] if isinstance(urls, str) else urls:
        if not spec.endswith(".json"):
            for url in expand_urls(spec, storage_options):
                yield _Shard(url, key_rule, None)
            continue
        try:
            manifest = load_manifest(spec, storage_options=storage_options)
            places = manifest.shard_urls(spec)
        except ManifestError as error:
            findings.append(Finding(error.url, "manifest", error.problem))
            continue
        rule = _key_rule_of(manifest, key_rule)
        listed: set[str] = set()
        for url, facts in zip(places, manifest.shards, strict=True):
            if url in listed:
                findings.append(Finding(spec, "manifest", f"it lists {url} twice"))
            else:
                listed.add(url)
                yield _Shard(url, rule, facts)


def _key_rule_of(manifest: Manifest, key_rule: KeyRule) -> KeyRule:
    named = manifest.facts.get("key_rule")
    return next((rule for rule in KEY_RULES if rule == named), key_rule)


@dataclass(slots=True)
class _Reading:
    """Reads one shard after the other, and notes what it finds."""

    findings: list[Finding]
    storage_options: StorageOptions | None
    num_samples: int = 0
    num_bytes: int = 0

    def read(self, shard: _Shard) -> ShardIndex | None:
        """Where all lies in a shard; None if that cannot be said."""
        expected = shard.expected
        facts = ReadFacts()
        index: ShardIndex | None = None
        stream: _CountedStream | None = None
        try:
            with gopen(shard.url, storage_options=self.storage_options) as file:
                stream = _CountedStream(file, with_md5=bool(expected and expected.md5))
                try:
                    index = scan_stream(
                        cast("BinaryIO", stream),
                        shard.url,
                        key_rule=shard.key_rule,
                        facts=facts,
                    )
                except ShardError as error:
                    self._find_damage(shard, error, facts)
                stream.drain()
        except StorageError as error:
            self._find(shard, "unreadable", error.problem)
            return None
        finally:
            self.num_bytes += 0 if stream is None else stream.num_bytes
        self._compare(shard, stream, index)
        if index is not None:
            self.num_samples += index.num_samples
            found = dataclasses.replace(index, file_bytes=stream.num_bytes)
            self._compare_index(shard, found)
        return index

    def _find(self, shard: _Shard, kind: str, problem: str, **where: Any) -> None:
        self.findings.append(Finding(shard.url, kind, problem, **where))

    def _find_damage(self, shard: _Shard, error: ShardError, facts: ReadFacts) -> None:
        self.num_samples += facts.num_samples
        before = f"{error.problem} (after {facts.num_samples} samples"
        if shard.expected is not None:
            before += f" of {shard.expected.num_samples}"
        self._find(shard, "damaged", f"{before})", offset=error.offset)

    def _compare(
        self, shard: _Shard, stream: _CountedStream, index: ShardIndex | None
    ) -> None:
        """Hold what was read against what the manifest says."""
        expected = shard.expected
        if expected is None:
            return
        if index is not None and index.num_samples != expected.num_samples:
            problem = f"it has {index.num_samples} samples, not {expected.num_samples}"
            self._find(shard, "count", problem)
        if expected.num_bytes not in {None, stream.num_bytes}:
            problem = f"it has {stream.num_bytes} bytes, not {expected.num_bytes}"
            self._find(shard, "bytes", problem)
            return
        for kind, digest in stream.digests().items():
            wanted = getattr(expected, kind)
            if wanted not in {None, digest}:
                problem = f"its bytes have the {kind} {digest}, not {wanted}"
                self._find(shard, kind, problem)

    def _compare_index(self, shard: _Shard, found: ShardIndex) -> None:
        """Hold the index beside the shard against the shard."""
        if protocol_of(shard.url) in {None, "pipe"}:
            return
        try:
            kept = load_index(
                shard.url, self.storage_options, num_bytes=found.file_bytes
            )
        except ManifestError as error:
            self._find(shard, "index", error.problem)
        except StorageError as error:
            self._find(shard, "index", f"it cannot be read: {error.problem}")
        else:
            if kept is not None and kept.to_bytes() != found.to_bytes():
                self.findings.append(_difference(shard.url, kept, found))


class _CountedStream:
    """Passes a file on, while it is counted and its checksums are computed."""

    def __init__(self, file: BinaryIO, *, with_md5: bool) -> None:
        self._readinto = cast("Any", file).readinto
        self._hashes: dict[str, Any] = {"sha256": hashlib.sha256()}
        if with_md5:
            self._hashes["md5"] = hashlib.md5(usedforsecurity=False)
        self.num_bytes = 0

    def readinto(self, buffer: Any) -> int:
        count: int = self._readinto(buffer)
        data = memoryview(buffer)[:count]
        for each in self._hashes.values():
            each.update(data)
        self.num_bytes += count
        return count

    def drain(self) -> None:
        """Read what the reader of the tar did not want."""
        buffer = bytearray(_DRAIN_BYTES)
        while self.readinto(buffer):
            pass

    def digests(self) -> dict[str, str]:
        return {name: each.hexdigest() for name, each in self._hashes.items()}


def _difference(url: str, kept: ShardIndex, found: ShardIndex) -> Finding:
    """Where an index first differs from its shard."""
    if kept.num_samples != found.num_samples:
        problem = f"it lists {kept.num_samples} samples, not {found.num_samples}"
        return Finding(url, "index", problem)
    for i in range(found.num_samples):
        offset = int(found.sample_offsets[i])
        key = found.key(i)
        if kept.key(i) != key:
            problem = f"it has the key {kept.key(i)!r} here"
            return Finding(url, "index", problem, offset, key)
        if kept.members(i) != found.members(i):
            problem = f"it lists {kept.members(i)}, not {found.members(i)}"
            return Finding(url, "index", problem, offset, key)
        if kept.sample_offsets[i] != offset:
            problem = f"it has the sample at byte {kept.sample_offsets[i]}"
            return Finding(url, "index", problem, offset, key)
    what = ("end", "num_bytes", "canonical")
    wrong = [
        f"{name} {getattr(kept, name)}, not {getattr(found, name)}"
        for name in what
        if getattr(kept, name) != getattr(found, name)
    ]
    return Finding(url, "index", f"it says {'; '.join(wrong)}")


def _duplicates(keys: UniqueKeys, urls: list[str]) -> Iterator[Finding]:
    """The keys that come twice, in the order of their places; not too many."""
    count = 0

    def counted() -> Iterator[Any]:
        nonlocal count
        for each in keys.duplicates():
            count += 1
            yield each

    shown = heapq.nsmallest(MAX_DUPLICATES, counted())
    for shard, _, key, first, _ in shown:
        problem = f"its key is also in {urls[first]}"
        yield Finding(urls[shard], "duplicate", problem, None, key)
    if count > len(shown):
        problem = f"{count - len(shown)} more keys come twice"
        yield Finding(urls[0], "duplicate", problem)
