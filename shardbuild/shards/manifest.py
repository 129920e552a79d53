"""The manifest: the list of a data set's shards, written last of all.

It is a superset of the index that wids reads, so that wids opens it as it is.
What only we know is under the one key ``"shardbuild"``. Nothing in it depends on
the clock or the machine: the same data set has the same manifest, byte for byte. Only
``shardbuild index`` adds what a store tells of the shards that are there already:
their versions, which hold as long as the manifest is read where it was made.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin

from shardbuild.errors import ManifestError
from shardbuild.storage.publish import read_bytes, write_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shardbuild.storage.urls import StorageOptions

__all__ = [
    "Manifest",
    "ShardColumns",
    "ShardFacts",
    "load_manifest",
    "make_manifest",
    "manifest_url",
    "names_manifest",
    "report_url",
    "save_manifest",
    "version_facts",
]

_KIND = "wids-shard-index-v1"
_VERSIONS = "versions"
_SUFFIX = re.compile(r"\.(?:tar(?:\.(?:gz|zst|bz2|xz))?|tgz)$")
_NUMBER = re.compile(r"%0?\d*d")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?://|/|$)")
# Where the peers' manifests point to. Nothing here runs a command, chains one
# file system into another, or reads the disk of who loads the manifest.
_STORES = frozenset(
    ("abfs", "abfss", "az", "gcs", "gs", "hf", "http", "https", "oss", "r2", "s3")
)


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What is known of one whole shard."""

    url: str
    """Where it is; in a ``Manifest``, seen from the manifest's folder."""
    num_samples: int
    num_bytes: int | None
    """Size of its file; None where a manifest of others does not say."""
    sha256: str | None = None
    """Of its file, in hex; None if it was not computed."""
    md5: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A data set: its shards in order, and what its maker says of it.

    >>> manifest = Manifest((ShardFacts("a-000.tar", 7, 10240),), {"seed": 1}, "a")
    >>> Manifest.from_bytes(manifest.to_bytes()) == manifest
    True
    >>> manifest.shard_urls("s3://bucket/a.json")
    ['s3://bucket/a-000.tar']
    """

    shards: tuple[ShardFacts, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Seed, order, job, inputs, counts by field: anything JSON holds."""
    name: str = ""

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards whose size is known."""
        return sum(shard.num_bytes or 0 for shard in self.shards)

    def shard_urls(self, manifest_url: str) -> list[str]:
        """Where the shards are, for a manifest that lies at ``manifest_url``.

        Raises:
            ManifestError: a url in it leads where no manifest may lead: out of its
                folder by ``..``, into a command, or from a store to the local disk.
        """
        return [_resolve(shard.url, manifest_url) for shard in self.shards]

    def to_bytes(self) -> bytes:
        """The manifest as JSON: the same bytes for the same data set.

        Raises:
            ManifestError: ``facts`` holds what JSON does not.
        """
        document = {
            "__kind__": _KIND,
            "wids_version": 1,
            "name": self.name,
            "shardlist": [_entry(shard) for shard in self.shards],
            "shardbuild": {
                "manifest_version": 1,
                "facts": dict(self.facts),
                "sha256": [shard.sha256 for shard in self.shards],
            },
        }
        try:
            text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as problem:
            raise ManifestError(
                self.name, f"its facts cannot be written as JSON: {problem}"
            ) from problem
        return text.encode("ascii") + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, url: str = "<bytes>") -> Manifest:
        """The manifest that ``to_bytes`` or a peer of wids's form made.

        Raises:
            ManifestError: ``data`` is not such a manifest.
        """
        document, entries, sums = _checked(data, url)
        facts = document.get("shardbuild", {}).get("facts", {})
        name = document.get("name", "")
        return cls(
            shards=tuple(
                _facts(entry, digest, url)
                for entry, digest in zip(entries, sums, strict=True)
            ),
            facts=facts,
            name=name if isinstance(name, str) else "",
        )


def _checked(data: bytes, url: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """The document, its list of shards, and a sha256 or None for each of them."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise ManifestError(url, f"not JSON: {problem}") from problem
    if not isinstance(document, dict) or document.get("wids_version") != 1:
        raise ManifestError(url, "not a manifest: it has no 'wids_version' 1")
    entries = document.get("shardlist")
    if not isinstance(entries, list):
        raise ManifestError(url, "not a manifest: it has no 'shardlist'")
    own = document.get("shardbuild", {})
    if not isinstance(own, dict) or own.get("manifest_version", 1) != 1:
        raise ManifestError(url, "its 'shardbuild' part is of no known version")
    sums = own.get("sha256", [None] * len(entries))
    if not isinstance(sums, list) or len(sums) != len(entries):
        raise ManifestError(url, "its 'sha256' does not list every shard")
    if not isinstance(own.get("facts", {}), dict):
        raise ManifestError(url, "its 'facts' are not a mapping")
    return document, entries, sums


