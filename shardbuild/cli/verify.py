"""``shardbuild verify``: read shards again and name every difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardbuild.cli import options
from shardbuild.cli.printing import count_of, print_json, printable
from shardbuild.shards import verify as verifying

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["parse", "run"]

DESCRIPTION = """\
Read shards again and name every difference, one a line.

With a manifest: that each shard it lists is there, has the samples, bytes and
sha256 it says, and that no key comes twice in the data set. Without one: that
each shard is whole and well formed. Exit status 0: nothing found; 1: something."""

EXAMPLES = ("a.json", "'a-{000000..000001}.tar' --json")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild verify``."""
    parser = options.make_parser("verify", DESCRIPTION, *EXAMPLES)
    parser.add_argument(
        "urls", nargs="+", metavar="URL", help="a manifest, or shards (globs, braces)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_common_options(parser)
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 if there are any."""
    report = verifying.verify(args.urls, storage_options=options.storage_options(args))
    if args.json:
        print_json(report)
        return 1 if report.findings else 0
    for finding in report.findings:
        print(printable(str(finding)))
    sizes = (
        f"{count_of(report.num_shards, 'shard')}, "
        f"{count_of(report.num_samples, 'sample')}, {report.num_bytes:,} bytes"
    )
    found = count_of(len(report.findings), "finding") if report.findings else "whole"
    print(f"{sizes}: {found}")
    return 1 if report.findings else 0
