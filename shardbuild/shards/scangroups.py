"""From a chain of headers to runs of whole samples.

Most shards repeat one pattern: each sample has the same extensions, and all keys
of a stretch are equally long. Then numpy compares whole columns of names, and
no member costs any Python (`_patterned`). Otherwise names are handled one by
one, as text (`_by_names`).

A run never contains a sample that may go on after it, nor anything doubtful:
where something is to be refused the run ends before it, and the exact reader
that takes over finds it again and says what it is.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from shardbuild.shards.samples import KeyRule, NameSplitter, skip_reason
from shardbuild.shards.scanextended import Files, files_of
from shardbuild.shards.scanheaders import IS_OTHER, IS_WITHOUT_DATA, Bytes, Chain, Ints
from shardbuild.shards.tarparse import BLOCK, kind_of_type

if TYPE_CHECKING:
    from shardbuild.shards.readwindow import Buffer

__all__ = ["Run", "run_of"]

_MIN_PATTERNED: Final = 4
_MAX_MEMBERS: Final = 64
_NAME_BYTES: Final = 100
_DOT, _SLASH, _LOW_LINE = b"./_"


class Run(NamedTuple):
    """Whole samples that lie one after the other in a window's buffer."""

    keys: list[str]
    fields: list[str]
    """Of every member; or of one sample's members, if ``bounds`` is None."""
    bounds: list[int] | None
    """The first member of each sample, and the end; None if all samples are alike."""
    starts: Ints
    """Of each member's data in the buffer."""
    ends: Ints
    heads: Ints
    """Of each sample's first header in the buffer; one more is the next sample's."""
    skipped: Counter[str]
    """Members that belong to no sample, by reason."""
    is_named_so: bool
    """Whether each member is known to be named key, dot, field, and nothing more."""

    def first(self, count: int) -> Run:
        """The run without its samples from ``count`` on; what it skipped stays."""
        fields, bounds = self.fields, self.bounds
        end = count * len(fields) if bounds is None else bounds[count]
        if bounds is not None:
            fields, bounds = fields[:end], bounds[: count + 1]
        return self._replace(
            keys=self.keys[:count],
            fields=fields,
            bounds=bounds,
            starts=self.starts[:end],
            ends=self.ends[:end],
            heads=self.heads[: count + 1],
        )


class _Grouped(NamedTuple):
    """A run before the arrays are cut out."""

    keys: list[str]
    fields: list[str]
    bounds: list[int] | None
    members: list[int] | slice
    """Of all files, those that belong to a sample."""
    firsts: list[int] | slice
    """The first file of each sample, and of the next one."""
    skipped: Counter[str]
    is_named_so: bool = False


def run_of(chain: Chain, buffer: Buffer, key_rule: KeyRule) -> Run | None:
    """Group a chain's members into whole samples; None if not one is sure."""
    files = files_of(chain, buffer)
    if len(files.rows) < 2:
        return None
    grouped = None if files.names else _patterned(chain, files, key_rule)
    grouped = grouped or _by_names(chain, files, key_rule)
    if grouped is None:
        return None
    rows = files.rows[grouped.members]
    starts = (chain.blocks[rows] + 1) * BLOCK
    heads = files.heads[grouped.firsts]
    if chain.kinds is not None:
        grouped.skipped.update(_not_files(chain, int(heads[-1])))
    return Run(
        keys=grouped.keys,
        fields=grouped.fields,
        bounds=grouped.bounds,
        starts=starts,
        ends=starts + chain.sizes[rows],
        heads=heads * BLOCK,
        skipped=grouped.skipped,
        is_named_so=grouped.is_named_so,
    )


def _not_files(chain: Chain, stop: int) -> Counter[str]:
    """Count links, folders and the like that lie before block ``stop``."""
    mask = (chain.kinds == IS_WITHOUT_DATA) | (chain.kinds == IS_OTHER)
    mask &= chain.blocks < stop
    return Counter(map(kind_of_type, chain.rows[mask, 156].tolist()))


