"""``shardbuild grep`` and ``shardbuild first``: samples that are as asked."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from shardbuild.cli import options
from shardbuild.cli.show import print_sample
from shardbuild.cli.streaming import (
    Functions,
    add_choice_options,
    add_output_option,
    add_source_options,
    choose,
    open_samples,
    warn,
    write_samples,
)
from shardbuild.storage import gopen
from shardbuild.streams.choosing import (
    Condition,
    field_bytes,
    parse_condition,
    parse_regex,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["FIRST", "GREP"]

GREP_DESCRIPTION = """\
Keep the samples in which a regex is found: in the key, or in fields as UTF-8 text.

The regex is one of Python's, and is searched for: ^ and $ are the ends. What --slice
and -c say counts the samples that are kept."""

FIRST_DESCRIPTION = """\
Show the first sample for which all --select conditions hold, or the very first.

FIELD=VALUE holds where the field is that text, but for space at its ends;
FIELD~REGEX where the regex is found in it. __key__ is the key. With --field the
bytes of one field are written, and nothing else. Exit status 1 if there is no such
sample."""

GREP_EXAMPLES = (
    "'^n01/' a-000000.tar -o n01.tar",
    "-k cls '^[37]$' a.json -v -o others.tar",
)
FIRST_EXAMPLES = ("a.json -S cls=3", "a.json -S cls=3 -S '__key__~^n01/' --field txt")

CONDITION = options.argument_type(parse_condition)
REGEX = options.argument_type(parse_regex)


def parse_grep(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild grep``."""
    parser = options.make_parser("grep", GREP_DESCRIPTION, *GREP_EXAMPLES)
    parser.add_argument("regex", type=REGEX, metavar="REGEX", help="what to look for")
    add_source_options(parser)
    parser.add_argument(
        "-k",
        "--in",
        action="append",
        dest="places",
        metavar="FIELD",
        help="look into this field; may be given again (default: __key__, the key)",
    )
    parser.add_argument(
        "-v", "--invert", action="store_true", help="keep the others instead"
    )
    add_output_option(parser)
    add_choice_options(parser)
    options.add_common_options(parser)
    return parser.parse_intermixed_args(argv)


def run_grep(args: argparse.Namespace) -> int:
    """Copy the samples that are kept."""
    places = args.places or ["__key__"]
    wanted = [Condition(place.lower(), args.regex) for place in places]

    def is_kept(sample: Sample) -> bool:
        return any(one.holds(sample) for one in wanted) != bool(args.invert)

    with open_samples(args) as samples:
        write_samples(args, choose(args, filter(is_kept, samples)))
    return 0


def parse_first(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild first``."""
    parser = options.make_parser("first", FIRST_DESCRIPTION, *FIRST_EXAMPLES)
    add_source_options(parser)
    parser.add_argument(
        "-S",
        "--select",
        action="append",
        default=[],
        type=CONDITION,
        metavar="CONDITION",
        help="FIELD=VALUE or FIELD~REGEX; may be given again: all have to hold",
    )
    parser.add_argument(
        "-f", "--field", metavar="FIELD", help="write this field's bytes, and no more"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="URL",
        help="where --field goes (default: -, stdout); without --field the sample, as "
        "a shard",
    )
    options.add_common_options(parser)
    return parser.parse_intermixed_args(argv)


def run_first(args: argparse.Namespace) -> int:
    """Find the sample and show it, or write it."""
    with open_samples(args) as samples:
        found = (one for one in samples if all(c.holds(one) for c in args.select))
        sample = next(found, None)
    if sample is None:
        warn("there is no such sample")
        return 1
    if args.field is not None:
        data = field_bytes(sample, args.field.lower())
        output = args.output or "-"
        storage_options = options.storage_options(args)
        with gopen(output, "wb", storage_options=storage_options) as stream:
            stream.write(data)
    elif args.output is not None:
        write_samples(args, itertools.repeat(sample, 1))
    else:
        print_sample(sample)
    return 0


GREP = Functions(parse_grep, run_grep)
FIRST = Functions(parse_first, run_first)
