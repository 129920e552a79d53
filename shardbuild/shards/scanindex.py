"""The index of a shard that is there already, and whether we would write it so."""

from __future__ import annotations

from itertools import chain as chained
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from shardbuild.shards.index import ShardIndex, extension_type, running_sum
from shardbuild.shards.tarformat import header_form, member_header, shard_tar_bytes
from shardbuild.shards.tarparse import BLOCK, padded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardbuild.shards.readfacts import ReadFacts
    from shardbuild.shards.readmembers import Found, Member
    from shardbuild.shards.readwindow import Window
    from shardbuild.shards.scangroups import Run
    from shardbuild.shards.scanheaders import Bytes, Chain, Ints

__all__ = ["FormJudge", "IndexColumns"]


class IndexColumns:
    """The columns of an index, grown by runs and by single samples."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._key_lengths: list[int] = []
        self._heads: list[Ints] = []
        self._counts: list[Ints] = []
        self._kinds: list[Ints] = []
        self._starts: list[Ints] = []
        self._sizes: list[Ints] = []
        self._extensions: dict[str, int] = {}
        self._single: list[Found] = []
        self.end = 0

    def add_run(self, run: Run, base: int) -> None:
        """Add the samples of a run in a window that begins at ``base``."""
        self._flush()
        count = len(run.keys)
        self._add_keys(run.keys)
        self._heads.append(run.heads[:-1] + base)
        kinds = np.array([self._kind(field) for field in run.fields], np.int64)
        if run.bounds is None:
            self._counts.append(np.full(count, len(kinds), np.int64))
            kinds = np.tile(kinds, count)
        else:
            bounds = np.array(run.bounds, np.int64)
            self._counts.append(bounds[1:] - bounds[:-1])
        self._kinds.append(kinds)
        self._starts.append(run.starts + base)
        self._sizes.append(run.ends - run.starts)
        self.end = base + padded(int(run.ends[-1]))

    def add_found(self, found: Found) -> None:
        """Add one sample."""
        self._single.append(found)
        _, start, size = found.members[-1]
        self.end = start + padded(size)

    def finish(self, num_bytes: int, *, canonical: bool) -> ShardIndex:
        """The index of all that was added."""
        self._flush()
        return ShardIndex(
            key_bytes=np.frombuffer(b"".join(self._keys), np.uint8),
            key_offsets=running_sum(np.array(self._key_lengths, np.int64)),
            sample_members=running_sum(_joined(self._counts)),
            sample_offsets=np.append(_joined(self._heads), np.int64(self.end)),
            member_extension=_joined(self._kinds).astype(
                extension_type(len(self._extensions))
            ),
            member_offset=_joined(self._starts),
            member_size=_joined(self._sizes),
            extensions=tuple(self._extensions),
            num_bytes=num_bytes,
            canonical=canonical,
        )

    def _kind(self, field: str) -> int:
        return self._extensions.setdefault(field, len(self._extensions))

    def _add_keys(self, keys: list[str]) -> None:
        text = "".join(keys)
        if text.isascii():
            self._keys.append(text.encode())
            self._key_lengths += map(len, keys)
        else:
            raw = [key.encode() for key in keys]
            self._keys += raw
            self._key_lengths += map(len, raw)

    def _flush(self) -> None:
        """Make columns of the single samples."""
        if not self._single:
            return
        single, self._single = self._single, []
        self._add_keys([found.sample["__key__"] for found in single])
        members = list(chained.from_iterable(found.members for found in single))
        self._heads.append(np.array([found.head for found in single], np.int64))
        counts = [len(found.members) for found in single]
        self._counts.append(np.array(counts, np.int64))
        kinds = [self._kind(field) for field, _, _ in members]
        self._kinds.append(np.array(kinds, np.int64))
        self._starts.append(np.array([start for _, start, _ in members], np.int64))
        self._sizes.append(np.array([size for _, _, size in members], np.int64))


class FormJudge:
    """Finds out whether every byte is what ``TarWriter`` would have written.

    That is so if the members come one after the other in the order in which we
    write them, each header is the one that we would give to that name and size,
    and what fills up the blocks is zeros.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        self._stop = 0
        self._last = ("", "")
        self.canonical = True

    def see_run(self, run: Run, chain: Chain) -> None:
        """Judge a run in the window."""
        window = self._window
        if not self.canonical:
            return
        start, stop = window.base + int(run.heads[0]), window.base + int(run.heads[-1])
        is_next = start == self._stop and not run.skipped
        self._stop = stop
        self.canonical = (
            is_next
            and _are_ours(run.fields, run.bounds)
            and _is_zero_after(window, run.ends)
            and (_are_plain(run, chain) or self._are_written_so(run))
        )

    def see_member(self, member: Member, key: str, field: str) -> None:
        """Judge one member, whose headers are in the window."""
        if not self.canonical:
            return
        window = self._window
        name = f"{key}.{field}"
        raw = window.buffer[member.head - window.base : member.start - window.base]
        is_sorted = key != self._last[0] or self._last[1] < field
        is_same = raw == member_header(name, member.size)
        is_next = member.head == self._stop and is_sorted and is_same
        end = member.start + member.size
        self._last, self._stop = (key, field), member.start + padded(member.size)
        num_bytes = self._stop - end
        window.keep = end
        position = end - window.base if window.has(end, num_bytes) else 0
        rest = bytes(window.buffer[position : position + num_bytes])
        self.canonical = is_next and _is_ours(field) and not rest.strip(b"\0")

    def see_end(self, facts: ReadFacts, *, is_fragment: bool) -> bool:
        """Judge the end blocks; give the verdict."""
        length = self._stop if is_fragment else shard_tar_bytes(self._stop)
        is_all = facts.num_archives == 1 and facts.num_bytes == length
        return self.canonical and is_all and not facts.num_skipped

    def _are_written_so(self, run: Run) -> bool:
        """Compare the headers of a run one by one."""
        buffer = self._window.buffer
        at = int(run.heads[0])
        for name, start, end in zip(
            _names_of(run), run.starts.tolist(), run.ends.tolist(), strict=True
        ):
            if buffer[at:start] != member_header(name, end - start):
                return False
            at = start + padded(end - start)
        return True


