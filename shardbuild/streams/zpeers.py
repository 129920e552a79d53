"""What is known of a socket's connections: which end in order, and which break off.

A connection is known by its file descriptor, which ZMQ tells both of the connection
(by the socket's monitor) and of each message. Descriptors are used again, so each has
counts. An end that is lost before its last message is told at once; the messages it
sent may still be waiting.
"""

from __future__ import annotations

from collections import Counter

__all__ = ["Peers"]


class Peers:
    """The connections of one socket.

    >>> peers = Peers()
    >>> peers.note("ACCEPTED", 7), peers.note("ACCEPTED", 8), peers.end(7)
    (None, None, None)
    >>> peers.note("DISCONNECTED", 7), peers.num_lost, peers.num_waiting
    (None, 0, 1)
    >>> peers.note("DISCONNECTED", 8), peers.num_lost
    (None, 1)
    """

    def __init__(self) -> None:
        self._opened: Counter[int] = Counter()
        self._closed: Counter[int] = Counter()
        self._ended: Counter[int] = Counter()
        self._num_failed = 0
        self._num_nameless = 0

    def note(self, event: str, descriptor: int) -> None:
        """Take in an event of the socket's monitor."""
        if event in ("ACCEPTED", "CONNECTED"):
            self._opened[descriptor] += 1
        elif event.startswith("HANDSHAKE_FAILED"):
            self._num_failed += 1
        elif event == "DISCONNECTED" and self._num_failed:
            # It told before what it was: no peer of ours, but a scan or a browser.
            self._num_failed -= 1
            self._opened[descriptor] -= 1
        elif event == "DISCONNECTED":
            self._closed[descriptor] += 1

    def end(self, descriptor: int | None) -> None:
        """Take in that a peer said it was done; None where there is no descriptor."""
        if descriptor is None:
            self._num_nameless += 1
        elif self._ended[descriptor] < self._opened[descriptor]:
            self._ended[descriptor] += 1

    @property
    def num_ended(self) -> int:
        return self._ended.total() + self._num_nameless

    @property
    def num_open(self) -> int:
        return self._opened.total() - self._closed.total()

    @property
    def open_descriptors(self) -> list[int]:
        return [
            descriptor
            for descriptor, count in self._opened.items()
            if count > self._closed[descriptor]
        ]

    @property
    def have_come(self) -> bool:
        return self._opened.total() > 0

    @property
    def num_waiting(self) -> int:
        """How many have not said that they are done, lost ones among them."""
        return self._opened.total() - self._ended.total()

    @property
    def num_lost(self) -> int:
        """How many connections broke off before a peer said it was done."""
        return sum(
            max(0, count - self._ended[descriptor])
            for descriptor, count in self._closed.items()
        )
