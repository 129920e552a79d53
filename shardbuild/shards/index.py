r"""The index of one shard: where every sample and every member of it lies.

An index is written while its shard is written and kept beside it, as
``{shard}.npz``. In memory it is plain columns with absolute offsets. On
storage the same columns are made small, by three means that numpy alone undoes:
every column has the narrowest unsigned type that holds it, a column of equal
values is kept as one value, and offsets are kept as distances in blocks of 512
bytes (they are all 1 in a shard of ours)::

    z = np.load("a.tar.npz")
    version, samples, members, num_bytes, file_bytes, canonical, end = z["about"]
    extensions = bytes(z["extensions"]).decode().split("\0")
    keys         bytes in z["key_bytes"], lengths in z["key_length"]
    members      per sample in z["sample_members"], kinds in z["member_extension"]
    sizes        z["size_0"], z["size_1"], ...: of the members of each extension
    blocks       before a sample's first header in z["sample_gap"], from the end of
                 the payload before to this one in z["member_header"]

Nothing is deflated, so that the bytes do not depend on the zlib of a machine.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shardbuild.errors import ManifestError, StorageError
from shardbuild.shards.npz import pack_columns, unpack_columns
from shardbuild.storage.publish import read_bytes, write_bytes
from shardbuild.storage.stores import exists

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shardbuild.storage.urls import StorageOptions

__all__ = [
    "IndexBuilder",
    "ShardIndex",
    "concat_indexes",
    "index_url",
    "load_index",
    "save_index",
]

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

_VERSION = 1
_BLOCK = 512
_MAX_SIZE_COLUMNS = 256
_LIMIT = 2**62


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """Where the samples and members of one shard lie, in the order they lie in.

    Offsets count bytes of the uncompressed tar stream.

    >>> builder = IndexBuilder()
    >>> builder.add("a", 0, [("cls", 512, 1), ("jpg", 1536, 700)])
    >>> index = builder.finish(2560, 10240, canonical=True)
    >>> index.num_samples, index.key(0), index.members(0)
    (1, 'a', [('cls', 512, 1), ('jpg', 1536, 700)])
    >>> ShardIndex.from_bytes(index.to_bytes()).members(0) == index.members(0)
    True
    """

    key_bytes: Bytes
    """The keys in UTF-8, one after the other."""
    key_offsets: Ints
    """Where each key starts in ``key_bytes``; one more value ends the last."""
    sample_members: Ints
    """The first member of each sample; one more value ends the last."""
    sample_offsets: Ints
    """The first header byte of each sample; one more value ends the last."""
    member_extension: NDArray[np.unsignedinteger[Any]]
    """Positions in ``extensions``: uint16, wider only where that is too narrow."""
    member_offset: Ints
    """The first payload byte of each member."""
    member_size: Ints
    """Payload bytes of each member."""
    extensions: tuple[str, ...]
    num_bytes: int
    """Length of the tar stream, with its end blocks and padding."""
    canonical: bool
    """True if every byte is what ``TarWriter`` would write: no gaps, one form."""
    file_bytes: int = field(default=-1)
    """Size of the file on storage; -1 stands for ``num_bytes``."""

    def __post_init__(self) -> None:
        if self.file_bytes < 0:
            object.__setattr__(self, "file_bytes", self.num_bytes)

    @property
    def num_samples(self) -> int:
        """How many samples the shard holds."""
        return len(self.key_offsets) - 1

    @property
    def num_members(self) -> int:
        """How many members all samples have together."""
        return len(self.member_size)

    @property
    def end(self) -> int:
        """The offset at which the last sample ends."""
        return int(self.sample_offsets[-1])

    def key(self, i: int) -> str:
        """The key of sample ``i``."""
        start, stop = self.key_offsets[i], self.key_offsets[i + 1]
        return self.key_bytes[start:stop].tobytes().decode()

    def keys(self) -> list[str]:
        """The keys of all samples, in order."""
        return _cut(self.key_bytes, self.key_offsets)

    def members(self, i: int) -> list[tuple[str, int, int]]:
        """Extension, payload offset and payload size of sample ``i``'s members."""
        start, stop = int(self.sample_members[i]), int(self.sample_members[i + 1])
        return [
            (self.extensions[kind], offset, size)
            for kind, offset, size in zip(
                self.member_extension[start:stop].tolist(),
                self.member_offset[start:stop].tolist(),
                self.member_size[start:stop].tolist(),
                strict=True,
            )
        ]

    def take(self, positions: Sequence[int] | Ints) -> ShardIndex:
        """The index of these samples laid end to end from offset 0.

        >>> builder = IndexBuilder()
        >>> builder.add("a", 0, [("cls", 512, 1)])
        >>> builder.add("b", 1024, [("cls", 1536, 2)])
        >>> two = builder.finish(2048, 10240, canonical=True)
        >>> two.take([1]).keys(), two.take([1]).members(0)
        (['b'], [('cls', 512, 2)])
        """
        rows = np.asarray(positions, dtype=np.int64)
        keys, key_offsets = owned_positions(rows, self.key_offsets)
        members, sample_members = owned_positions(rows, self.sample_members)
        starts = self.sample_offsets[rows]
        offsets = running_sum(self.sample_offsets[rows + 1] - starts)
        shift = np.repeat(offsets[:-1] - starts, np.diff(sample_members))
        return ShardIndex(
            key_bytes=self.key_bytes[keys],
            key_offsets=key_offsets,
            sample_members=sample_members,
            sample_offsets=offsets,
            member_extension=self.member_extension[members],
            member_offset=self.member_offset[members] + shift,
            member_size=self.member_size[members],
            extensions=self.extensions,
            num_bytes=int(offsets[-1]),
            canonical=self.canonical,
        )

    def to_bytes(self) -> bytes:
        """The index as a file: the same bytes for the same shard, everywhere.

        Raises:
            ValueError: members overlap, or lie before their sample.
        """
        return pack_columns(_columns(self))

    @classmethod
    def from_bytes(cls, data: bytes, url: str = "<bytes>") -> ShardIndex:
        """The index that ``to_bytes`` made.

        Raises:
            ManifestError: ``data`` is damaged, or is not an index.
        """
        try:
            return _from_columns(unpack_columns(data))
        except (ArithmeticError, LookupError, ValueError) as problem:
            raise ManifestError(url, f"not a sound index: {problem}") from problem