_TEMPLATE: Final = np.frombuffer(
    header_form("bigdata", "bigdata", 0o444).header(b"", 0), "<u4"
)
_NAME_WORDS: Final = 100 // 4
_SIZE: Final = slice(124 // 4, 136 // 4)
_SUM: Final = slice(148 // 4, 156 // 4)
_SPACES: Final = int.from_bytes(b"    ", "little")


def _are_plain(run: Run, chain: Chain) -> bool:
    """Compare the headers of a run with ours, a whole column at a time.

    The sums are known to be right and in our form.
    """
    count = len(run.starts)
    if chain.kinds is not None or len(chain.rows) < count:
        return False
    rows = chain.rows[:count]
    if rows[:, 135].any():  # a size that ends otherwise
        return False
    words = rows.view("<u4")
    different = words[:, _NAME_WORDS:] != _EXPECTED[_NAME_WORDS:]
    different[:, _IGNORED] = False
    if different.any():
        return False
    if run.is_named_so:
        return True
    names: list[bytes] = rows[:, :100].copy().view("S100").ravel().tolist()
    return b"\0".join(names) == "\0".join(_names_of(run)).encode()


def _expected() -> NDArray[np.uint32]:
    expected = _TEMPLATE.copy()
    expected[_SUM] = _SPACES  # the scan has put them there
    return expected


_EXPECTED: Final = _expected()
_IGNORED: Final = slice(_SIZE.start - _NAME_WORDS, _SIZE.stop - _NAME_WORDS)


def _names_of(run: Run) -> list[str]:
    if run.bounds is None:
        endings = ["." + field for field in run.fields]
        return [key + ending for key in run.keys for ending in endings]
    return [
        f"{key}.{field}"
        for key, (low, high) in zip(run.keys, pairwise(run.bounds), strict=True)
        for field in run.fields[low:high]
    ]


def _are_ours(fields: list[str], bounds: list[int] | None) -> bool:
    """Whether we write such fields, and in this order."""
    if not all(map(_is_ours, set(fields))):
        return False
    groups = (
        [fields]
        if bounds is None
        else [fields[low:high] for low, high in pairwise(bounds)]
    )
    return all(first < second for group in groups for first, second in pairwise(group))


def _is_ours(field: str) -> bool:
    return bool(field) and not field.startswith("_")


def _is_zero_after(window: Window, ends: Ints) -> bool:
    """Whether what is left of each payload's last block is zeros."""
    tails = ends % BLOCK
    is_part = tails > 0
    blocks = np.frombuffer(window.buffer, np.uint8, len(window.buffer) // BLOCK * BLOCK)
    rows: Bytes = blocks.reshape(-1, BLOCK)[ends[is_part] // BLOCK]
    masks = _masks()[tails[is_part]]
    return not (rows.view("<u8") & masks).any()


def _masks() -> NDArray[np.uint64]:
    """For each number of bytes in use, a mask of the others."""
    if not _mask_cache:
        used = np.arange(BLOCK)[:, None] > np.arange(BLOCK)[None, :]
        bytes_ = np.where(used, 0, 0xFF).astype(np.uint8)
        _mask_cache.append(bytes_.view("<u8"))
    return _mask_cache[0]


_mask_cache: list[NDArray[np.uint64]] = []


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
