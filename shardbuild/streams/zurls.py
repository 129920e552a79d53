"""What a ZMQ url says, without ZMQ: pure functions on strings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from shardbuild.errors import UsageError
from shardbuild.storage.braces import expand_braces

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Scheme",
    "ZmqUrl",
    "is_zmq_url",
    "parse_zmq_url",
    "schemes",
    "urls2list",
]


class Scheme(NamedTuple):
    """What a scheme of ZMQ urls makes."""

    socket: str
    """``PUSH``, ``PULL``, ``PUB`` or ``SUB``."""
    binds: bool
    """Whether it is the end that has the address; the other connects to it."""


schemes: dict[str, Scheme] = {
    "zpush": Scheme("PUSH", binds=False),
    "zpull": Scheme("PULL", binds=True),
    "zpub": Scheme("PUB", binds=True),
    "zsub": Scheme("SUB", binds=False),
    "zrpush": Scheme("PUSH", binds=True),
    "zrpull": Scheme("PULL", binds=False),
    "zrpub": Scheme("PUB", binds=False),
    "zrsub": Scheme("SUB", binds=True),
}
"""The eight schemes; ``r`` is for reverse: who binds and who connects."""

_TRANSPORTS = ("tcp", "ipc", "inproc")
_URL = re.compile(r"(z[a-z]+)(?:\+([a-z]+))?://(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ZmqUrl:
    """One ZMQ url, taken apart."""

    url: str
    scheme: Scheme
    transport: str
    endpoint: str
    """What ZMQ itself calls the place."""

    @property
    def writes(self) -> bool:
        return self.scheme.socket in ("PUSH", "PUB")


def is_zmq_url(url: str) -> bool:
    """Whether samples come from, or go to, a ZMQ socket.

    >>> [is_zmq_url(url) for url in ("zpush://h:1", "zsub+ipc:///s", "z.tar", "zip://a")]
    [True, True, False, False]
    """
    match = _URL.fullmatch(url)
    return match is not None and match[1] in schemes


def parse_zmq_url(url: str) -> ZmqUrl:
    """Take a ZMQ url apart; the transport is tcp unless the url says another.

    >>> parse_zmq_url("zpush://host:7880/x").endpoint
    'tcp://host:7880'
    >>> parse_zmq_url("zpull+ipc:///tmp/samples").endpoint
    'ipc:///tmp/samples'

    Raises:
        UsageError: it is none, or its transport is not tcp, ipc or inproc.
    """
    match = _URL.fullmatch(url)
    if match is None or match[1] not in schemes:
        raise UsageError(url, f"is no ZMQ url: the schemes are {', '.join(schemes)}")
    transport = match[2] or "tcp"
    if transport not in _TRANSPORTS:
        known = ", ".join(_TRANSPORTS)
        raise UsageError(url, f"no transport {transport!r}: there are {known}")
    place = match[3].partition("/")[0] if transport == "tcp" else match[3]
    if not place:
        raise UsageError(url, "names no address")
    return ZmqUrl(url, schemes[match[1]], transport, f"{transport}://{place}")


# The name and the argument are those of the library that this comes from.
def urls2list(urls: str | Sequence[str], noexpand: bool = False) -> list[str]:  # noqa: FBT001, FBT002
    """List the urls that one url, or several, stand for: braces are expanded.

    >>> urls2list("zpush://h:{1..2}"), urls2list(["zpush://h:{1..2}"], noexpand=True)
    (['zpush://h:1', 'zpush://h:2'], ['zpush://h:{1..2}'])
    """
    listed = [urls] if isinstance(urls, str) else list(urls)
    if noexpand:
        return listed
    return [url for text in listed for url in expand_braces(text)]