class IndexBuilder:
    """Collects a shard's samples, in the order they lie in, into its index.

    >>> builder = IndexBuilder()
    >>> builder.add("n01/7", 0, [("jpg", 512, 3)])
    >>> builder.finish(1024, 10240, canonical=False).keys()
    ['n01/7']
    """

    __slots__ = (
        "_extensions",
        "_key_bytes",
        "_key_ends",
        "_kinds",
        "_member_ends",
        "_offsets",
        "_sizes",
        "_starts",
    )

    def __init__(self) -> None:
        self._key_bytes = bytearray()
        self._key_ends = array("q", [0])
        self._starts = array("q")
        self._member_ends = array("q", [0])
        self._extensions: dict[str, int] = {}
        self._kinds = array("L")
        self._offsets = array("q")
        self._sizes = array("q")

    def __len__(self) -> int:
        return len(self._starts)

    def add(
        self, key: str, header_offset: int, members: Iterable[tuple[str, int, int]]
    ) -> None:
        """One more sample: its first header byte; extension, offset, size of each."""
        self._key_bytes += key.encode()
        self._key_ends.append(len(self._key_bytes))
        self._starts.append(header_offset)
        kinds = self._extensions
        for extension, offset, size in members:
            self._kinds.append(kinds.setdefault(extension, len(kinds)))
            self._offsets.append(offset)
            self._sizes.append(size)
        self._member_ends.append(len(self._sizes))

    def finish(
        self, end: int, num_bytes: int, *, canonical: bool, file_bytes: int = -1
    ) -> ShardIndex:
        """The index of all samples added, the last of which ends at ``end``."""
        kinds = np.array(self._kinds, dtype=np.uint64)
        return ShardIndex(
            key_bytes=np.frombuffer(bytes(self._key_bytes), dtype=np.uint8),
            key_offsets=np.array(self._key_ends, dtype=np.int64),
            sample_members=np.array(self._member_ends, dtype=np.int64),
            sample_offsets=np.append(
                np.array(self._starts, dtype=np.int64), np.int64(end)
            ),
            member_extension=kinds.astype(extension_type(len(self._extensions))),
            member_offset=np.array(self._offsets, dtype=np.int64),
            member_size=np.array(self._sizes, dtype=np.int64),
            extensions=tuple(self._extensions),
            num_bytes=num_bytes,
            canonical=canonical,
            file_bytes=file_bytes,
        )


def extension_type(num_extensions: int) -> type[np.unsignedinteger[Any]]:
    """The type of a column of positions among so many extensions."""
    return np.uint16 if num_extensions <= 2**16 else np.uint32


