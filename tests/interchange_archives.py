"""Random archives, and what is in them: Hypothesis draws, ``tarfile`` writes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import zstandard
from hypothesis import strategies as st

from tests.interchange_tars import has_place_in_ustar

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardbuild.shards.samples import Sample

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
}
NO_SAMPLES = {
    "directory": (tarfile.DIRTYPE, "a folder.d/sub"),
    "link": (tarfile.SYMTYPE, "to.jpg"),
    "device": (tarfile.FIFOTYPE, "pipe.jpg"),
    "hidden": (tarfile.REGTYPE, "dir/.DS_Store.txt"),
    "meta": (tarfile.REGTYPE, "__meta__/a.txt"),
    "no extension": (tarfile.REGTYPE, "dir/README"),
}
"""Members that belong to no sample, by the reason that is given."""


@dataclass(frozen=True)
class Archive:
    """One or more tars, joined as by ``cat``, packed one by one."""

    packed: bytes
    tar: bytes
    num_parts: int
    """As far as they can be told: an empty one after another is but more zeros."""
    samples: list[Sample]
    skipped: Counter[str]

    def _repr_pretty_(self, printer: Any, _is_cycle: object) -> None:
        """Spare Hypothesis the payloads."""
        printer.text(f"Archive of {[sample['__key__'] for sample in self.samples]}")


_words = st.text("ab é-_Ω,", min_size=1, max_size=60)
_folders = st.lists(_words | _words.map(lambda text: f"{text}.d"), max_size=4)
_keys = st.builds(lambda where, base: "/".join([*where, base]), _folders, _words)
_extensions = st.sampled_from(["jpg", "cls", "seg.png", "x y", "é", "", "z" * 90])
_sizes = st.dictionaries(_extensions, st.integers(0, 1600), min_size=1)
_uids = st.integers(0, 2**21 - 1) | st.integers(2**21, 2**40)
_times = st.integers(0, 2**33 - 1) | st.floats(0, 2e9) | st.integers(2**33, 2**40)


@st.composite
def archives(draw: st.DrawFn) -> Archive:
    """Any samples, in any of the formats, among members that belong to none."""
    keys = draw(st.lists(_keys, max_size=7, unique=True))
    samples = [_make_sample(key, draw(_sizes)) for key in keys]
    cuts = sorted(draw(st.lists(st.integers(0, len(samples)), max_size=2)))
    pack = PACK[draw(st.sampled_from(["plain", *PACK]))]
    written: list[Sample] = []
    skipped: Counter[str] = Counter()
    parts = []
    for start, stop in zip([0, *cuts], [*cuts, len(samples)], strict=True):
        form = draw(st.sampled_from(FORMATS))
        part = [sample for sample in samples[start:stop] if _has_place(sample, form)]
        written += part
        parts.append(_write(draw, part, form, skipped))
    packed = b"".join(pack(part) for part in parts)
    num_parts = 1 + sum(any(part) for part in parts[1:])
    return Archive(packed, b"".join(parts), num_parts, written, skipped)


def _make_sample(key: str, sizes: dict[str, int]) -> Sample:
    ends = accumulate(sizes.values())
    fields = zip(sizes.items(), ends, strict=True)
    return {
        "__key__": key,
        **{name: bytes([end % 256]) * size for (name, size), end in fields},
    }


def _has_place(sample: Sample, form: int) -> bool:
    names = [f"./{sample['__key__']}.{name}" for name in sample if name != "__key__"]
    return form != tarfile.USTAR_FORMAT or all(map(has_place_in_ustar, names))


def _write(
    draw: st.DrawFn, samples: list[Sample], form: int, skipped: Counter[str]
) -> bytes:
    stream = BytesIO()
    options: dict[str, Any] = {}
    if form == tarfile.PAX_FORMAT and draw(st.booleans()):
        options["pax_headers"] = {"comment": "of all members"}
    with tarfile.open(
        fileobj=stream, mode="w", format=form, encoding="utf-8", **options
    ) as tar:
        for sample in samples:
            _add_others(draw, tar, skipped)
            for extension, payload in sample.items():
                if extension != "__key__":
                    cased = draw(st.sampled_from([extension, extension.upper()]))
                    member = _member(draw, f"{sample['__key__']}.{cased}", form)
                    member.size = len(payload)
                    tar.addfile(member, BytesIO(payload))
        _add_others(draw, tar, skipped)
    return stream.getvalue()


def _add_others(draw: st.DrawFn, tar: tarfile.TarFile, skipped: Counter[str]) -> None:
    reason = draw(st.sampled_from([None, None, *NO_SAMPLES]))
    if reason is not None:
        kind, name = NO_SAMPLES[reason]
        member = _member(draw, name, tar.format or tarfile.USTAR_FORMAT)
        member.type, member.linkname = kind, "to"
        tar.addfile(member, BytesIO())
        skipped[reason] += 1


def _member(draw: st.DrawFn, name: str, form: int) -> tarfile.TarInfo:
    """A header with facts that mean nothing to us, in whatever numbers."""
    member = tarfile.TarInfo(draw(st.sampled_from(["", "./"])) + name)
    uid, moment = draw(_uids), draw(_times)
    is_old = form == tarfile.USTAR_FORMAT
    member.uid = uid % 2**21 if is_old else uid
    member.mtime = int(moment) % 2**33 if is_old else moment
    member.uname = draw(st.sampled_from(["", "root", "größe"]))
    member.mode = draw(st.sampled_from([0o444, 0o755, 0o7777]))
    if form == tarfile.PAX_FORMAT and draw(st.booleans()):
        member.pax_headers = {"SCHILY.xattr.user.a": "b=c\n"}
    return member
