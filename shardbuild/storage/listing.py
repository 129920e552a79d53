"""All files below a folder, in one order everywhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardbuild.errors import StorageError
from shardbuild.storage.filesystems import filesystem_of, store_error
from shardbuild.storage.urlparts import local_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardbuild.storage.urlparts import StorageOptions

__all__ = ["FileFacts", "find_files"]

_VERSION_KEYS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "mtime")


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file below a folder."""

    name: str
    """Its path, seen from the folder, with slashes."""
    num_bytes: int
    fingerprint: str
    """Changes when the file does."""


def find_files(
    url: str, *, storage_options: StorageOptions | None = None
) -> Iterator[FileFacts]:
    """Every file below a folder, sorted by folder and name.

    Links to files are followed, links to folders are not. Hidden files and folders
    (their names start with a dot) are left out.

    Raises:
        StorageError: the folder does not exist or cannot be listed, or a link in it
            leads nowhere.
    """
    root = local_path(url)
    if root is not None:
        yield from _walk(url, root or ".", "")
        return
    fs, path = filesystem_of(url, storage_options)
    base = path.rstrip("/") + "/"
    try:
        fs.invalidate_cache()
        found: dict[str, dict[str, Any]] = fs.find(base, detail=True)
    except Exception as error:
        raise store_error(url, error) from error
    facts = []
    for name, info in found.items():
        inside = name.removeprefix("/")[len(base.removeprefix("/")) :]
        hidden = any(part.startswith(".") for part in inside.split("/"))
        if inside and not hidden and info.get("type", "file") == "file":
            version = [str(info[key]) for key in _VERSION_KEYS if info.get(key)]
            size = int(info["size"])
            facts.append(FileFacts(inside, size, "-".join([str(size), *version])))
    yield from sorted(facts, key=_by_folder)


def _by_folder(facts: FileFacts) -> tuple[list[str], str]:
    *folders, name = facts.name.split("/")
    return folders, name


def _walk(url: str, root: str, folder: str) -> Iterator[FileFacts]:
    """Files of a folder first, then those of each folder in it."""
    try:
        with os.scandir(os.path.join(root, folder)) as listing:
            entries = sorted(
                (entry for entry in listing if not entry.name.startswith(".")),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        problem = f"cannot list the folder: {error.strerror}"
        raise StorageError(url, problem) from error
    for entry in entries:
        if entry.is_file():
            stat = entry.stat()
            name = f"{folder}{entry.name}"
            version = f"{stat.st_size}-{stat.st_mtime_ns}"
            yield FileFacts(name, stat.st_size, version)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            problem = f"{folder}{entry.name} is a link to what is not there: remove it"
            raise StorageError(url, problem)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(url, root, f"{folder}{entry.name}/")