def concat_indexes(
    indexes: Sequence[ShardIndex], num_bytes: int | None = None, file_bytes: int = -1
) -> ShardIndex:
    """The index of several runs of samples laid end to end.

    Each run ends where its last sample does, as ``ShardIndex.take`` leaves it.
    ``num_bytes`` is the length of the shard they become, at first their sum.

    >>> builder = IndexBuilder()
    >>> builder.add("a", 0, [("cls", 512, 1)])
    >>> one = builder.finish(1024, 10240, canonical=True)
    >>> concat_indexes([one, one]).members(1)
    [('cls', 1536, 1)]
    """
    names: dict[str, int] = {}
    for index in indexes:
        for name in index.extensions:
            names.setdefault(name, len(names))
    kind = extension_type(len(names))
    ends = running_sum([index.end for index in indexes])
    starts = ends[:-1].tolist()
    return ShardIndex(
        key_bytes=_joined([index.key_bytes for index in indexes], np.uint8),
        key_offsets=_chained([index.key_offsets for index in indexes]),
        sample_members=_chained([index.sample_members for index in indexes]),
        sample_offsets=_chained([index.sample_offsets for index in indexes]),
        member_extension=_joined(
            [
                np.array([names[name] for name in index.extensions], dtype=kind)[
                    index.member_extension
                ]
                for index in indexes
            ],
            kind,
        ),
        member_offset=_joined(
            [
                index.member_offset + start
                for index, start in zip(indexes, starts, strict=True)
            ],
            np.int64,
        ),
        member_size=_joined([index.member_size for index in indexes], np.int64),
        extensions=tuple(names),
        num_bytes=int(ends[-1]) if num_bytes is None else num_bytes,
        canonical=all(index.canonical for index in indexes),
        file_bytes=file_bytes,
    )


def index_url(shard_url: str) -> str:
    """Where the index of a shard is kept.

    >>> index_url("s3://bucket/train-000000.tar")
    's3://bucket/train-000000.tar.npz'
    """
    return shard_url + ".npz"


def save_index(
    index: ShardIndex,
    shard_url: str,
    *,
    storage_options: StorageOptions | None = None,
) -> None:
    """Publish the index of a shard beside it.

    Raises:
        StorageError: it cannot be written.
    """
    url = index_url(shard_url)
    write_bytes(url, index.to_bytes(), storage_options=storage_options)


def load_index(
    shard_url: str,
    storage_options: StorageOptions | None = None,
    *,
    num_bytes: int | None = None,
) -> ShardIndex | None:
    """The index kept beside a shard, or None if there is none.

    ``num_bytes`` is the size of the shard's file, where the caller knows it.

    Raises:
        ManifestError: the index is damaged, or belongs to a shard of another size.
        StorageError: it is there and cannot be read.
    """
    url = index_url(shard_url)
    try:
        data = read_bytes(url, storage_options=storage_options)
    except StorageError:
        if exists(url, storage_options=storage_options):
            raise
        return None
    index = ShardIndex.from_bytes(data, url)
    if num_bytes is not None and index.file_bytes != num_bytes:
        problem = (
            f"it was made for a shard of {index.file_bytes} bytes, "
            f"this one has {num_bytes}: make it again with 'shardbuild index'"
        )
        raise ManifestError(url, problem)
    return index


# -- columns in memory ------------------------------------------------------


def running_sum(counts: Ints | Sequence[int]) -> Ints:
    total = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=total[1:])
    return total


def owned_positions(rows: Ints, offsets: Ints) -> tuple[Ints, Ints]:
    """Positions of what ``rows`` own among ``offsets``, and their new offsets."""
    starts = offsets[rows]
    counts = offsets[rows + 1] - starts
    ends = running_sum(counts)
    where = np.repeat(starts - ends[:-1], counts)
    where += np.arange(len(where), dtype=np.int64)
    return where, ends


def common_pattern(kinds: NDArray[Any], counts: Ints) -> list[int] | None:
    """The kinds of each sample's members, where all samples have the same.

    >>> common_pattern(np.array([2, 0, 2, 0]), np.array([2, 2]))
    [2, 0]
    >>> common_pattern(np.array([2, 0, 0, 2]), np.array([2, 2])) is None
    True
    """
    if not len(counts) or (counts != counts[0]).any():
        return None
    width = int(counts[0])
    if (kinds[width:] != kinds[: len(kinds) - width]).any():
        return None
    pattern: list[int] = kinds[:width].tolist()
    return pattern


