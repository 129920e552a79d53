"""``shardbuild show``: look at samples of shards."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from shardbuild.cli import options
from shardbuild.cli.preview import preview
from shardbuild.cli.printing import count_of, print_json, printable
from shardbuild.cli.streaming import FIELDS, add_source_options, open_one
from shardbuild.codecs.encoders import encode_field
from shardbuild.streams.choosing import choose_fields
from shardbuild.streams.ports import expand_sources

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["describe", "parse", "print_sample", "run"]

DESCRIPTION = """\
Show the first samples of each shard: keys, and for each field its extension, its
size and a glimpse of what is in it.

A URL is a path, a url, a brace expansion, a glob, a manifest or @FILE with a
list of them, - for standard input, or a ZMQ url."""

EXAMPLES = ("a-000000.tar -c 2", "a.json --fields 'cls txt' --json")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild show``."""
    parser = options.make_parser("show", DESCRIPTION, *EXAMPLES)
    add_source_options(parser)
    parser.add_argument(
        "-c",
        "--count",
        type=options.COUNT,
        default=5,
        metavar="N",
        help="how many samples of each shard (default: 5)",
    )
    parser.add_argument(
        "-f",
        "--fields",
        type=FIELDS,
        metavar="FIELDS",
        help="only these fields, such as 'jpg cls', where a sample has them",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a sample, no more"
    )
    options.add_common_options(parser)
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> int:
    """Print the samples."""
    for url in expand_sources(args.urls, options.storage_options(args)):
        with open_one(args, url) as samples:
            _show(args, url, samples)
    return 0


def _show(args: argparse.Namespace, url: str, samples: Iterator[Sample]) -> None:
    shown: Iterator[Sample] = itertools.islice(samples, args.count)
    if args.fields:
        chosen = (choose_fields(one, args.fields, missing="ignore") for one in shown)
        shown = filter(None, chosen)
    if args.json:
        for sample in shown:
            print_json(describe(sample) | {"url": url})
        return
    _print_samples(url, shown)
    if next(samples, None) is not None:
        print(f"  and more: {count_of(args.count, 'sample')} shown")


def _print_samples(url: str, samples: Iterator[Sample]) -> None:
    """Print a shard's url and samples; nothing if not even the first can be read."""
    first = next(samples, None)
    print(printable(url))
    if first is None:
        print("  no samples")
        return
    for sample in itertools.chain([first], samples):
        print_sample(sample)


def describe(sample: Sample) -> dict[str, object]:
    """Tell what is in a sample of bytes.

    >>> describe({"__key__": "a/1", "cls": b"3"})
    {'key': 'a/1', 'fields': {'cls': {'num_bytes': 1, 'preview': '3'}}}
    """
    fields = {
        extension: {"num_bytes": len(data), "preview": preview(extension, data)}
        for extension, data in _fields(sample).items()
    }
    return {"key": sample["__key__"], "fields": fields}


def print_sample(sample: Sample) -> None:
    """Print a sample's key, and a line for each field."""
    fields = _fields(sample)
    print(f"  {printable(sample['__key__'])}")
    name_width = max(map(len, fields), default=0)
    sizes = {extension: f"{len(data):,} B" for extension, data in fields.items()}
    size_width = max(map(len, sizes.values()), default=0)
    for extension, data in fields.items():
        name = f"{printable(extension):{name_width}}"
        size = f"{sizes[extension]:>{size_width}}"
        print(f"    {name}  {size}  {preview(extension, data)}")


def _fields(sample: Sample) -> dict[str, bytes]:
    key = str(sample["__key__"])
    return {
        name: encode_field(name, value, key=key)
        for name, value in sample.items()
        if not name.startswith("__")
    }