# -- names in columns -------------------------------------------------------


class _Pattern(NamedTuple):
    """How the names of a sample's members look."""

    here: int
    """Where the key begins: after a leading ``./``."""
    dot: int
    """Where the key ends."""
    fields: list[str]
    num_bytes: int
    """The length of the longest name."""
    is_named_so: bool
    """As `Run.is_named_so`."""


def _patterned(chain: Chain, files: Files, key_rule: KeyRule) -> _Grouped | None:
    """Group files whose names repeat one pattern, as far as they do."""
    rows = chain.rows
    if not chain.is_gnu and rows[:, 345].any():
        return None
    pattern = _pattern_of(rows, files.rows[: _MAX_MEMBERS + 1], key_rule)
    if pattern is None:
        return None
    dot, width = pattern.dot, len(pattern.fields)
    num_files = len(files.rows)
    count = num_files // width
    used = min(-(-pattern.num_bytes // 4) * 4, _NAME_BYTES)
    if rows.view("<u4")[:, used // 4 : _NAME_BYTES // 4].any():
        return None
    picked = slice(0, count * width)
    names = rows[picked if chain.kinds is None else files.rows[picked], :used]
    names = names.reshape(count, width, used)
    same_key = names[:, 1:, :dot] == names[:, :1, :dot]
    same_rest = names[:, :, dot:] == names[0, :, dot:]
    if not (same_key.all() and same_rest.all()):
        alike = same_key.all(axis=(1, 2)) & same_rest.all(axis=(1, 2))
        count = int(alike.argmin())
    keys = _keys_of(names[:count, 0], pattern) if count >= _MIN_PATTERNED else None
    if keys is None:
        return None
    # The last sample is whole only if what follows has another key.
    end = count * width
    key = names[count - 1, 0, : dot + 1]
    if end >= num_files or (rows[files.rows[end], : dot + 1] == key).all():
        keys.pop()
        end -= width
    return _Grouped(
        keys=keys,
        fields=pattern.fields,
        bounds=None,
        members=slice(0, end),
        firsts=slice(0, end + 1, width),
        skipped=Counter(),
        is_named_so=pattern.is_named_so,
    )


def _pattern_of(rows: Bytes, first_files: Ints, key_rule: KeyRule) -> _Pattern | None:
    """The pattern of the first sample's names, if it is one for columns."""
    heads = rows[first_files]
    names = (row[:_NAME_BYTES].tobytes().partition(b"\0")[0] for row in heads)
    first = next(names)
    here = 2 if first.startswith(b"./") else 0
    name_start = max(first.rfind(b"/") + 1, here)
    dot = first.find(b".", name_start)
    if dot <= name_start:
        return None
    extensions = [first[dot + 1 :]]
    for name in names:
        if not name.startswith(first[: dot + 1]):
            break
        extensions.append(name[dot + 1 :])
    else:
        return None
    longest = dot + 1 + max(map(len, extensions))
    joined = b"\0".join(extensions)
    if b"/" in joined or (key_rule != "first-dot" and b"." in joined):
        return None
    try:
        fields = joined.decode().lower().split("\0")
    except UnicodeDecodeError:
        return None
    if len({*fields, "__key__"}) <= len(fields):
        return None
    # What lies behind a name's end is no part of it, and yet no zeros.
    ends = (
        row[dot + 1 : _NAME_BYTES].tobytes().rstrip(b"\0").decode(errors="replace")
        for row in heads
    )
    is_named_so = here == 0 and all(map(operator.eq, fields, ends))
    return _Pattern(here, dot, fields, longest, is_named_so)


def _keys_of(names: Bytes, pattern: _Pattern) -> list[str] | None:
    """The keys in these names; None if one of them needs a closer look."""
    here, dot = pattern.here, pattern.dot
    keys = names[:, here:dot]
    if (
        (keys == _DOT).any()
        or (keys == 0).any()
        or (keys[:, -1] == _SLASH).any()
        or (names[:, :here] != names[0, :here]).any()
        or (keys[:, :2] == _LOW_LINE).all(axis=1).any()
    ):
        return None
    try:
        text = names[:, here : dot + 1].tobytes().decode()
    except UnicodeDecodeError:
        return None
    return text.split(".")[:-1]


# -- names one by one -------------------------------------------------------


def _by_names(chain: Chain, files: Files, key_rule: KeyRule) -> _Grouped | None:
    """Group files by their names, whatever they are."""
    names = _names_of(chain, files)
    if names is None:
        return None
    grouping = _Grouping(key_rule)
    for i, name in enumerate(names):
        if not grouping.add(i, name):
            break
    return grouping.finish(names)


class _Grouping:
    """Samples found so far, the last of which may go on."""

    __slots__ = (
        "_bounds",
        "_fields",
        "_firsts",
        "_key",
        "_keys",
        "_members",
        "_skipped",
        "_split",
        "_taken",
    )

    def __init__(self, key_rule: KeyRule) -> None:
        self._split = NameSplitter(key_rule).split
        self._key: str | None = None
        self._keys: list[str] = []
        self._fields: list[str] = []
        self._bounds: list[int] = []
        self._members: list[int] = []
        self._firsts: list[int] = []
        self._skipped: list[int] = []
        self._taken: set[str] = set()

    def add(self, i: int, name: str) -> bool:
        """Take file ``i``; False if it has to be refused."""
        parts = self._split(name)
        if parts is None:
            self._skipped.append(i)
            return True
        key, field = parts
        if key != self._key:
            self._key = key
            self._keys.append(key)
            self._bounds.append(len(self._fields))
            self._firsts.append(i)
            self._taken = {"__key__"}
        if field in self._taken:
            return False
        self._taken.add(field)
        self._fields.append(field)
        self._members.append(i)
        return True

    def finish(self, names: list[str]) -> _Grouped | None:
        """All samples but the last."""
        count = len(self._keys) - 1
        if count < 1:
            return None
        end = self._bounds[count]
        fields = self._fields[:end]
        bounds: list[int] | None = self._bounds
        width = self._bounds[1]
        if width * count == end and fields == fields[:width] * count:
            # As many fields as all samples would have, and in that order: as no
            # sample has a field twice, none has more or fewer than another.
            fields, bounds = fields[:width], None
        stop = self._firsts[-1]
        skipped = (i for i in self._skipped if i < stop)
        return _Grouped(
            keys=self._keys[:count],
            fields=fields,
            bounds=bounds,
            members=self._members[:end],
            firsts=self._firsts,
            skipped=Counter(skip_reason(names[i]) for i in skipped),
        )


def _names_of(chain: Chain, files: Files) -> list[str] | None:
    """The names of all files; None if one of them is not UTF-8."""
    rows = chain.rows[files.rows]
    names: list[bytes] = rows[:, :_NAME_BYTES].copy().view("S100").ravel().tolist()
    if not chain.is_gnu and rows[:, 345].any():
        if (rows.view("<u4")[:, 127] != 0).any():  # star's way to use these bytes
            return None
        prefixes = rows[:, 345:500].copy().view("S155").ravel().tolist()
        names = [
            start + b"/" + name if (start := prefix.partition(b"\0")[0]) else name
            for prefix, name in zip(prefixes, names, strict=True)
        ]
    if files.names:
        of_row = files.names.get
        names = [
            of_row(row, name)
            for row, name in zip(files.rows.tolist(), names, strict=True)
        ]
    joined = b"\0".join(names)
    if joined.count(b"\0") >= len(names):
        names = [name.partition(b"\0")[0] for name in names]
        joined = b"\0".join(names)
    try:
        return joined.decode().split("\0")
    except UnicodeDecodeError:
        return None
