"""Tars as others make them: by every tool that people have, from one folder."""

from __future__ import annotations

import functools
import os
import random
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import webdataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from shardbuild.shards.samples import Sample

    Maker: TypeAlias = Callable[["Tree", Path], list[Sample]]
    """Makes a tar of a folder at a path; tells what is in it."""

_ENVIRONMENT = {
    **os.environ,
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    # What somebody's git is told to do is not for here.
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


def run(*command: str | Path, status: int = 0) -> bytes:
    """Run a tool that has to succeed; what it printed."""
    done = subprocess.run(command, capture_output=True, env=_ENVIRONMENT, check=False)
    if done.returncode != status:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stderr.decode()}")
    return done.stdout


# -- samples with everything that is hard on a format ------------------------------

_FOLDERS = "/".join(f"folder-{i}-{'x' * 30}" for i in range(3))
_MANY_FOLDERS = "/".join(f"folder-{i}-{'é' * 40}" for i in range(4))

SHORT_KEYS = (
    *("0", "0-b", "naïve/日本語-Ω", "sub/deep.er/c", "sub/deep/c"),
    *("sub 2/with  space", "upper/CASE", "zwölf"),
)
PREFIX_KEYS = (f"{_FOLDERS}/k1", f"{_FOLDERS}/k2")
"""Names of more than 100 bytes that ustar holds in two parts."""
LONG_KEYS = (f"{_MANY_FOLDERS}/ä1", f"{_MANY_FOLDERS}/ä2", "y" * 150)
"""Names for which there is no place in a ustar header."""


def odd_samples(keys: tuple[str, ...]) -> list[Sample]:
    """Samples of these keys, sorted: empty fields, whole blocks, several dots."""
    rng = random.Random(11)
    ordered = sorted(keys, key=str.encode)
    return [
        {
            "__key__": key,
            "bin": rng.randbytes(301 * i),
            "cls": b"%d" % i,
            "dat": b"" if i % 2 else b"=" * 512,
            "seg.mask.dat": rng.randbytes(1024),
            "txt": f"Nº {i}\n".encode(),
        }
        for i, key in enumerate(ordered)
    ]


# -- the folder ----------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """A folder of files that are samples, and of some that are none."""

    root: Path
    samples: list[Sample]

    @classmethod
    def make(cls, root: Path, keys: tuple[str, ...]) -> Tree:
        samples = odd_samples(keys)
        for sample in samples[::4]:
            del sample["seg.mask.dat"]
        for sample in samples:
            for name, data in _members(sample):
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        (root / "README").write_text("no extension")
        (root / ".hidden.txt").write_text("not a sample's")
        (root / "link.txt").symlink_to("0.txt")
        return cls(root, samples)

    def that_fit(self, has_place: Callable[[str], bool]) -> list[Sample]:
        """The samples all of whose names a format has place for."""
        return [
            sample
            for sample in self.samples
            if all(has_place(name) for name, _ in _members(sample))
        ]

    def in_order_of(self, names: list[str]) -> list[Sample]:
        """The samples in the order in which their first members are named."""
        owners = {
            n: i for i, each in enumerate(self.samples) for n, _ in _members(each)
        }
        found = [owners[name] for name in names if name in owners]
        return [self.samples[i] for i in dict.fromkeys(found)]


def _members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    """Names and payloads; one sample has upper-case extensions, which mean the same."""
    key = sample["__key__"]
    for extension, data in sorted(sample.items()):
        if extension != "__key__":
            written = extension.upper() if key.endswith("CASE") else extension
            yield f"{key}.{written}", data


def _in_v7(name: str) -> bool:
    return len(name.encode()) <= 99


def has_place_in_ustar(name: str) -> bool:
    """Whether a name fits a ustar header, if need be in two parts."""
    raw = name.encode()
    cuts = [i for i, byte in enumerate(raw) if byte == ord("/") and i <= 155]
    return len(raw) <= 100 or any(len(raw) - cut - 1 <= 100 for cut in cuts)


