"""A sample as files in a folder of its own, and samples of the files found there.

No name out of a data set is a path: a file is called by the caller's base name, a
dot and the field's name, which may have no slash in it, in a folder made for it.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardbuild.errors import SampleError
from shardbuild.shards.samples import base_plus_ext
from shardbuild.streams.choosing import field_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from shardbuild.shards.samples import Sample

__all__ = ["Naming", "read_scratch", "write_scratch"]

_META = re.compile(r"__[a-z0-9_]+__")
_MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Naming:
    """How files are called, and which of them make the new sample."""

    base: str = "sample"
    separator: str = ""
    """Between the key and what a file's name has after the base."""
    include: re.Pattern[str] | None = None
    exclude: re.Pattern[str] | None = None

    def takes(self, name: str) -> bool:
        """Say whether a file of this name is part of the output.

        >>> Naming(exclude=re.compile("tmp$")).takes("sample.tmp")
        False
        >>> Naming().takes("sample.jpg"), Naming().takes("log.txt")
        (True, False)
        """
        if not name.startswith(self.base):
            return False
        if self.include is not None and not self.include.search(name):
            return False
        return self.exclude is None or not self.exclude.search(name)

    def split(self, key: str, name: str) -> tuple[str, str] | None:
        """The key and the field of a file; None for one that has no extension.

        >>> Naming(separator="/").split("n01/7", "sample-left.seg.png")
        ('n01/7/-left', 'seg.png')
        >>> Naming().split("n01/7", "sample.JPG")
        ('n01/7', 'jpg')
        """
        parts = base_plus_ext(name)
        if parts is None or not parts[1]:
            return None
        extra = parts[0].removeprefix(self.base)
        return (f"{key}{self.separator}{extra}" if extra else key), parts[1].lower()


def write_scratch(folder: Path, sample: Sample, naming: Naming) -> None:
    """Write each field into a file; a meta field into one that is called as it is.

    Raises:
        SampleError: a field's name can be no file's, or its value no bytes.
    """
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in sample:
            if name.startswith("__"):
                if _META.fullmatch(name) and isinstance(sample[name], str | bytes):
                    _create(directory, name, field_bytes(sample, name))
                continue
            file_name = f"{naming.base}.{name}"
            if not _is_file_name(file_name):
                problem = f"its field {name!r} can be no file's name: choose others"
                raise SampleError("<scratch>", problem, str(sample.get("__key__")))
            _create(directory, file_name, field_bytes(sample, name))
    finally:
        os.close(directory)


def _is_file_name(name: str) -> bool:
    if "/" in name or "\0" in name:
        return False
    try:
        return len(os.fsencode(name)) <= _MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


def _create(directory: int, name: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(name, flags, 0o644, dir_fd=directory), "wb") as file:
        file.write(data)


def read_scratch(folder: Path, key: str, naming: Naming) -> list[Sample]:
    """The samples that the files of a folder make, the one of the key itself first.

    Only files count whose names begin with the base: no folders, and no links.

    Raises:
        SampleError: two files are the same field.
    """
    samples: dict[str, Sample] = {}
    for path in sorted(folder.iterdir()):
        if not naming.takes(path.name) or not stat.S_ISREG(path.lstat().st_mode):
            continue
        place = naming.split(key, path.name)
        if place is None:
            continue
        its_key, field = place
        sample = samples.setdefault(its_key, {"__key__": its_key})
        if field in sample:
            problem = f"the command made two files for its field {field!r}"
            raise SampleError("<scratch>", problem, its_key)
        sample[field] = path.read_bytes()
    own = samples.pop(key, None)
    return ([] if own is None else [own]) + [samples[name] for name in sorted(samples)]