class ShardColumns(NamedTuple):
    """What a manifest says of its shards, as columns: for a million of them."""

    urls: list[str]
    """As the manifest has them."""
    counts: list[int]
    sizes: list[int | None]
    digests: list[str | None]
    versions: list[str | None]
    """As `UrlFacts.fingerprint` has them, where they are known."""
    is_ours: bool
    """Whether we wrote it: then its counts and sizes are those of the shards."""

    @classmethod
    def from_bytes(cls, data: bytes, url: str = "<bytes>") -> ShardColumns:
        """The columns of what `Manifest.from_bytes` takes.

        >>> manifest = Manifest((ShardFacts("a-000.tar", 7, 10240),))
        >>> ShardColumns.from_bytes(manifest.to_bytes())[:3]
        (['a-000.tar'], [7], [10240])

        Raises:
            ManifestError: ``data`` is not such a manifest.
        """
        document, entries, sums = _checked(data, url)
        is_ours = "shardbuild" in document
        versions = _versions_in(document, url, len(entries))
        if set(map(type, entries)) <= {dict}:
            urls = [entry.get("url") for entry in entries]
            counts = [entry.get("nsamples") for entry in entries]
            sizes = [entry.get("filesize") for entry in entries]
            if _are_sound(urls, counts, sizes, sums):
                return cls(urls, counts, sizes, sums, versions, is_ours)
        # One by one: this finds the one that is wrong, or none.
        shards = [_facts(*pair, url) for pair in zip(entries, sums, strict=True)]
        return cls(
            [shard.url for shard in shards],
            [shard.num_samples for shard in shards],
            [shard.num_bytes for shard in shards],
            [shard.sha256 for shard in shards],
            versions,
            is_ours,
        )


def _are_sound(
    urls: list[Any], counts: list[Any], sizes: list[Any], sums: list[Any]
) -> bool:
    """Whether whole columns are what they have to be; False where that is not plain."""
    return (
        set(map(type, urls)) <= {str}
        and "" not in urls
        and set(map(type, counts)) <= {int}
        and min(counts, default=0) >= 0
        and set(map(type, sizes)) <= {int}
        and min(sizes, default=0) >= 0
        and set(map(type, sums)) <= {str}
        and set(map(len, sums)) <= {64}
        and set("".join(sums)) <= set("0123456789abcdef")
    )


def version_facts(url: str, versions: Sequence[str]) -> dict[str, Any]:
    """What the manifest at ``url`` says of the versions of its shards on a store.

    >>> manifest = make_manifest(
    ...     [ShardFacts("s3://b/a-0.tar", 7, 10240)],
    ...     "s3://b/a.json",
    ...     version_facts("s3://b/a.json", ["10240-5d41"]),
    ... )
    >>> ShardColumns.from_bytes(manifest.to_bytes(), "s3://b/a.json").versions
    ['10240-5d41']
    >>> ShardColumns.from_bytes(manifest.to_bytes(), "s3://copied/a.json").versions
    [None]
    """
    return {_VERSIONS: {"at": url, "of": list(versions)}}


def _versions_in(document: dict[str, Any], url: str, count: int) -> list[str | None]:
    own = document.get("shardbuild", {})
    seen = own.get("facts", {}).get(_VERSIONS)
    if seen is None or not isinstance(seen, dict) or seen.get("at") != url:
        return [None] * count
    versions = seen.get("of")
    if (
        not isinstance(versions, list)
        or len(versions) != count
        or not set(map(type, versions)) <= {str}
    ):
        raise ManifestError(url, f"its {_VERSIONS!r} do not list every shard")
    return versions


def make_manifest(
    shards: Iterable[ShardFacts], url: str, facts: Mapping[str, Any] | None = None
) -> Manifest:
    """The manifest, to be kept at ``url``, of shards whose urls are whole.

    >>> shards = [ShardFacts("out/train-000000.tar", 3, 10240)]
    >>> manifest = make_manifest(shards, "out/train.json")
    >>> manifest.name, manifest.shards[0].url
    ('train', 'train-000000.tar')
    """
    folder, _, name = url.rpartition("/")
    relative = tuple(
        ShardFacts(
            _seen_from(folder, shard.url),
            shard.num_samples,
            shard.num_bytes,
            shard.sha256,
            shard.md5,
        )
        for shard in shards
    )
    return Manifest(relative, dict(facts or {}), name.removesuffix(".json"))