def _anywhere(_name: str) -> bool:
    return True


# -- tools that are told the names, in order ----------------------------------------

_TOLD: dict[str, tuple[Callable[[str], bool], str]] = {
    **{
        f"GNU tar {form}": (place, f"tar --format={form} -C ROOT -T NAMES -cf OUT")
        for form, place in {
            "v7": _in_v7,
            "ustar": has_place_in_ustar,
            "oldgnu": _anywhere,
            "gnu": _anywhere,
            "posix": _anywhere,
        }.items()
    },
    **{
        f"bsdtar {form}": (place, f"bsdtar --format {form} -C ROOT -n -T NAMES -cf OUT")
        for form, place in {
            "v7": _in_v7,
            "ustar": has_place_in_ustar,
            "gnutar": _anywhere,
            "pax": _anywhere,
        }.items()
    },
    "busybox tar": (_anywhere, "xargs -d \\n -a NAMES busybox tar -C ROOT -cf OUT"),
    # Numbers that octal digits have no place for.
    "GNU tar gnu, odd numbers": (
        _anywhere,
        "tar --format=gnu --owner=:3000000000 --mtime=@-1 -C ROOT -T NAMES -cf OUT",
    ),
    "GNU tar posix, odd numbers": (
        _anywhere,
        "tar --format=posix --owner=ä:3000000000 --mtime=@-1 -C ROOT -T NAMES -cf OUT",
    ),
    "GNU tar, a label": (_anywhere, "tar --label=vol -C ROOT -T NAMES -cf OUT"),
    "GNU tar, one block a record": (_anywhere, "tar -b 1 -C ROOT -T NAMES -cf OUT"),
}


def _told(tool: str, tree: Tree, out: Path) -> list[Sample]:
    has_place, template = _TOLD[tool]
    samples = tree.that_fit(has_place)
    _run_template(template, tree, samples, out)
    return samples


def _run_template(template: str, tree: Tree, samples: list[Sample], out: Path) -> None:
    names = out.with_suffix(".names")
    lines = [f"{name}\n" for sample in samples for name, _ in _members(sample)]
    names.write_text("".join(lines))
    places = {"ROOT": str(tree.root), "NAMES": str(names), "OUT": str(out)}
    run(*(places.get(word, word) for word in template.split()))


# -- tools that walk the folder -----------------------------------------------------

_WALK = {
    "GNU tar gnu of .": "tar --format=gnu --sort=name -C ROOT -cf OUT .",
    "GNU tar posix of .": "tar --format=posix --sort=name -C ROOT -cf OUT .",
    "GNU tar, incremental": "tar -g NAMES --sort=name -C ROOT -cf OUT .",
}


def _walk(tool: str, tree: Tree, out: Path) -> list[Sample]:
    _run_template(_WALK[tool], tree, [], out)
    return _as_listed(tree, out)


def _as_listed(tree: Tree, out: Path) -> list[Sample]:
    # Not by tarfile: it takes the times in an incremental header for a folder's name.
    names = run("tar", "--quoting-style=literal", "-tf", out).decode().splitlines()
    return tree.in_order_of([name.removeprefix("./") for name in names])


def _git_archive(tree: Tree, out: Path) -> list[Sample]:
    repository = out.with_suffix(".git")
    author = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    git = ("git", f"--git-dir={repository}", f"--work-tree={tree.root}", *author)
    run(*git, "init", "-q")
    run(*git, "add", "--all", "--force", tree.root)
    run(*git, "commit", "-q", "-m", "all")
    run(*git, "archive", "-o", out, "HEAD")
    return _as_listed(tree, out)


# -- Python -------------------------------------------------------------------------


def _tarfile(form: int, tree: Tree, out: Path) -> list[Sample]:
    has_place = has_place_in_ustar if form == tarfile.USTAR_FORMAT else _anywhere
    samples = tree.that_fit(has_place)
    with tarfile.open(out, "w", format=form) as tar:
        for sample in samples:
            for name, _ in _members(sample):
                tar.add(tree.root / name, name)
    return samples


