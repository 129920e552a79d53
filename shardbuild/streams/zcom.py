"""Samples from process to process over ZMQ.

    with Connection("zpull://127.0.0.1:7880", num_producers=3) as samples:
        for sample in samples: ...

    with MultiWriter(["zpush://a:7880", "zpush://b:7880"]) as writer:
        writer.write(sample)

A writer that is closed says that it is done, on each of its urls. A reader ends when
``num_producers`` of them, and all that have connected, have said so; one that breaks
off without is an error, also when it was killed. Nothing is dropped: queues are short,
a slow reader slows its writers down, ``close`` waits until all is sent.

To share samples out among several readers, give each reader a url of its own: so each
is told of the end. (Readers that share one ``zrpush`` url are told in turn, as ZMQ
shares out all else; one that is not told fails, and does not end.)
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from shardbuild.errors import StorageError, UsageError
from shardbuild.streams.zdrain import wait_until_read
from shardbuild.streams.zframes import encode_frame, without_meta
from shardbuild.streams.zsockets import (
    HIGH_WATER,
    Inlet,
    Outlet,
    zmq_connect,
    zmq_make,
    zmq_of,
)
from shardbuild.streams.zurls import (
    ZmqUrl,
    is_zmq_url,
    parse_zmq_url,
    schemes,
    urls2list,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

__all__ = [
    "HIGH_WATER",
    "Connection",
    "MultiWriter",
    "OutputMode",
    "is_zmq_url",
    "schemes",
    "urls2list",
    "zmq_connect",
    "zmq_make",
]

OutputMode = Literal["random", "round_robin"]
"""Which of several urls the next sample goes to."""


class _Contexts:
    """ZMQ's contexts for one reader or writer: its own, and the process's."""

    def __init__(self) -> None:
        self._own: Any = None

    def of(self, url: ZmqUrl) -> Any:
        zmq = zmq_of(url.url)
        if url.transport == "inproc":
            return zmq.Context.instance()
        if self._own is None:
            self._own = zmq.Context()
        return self._own

    def close(self) -> None:
        """Wait until all sockets have sent what they were given."""
        own, self._own = self._own, None
        if own is not None:
            own.term()


class MultiWriter:
    """Writes samples to several ZMQ urls, each sample to one of them.

    ``random`` chooses by ``seed``, ``round_robin`` in turn. With ``keep_meta``
    fields named ``__...`` are sent too; the key always is. ``linger`` is how many
    milliseconds ``close`` waits until all is sent: -1, until it is. At most
    ``high_water`` samples wait in the writer for each url. ``timeout`` is how many
    seconds it waits for a reader to come, or to take a sample: None, for ever.

    After an exception in its ``with`` block, readers are not told that the samples
    are complete: they fail, too.

    >>> with Connection("zpull+inproc://all") as samples:
    ...     with MultiWriter("zpush+inproc://all") as writer:
    ...         writer.write({"__key__": "a", "cls": b"3"})
    ...     list(samples)
    [{'__key__': 'a', 'cls': b'3'}]

    Raises:
        UsageError: a url is none that writes, or the mode is unknown.
        MissingExtraError: pyzmq or msgpack is not installed.
        StorageError: an address cannot be bound.
    """

    def __init__(  # noqa: PLR0913  # the signature of old, and two limits
        self,
        urls: str | Sequence[str] | None = None,
        noexpand: bool = False,  # noqa: FBT001, FBT002  # likewise
        keep_meta: bool = True,  # noqa: FBT001, FBT002  # likewise
        linger: int = -1,
        output_mode: OutputMode = "random",
        seed: int = 0,
        *,
        high_water: int = HIGH_WATER,
        timeout: float | None = None,
    ) -> None:
        if output_mode not in get_args(OutputMode):
            known = " or ".join(get_args(OutputMode))
            problem = f"the output mode is {known}, not {output_mode!r}"
            raise UsageError("zmq", problem)
        _check_limits(high_water, timeout)
        self.endpoints: list[str] = []
        self._keep_meta = keep_meta
        self._linger = linger
        self._high_water = high_water
        self._timeout = timeout
        self._random = Random(seed) if output_mode == "random" else None
        self._outlets: list[Outlet] = []
        self._contexts = _Contexts()
        self._turn = 0
        if urls is not None:
            try:
                self.connect(urls, noexpand=noexpand)
            except BaseException:
                self.close(0, eof=False)
                raise

    def connect(
        self,
        urls: str | Sequence[str],
        topic: str | bytes = "",
        *,
        noexpand: bool = False,
    ) -> None:
        """Add urls to write to; ``topic`` is for readers, and no matter here.

        Raises:
            UsageError: a url is none that writes.
            StorageError: an address cannot be bound.
        """
        for text in urls2list(urls, noexpand):
            url = parse_zmq_url(text)
            if not url.writes:
                raise UsageError(text, "is for reading")
            outlet = Outlet(
                url,
                self._contexts.of(url),
                linger=self._linger,
                high_water=self._high_water,
                timeout=self._timeout,
            )
            self._outlets.append(outlet)
            outlet.connect([text], topic)
            self.endpoints += outlet.endpoints

    def write(self, sample: Mapping[str, Any]) -> None:
        """Send a sample; waits while its reader is behind.

        Raises:
            EncodeError: msgpack has no word for a value: encode it first.
            StorageError: the writer is closed, its reader went away, or took
                nothing for ``timeout`` seconds.
        """
        if not self._outlets:
            raise StorageError("zmq", "the writer has no url, or is closed")
        outlets = self._targets()
        if not self._keep_meta:
            sample = without_meta(sample)
        frame = encode_frame(sample, url=outlets[0].url)
        for outlet in outlets:
            outlet.send(frame)

    send = write

    def send_eof(self) -> None:
        """Tell the reader of each url that no more will come; ``close`` does it."""
        for outlet in self._outlets:
            outlet.end()

    def close(self, linger: int | None = None, *, eof: bool = True) -> None:
        """Say that no more will come, wait until all is sent, and close.

        Without ``eof`` nothing is said, for a reader that does not look for the end.

        Raises:
            StorageError: a reader went away before it had everything, or none
                came for ``timeout`` seconds.
        """
        linger = self._linger if linger is None else linger
        outlets = self._outlets
        held: list[socket.socket] = []
        try:
            if eof:
                self.send_eof()
            while outlets:
                held += outlets.pop().close(linger)
        finally:
            while outlets:
                outlets.pop().close(0)
            self._contexts.close()
            wait_until_read(held, linger)

    def _targets(self) -> list[Outlet]:
        """Where the next sample goes."""
        if self._random is not None:
            return [self._random.choice(self._outlets)]
        self._turn += 1
        return [self._outlets[(self._turn - 1) % len(self._outlets)]]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.close(0, eof=False)


class _LikeOneSocket(MultiWriter):
    """Shares samples out in turn, or, as a publisher, sends each to all its urls."""

    def _targets(self) -> list[Outlet]:
        if self._outlets[0].publishes:
            return self._outlets
        return super()._targets()


class Connection:
    """Reads samples from ZMQ urls, or writes them: as the urls' schemes say.

    As a reader it is an iterator, fair to all its urls. It ends when
    ``num_producers`` writers have said that they are done (None: one for each url
    that it connects to, or one at all), and all others that have connected. A
    writer that breaks off before is an error. ``timeout`` is how many seconds
    without any sample are an error: None, none are. Without ``keep_meta`` fields
    named ``__...`` are not sent, or not given; the key always is.

    As a writer it is a `MultiWriter` that takes its urls in turn; as a publisher
    (``zpub``, ``zrpub``) it sends each sample to all of them.

    Raises:
        UsageError: a url is no ZMQ url, or some read and others write.
        MissingExtraError: pyzmq or msgpack is not installed.
        StorageError: an address cannot be bound.
    """

    def __init__(
        self,
        urls: str | Sequence[str] | None = None,
        noexpand: bool = False,  # noqa: FBT001, FBT002  # the signature of old
        keep_meta: bool = True,  # noqa: FBT001, FBT002  # likewise
        *,
        num_producers: int | None = None,
        high_water: int = HIGH_WATER,
        timeout: float | None = None,
    ) -> None:
        _check_limits(high_water, timeout)
        if num_producers is not None and num_producers < 1:
            raise UsageError("zmq", f"num_producers is {num_producers}: at least 1")
        self._keep_meta = keep_meta
        self._num_producers = num_producers
        self._high_water = high_water
        self._timeout = timeout
        self._contexts = _Contexts()
        self._num_connected_to = 0
        self._kind = ""
        self._inlet: Inlet | None = None
        self._writer: MultiWriter | None = None
        if urls is not None:
            try:
                self.connect(urls, noexpand=noexpand)
            except BaseException:
                self.close(0, eof=False)
                raise

    @property
    def endpoints(self) -> list[str]:
        """What ZMQ calls the places, with the ports that were chosen."""
        end = self._inlet or self._writer
        return [] if end is None else list(end.endpoints)

    def connect(
        self,
        urls: str | Sequence[str],
        topic: str | bytes = "",
        *,
        noexpand: bool = False,
    ) -> None:
        """Add urls; ``topic`` is what a subscriber's messages begin with.

        Raises:
            UsageError: a url is none, or does not go with the others.
            StorageError: an address cannot be bound.
        """
        for text in urls2list(urls, noexpand):
            url = parse_zmq_url(text)
            self._check_kind(url)
            if url.writes:
                self._writing().connect([text], noexpand=True)
            else:
                self._read_from(url, topic)

    def send(self, sample: Mapping[str, Any]) -> None:
        """Send a sample: `MultiWriter.write`."""
        if self._writer is None:
            raise UsageError("zmq", "the connection does not write, or is closed")
        self._writer.write(sample)

    write = send

    def send_eof(self) -> None:
        """Tell all readers that no more will come; ``close`` does it."""
        if self._writer is not None:
            self._writer.send_eof()

    def recv(self) -> dict[str, Any] | None:
        """Receive a sample; None when all producers are done.

        Raises:
            StorageError: a producer broke off, nothing came for ``timeout``
                seconds, or a message is no sample.
        """
        if self._inlet is None:
            raise UsageError("zmq", "the connection does not read, or is closed")
        sample = self._inlet.receive()
        if sample is None or self._keep_meta:
            return sample
        return without_meta(sample)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (sample := self.recv()) is not None:
            yield sample

    def close(self, linger: int = -1, *, eof: bool = True) -> None:
        """Close; a writer first sends all it was given: `MultiWriter.close`."""
        inlet, self._inlet = self._inlet, None
        writer, self._writer = self._writer, None
        if inlet is not None:
            inlet.close()
        if writer is not None:
            writer.close(linger, eof=eof)
        self._contexts.close()

    def _check_kind(self, url: ZmqUrl) -> None:
        kind = url.scheme.socket
        if not url.writes and url.transport == "inproc":
            kind += " in this process"  # its context is another
        if self._kind and kind != self._kind:
            problem = f"cannot be together with the others: {kind} and {self._kind}"
            raise UsageError(url.url, problem)
        self._kind = kind

    def _writing(self) -> MultiWriter:
        if self._writer is None:
            self._writer = _LikeOneSocket(
                keep_meta=self._keep_meta,
                output_mode="round_robin",
                high_water=self._high_water,
                timeout=self._timeout,
            )
        return self._writer

    def _read_from(self, url: ZmqUrl, topic: str | bytes) -> None:
        if self._inlet is None:
            self._inlet = Inlet(
                url,
                self._contexts.of(url),
                high_water=self._high_water,
                timeout=self._timeout,
            )
        self._inlet.connect([url.url], topic)
        self._num_connected_to += not url.scheme.binds
        self._inlet.num_producers = self._num_producers or max(
            1, self._num_connected_to
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.close(0, eof=False)


def _check_limits(high_water: int, timeout: float | None) -> None:
    # To ZMQ, 0 means that there is no limit.
    if high_water < 1:
        raise UsageError("zmq", f"high_water is {high_water}: at least 1")
    if timeout is not None and timeout <= 0:
        raise UsageError("zmq", f"timeout is {timeout} seconds: more than 0")
