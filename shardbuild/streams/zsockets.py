"""The two ends of ZMQ connections: what is sent arrives, or its loss is an error.

Queues are short on both sides, so that a slow reader slows its writers down. The
writer's socket stays until all is sent. The reader knows each connection (see
`shardbuild.streams.zpeers`): one that breaks off before its end is an error.
"""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from shardbuild.codecs.extras import import_extra
from shardbuild.errors import StorageError
from shardbuild.streams.zdrain import hold
from shardbuild.streams.zframes import EOF_FRAME, decode_frame
from shardbuild.streams.zpeers import Peers
from shardbuild.streams.zurls import ZmqUrl, parse_zmq_url

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

__all__ = ["HIGH_WATER", "Inlet", "Outlet", "zmq_connect", "zmq_make", "zmq_of"]

HIGH_WATER = 100
"""How many samples wait at each end of a connection, at most."""

_SLICE_MS = 200  # how long ZMQ waits before we look at the connections again
_GRACE_MS = 1000  # what a broken connection had sent may come a moment after the news
_EOF_START = EOF_FRAME[:-1]
_EVENTS = (
    *("ACCEPTED", "CONNECTED", "DISCONNECTED", "HANDSHAKE_FAILED_NO_DETAIL"),
    *("HANDSHAKE_FAILED_PROTOCOL", "HANDSHAKE_FAILED_AUTH"),
)


def zmq_of(url: str) -> Any:
    """Import ZMQ.

    Raises:
        MissingExtraError: pyzmq is not installed.
    """
    return import_extra("zmq", package="pyzmq", extra="zmq", wanted_by=url)