def _webdataset(options: dict[str, Any], tree: Tree, out: Path) -> list[Sample]:
    pattern = f"{out}.%06d"
    with webdataset.ShardWriter(pattern, verbose=0, **options) as writer:
        for sample in tree.samples:
            key = sample["__key__"]
            named = {name[len(key) + 1 :]: data for name, data in _members(sample)}
            writer.write({"__key__": key, **named})
    shutil.move(pattern % 0, out)
    return tree.samples


# -- two that become one ------------------------------------------------------------

_HALF = "tar -C ROOT -T NAMES -cf OUT"


def _halves(tree: Tree, out: Path) -> tuple[Path, Path]:
    first, second = out.with_suffix(".1"), out.with_suffix(".2")
    _run_template(_HALF, tree, tree.samples[:5], first)
    _run_template(_HALF, tree, tree.samples[5:], second)
    return first, second


def _cat(tree: Tree, out: Path) -> list[Sample]:
    halves = _halves(tree, out)
    out.write_bytes(b"".join(half.read_bytes() for half in halves))
    return tree.samples


def _append(tree: Tree, out: Path) -> list[Sample]:
    _run_template(_HALF, tree, tree.samples[:5], out)
    _run_template("tar -C ROOT -T NAMES -rf OUT", tree, tree.samples[5:], out)
    return tree.samples


def _concatenate(tree: Tree, out: Path) -> list[Sample]:
    first, second = _halves(tree, out)
    run("tar", "-Af", first, second)
    shutil.move(first, out)
    return tree.samples


MAKERS: dict[str, Maker] = {
    **{tool: functools.partial(_told, tool) for tool in _TOLD},
    **{tool: functools.partial(_walk, tool) for tool in _WALK},
    "git archive": _git_archive,
    "tarfile ustar": functools.partial(_tarfile, tarfile.USTAR_FORMAT),
    "tarfile gnu": functools.partial(_tarfile, tarfile.GNU_FORMAT),
    "tarfile pax": functools.partial(_tarfile, tarfile.PAX_FORMAT),
    "webdataset": functools.partial(_webdataset, {}),
    "webdataset mtime=0": functools.partial(_webdataset, {"mtime": 0}),
    "cat": _cat,
    "GNU tar -r": _append,
    "GNU tar -A": _concatenate,
}

WALKERS = {*_WALK, "git archive"}
"""Those that put in all there is, files of no sample too."""


# -- compressed ---------------------------------------------------------------------

_PACK = {
    "gzip": "gzip -c",
    "gzip -1": "gzip -1 -c",
    "bzip2": "bzip2 -c",
    "xz": "xz -c",
    "xz, many blocks": "xz -0 --block-size=4096 --check=sha256 -c",
    "zstd": "zstd -q -c",
    "zstd -19": "zstd -q -19 --long=27 --no-check -c",
}


def _pack(tool: str, tree: Tree, out: Path) -> list[Sample]:
    plain = out.with_suffix(".plain")
    samples = _told("GNU tar posix", tree, plain)
    out.write_bytes(run(*_PACK[tool].split(), plain))
    return samples


def _pack_parts(tool: str, tree: Tree, out: Path) -> list[Sample]:
    halves = _halves(tree, out)
    out.write_bytes(b"".join(run(*_PACK[tool].split(), half) for half in halves))
    return tree.samples


def _git_archive_gz(tree: Tree, out: Path) -> list[Sample]:
    packed = out.with_suffix(".tar.gz")
    samples = _git_archive(tree, packed)
    shutil.move(packed, out)
    return samples


PACKERS: dict[str, Maker] = {
    **{tool: functools.partial(_pack, tool) for tool in _PACK},
    **{
        f"cat of {tool}": functools.partial(_pack_parts, tool)
        for tool in ("gzip", "bzip2", "xz", "zstd")
    },
    "git archive, gzip": _git_archive_gz,
    "webdataset, gzip": functools.partial(_webdataset, {"compress": True}),
}
