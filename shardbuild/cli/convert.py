"""``shardbuild convert``: transform, reorder and write a data set as shards."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shardbuild.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["parse", "run"]

DESCRIPTION = """\
Read a data set, transform its samples, put them in a new global order and write
them as shards with indexes, a manifest and a report.

SRC is a folder of files (those that share folder and base name are one sample), a
manifest, or shards: paths, urls, brace expansions, globs, @FILE with a list of
them. DST is the shards' pattern: out/train-%06d.tar gives the manifest
out/train.json.

The same command given again goes on where the last one stopped."""
ORDERS = "keep, shuffle, or sort:FIELD"
METHODS = ("auto", "stream", "gather", "spill")
ERROR_POLICIES = ("raise", "skip", "quarantine")
SCHEDULERS = ("sync", "threads", "processes")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild convert``.

    First ``--job`` alone, for the job's own options are in its file; then all.
    """
    return _parser().parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> int:
    """Convert, or only plan."""
    raise NotImplementedError(args)


def _parser() -> argparse.ArgumentParser:
    parser = options.make_parser("convert", DESCRIPTION)
    parser.add_argument("src", nargs="+", metavar="SRC", help="what to read")
    parser.add_argument("dst", metavar="DST", help="the shards to write")
    _add_content_options(parser.add_argument_group("what is written"))
    _add_running_options(parser.add_argument_group("how it runs"))
    _add_output_options(parser.add_argument_group("what is told"))
    options.add_common_options(parser)
    return parser


Group = argparse._ArgumentGroup


def _add_content_options(group: Group) -> None:
    count = options.argument_type(options.parse_count)
    size = options.argument_type(options.parse_bytes)
    group.add_argument(
        "--job", metavar="FILE", help="a Python file with a function `transform`"
    )
    group.add_argument(
        "--order",
        type=options.argument_type(parse_order),
        default="keep",
        metavar="ORDER",
        help=f"{ORDERS} (default: keep)",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    group.add_argument(
        "--maxcount", type=count, metavar="N", help="samples in a shard, at most"
    )
    group.add_argument(
        "--maxsize",
        type=size,
        metavar="BYTES",
        help="bytes of a shard on storage, at most; such as 1GB or 512MiB",
    )
    group.add_argument(
        "--label-from",
        choices=("folder",),
        help="give each sample a `cls` by its folder, and write the list of classes",
    )
    group.add_argument(
        "--rekey", action="store_true", help="give samples new keys, by their place"
    )


def _add_running_options(group: Group) -> None:
    count = options.argument_type(options.parse_count)
    size = options.argument_type(options.parse_bytes)
    group.add_argument(
        "--method",
        choices=METHODS,
        default="auto",
        help="how samples come to their place (default: auto)",
    )
    group.add_argument(
        "--workers", type=count, metavar="N", help="worker processes to start"
    )
    group.add_argument(
        "--scheduler",
        metavar="SCHEDULER",
        help=f"{', '.join(SCHEDULERS)}, or the address of a Dask scheduler",
    )
    group.add_argument(
        "--memory", type=size, metavar="BYTES", help="memory of one task, at most"
    )
    group.add_argument(
        "--errors",
        choices=ERROR_POLICIES,
        default="raise",
        help="what to do with a sample that fails (default: raise)",
    )
    group.add_argument(
        "--max-errors",
        type=options.argument_type(options.parse_count),
        metavar="N",
        help="give up after more than N losses",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace what another command wrote"
    )


def _add_output_options(group: Group) -> None:
    group.add_argument(
        "--plan", action="store_true", help="print what would be done and do nothing"
    )
    group.add_argument(
        "--json", action="store_true", help="print the plan or report as JSON, no more"
    )


def parse_order(text: str) -> str:
    """Check an order.

    >>> parse_order("sort:json.width")
    'sort:json.width'
    """
    kind, colon, field = text.partition(":")
    if text in {"keep", "shuffle"} or (kind == "sort" and colon and field):
        return text
    raise ValueError(f"{text!r} is no order: {ORDERS}")
