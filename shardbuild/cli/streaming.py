"""What commands that move samples share: where from, which of them, where to."""

from __future__ import annotations

import re
import sys
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from shardbuild.cli import options
from shardbuild.cli.printing import count_of, printable
from shardbuild.errors import KeyRuleError, UsageError
from shardbuild.storage import exists, protocol_of
from shardbuild.streams.choosing import (
    choose_fields,
    parse_fields,
    parse_key_format,
    parse_slice,
)
from shardbuild.streams.ports import expand_sources, is_network, open_sink, open_source
from shardbuild.streams.together import read_in_order, read_in_turns

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from shardbuild.shards.samples import Sample
    from shardbuild.streams.choosing import KeyFormat

__all__ = [
    "FIELDS",
    "KEY_FORMAT",
    "SLICE",
    "Functions",
    "add_choice_options",
    "add_output_option",
    "add_source_options",
    "choose",
    "is_left_out",
    "open_one",
    "open_samples",
    "source_options",
    "write_samples",
]

FIELDS = options.argument_type(parse_fields)
KEY_FORMAT = options.argument_type(parse_key_format)
SLICE = options.argument_type(parse_slice)
_PATTERN = re.compile(r"%(?:0\d+d|d(?![a-z]))")


@dataclass(frozen=True, slots=True)
class Functions:
    """A command in a module of several: its two functions."""

    parse: Callable[[Sequence[str]], argparse.Namespace]
    run: Callable[[argparse.Namespace], int]


def add_source_options(
    parser: argparse.ArgumentParser, *, has_urls: bool = True
) -> None:
    """Add what says where samples come from."""
    if has_urls:
        parser.add_argument(
            "urls",
            nargs="+",
            metavar="URL",
            help="shards (urls, braces, globs, a manifest, @FILE), - for stdin, or "
            "zpull: and the like",
        )
    parser.add_argument(
        "--key-rule",
        choices=("first-dot", "last-dot"),
        default="first-dot",
        help="where a name's key ends and its extension begins (default: first-dot)",
    )
    parser.add_argument(
        "--producers",
        type=options.COUNT,
        metavar="N",
        help="how many writers send to ZMQ urls: they end after the last (default: 1, "
        "or one for each url that is connected to)",
    )
    parser.add_argument(
        "--timeout",
        type=options.argument_type(_parse_seconds),
        metavar="SECONDS",
        help="fail when a ZMQ url is silent so long (default: wait)",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="go on without shards that are not there, and say so",
    )


def _parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{text!r} is no number of seconds above 0")
    return seconds


def add_output_option(parser: argparse.ArgumentParser) -> None:
    """Add what says where samples go."""
    parser.add_argument(
        "-o",
        "--output",
        default="-",
        metavar="URL",
        help="a shard (compressed if its name says so), - for stdout, or zpush: and "
        "the like (default: -)",
    )
    parser.add_argument(
        "--output-mode",
        choices=("random", "round_robin"),
        default="random",
        help="which of several ZMQ urls gets a sample (default: random)",
    )


def add_choice_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which samples go on, and what of them."""
    group = parser.add_argument_group("what goes on")
    group.add_argument(
        "-c", "--count", type=options.COUNT, metavar="N", help="the first N samples"
    )
    group.add_argument(
        "--slice",
        type=SLICE,
        metavar="START:STOP:STEP",
        help="these samples, counted from 0",
    )
    group.add_argument(
        "-f",
        "--fields",
        type=FIELDS,
        metavar="FIELDS",
        help="these fields, such as 'jpg cls'; 'image:jpg,png cls' gives a new name",
    )
    group.add_argument(
        "-F",
        "--field-mode",
        choices=("error", "ignore", "skip"),
        default="error",
        help="what a sample without such a field does: fail, go on without it, or "
        "stay behind (default: error)",
    )
    group.add_argument(
        "-R",
        "--rekey",
        type=KEY_FORMAT,
        metavar="FORMAT",
        help="new keys: # is the number in nine digits, {record:06d} in six, {key} the "
        "key before",
    )


def source_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the options say about reading, for `open_source`."""
    return {
        "storage_options": options.storage_options(args),
        "key_rule": args.key_rule,
        "num_producers": args.producers,
        "timeout": args.timeout,
    }


