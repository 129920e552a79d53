"""Names of files taken apart, and small helpers for local files.

The rule of keys and extensions is that of `shardbuild.shards.samples`, where
`base_plus_ext` is: the extension begins at the first dot of the file's own name,
and a hidden file (``.x``, ``d/.x.txt``) has none. So folders with dots, names
without a dot and hidden files are no traps.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from shardbuild.storage.publish import read_bytes, write_bytes

if TYPE_CHECKING:
    from shardbuild.storage.urlparts import StorageOptions

__all__ = [
    "ChDir",
    "DirPlusFile",
    "FilePlusExt",
    "dir_plus_file",
    "filebase",
    "fullext",
    "read_binary",
    "write_binary",
]


def dir_plus_file(path: str) -> tuple[str, str] | None:
    """Split a path into its folder and the file's own name; None without a folder.

    >>> dir_plus_file("a/b/c.txt"), dir_plus_file("/c.txt"), dir_plus_file("c.txt")
    (('a/b', 'c.txt'), ('', 'c.txt'), None)
    """
    folder, slash, name = path.rpartition("/")
    return (folder, name) if slash else None


def filebase(fname: str) -> str:
    """A path without all of its extensions.

    >>> filebase("v1.5/0007.seg.png"), filebase("v1.5/README"), filebase("d/.x.txt")
    ('v1.5/0007', 'v1.5/README', 'd/.x.txt')
    """
    dot = _first_dot(fname)
    return fname if dot < 0 else fname[:dot]


def fullext(fname: str) -> str:
    """All extensions of a path, without the first dot; empty if there are none.

    >>> fullext("v1.5/0007.seg.png"), fullext("v1.5/README"), fullext("d/.x.txt")
    ('seg.png', '', '')
    """
    dot = _first_dot(fname)
    return "" if dot < 0 else fname[dot + 1 :]


def _first_dot(path: str) -> int:
    """Where the extension's dot stands; -1 if there is none."""
    start = path.rfind("/") + 1
    return -1 if path.startswith(".", start) else path.find(".", start)


class FilePlusExt:
    """A path seen as a sample and one field of it: ``base`` and ``key``.

    >>> path = FilePlusExt("n01/0007.seg.png")
    >>> path.base(), path.key()
    ('n01/0007', 'seg.png')
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def base(self) -> str:
        return filebase(self.path)

    def key(self) -> str:
        return fullext(self.path)


class DirPlusFile:
    """A path seen as a folder, which is a sample, and a file, its field.

    >>> path = DirPlusFile("n01/0007/seg.png")
    >>> path.base(), path.key()
    ('n01/0007', 'seg.png')
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def base(self) -> str:
        return self.path.rpartition("/")[0]

    def key(self) -> str:
        return self.path.rpartition("/")[2]


class ChDir(contextlib.chdir[str]):
    """Work in another folder inside a ``with`` block, then in the one before.

    The working folder is the whole process's: other threads see it change.

    >>> import os, tempfile
    >>> before = os.getcwd()
    >>> with tempfile.TemporaryDirectory() as folder, ChDir(folder):
    ...     os.path.samefile(".", folder)
    True
    >>> os.getcwd() == before
    True
    """


def read_binary(fname: str, *, storage_options: StorageOptions | None = None) -> bytes:
    r"""All bytes of a file, or of any other url.

    >>> write_binary("memory://doc/binary.txt", "größer")
    >>> read_binary("memory://doc/binary.txt")
    b'gr\xc3\xb6\xc3\x9fer'

    Raises:
        StorageError: There is no such file, or it cannot be read.
    """
    return read_bytes(fname, storage_options=storage_options)


def write_binary(
    fname: str,
    data: bytes | bytearray | memoryview | str,
    *,
    storage_options: StorageOptions | None = None,
) -> None:
    """Write a file, or any other url, at once; text becomes UTF-8.

    >>> write_binary("memory://doc/binary.bin", b"bytes")

    Raises:
        StorageError: It cannot be written. Nothing is left behind.
    """
    encoded = data.encode("utf-8") if isinstance(data, str) else data
    write_bytes(fname, encoded, storage_options=storage_options)
