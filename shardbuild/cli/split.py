"""``shardbuild split``: from any urls to shards of limited size."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from typing import TYPE_CHECKING

from shardbuild.cli import options
from shardbuild.cli.printing import count_of, printable
from shardbuild.cli.streaming import (
    add_choice_options,
    add_source_options,
    choose,
    open_samples,
    told_of_rekey,
)
from shardbuild.errors import PipeError, UsageError
from shardbuild.shards.shardwriter import ShardWriter
from shardbuild.storage import remove

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["parse", "run"]

DESCRIPTION = """\
Write samples into shards of at most so many samples and bytes, with an index
beside each, and a manifest at the end.

A sample is never cut: one that would lead over the limit begins the next shard.
Shards are filled one after the other; `shardbuild convert` makes even ones."""

EXAMPLES = (
    "joined.tar -n 25 -o 'out/part-%06d.tar'",
    "- -s 100kB -o 'small-%06d.tar' --post 'gzip -k %s' < joined.tar",
)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild split``."""
    parser = options.make_parser("split", DESCRIPTION, *EXAMPLES)
    add_source_options(parser)
    parser.add_argument(
        "-o",
        "--output",
        default="split-%06d.tar",
        metavar="PATTERN",
        help="the shards, with %%06d for their number (default: split-%%06d.tar)",
    )
    parser.add_argument(
        "-n",
        "--maxcount",
        type=options.COUNT,
        default=100_000,
        metavar="N",
        help="most samples in a shard (default: 100000)",
    )
    parser.add_argument(
        "-s",
        "--maxsize",
        type=options.SIZE,
        default=10**9,
        metavar="BYTES",
        help="most bytes of a shard, before it is compressed (default: 1GB)",
    )
    parser.add_argument(
        "--start",
        type=options.argument_type(lambda text: options.parse_count(text, least=0)),
        default=0,
        metavar="N",
        help="the first shard's number (default: 0)",
    )
    parser.add_argument(
        "--maxshards",
        type=options.COUNT,
        metavar="N",
        help="end after N shards, whatever comes then",
    )
    parser.add_argument(
        "-p",
        "--post",
        metavar="COMMAND",
        help="run this by the shell after each shard; %%s is its url, quoted",
    )
    parser.add_argument(
        "--delete",
        action="store_true",
        help="delete each shard when its --post has succeeded",
    )
    parser.add_argument(
        "--only-shards",
        action="store_true",
        help="write no indexes and no manifest",
    )
    add_choice_options(parser)
    options.add_common_options(parser)
    args = parser.parse_intermixed_args(argv)
    if args.delete and not args.post:
        parser.error("--delete without --post would leave nothing")
    if args.post is not None and "%s" not in args.post:
        parser.error(f"--post {args.post!r} has no %s for the shard")
    return args


class _EnoughError(Exception):
    """No more shards are wanted, and the next sample would begin one."""


def run(args: argparse.Namespace) -> int:
    """Write the shards and tell how many."""
    is_bare = args.only_shards or args.delete
    storage_options = options.storage_options(args)
    writer = ShardWriter(
        _checked(args.output),
        args.maxcount,
        args.maxsize,
        post=lambda url: _post(args, url),
        start=args.start,
        manifest=not is_bare,
        write_index=not is_bare,
        checksum=not is_bare,
        key_rule=args.key_rule,
        storage_options=storage_options,
    )
    with told_of_rekey(), open_samples(args) as samples, writer:
        _write_all(writer, choose(args, samples), args.maxshards)
    num_samples = sum(shard.num_samples for shard in writer.shards)
    shards = count_of(len(writer.shards), "shard")
    print(printable(f"{args.output}: {count_of(num_samples, 'sample')} in {shards}"))
    return 0


def _checked(pattern: str) -> str:
    """Return a pattern that has a place for the number, and only one.

    Raises:
        UsageError: it has not.
    """
    try:
        is_numbered = pattern % 0 != pattern % 1
    except (TypeError, ValueError):
        is_numbered = False
    if not is_numbered:
        raise UsageError(pattern, "needs one place for the shard's number, like %06d")
    return pattern


def _write_all(
    writer: ShardWriter, samples: Iterable[Sample], maxshards: int | None
) -> None:
    """Write samples until they end, or would begin a shard too many."""
    post = writer.post

    def end_if_enough(url: str) -> None:
        if post is not None:
            post(url)
        if len(writer.shards) == maxshards:
            raise _EnoughError

    # Called where a shard is ended for the next sample's sake, before it is written.
    writer.post = end_if_enough
    try:
        with contextlib.suppress(_EnoughError):
            for sample in samples:
                writer.write(sample)
    finally:
        writer.post = post


def _post(args: argparse.Namespace, url: str) -> None:
    """Run the caller's command on a shard."""
    if args.post is None:
        return
    text = args.post.replace("%s", shlex.quote(url))
    # A shell is what --post means; the shard's name is quoted for it.
    status = subprocess.run(  # noqa: S602
        text, shell=True, check=False, stdin=subprocess.DEVNULL
    ).returncode
    if status != 0:
        raise PipeError(url, f"--post ended with exit status {status}: {text}")
    if args.delete:
        remove(url, storage_options=options.storage_options(args))
