"""``shardbuild mix``: one stream of several sets of samples, by weights."""

from __future__ import annotations

import argparse
import math
import random
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from shardbuild.cli import options
from shardbuild.cli.cat import add_shuffle_options, shuffler
from shardbuild.cli.streaming import (
    add_choice_options,
    add_output_option,
    add_source_options,
    choose,
    open_samples,
    write_samples,
)
from shardbuild.errors import UsageError
from shardbuild.storage import read_bytes

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["MixSource", "parse", "parse_mix", "run"]

DESCRIPTION = """\
Draw samples from several sets at random, by weights, until all are used up.

SPEC is a YAML or JSON file with a list; each entry has
  shards       a url (braces, globs, @FILE, a manifest), or a list of urls
  weight       how often it is drawn from, in proportion (default: 1)
  probability  of a sample to be taken at all (default: 1)
  nrepeats     how many times the set is read (default: 1)
  shuffle      the size of a shuffle buffer of its own (default: none)
  allow_missing  true: go on without shards that are not there
The seed and the sets decide the order. Nothing in the file is executed: pipe: and -
only with --allow-pipe."""

EXAMPLES = ("spec.yaml -c 100 --seed 7 -o mixed.tar -R '#'",)


@dataclass(frozen=True, slots=True)
class MixSource:
    """One set of samples and how it is drawn from."""

    shards: tuple[str, ...]
    weight: float = 1.0
    probability: float = 1.0
    nrepeats: int = 1
    shuffle: int | None = None
    allow_missing: bool = False


def parse_mix(document: Any) -> list[MixSource]:
    """Read what is to be mixed, as YAML or JSON has it.

    >>> parse_mix([{"shards": "a-{0..1}.tar", "weight": 2}])[0].shards
    ('a-{0..1}.tar',)

    Raises:
        ValueError: It is not as `shardbuild mix --help` says.
    """
    if not isinstance(document, list) or not document:
        raise ValueError("is no list of sets, each with 'shards'")
    return [_parse_source(number, one) for number, one in enumerate(document, 1)]


def _parse_source(number: int, document: Any) -> MixSource:
    where = f"set {number}"
    if not isinstance(document, dict) or not document.get("shards"):
        raise ValueError(f"{where} has no 'shards'")
    known = [field.name for field in fields(MixSource)]
    unknown = [str(name) for name in document if name not in known]
    if unknown:
        raise ValueError(f"{where} has {unknown[0]!r}: known are {', '.join(known)}")
    shards = document["shards"]
    shards = [shards] if isinstance(shards, str) else shards
    if not isinstance(shards, list) or not all(isinstance(one, str) for one in shards):
        raise ValueError(f"{where}: 'shards' is a url, or a list of urls")
    weight = _number(document.get("weight", 1), f"{where}: 'weight'", math.inf)
    probability = _number(document.get("probability", 1), f"{where}: 'probability'", 1)
    nrepeats = _whole(document.get("nrepeats", 1), f"{where}: 'nrepeats'")
    shuffle = document.get("shuffle")
    if shuffle is not None:
        shuffle = _whole(shuffle, f"{where}: 'shuffle'")
    missing = document.get("allow_missing", False)
    if not isinstance(missing, bool):
        problem = f"'allow_missing' is true or false, not {missing!r}"
        raise ValueError(f"{where}: {problem}")  # noqa: TRY004 - one kind for all
    return MixSource(tuple(shards), weight, probability, nrepeats, shuffle, missing)


def _number(value: Any, what: str, most: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= most or math.isinf(value):
        upper = "" if math.isinf(most) else f", at most {most}"
        raise ValueError(f"{what} is a number above 0{upper}, not {value!r}")
    return float(value)


def _whole(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{what} is a whole number of at least 1, not {value!r}")
    return value


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild mix``."""
    parser = options.make_parser("mix", DESCRIPTION, *EXAMPLES)
    parser.add_argument("spec", metavar="SPEC", help="what is mixed, and how")
    parser.add_argument(
        "--until",
        choices=("all", "first"),
        default="all",
        help="draw until all sets are empty, or until the first is (default: all)",
    )
    parser.add_argument(
        "--allow-pipe",
        action="store_true",
        help="run the pipe: urls of SPEC, and read - from stdin",
    )
    add_source_options(parser, has_urls=False)
    add_output_option(parser)
    add_choice_options(parser)
    add_shuffle_options(parser)
    options.add_common_options(parser)
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> int:
    """Draw the samples and copy them."""
    from shardbuild.streams.mixing import random_samples

    sets = _load(args)
    streams = [_stream(args, number, one) for number, one in enumerate(sets)]
    weights = [one.weight for one in sets]
    with ExitStack() as stack:
        for stream in streams:
            stack.callback(stream.close)
        mixed = random_samples(
            streams, weights, longest=args.until == "all", seed=args.seed
        )
        write_samples(args, choose(args, mixed, shuffler(args)))
    return 0


def _load(args: argparse.Namespace) -> list[MixSource]:
    import yaml

    data = read_bytes(args.spec, storage_options=options.storage_options(args))
    try:
        sets = parse_mix(yaml.safe_load(data))
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(args.spec, str(error)) from error
    urls = [url for one in sets for url in one.shards]
    for url in urls:
        if not args.allow_pipe and (url == "-" or url.startswith("pipe:")):
            raise UsageError(args.spec, f"names {url!r}: --allow-pipe permits that")
    return sets


def _stream(args: argparse.Namespace, number: int, one: MixSource) -> Generator[Sample]:
    """The samples of one set, as often as they are wanted."""
    rng = random.Random(f"{args.seed}/{number}")
    its = argparse.Namespace(**vars(args))
    its.allow_missing = args.allow_missing or one.allow_missing
    for _ in range(one.nrepeats):
        with open_samples(its, one.shards) as samples:
            taken = (s for s in samples if one.probability >= 1 or _hits(rng, one))
            mine = argparse.Namespace(shuffle=one.shuffle, seed=rng.getrandbits(64))
            shuffled = shuffler(mine)
            yield from taken if shuffled is None else shuffled(taken)


def _hits(rng: random.Random, one: MixSource) -> bool:
    return rng.random() < one.probability
