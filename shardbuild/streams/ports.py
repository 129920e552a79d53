"""Where samples come from and go to: shards, standard streams, and ZMQ, by url."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from shardbuild.shards.index import index_url
from shardbuild.shards.reader import read_samples
from shardbuild.shards.writer import TarWriter
from shardbuild.storage import exists, expand_urls, protocol_of, remove

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shardbuild.shards.samples import KeyRule, Sample
    from shardbuild.storage import StorageOptions

__all__ = ["Sink", "expand_sources", "is_network", "open_sink", "open_source"]


class Sink(Protocol):
    """What takes samples."""

    def write(self, sample: Sample) -> object:
        """Take one sample."""


def is_network(url: str) -> bool:
    """Say whether samples of this url go over ZMQ.

    >>> is_network("a.tar"), is_network("s3://zpush/a.tar"), is_network("-")
    (False, False, False)
    """
    if not (url.startswith("z") and "://" in url):
        return False
    from shardbuild.streams import zcom

    return zcom.is_zmq_url(url)


def expand_sources(
    specs: Sequence[str], storage_options: StorageOptions | None = None
) -> list[str]:
    """The urls that specs stand for, as `expand_urls`; those of ZMQ as they are.

    >>> expand_sources(["a-{0..1}.tar", "-"])
    ['a-0.tar', 'a-1.tar', '-']

    Raises:
        StorageError: A pattern matches nothing, or a list names no url.
        ManifestError: A ``.json`` is no manifest.
    """
    urls: list[str] = []
    for spec in specs:
        if is_network(spec):
            urls.append(spec)
        else:
            urls += expand_urls(spec, storage_options)
    return urls


@contextmanager
def open_source(
    url: str | Sequence[str],
    *,
    storage_options: StorageOptions | None = None,
    key_rule: KeyRule = "first-dot",
    num_producers: int | None = None,
    timeout: float | None = None,
) -> Iterator[Iterator[Sample]]:
    """Open a url to read samples from; closed early, it wants no more of them.

    Args:
        url: a shard by any url, ``-`` for standard input; or a ZMQ url, or several
            that are read as one.
        storage_options: what to pass on to fsspec.
        key_rule: where the key of a member's name ends.
        num_producers: how many writers a ZMQ url hears before it ends; by default
            one, or one for each url that it connects to.
        timeout: seconds without a message on ZMQ that are an error; None waits.

    Raises:
        ShardError: while reading: the shard is damaged.
        StorageError: it cannot be read.
        MissingExtraError: a package for the url is not installed.

    >>> with open_sink("memory://doc/ports.tar") as sink:
    ...     _ = sink.write({"__key__": "a", "txt": "hello"})
    >>> with open_source("memory://doc/ports.tar") as samples:
    ...     next(samples)
    {'__key__': 'a', 'txt': b'hello'}
    """
    if not isinstance(url, str) or is_network(url):
        from shardbuild.streams.zcom import Connection

        urls = [url] if isinstance(url, str) else list(url)
        with Connection(
            urls, num_producers=num_producers, timeout=timeout
        ) as connection:
            yield iter(connection)
        return
    with closing(
        read_samples(url, storage_options=storage_options, key_rule=key_rule)
    ) as samples:
        yield samples


@contextmanager
def open_sink(
    url: str,
    *,
    storage_options: StorageOptions | None = None,
    output_mode: Literal["random", "round_robin"] = "random",
    seed: int = 0,
    **options: Any,
) -> Iterator[Sink]:
    """Open a url to write samples to; an exception in the block publishes nothing.

    An index that lies beside a shard that is replaced is removed: it is not true
    of the new one.

    Args:
        url: a shard by any url, ``-`` for standard output, or a ZMQ url.
        storage_options: what to pass on to fsspec.
        output_mode: ``random`` or ``round_robin``, of several ZMQ urls.
        seed: decides what ``random`` is.
        **options: those of `TarWriter`, for a shard.

    Raises:
        EncodeError: by ``write``: a field cannot be made bytes.
        KeyRuleError: by ``write``: a sample could not be read back.
        StorageError: it cannot be written.
        MissingExtraError: a package for the url is not installed.

    >>> with open_sink("memory://doc/sink.tar") as sink:
    ...     sink.write({"__key__": "a", "cls": 7})
    1
    """
    if is_network(url):
        from shardbuild.streams.zcom import MultiWriter

        with MultiWriter(url, output_mode=output_mode, seed=seed) as writer:
            yield writer
        return
    with TarWriter(
        url, checksum=False, storage_options=storage_options, **options
    ) as tar:
        yield tar
        if protocol_of(url) not in {None, "pipe"}:
            beside = index_url(url)
            if exists(beside, storage_options=storage_options):
                remove(beside, storage_options=storage_options)
