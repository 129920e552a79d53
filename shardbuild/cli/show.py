"""``shardbuild show``: look at samples of shards."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from shardbuild.cli import options
from shardbuild.cli.preview import preview
from shardbuild.cli.printing import count_of, print_json, printable
from shardbuild.shards.reader import read_samples
from shardbuild.storage.urls import expand_urls

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["parse", "run"]

DESCRIPTION = """\
Show the first samples of each shard: keys, and for each field its extension, its
size and a glimpse of what is in it.

A URL is a path, a url, a brace expansion, a glob, a manifest or @FILE with a
list of them."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild show``."""
    parser = options.make_parser("show", DESCRIPTION)
    parser.add_argument("urls", nargs="+", metavar="URL", help="shards to look into")
    parser.add_argument(
        "--count",
        type=options.COUNT,
        default=5,
        metavar="N",
        help="how many samples of each shard (default: 5)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a sample, no more"
    )
    options.add_common_options(parser)
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> int:
    """Print the samples."""
    storage_options = options.storage_options(args)
    for url in expand_urls(args.urls, storage_options):
        samples = read_samples(url, storage_options=storage_options)
        shown = itertools.islice(samples, args.count)
        if args.json:
            for sample in shown:
                print_json(describe(sample) | {"url": url})
        else:
            _print_samples(url, shown)
            if next(samples, None) is not None:
                print(f"  and more: {count_of(args.count, 'sample')} shown")
    return 0


def _print_samples(url: str, samples: Iterator[Sample]) -> None:
    """Print a shard's url and samples; nothing if not even the first can be read."""
    first = next(samples, None)
    print(printable(url))
    if first is None:
        print("  no samples")
        return
    for sample in itertools.chain([first], samples):
        _print_sample(sample)


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


def _print_sample(sample: Sample) -> None:
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
    return {name: data for name, data in sample.items() if not name.startswith("__")}
