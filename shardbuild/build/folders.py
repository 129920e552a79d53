"""Folders of files as input: files that share folder and base name are a sample.

A folder is listed twice: once to plan, once to write the listings that tasks
read. A listing has one line of JSON for each sample of a slice of the folder.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.errors import PlanError, SampleError, StorageError
from shardbuild.shards.samples import split_member
from shardbuild.shards.tarformat import sample_tar_bytes
from shardbuild.storage import (
    find_files,
    is_remote,
    local_path,
    map_parallel,
    read_bytes,
)
from shardbuild.storage.urlparts import path_span

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from shardbuild.shards.samples import KeyRule, Sample
    from shardbuild.storage import FileFacts, StorageOptions

SLICE_SAMPLES = 256
SLICE_BYTES = 16 << 20
"""A slice of a folder is as large as one of these; it never depends on options,
because a sample's place in the shuffled order depends on its slice."""

_SHARD_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.zst", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True, slots=True)
class FolderSlice:
    """Some samples of a folder that follow each other."""

    lines: tuple[bytes, ...]
    """One JSON document for each sample."""
    num_bytes: int
    """Of the files."""
    fingerprint: str

    @property
    def num_samples(self) -> int:
        return len(self.lines)


def list_labels(
    url: str, key_rule: KeyRule, *, storage_options: StorageOptions | None = None
) -> list[str]:
    """The folders below ``url`` that hold samples, sorted: the class list."""
    samples = _group(url, find_files(url, storage_options=storage_options), key_rule)
    return sorted({key.rpartition("/")[0] for key, _ in samples})


def slice_folder(
    url: str,
    key_rule: KeyRule,
    labels: list[str] | None = None,
    *,
    storage_options: StorageOptions | None = None,
    on_skipped: Callable[[str], None] | None = None,
) -> Iterator[FolderSlice]:
    """List a folder as slices of samples, sorted by folder and key.

    Args:
        url: the folder.
        key_rule: where a key ends in a file's name.
        labels: if given, each sample gets a ``cls``: the position of its folder.
        storage_options: passed on to fsspec.
        on_skipped: told of each file that makes no sample.

    Raises:
        PlanError: the folder holds shards, or no samples.
        SampleError: two files of one sample have the same extension.
        StorageError: the folder cannot be listed, or changes meanwhile.
    """
    numbers = {label: i for i, label in enumerate(labels)} if labels else None
    lines: list[bytes] = []
    num_bytes = 0
    digest = hashlib.sha256()
    is_empty = True
    files = find_files(url, storage_options=storage_options)
    for key, members in _group(url, files, key_rule, on_skipped):
        is_empty = False
        sizes = {extension: facts.num_bytes for extension, facts in members.items()}
        document: dict[str, Any] = {
            "url": url,
            "key": key,
            "files": [[e, f.name, f.num_bytes] for e, f in sorted(members.items())],
        }
        if numbers is not None:
            if "cls" in members:
                problem = "has a cls of its own: leave out label_from"
                raise SampleError(url, problem, key)
            number = numbers.get(key.rpartition("/")[0])
            if number is None:
                raise StorageError(url, "changed while it was listed")
            document["cls"] = number
            sizes["cls"] = len(str(number))
        document["body"] = sample_tar_bytes(key, sizes)
        lines.append(json.dumps(document).encode("ascii") + b"\n")
        digest.update(lines[-1])
        for facts in members.values():
            digest.update(facts.fingerprint.encode())
            num_bytes += facts.num_bytes
        if len(lines) >= SLICE_SAMPLES or num_bytes >= SLICE_BYTES:
            yield FolderSlice(tuple(lines), num_bytes, digest.hexdigest())
            lines, num_bytes, digest = [], 0, hashlib.sha256()
    if lines:
        yield FolderSlice(tuple(lines), num_bytes, digest.hexdigest())
    if is_empty:
        raise PlanError(url, "holds no files that make samples")


def _group(
    url: str,
    files: Iterable[FileFacts],
    key_rule: KeyRule,
    on_skipped: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, dict[str, FileFacts]]]:
    """Samples of a sorted listing: the files of one folder come together."""
    folder = ""
    samples: dict[str, dict[str, FileFacts]] = {}
    for facts in files:
        if facts.name.endswith(_SHARD_SUFFIXES):
            problem = f"holds shards ({facts.name}): name them with a pattern or *"
            raise PlanError(url, problem)
        parent = facts.name.rpartition("/")[0]
        if parent != folder:
            yield from sorted(samples.items())
            folder, samples = parent, {}
        parts = split_member(facts.name, key_rule)
        if parts is None:
            if on_skipped:
                on_skipped(facts.name)
            continue
        key, extension = parts
        members = samples.setdefault(key, {})
        if extension in members:
            both = f"{members[extension].name!r} and {facts.name!r}"
            raise SampleError(url, f"has two files {extension!r}: {both}", key)
        members[extension] = facts
    yield from sorted(samples.items())


def read_listed(
    lines: Iterable[bytes], *, storage_options: StorageOptions | None = None
) -> Generator[Sample]:
    """Read the samples that lines of a listing name.

    Raises:
        StorageError: a file is missing or has another size than when it was listed.
    """
    documents = (json.loads(line) for line in lines)

    def read(document: Mapping[str, Any]) -> Sample:
        return _read_sample(document, storage_options)

    first = next(documents, None)
    if first is None:
        return
    yield read(first)
    if not is_remote(first["url"]):
        yield from map(read, documents)
        return
    yield from map_parallel(read, documents)


def _read_sample(
    document: Mapping[str, Any], storage_options: StorageOptions | None
) -> Sample:
    sample: Sample = {"__key__": document["key"]}
    for extension, name, num_bytes in document["files"]:
        url = _file_url(document["url"], name)
        data = read_bytes(url, storage_options=storage_options)
        if len(data) != num_bytes:
            problem = (
                f"had {num_bytes} bytes when the folder was listed, now {len(data)}"
            )
            raise StorageError(url, problem)
        sample[extension] = data
    if "cls" in document:
        sample["cls"] = str(document["cls"]).encode()
    return sample


def _file_url(folder: str, name: str) -> str:
    """Where a file of a folder is: its name is data, and never taken for a url.

    >>> _file_url("photos", "pipe:rm x.txt"), _file_url("s3://b/raw/", "s3:/x.txt")
    ('photos/pipe:rm x.txt', 's3://b/raw/s3:/x.txt')
    """
    start, end = path_span(folder)
    path = folder[start:end]
    slash = "" if path.endswith("/") else "/"
    return f"{folder[:start]}{path or '.'}{slash}{name}{folder[end:]}"


def is_folder(url: str) -> bool:
    """Whether a local path is a folder, or a store's url ends with a slash."""
    if is_remote(url):
        return url.endswith("/")
    path = local_path(url)
    return path is not None and Path(path or ".").is_dir()
