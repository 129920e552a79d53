"""``shardbuild index``: indexes and a manifest for shards that others wrote."""

from __future__ import annotations

import hashlib
import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from shardbuild.cli import options
from shardbuild.cli.printing import count_of, print_json, printable
from shardbuild.errors import DestinationError, ManifestError, StorageError
from shardbuild.shards.index import ShardIndex, index_url, save_index
from shardbuild.shards.manifest import (
    Manifest,
    ShardFacts,
    load_manifest,
    make_manifest,
    manifest_url,
    save_manifest,
    version_facts,
)
from shardbuild.shards.peerindexes import dali_index, energon_index
from shardbuild.shards.reader import scan_stream
from shardbuild.storage import (
    exists,
    expand_urls,
    gopen,
    is_remote,
    protocol_of,
    stat_urls,
    write_bytes,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from shardbuild.shards.samples import KeyRule
    from shardbuild.storage import StorageOptions, UrlFacts

__all__ = ["parse", "run"]

DESCRIPTION = """\
Write what shards that others wrote lack: an index beside each shard (SHARD.npz) and,
for several shards or with --manifest, the manifest of all of them.

Each shard is read once, and all is checked that reading checks. The manifest is
written last; where another one is, nothing is done unless --overwrite is given. Of
shards on a store it keeps their versions: a feed refuses those that were replaced."""

EXAMPLES = ("'b-{0..1}.tar'",)

_SHARD_NUMBER = re.compile(
    r"\d+(?:-of-\d+)?(?=[^\d/]*\.(?:tar|tar\.gz|tar\.zst|tar\.bz2|tar\.xz|tgz)$)"
)


@dataclass(frozen=True, slots=True)
class PeerForm:
    """How another program keeps the index of a shard."""

    url: Callable[[str], str]
    data: Callable[[ShardIndex], bytes]


PEERS = {
    "dali": PeerForm(
        lambda url: re.sub(r"\.[^./]*$", "", url) + ".idx",
        lambda index: dali_index(index).encode(),
    ),
    "energon": PeerForm(lambda url: url + ".idx", energon_index),
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild index``."""
    parser = options.make_parser("index", DESCRIPTION, *EXAMPLES)
    parser.add_argument(
        "urls", nargs="+", metavar="URL", help="shards (globs, braces, @FILE)"
    )
    parser.add_argument(
        "--manifest",
        metavar="URL",
        help="where the manifest is written (default, for several shards: by their "
        "name, out/train.json for out/train-000000.tar and so on)",
    )
    parser.add_argument(
        "--peers",
        type=options.argument_type(_parse_peers),
        default=(),
        metavar="NAMES",
        help="also write the index as these have it: dali (SHARD without .tar, .idx), "
        "energon (SHARD.idx); with a comma between",
    )
    parser.add_argument(
        "--key-rule",
        choices=("first-dot", "last-dot"),
        default="first-dot",
        help="where a name's key ends and its extension begins (default: first-dot, "
        "the format's rule)",
    )
    parser.add_argument(
        "--workers",
        type=options.COUNT,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="shards read at once (default: one a core)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another manifest"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_common_options(parser)
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> int:
    """Write indexes, then the manifest, and say what was written."""
    storage_options = options.storage_options(args)
    urls = expand_urls(args.urls, storage_options)
    for url in urls:
        if protocol_of(url) in {None, "pipe"}:
            raise StorageError(url, "has no place beside it for an index")
    target = args.manifest or (_common_manifest(urls) if len(urls) > 1 else None)
    if target and not args.overwrite:
        _refuse_another(target, urls, storage_options)

    def write(url: str) -> ShardFacts:
        return _write_indexes(url, args.key_rule, args.peers, storage_options)

    has_versions = target is not None and all(map(is_remote, urls))
    before = stat_urls(urls, storage_options) if has_versions else []
    shards = []
    with ThreadPoolExecutor(args.workers) as pool:
        for facts in pool.map(write, urls):
            shards.append(facts)
            if not args.json:
                samples = count_of(facts.num_samples, "sample")
                print(f"{printable(index_url(facts.url))}: {samples}")
    if target:
        seen = {}
        if has_versions:
            after = stat_urls(urls, storage_options)
            seen = version_facts(target, _unchanged(before, after))
        manifest = make_manifest(shards, target, seen)
        if not args.overwrite:
            _refuse_different(target, manifest, storage_options)
        save_manifest(manifest, target, storage_options=storage_options)
    _print_result(target, shards, as_json=args.json)
    return 0


def _unchanged(before: Sequence[UrlFacts], after: Sequence[UrlFacts]) -> list[str]:
    """Return the versions of shards that are the same before and after reading."""
    for first, then in zip(before, after, strict=True):
        if first != then:
            raise StorageError(first.url, "has changed while it was read")
    return [facts.fingerprint for facts in after]


def _print_result(
    target: str | None, shards: list[ShardFacts], *, as_json: bool
) -> None:
    if as_json:
        print_json({"manifest": target, "shards": shards})
    elif target:
        samples = count_of(sum(facts.num_samples for facts in shards), "sample")
        print(f"{printable(target)}: {count_of(len(shards), 'shard')}, {samples}")


def _parse_peers(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in PEERS:
            raise ValueError(f"{name!r} is none of {', '.join(PEERS)}")
    return names


def _common_manifest(urls: Sequence[str]) -> str:
    """Return where the manifest of these shards belongs, by their names.

    >>> _common_manifest(["out/train-000.tar", "out/train-001.tar"])
    'out/train.json'
    >>> _common_manifest(["v2/val-0-of-2.tar.bz2", "v2/val-1-of-2.tar.bz2"])
    'v2/val.json'
    """
    targets = {manifest_url(_SHARD_NUMBER.sub("%06d", url)) for url in urls}
    if len(targets) > 1:
        problem = "the shards have no common name: say with --manifest where it goes"
        raise ManifestError(" and ".join(sorted(targets)[:2]), problem)
    return targets.pop()


def _refuse_another(
    target: str, urls: Sequence[str], storage_options: StorageOptions | None
) -> None:
    """Refuse to replace the manifest of other shards, before anything is read."""
    if not exists(target, storage_options):
        return
    there = load_manifest(target, storage_options=storage_options)
    if there.shard_urls(target) != list(urls):
        problem = "is the manifest of other shards: --overwrite replaces it"
        raise DestinationError(target, problem)


def _refuse_different(
    target: str, manifest: Manifest, storage_options: StorageOptions | None
) -> None:
    if not exists(target, storage_options):
        return
    there = load_manifest(target, storage_options=storage_options)
    if there != manifest:
        problem = "says other things of these shards: --overwrite replaces it"
        raise DestinationError(target, problem)


def _write_indexes(
    url: str,
    key_rule: KeyRule,
    peers: Sequence[str],
    storage_options: StorageOptions | None,
) -> ShardFacts:
    """Read a shard once, write its indexes, and return what is known of it."""
    with gopen(url, storage_options=storage_options) as stream:
        hashing = HashingStream(stream)
        # What has readinto is all that reading a shard asks for.
        index = scan_stream(cast("BinaryIO", hashing), url, key_rule=key_rule)
        hashing.drain()
    save_index(index, url, storage_options=storage_options)
    if peers and index.num_bytes != hashing.num_bytes:
        problem = f"is compressed: {' and '.join(peers)} can use an index of plain tars"
        raise ManifestError(url, problem)
    for name in peers:
        peer = PEERS[name]
        try:
            data = peer.data(index)
        except ValueError as error:
            raise ManifestError(peer.url(url), str(error)) from error
        write_bytes(peer.url(url), data, storage_options=storage_options)
    return ShardFacts(url, index.num_samples, hashing.num_bytes, hashing.sha256)


class HashingStream(io.RawIOBase):
    """A stream that passes on another's bytes, and knows their sum afterwards.

    >>> stream = HashingStream(io.BytesIO(b"abc"))
    >>> stream.read(1)
    b'a'
    >>> stream.drain()
    >>> stream.num_bytes, stream.sha256[:8]
    (3, 'ba7816bf')
    """

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    @property
    def sha256(self) -> str:
        """The sum of all bytes read so far, in hex."""
        return self._digest.hexdigest()

    def readinto(self, buffer: Any) -> int:
        num_bytes = int(self._stream.readinto(buffer))
        self._digest.update(memoryview(buffer)[:num_bytes])
        self.num_bytes += num_bytes
        return num_bytes

    def drain(self) -> None:
        """Read what is left."""
        rest = bytearray(1 << 16)
        while self.readinto(rest):
            pass