def _joined(parts: Sequence[NDArray[Any]], kind: type[Any]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=kind)


def _chained(parts: Sequence[Ints]) -> Ints:
    """Offsets with one value more than things, joined so that they go on."""
    steps = [np.diff(part) for part in parts]
    return running_sum(_joined(steps, np.int64))


def _cut(blob: Bytes, offsets: Ints) -> list[str]:
    whole = blob.tobytes()
    ends = offsets.tolist()
    pairs = pairwise(ends)
    if whole.isascii():
        text = whole.decode("ascii")
        return [text[start:stop] for start, stop in pairs]
    return [whole[start:stop].decode() for start, stop in pairs]


def _padded(sizes: Ints) -> Ints:
    return (sizes + (_BLOCK - 1)) & ~(_BLOCK - 1)


# -- columns on storage -----------------------------------------------------


def _columns(index: ShardIndex) -> dict[str, NDArray[Any]]:
    """The columns of the file, in their order in it."""
    index = _with_sorted_extensions(index)
    firsts = index.sample_members[:-1]
    ends = index.member_offset + _padded(index.member_size)
    before = np.zeros_like(ends)
    before[1:] = ends[:-1]
    gaps = index.sample_offsets[:-1] - before[firsts]
    before[firsts] = index.sample_offsets[:-1]
    headers = index.member_offset - before
    tail = index.end - (int(ends[-1]) if len(ends) else 0)
    distances = np.concatenate([gaps, headers, [tail]])
    if (distances < 0).any() or (distances % _BLOCK).any():
        problem = "members overlap or do not lie on 512-byte blocks"
        raise ValueError(problem)
    about = [
        *(_VERSION, index.num_samples, index.num_members, index.num_bytes),
        *(index.file_bytes, int(index.canonical), index.end),
    ]
    names = "\0".join(index.extensions).encode()
    columns = {
        "about": np.array(about, dtype="<i8"),
        "extensions": np.frombuffer(names, dtype=np.uint8),
        "key_bytes": index.key_bytes,
        "key_length": _narrow(np.diff(index.key_offsets)),
        "sample_members": _narrow(np.diff(index.sample_members)),
        "sample_gap": _narrow(gaps // _BLOCK),
        "member_extension": _narrow(index.member_extension, keep=True),
        "member_header": _narrow(headers // _BLOCK),
    }
    owner = np.minimum(index.member_extension, _MAX_SIZE_COLUMNS - 1)
    for i in range(min(len(index.extensions), _MAX_SIZE_COLUMNS)):
        columns[f"size_{i}"] = _narrow(index.member_size[owner == i])
    return columns


def _with_sorted_extensions(index: ShardIndex) -> ShardIndex:
    """The same index with the extensions in use, sorted: one form for one shard."""
    counts = np.bincount(index.member_extension, minlength=len(index.extensions))
    used = sorted(index.extensions[i] for i in np.flatnonzero(counts).tolist())
    place = {name: i for i, name in enumerate(used)}
    table = np.array(
        [place.get(name, 0) for name in index.extensions],
        dtype=extension_type(len(used)),
    )
    kinds = table[index.member_extension]
    return replace(index, extensions=tuple(used), member_extension=kinds)


def _narrow(values: NDArray[Any], *, keep: bool = False) -> NDArray[Any]:
    """``values`` in the narrowest type; as one value if all are the same."""
    if not len(values):
        return np.zeros(0, dtype=np.uint8)
    low, high = int(values.min()), int(values.max())
    if low < 0:
        problem = "a length is negative"
        raise ValueError(problem)
    kind = np.dtype(np.min_scalar_type(high)).newbyteorder("<")
    return (values[:1] if low == high and not keep else values).astype(kind)


def _widened(values: NDArray[Any], count: int, least: int = 0) -> Ints:
    """The column of ``count`` values that ``_narrow`` made small."""
    if len(values) not in {1, count} or (len(values) == 1 and not count):
        problem = f"a column has {len(values)} values instead of {count}"
        raise ValueError(problem)
    if count and not least <= int(values.min()) <= int(values.max()) < _LIMIT:
        problem = "a column holds an impossible value"
        raise ValueError(problem)
    if (
        float(values.sum(dtype=np.float64)) * (count if len(values) == 1 else 1)
        > _LIMIT
    ):
        problem = "a column adds up to an impossible value"
        raise ValueError(problem)
    wide = values.astype(np.int64)
    return np.full(count, wide[0]) if len(values) == 1 else wide


def _from_columns(columns: Mapping[str, NDArray[Any]]) -> ShardIndex:
    about = columns["about"]
    if about.dtype != np.dtype("<i8") or len(about) != 7 or about[0] != _VERSION:
        problem = "its version is not known"
        raise ValueError(problem)
    _, num_samples, num_members, num_bytes, file_bytes, canonical, end = about.tolist()
    key_bytes, kinds = columns["key_bytes"], columns["member_extension"]
    # A key has a byte and a member an extension: so no count can claim more
    # memory than a small multiple of the file's own size.
    if not 0 <= num_samples <= len(key_bytes) or num_members != len(kinds):
        problem = "its counts do not fit its columns"
        raise ValueError(problem)
    extensions = _extensions(columns["extensions"], kinds)
    lengths = _widened(columns["key_length"], num_samples, least=1)
    counts = _widened(columns["sample_members"], num_samples, least=1)
    key_offsets, sample_members = running_sum(lengths), running_sum(counts)
    if key_offsets[-1] != len(key_bytes) or sample_members[-1] != num_members:
        problem = "its lengths do not add up"
        raise ValueError(problem)
    _check_keys(key_bytes, key_offsets)
    sizes = _sizes(columns, kinds, len(extensions), counts)
    gaps = _widened(columns["sample_gap"], num_samples)
    headers = _widened(columns["member_header"], num_members, least=1)
    for distances in (gaps, headers):
        if float(distances.sum(dtype=np.float64)) * _BLOCK > _LIMIT:
            problem = "its offsets are impossible"
            raise ValueError(problem)
    rooms = _padded(sizes)
    steps = headers * _BLOCK + rooms
    steps[sample_members[:-1]] += gaps * _BLOCK
    ends = running_sum(steps)
    starts = ends[sample_members[:-1]] + gaps * _BLOCK
    if not int(ends[-1]) <= end <= num_bytes or file_bytes < 0:
        problem = f"its samples end at {int(ends[-1])}, the shard at {num_bytes}"
        raise ValueError(problem)
    return ShardIndex(
        key_bytes=key_bytes,
        key_offsets=key_offsets,
        sample_members=sample_members,
        sample_offsets=np.append(starts, np.int64(end)),
        member_extension=kinds.astype(extension_type(len(extensions))),
        member_offset=ends[1:] - rooms,
        member_size=sizes,
        extensions=extensions,
        num_bytes=num_bytes,
        canonical=bool(canonical),
        file_bytes=file_bytes,
    )


def _extensions(blob: Bytes, kinds: NDArray[Any]) -> tuple[str, ...]:
    names = blob.tobytes().decode().split("\0") if len(kinds) else []
    if len(kinds) and int(kinds.max()) >= len(names):
        problem = "a member's extension is not named"
        raise ValueError(problem)
    return tuple(names)


def _check_keys(blob: Bytes, offsets: Ints) -> None:
    whole = blob.tobytes()
    if not whole.isascii():
        whole.decode()
        if ((blob[offsets[:-1]] & 0xC0) == 0x80).any():
            problem = "a key starts inside a character"
            raise ValueError(problem)


def _sizes(
    columns: Mapping[str, NDArray[Any]],
    kinds: NDArray[Any],
    num_extensions: int,
    members_each: Ints,
) -> Ints:
    """The sizes of all members, from one column for each extension."""
    num_columns = min(num_extensions, _MAX_SIZE_COLUMNS)
    owner = np.minimum(kinds, max(num_columns - 1, 0)).astype(np.uint8)
    sizes = np.empty(len(kinds), dtype=np.int64)
    pattern = common_pattern(owner, members_each)
    if pattern is not None and len(set(pattern)) == len(pattern):
        # As most shards are; sorting all members would take longest.
        table = sizes.reshape(-1, len(pattern))
        for k, i in enumerate(pattern):
            table[:, k] = _widened(columns[f"size_{i}"], len(table))
    else:
        counts = np.bincount(owner, minlength=num_columns).tolist()
        parts = [_widened(columns[f"size_{i}"], counts[i]) for i in range(num_columns)]
        sizes[np.argsort(owner, kind="stable")] = _joined(parts, np.int64)
    if float(sizes.sum(dtype=np.float64)) > _LIMIT:
        problem = "its sizes add up to an impossible value"
        raise ValueError(problem)
    return sizes