def zmq_make(
    context: Any, url: str, linger: int = 0, *, high_water: int = HIGH_WATER
) -> Any:
    """Make the ZMQ socket for a url; `zmq_connect` connects or binds it.

    ``linger`` is how many milliseconds ``close`` waits for what is not sent, -1
    for ever. A publisher is a ``ZMQ_XPUB``, which is the same to its subscribers,
    and knows whether it has any; it waits for a slow one instead of dropping.

    Raises:
        UsageError: the url is no ZMQ url.
        MissingExtraError: pyzmq is not installed.

    >>> import zmq
    >>> with zmq.Context() as context, zmq_make(context, "zpush://h:1") as socket:
    ...     socket.type.name
    'PUSH'
    """
    zmq = zmq_of(url)
    kind = parse_zmq_url(url).scheme.socket
    publishes = kind == "PUB"
    socket = context.socket(zmq.XPUB if publishes else getattr(zmq, kind))
    socket.set(zmq.LINGER, linger)
    socket.set(zmq.SNDHWM, high_water)
    socket.set(zmq.RCVHWM, high_water)
    # The other machine may vanish without a word: ask for it after a minute.
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.TCP_KEEPALIVE_IDLE, 60)
    socket.set(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.set(zmq.TCP_KEEPALIVE_CNT, 6)
    if publishes:
        socket.set(zmq.XPUB_NODROP, 1)
    return socket


def zmq_connect(
    socket: Any, urls: str | Sequence[str], topic: str | bytes = ""
) -> list[str]:
    """Connect or bind a socket to a url, or to each of several.

    Gives the endpoints, with the port that was chosen where a url asks for any
    (``zpull://127.0.0.1:*``). ``topic`` is what a subscriber's messages begin with,
    but for those that tell the end: they come whatever it is.

    Raises:
        StorageError: the address cannot be bound or connected to.
        UsageError: a url is no ZMQ url.
    """
    listed = [urls] if isinstance(urls, str) else list(urls)
    zmq = zmq_of(listed[0] if listed else "zmq")
    endpoints = []
    for url in listed:
        parsed = parse_zmq_url(url)
        try:
            if parsed.scheme.socket == "SUB":
                start = topic.encode() if isinstance(topic, str) else topic
                for subscribed in (start, _EOF_START) if start else (start,):
                    socket.set(zmq.SUBSCRIBE, subscribed)
            (socket.bind if parsed.scheme.binds else socket.connect)(parsed.endpoint)
        except zmq.ZMQError as error:
            verb = "bound" if parsed.scheme.binds else "connected to"
            raise StorageError(url, f"cannot be {verb}: {error}") from error
        endpoints.append(socket.get(zmq.LAST_ENDPOINT).decode().rstrip("\0"))
    return endpoints


class _End:
    """A socket, and what its monitor tells of its connections."""

    def __init__(self, url: ZmqUrl, context: Any, linger: int, high_water: int) -> None:
        self.url = url.url
        self.endpoints: list[str] = []
        self._zmq = zmq_of(url.url)
        self._socket = zmq_make(context, url.url, linger, high_water=high_water)
        self._peers = Peers()
        # Inside a process there is no connection that could break.
        self._monitor: Any = None
        if url.transport != "inproc":
            wanted = (getattr(self._zmq, f"EVENT_{event}") for event in _EVENTS)
            self._monitor = self._socket.get_monitor_socket(sum(wanted))

    def connect(self, urls: Sequence[str], topic: str | bytes = "") -> None:
        self.endpoints += zmq_connect(self._socket, urls, topic)

    def _update(self) -> None:
        """Take in what the monitor has told."""
        from zmq.utils.monitor import parse_monitor_message

        while self._monitor is not None:
            try:
                parts = self._monitor.recv_multipart(self._zmq.NOBLOCK)
            except self._zmq.Again:
                return
            told = parse_monitor_message(parts)
            event = self._zmq.Event(told["event"]).name
            self._peers.note(event, int(told["value"]))

    def _close(self, linger: int) -> None:
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._monitor = None
        self._socket.close(linger)


class Outlet(_End):
    """The writing end of one url.

    ``timeout`` is how many seconds it waits for a reader, or for room.
    """

    def __init__(
        self,
        url: ZmqUrl,
        context: Any,
        *,
        linger: int,
        high_water: int,
        timeout: float | None,
    ) -> None:
        super().__init__(url, context, linger, high_water)
        self._timeout = timeout
        self.publishes = url.scheme.socket == "PUB"
        self._shares = url.scheme == ("PUSH", True)
        self._is_local = url.transport == "ipc"
        self._topics: set[bytes] = set()
        self._has_ended = False
        self._slice_ms = _SLICE_MS
        if timeout is not None:
            self._slice_ms = min(_SLICE_MS, int(timeout * 1000))
        self._socket.set(self._zmq.SNDTIMEO, self._slice_ms)

    def send(self, frame: bytes) -> None:
        """Send a frame; waits while the reader's queue and ours are full.

        Raises:
            StorageError: the reader went away, did not take anything for
                ``timeout`` seconds, or was told the end.
        """
        if self._has_ended:
            raise StorageError(self.url, "its reader was told that no more will come")
        if self.publishes:
            self._await(self._has_subscriber, "no subscriber came")
        try:
            self._socket.send(frame)
        except self._zmq.Again:
            self._await(lambda: self._sends_now(frame), "no reader took a sample")

    def end(self) -> None:
        """Say that no more will come, once.

        Raises:
            StorageError: as for `send`.
        """
        if self._has_ended:
            return
        self._check_reader()
        # What is shared out by turns goes to as many as there are.
        copies = max(1, self._peers.num_open) if self._shares else 1
        for _ in range(copies):
            self.send(EOF_FRAME)
        self._has_ended = True

    def close(self, linger: int) -> list[socket.socket]:
        """Close the socket; with a linger of -1, first wait for a reader.

        Gives second handles of its local connections, to be closed when their
        reader has read all (`shardbuild.streams.zdrain`).

        Raises:
            StorageError: none came in ``timeout`` seconds.
        """
        try:
            if linger < 0 and self._monitor is not None:
                self._await(self._has_reader, "no reader came")
            if not linger or not self._is_local:
                return []
            self._update()
            return hold(self._peers.open_descriptors)
        except BaseException:
            linger = 0
            raise
        finally:
            self._close(linger)

    def _sends_now(self, frame: bytes) -> bool:
        self._check_reader()
        try:
            self._socket.send(frame)
        except self._zmq.Again:
            return False
        return True

    def _has_reader(self) -> bool:
        self._update()
        if not self._peers.have_come:
            self._monitor.poll(self._slice_ms)
        return self._peers.have_come

    def _has_subscriber(self) -> bool:
        had_topics = bool(self._topics)
        while self._socket.get(self._zmq.EVENTS) & self._zmq.POLLIN:
            told = self._socket.recv()
            (self._topics.add if told[:1] == b"\1" else self._topics.discard)(told[1:])
        if had_topics and not self._topics:
            raise StorageError(self.url, "its last subscriber went away before the end")
        if not self._topics:
            self._socket.poll(self._slice_ms, self._zmq.POLLIN)
        return bool(self._topics)

    def _check_reader(self) -> None:
        self._update()
        if self._peers.have_come and not self._peers.num_open:
            problem = "its reader went away before the end: samples are lost"
            raise StorageError(self.url, problem)

    def _await(self, is_done: Callable[[], bool], problem: str) -> None:
        start: float | None = None
        while not is_done():
            start = start or monotonic()
            if self._timeout is not None and monotonic() - start >= self._timeout:
                raise StorageError(self.url, f"{problem} for {self._timeout} seconds")


class Inlet(_End):
    """The reading end of one or several urls.

    It ends when ``num_producers`` have said that they are done, and all others
    that have connected, too.
    """

    def __init__(
        self,
        url: ZmqUrl,
        context: Any,
        *,
        high_water: int,
        timeout: float | None,
    ) -> None:
        super().__init__(url, context, 0, high_water)
        self.num_producers = 1
        self._timeout = timeout
        self._has_ended = False
        self._poller = self._zmq.Poller()
        self._poller.register(self._socket, self._zmq.POLLIN)
        if self._monitor is not None:
            self._poller.register(self._monitor, self._zmq.POLLIN)

    def receive(self) -> dict[str, Any] | None:
        """Receive a sample; None when all producers are done.

        Raises:
            StorageError: a producer broke off, nothing came for ``timeout``
                seconds, or a message is no sample.
        """
        while not self._has_ended:
            try:
                frame = self._socket.recv(self._zmq.NOBLOCK, copy=False)
            except self._zmq.Again:
                self._has_ended = not self._await_message()
                continue
            if frame.more:
                raise StorageError(self.url, "a message has several frames")
            sample = decode_frame(frame.buffer, url=self.url)
            if sample is not None:
                return sample
            self._update()  # it told of the connection before its messages came
            self._peers.end(self._descriptor(frame))
        return None

    def close(self) -> None:
        """Close the socket."""
        self._close(0)

    def _descriptor(self, frame: Any) -> int | None:
        with suppress(self._zmq.ZMQError):
            return int(frame.get(self._zmq.SRCFD))
        return None

    def _await_message(self) -> bool:
        """Wait until there is a message; False when there will be none."""
        start = monotonic()
        while True:
            self._update()
            peers = self._peers
            if peers.num_ended >= self.num_producers and not peers.num_waiting:
                return False
            wait = self._wait_ms(start)
            ready = dict(self._poller.poll(wait))
            if self._socket in ready:
                return True
            if ready:
                continue
            if peers.num_lost:
                problem = (
                    f"{peers.num_lost} of {self._peers.num_ended + peers.num_waiting}"
                    " producers broke off before the end of its samples"
                )
                raise StorageError(self.url, problem)
            problem = (
                f"nothing came for {self._timeout} seconds, and {peers.num_ended} of"
                f" {max(self.num_producers, peers.num_ended + peers.num_waiting)}"
                " producers are done"
            )
            raise StorageError(self.url, problem)

    def _wait_ms(self, start: float) -> int | None:
        wait = None
        if self._timeout is not None:
            wait = max(0, int((start + self._timeout - monotonic()) * 1000))
        if self._peers.num_lost:
            return min(_GRACE_MS, _GRACE_MS if wait is None else wait)
        return wait