def manifest_url(pattern: str) -> str:
    """Where the manifest of the shards of ``pattern`` is kept.

    >>> manifest_url("s3://bucket/out/train-%06d.tar.zst")
    's3://bucket/out/train.json'
    >>> manifest_url("%06d.tar")
    'dataset.json'
    """
    return _beside(pattern, ".json")


def report_url(pattern: str) -> str:
    """Where the report of the run that wrote ``pattern`` is kept.

    >>> report_url("out/train-%06d.tar")
    'out/train.report.json'
    """
    return _beside(pattern, ".report.json")


def names_manifest(spec: str) -> bool:
    """Whether a url spec without braces is the url of a manifest.

    >>> names_manifest("s3://b/train.json"), names_manifest("s3://b/*.json")
    (True, False)
    """
    is_pattern = spec.startswith(("@", "pipe:")) or any(sign in spec for sign in "*?[")
    return spec.lower().endswith(".json") and not is_pattern


def load_manifest(
    url: str, *, storage_options: StorageOptions | None = None
) -> Manifest:
    """The manifest at ``url``.

    Raises:
        ManifestError: it is damaged, or not a manifest.
        StorageError: it cannot be read.
    """
    return Manifest.from_bytes(read_bytes(url, storage_options=storage_options), url)


def save_manifest(
    manifest: Manifest, url: str, *, storage_options: StorageOptions | None = None
) -> None:
    """Publish the manifest at ``url``, whole or not at all.

    Raises:
        ManifestError: its facts are not JSON.
        StorageError: it cannot be written.
    """
    write_bytes(url, manifest.to_bytes(), storage_options=storage_options)


def _beside(pattern: str, suffix: str) -> str:
    folder, slash, name = pattern.rpartition("/")
    stem = _NUMBER.sub("", _SUFFIX.sub("", name)).rstrip("-_.") or "dataset"
    return folder + slash + stem + suffix


def _seen_from(folder: str, url: str) -> str:
    if not folder:
        return url
    return url.removeprefix(folder + "/")


def _resolve(shard: str, manifest: str) -> str:
    if shard == "-" or shard.lower().startswith("pipe:") or "::" in shard:
        problem = f"it lists {shard!r}: only the caller may name such a url"
        raise ManifestError(manifest, problem)
    if ".." in re.split(r"[/\\]", shard) or "\0" in shard:
        problem = f"it lists {shard!r}: a path with '..' leads out of its folder"
        raise ManifestError(manifest, problem)
    scheme = _SCHEME.match(shard)
    own = _SCHEME.match(manifest)
    is_local = own is None or own[1] == "file"
    if scheme is None and not shard.startswith("/"):
        if own is not None and own[1] in {"http", "https"}:
            return urljoin(manifest, shard)
        folder, slash, _ = manifest.rpartition("/")
        # A colon in a name must not be taken for a scheme.
        return folder + slash + shard if slash or ":" not in shard else f"./{shard}"
    if scheme is None or scheme[1] == "file":
        if is_local:
            return shard
        problem = f"it lists {shard!r}: a manifest on a store may not name local files"
        raise ManifestError(manifest, problem)
    if scheme[1] in _STORES or (own is not None and scheme[1] == own[1]):
        return shard
    problem = f"it lists {shard!r}: a manifest may not lead to {scheme[1]}:"
    raise ManifestError(manifest, problem)


def _entry(shard: ShardFacts) -> dict[str, Any]:
    entry: dict[str, Any] = {"url": shard.url, "nsamples": shard.num_samples}
    if shard.num_bytes is not None:
        entry["filesize"] = shard.num_bytes
    if shard.md5 is not None:
        entry["md5sum"] = shard.md5
    return entry


def _facts(entry: Any, digest: Any, url: str) -> ShardFacts:
    if not isinstance(entry, dict) or not isinstance(entry.get("url"), str):
        raise ManifestError(url, f"a shard has no url: {str(entry)[:200]}")
    shard = entry["url"]
    if not shard:
        raise ManifestError(url, "a shard's url is empty")
    sizes = {"nsamples": entry.get("nsamples"), "filesize": entry.get("filesize", 0)}
    for name, value in sizes.items():
        if type(value) is not int or value < 0:
            raise ManifestError(url, f"{shard!r} has {name!r} {value!r}")
    _check_hex(digest, 64, shard, url)
    _check_hex(entry.get("md5sum"), 32, shard, url)
    return ShardFacts(
        url=shard,
        num_samples=entry["nsamples"],
        num_bytes=entry.get("filesize"),
        sha256=digest,
        md5=entry.get("md5sum"),
    )


def _check_hex(value: Any, length: int, shard: str, url: str) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{length}}}", value):
        raise ManifestError(url, f"{shard!r} has the checksum {value!r}")
