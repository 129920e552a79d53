"""``shardbuild send`` and ``shardbuild recv``: samples over ZMQ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardbuild.cli import options
from shardbuild.cli.cat import add_shuffle_options, shuffler
from shardbuild.cli.streaming import (
    Functions,
    add_choice_options,
    add_output_option,
    add_source_options,
    choose,
    open_samples,
    write_samples,
)
from shardbuild.streams.ports import is_network

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["RECV", "SEND"]

SEND_DESCRIPTION = """\
Send the samples of shards over ZMQ, then an end.

The output is zpush:, zpub:, zrpush: or zrpub:, with tcp://HOST:PORT or ipc://PATH
after it. Push and sub connect, pull and pub wait for others to; with r it is the
other way round. A sender that fails sends no end."""

RECV_DESCRIPTION = """\
Receive samples over ZMQ and write them into a shard, or a stream.

The inputs are zpull:, zsub:, zrpull: or zrsub: urls, read as one; they end when all
--producers have."""

SEND_EXAMPLES = ("'a-{000000..000001}.tar' -o zpush://127.0.0.1:17117",)
RECV_EXAMPLES = ("zpull://127.0.0.1:17117 -o received.tar --timeout 60",)


def parse_send(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild send``."""
    parser = options.make_parser("send", SEND_DESCRIPTION, *SEND_EXAMPLES)
    args = _parse(parser, argv)
    if not is_network(args.output):
        parser.error(f"--output {args.output!r} is no ZMQ url, such as zpush://h:9999")
    return args


def parse_recv(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild recv``."""
    parser = options.make_parser("recv", RECV_DESCRIPTION, *RECV_EXAMPLES)
    args = _parse(parser, argv)
    for url in args.urls:
        if not is_network(url):
            parser.error(f"{url!r} is no ZMQ url, such as zpull://127.0.0.1:9999")
    return args


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    add_source_options(parser)
    add_output_option(parser)
    add_choice_options(parser)
    add_shuffle_options(parser)
    options.add_common_options(parser)
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> int:
    """Copy the samples."""
    with open_samples(args) as samples:
        write_samples(args, choose(args, samples, shuffler(args)))
    return 0


SEND = Functions(parse_send, run)
RECV = Functions(parse_recv, run)
