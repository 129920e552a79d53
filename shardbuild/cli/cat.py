"""``shardbuild cat``: from any urls to one."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from shardbuild.cli import options
from shardbuild.cli.streaming import (
    SLICE,
    add_choice_options,
    add_output_option,
    add_source_options,
    choose,
    open_samples,
    write_samples,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["parse", "run"]

DESCRIPTION = """\
Join shards into one, or into a stream: all of them, or some samples, or some
fields, under new names or new keys, in a new order.

Samples come in the order of the urls, with -p too. What -m and --shuffle give is
decided by N and the seed alone."""

EXAMPLES = (
    "'a-{000000..000001}.tar' -o joined.tar",
    "a-000000.tar -f 'image:png,txt cls' --slice 0:100:10 -o thin.tar",
    "a.json -p 4 --shuffle 1000 --seed 7 | shardbuild show - -c 2",
)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild cat``."""
    parser = options.make_parser("cat", DESCRIPTION, *EXAMPLES)
    add_source_options(parser)
    add_output_option(parser)
    add_choice_options(parser)
    parser.add_argument(
        "--shards",
        type=SLICE,
        metavar="START:STOP:STEP",
        help="only these shards of all that the URLs stand for, counted from 0",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-p",
        "--parallel",
        type=options.COUNT,
        default=1,
        metavar="N",
        help="read N shards at once; the output is the same (default: 1)",
    )
    group.add_argument(
        "-m",
        "--mix",
        type=options.COUNT,
        default=1,
        metavar="N",
        help="take samples from N shards in turn",
    )
    add_shuffle_options(parser)
    options.add_common_options(parser)
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> int:
    """Copy the samples."""
    with open_samples(
        args, parallel=args.parallel, in_turns=args.mix, shards=args.shards
    ) as samples:
        write_samples(args, choose(args, samples, shuffler(args)))
    return 0


def add_shuffle_options(parser: argparse.ArgumentParser) -> None:
    """Add what says how samples are mixed up on their way."""
    parser.add_argument(
        "--shuffle",
        type=options.COUNT,
        metavar="N",
        help="mix up samples in a buffer of N (all of them: `shardbuild shuffle`)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="which shuffle (default: 0)"
    )


def shuffler(
    args: argparse.Namespace,
) -> Callable[[Iterator[Sample]], Iterator[Sample]] | None:
    """Return what mixes samples up as the options say, or None."""
    if args.shuffle is None:
        return None
    from shardbuild.streams import filters

    return partial(
        filters.shuffle,
        bufsize=args.shuffle,
        initial=min(100, args.shuffle),
        rng=random.Random(args.seed),
    )