@contextmanager
def open_samples(
    args: argparse.Namespace,
    urls: Sequence[str] | None = None,
    *,
    parallel: int = 1,
    in_turns: int = 1,
    shards: slice | None = None,
) -> Iterator[Generator[Sample]]:
    """Open all urls as one stream of samples, and close what is open at the end."""
    found = expand_sources(
        args.urls if urls is None else urls, options.storage_options(args)
    )
    network = [url for url in found if is_network(url)]
    # Several ZMQ urls are one source: whoever writes to one waits for no other.
    sources: list[str | list[str]] = [network] if found == network else [*found]
    sources = sources[shards] if shards else sources
    openers = [partial(open_one, args, url) for url in sources]
    if in_turns > 1:
        stream = read_in_turns(openers, in_turns)
    else:
        stream = read_in_order(openers, parallel)
    with closing(stream):
        yield stream


@contextmanager
def open_one(
    args: argparse.Namespace, url: str | list[str]
) -> Iterator[Iterator[Sample]]:
    """Open a source; nothing instead of one that is missing, where it may be."""
    if isinstance(url, str) and is_left_out(args, url):
        yield iter(())
        return
    with open_source(url, **source_options(args)) as samples:
        yield samples


def is_left_out(args: argparse.Namespace, url: str) -> bool:
    """Whether a shard is missing, and may be; then it is told."""
    if not args.allow_missing or is_network(url) or protocol_of(url) in (None, "pipe"):
        return False
    if exists(url, storage_options=options.storage_options(args)):
        return False
    warn(f"{printable(url)}: is missing: left out")
    return True


def choose(
    args: argparse.Namespace,
    samples: Iterable[Sample],
    shuffled: Callable[[Iterator[Sample]], Iterator[Sample]] | None = None,
) -> Iterator[Sample]:
    """What goes on of the samples: slice, count, fields, shuffled, new keys."""
    chosen: Iterator[Sample] = iter(samples)
    if args.slice is not None:
        chosen = islice(chosen, args.slice.start, args.slice.stop, args.slice.step)
    if args.count is not None:
        chosen = islice(chosen, args.count)
    if args.fields is not None:
        chosen = _with_fields(args, chosen)
    if shuffled is not None:
        chosen = shuffled(chosen)
    return chosen if args.rekey is None else _rekeyed(chosen, args.rekey)


def _with_fields(
    args: argparse.Namespace, samples: Iterator[Sample]
) -> Iterator[Sample]:
    num_skipped = 0
    for sample in samples:
        chosen = choose_fields(sample, args.fields, missing=args.field_mode)
        if chosen is None:
            num_skipped += 1
        else:
            yield chosen
    if num_skipped:
        warn(f"{count_of(num_skipped, 'sample')} skipped: a field is missing")


def _rekeyed(samples: Iterator[Sample], key_format: KeyFormat) -> Iterator[Sample]:
    for number, sample in zip(count(), samples, strict=False):
        yield {
            **sample,
            "__key__": key_format.make(number, str(sample.get("__key__", ""))),
        }


def write_samples(args: argparse.Namespace, samples: Iterable[Sample]) -> int:
    """Write samples to the output; the result is how many.

    Raises:
        KeyRuleError: two have the same key; says what to do.
        UsageError: the output is a pattern of shards.
    """
    check_is_one(args.output)
    num_samples = 0
    with told_of_rekey(), open_sink(args.output, **_sink_options(args)) as sink:
        for sample in samples:
            sink.write(sample)
            num_samples += 1
    return num_samples


def check_is_one(url: str) -> None:
    """Refuse a pattern of many shards where one is written."""
    is_shard = protocol_of(url) not in (None, "pipe") and not is_network(url)
    if is_shard and _PATTERN.search(url):
        problem = "is a pattern of shards: pipe the samples into `shardbuild split`"
        raise UsageError(url, problem)


def _sink_options(args: argparse.Namespace) -> dict[str, Any]:
    storage = options.storage_options(args)
    if is_network(args.output):
        seed = getattr(args, "seed", 0)
        return {"output_mode": args.output_mode, "seed": seed}
    return {
        "storage_options": storage,
        "key_rule": getattr(args, "key_rule", "first-dot"),
    }


@contextmanager
def told_of_rekey() -> Iterator[None]:
    """Let the error of a key that comes twice name the option that helps."""
    try:
        yield
    except KeyRuleError as error:
        if "twice" in error.problem:
            error.add_note("--rekey '#' gives each sample a new one")
        raise


def warn(text: str) -> None:
    """Tell something on stderr, where it is in the way of no output."""
    print(f"shardbuild: {text}", file=sys.stderr)
