"""``shardbuild sort`` and ``shardbuild shuffle``: any urls to one, in a new order.

The order is made by the engine of ``shardbuild convert``, which asks for little
memory: one shard on the disk, which is then read from its start, or its end.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.cli import options
from shardbuild.cli.progress import ProgressBar
from shardbuild.cli.stopping import ended_by_sigterm
from shardbuild.cli.streaming import (
    Functions,
    add_choice_options,
    add_output_option,
    add_source_options,
    check_is_one,
    choose,
    is_left_out,
    open_one,
    told_of_rekey,
    write_samples,
)
from shardbuild.errors import KeyRuleError
from shardbuild.storage import protocol_of
from shardbuild.streams.choosing import field_bytes
from shardbuild.streams.ports import expand_sources, is_network, open_source

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from shardbuild.build.report import Report
    from shardbuild.shards.samples import Sample

__all__ = ["SHUFFLE", "SORT"]

SORT_DESCRIPTION = """\
Sort samples by a field, or by their keys, into one shard or stream.

Equal fields are all kept, in the order of the input. What is sorted lies on the
disk, in --tmpdir: twice the size of the data, at most three times. To sort into
many shards: `shardbuild convert --order sort:FIELD`."""

SHUFFLE_DESCRIPTION = """\
Put samples in a random order, all of them, into one shard or stream.

The seed and the samples alone decide the order. What is shuffled lies on the disk,
in --tmpdir: twice the size of the data, at most three times. To shuffle into many
shards: `shardbuild convert --order shuffle`."""

SORT_EXAMPLES = (
    "a-000000.tar -o sorted.tar",
    "a-000000.tar -s cls -r -o - | shardbuild split - -n 25 -o 'by-cls-%06d.tar'",
)
SHUFFLE_EXAMPLES = ("a.json --seed 7 -o shuffled.tar", "a.json -c 5 -o five.tar")

ONE_SHARD = 1 << 48
"""Samples that no shard holds: all go into one."""
_KEY_FIELD = "shardbuild-key"
"""Holds the key of a copy whose own key is a number."""


def parse_sort(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild sort``."""
    parser = options.make_parser("sort", SORT_DESCRIPTION, *SORT_EXAMPLES)
    parser.add_argument(
        "-s",
        "--sort-field",
        default="__key__",
        metavar="FIELD",
        help="sort by this field (default: __key__, the key)",
    )
    parser.add_argument(
        "-t",
        "--type",
        choices=("text", "int", "float"),
        help="what the field is (default: int for cls, id and the like, else text)",
    )
    parser.add_argument(
        "-r", "--reverse", action="store_true", help="from the last to the first"
    )
    args = _parse(parser, argv)
    args.seed = 0
    args.order = f"sort:{args.sort_field}" + (f":{args.type}" if args.type else "")
    return args


def parse_shuffle(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild shuffle``."""
    parser = options.make_parser("shuffle", SHUFFLE_DESCRIPTION, *SHUFFLE_EXAMPLES)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="which shuffle (default: 0)"
    )
    args = _parse(parser, argv)
    args.order, args.reverse = "shuffle", False
    return args


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    add_source_options(parser)
    add_output_option(parser)
    add_choice_options(parser)
    parser.add_argument(
        "--tmpdir",
        metavar="DIR",
        help="where there is room for the data (default: $TMPDIR or /tmp)",
    )
    parser.add_argument(
        "--memory",
        type=options.SIZE,
        metavar="BYTES",
        help="most bytes of samples that one task may hold (default: 128MiB)",
    )
    parser.add_argument(
        "-p",
        "--parallel",
        type=options.COUNT,
        metavar="N",
        help="how many tasks run at once, by threads (default: one for each core)",
    )
    options.add_common_options(parser)
    args = parser.parse_intermixed_args(argv)
    if args.tmpdir is not None and not Path(args.tmpdir).is_dir():
        parser.error(f"--tmpdir {args.tmpdir!r} is no folder")
    return args


def run(args: argparse.Namespace) -> int:
    """Order the samples in a folder of our own, and copy them from there."""
    check_is_one(args.output)
    with (
        ended_by_sigterm(),
        tempfile.TemporaryDirectory(prefix="shardbuild-", dir=args.tmpdir) as folder,
        told_of_rekey(),
    ):
        urls = _as_files(args, folder)
        ordered = f"{folder}/ordered-%06d.tar"
        num_samples = _order(args, urls, ordered).num_written if urls else 0
        write_samples(args, choose(args, _read(args, ordered % 0, num_samples)))
    return 0


def _as_files(args: argparse.Namespace, folder: str) -> list[str]:
    """The urls, with what can be read only once copied into shards in a folder.

    All are, where new keys are wanted: the copies have numbers for keys, and so no
    two of them are equal.
    """
    storage_options = options.storage_options(args)
    files: list[str] = []
    numbers = count()
    for number, url in enumerate(expand_sources(args.urls, storage_options)):
        if is_left_out(args, url):
            continue
        if args.rekey is not None or protocol_of(url) in (None, "pipe"):
            is_stream = True
        else:
            is_stream = is_network(url)
        if is_stream:
            files += _spool(args, url, f"{folder}/input-{number:06d}-%06d.tar", numbers)
        else:
            files.append(url)
    return files


def _spool(
    args: argparse.Namespace, url: str, pattern: str, numbers: Iterator[int]
) -> list[str]:
    from shardbuild.shards.shardwriter import ShardWriter

    writer = ShardWriter(
        pattern, maxsize=1e9, manifest=False, checksum=False, key_rule=args.key_rule
    )
    with open_one(args, url) as samples, writer:
        for sample in samples:
            if args.rekey is None:
                writer.write(sample)
                continue
            key = field_bytes(sample, "__key__", url=url)
            number = f"{next(numbers):012d}"
            writer.write({**sample, "__key__": number, _KEY_FIELD: key})
    return [shard.url for shard in writer.shards]


def _order(args: argparse.Namespace, urls: Sequence[str], pattern: str) -> Report:
    """Let the engine write one shard of all samples, in their order."""
    from shardbuild.build.conversion import convert

    order = args.order
    if args.rekey is not None:
        order = order.replace("sort:__key__", f"sort:{_KEY_FIELD}", 1)
    chosen: dict[str, Any] = {
        "order": order,
        "seed": args.seed,
        "maxcount": ONE_SHARD,
        "memory": args.memory,
        "key_rule": args.key_rule,
        "storage_options": options.storage_options(args),
        "scheduler": "sync" if args.parallel == 1 else "threads",
        "workers": args.parallel,
    }
    try:
        with ProgressBar() as progress:
            return convert(urls, pattern, progress=progress, **chosen)
    except KeyRuleError as error:
        # Of a shard that is gone by now: the output is what cannot hold it.
        raise KeyRuleError(args.output, error.problem, error.key) from error


def _read(args: argparse.Namespace, url: str, num_samples: int) -> Iterator[Sample]:
    if not num_samples:
        return
    with _opened(args, url, num_samples) as samples:
        for sample in samples:
            if args.rekey is not None:
                sample["__key__"] = sample.pop(_KEY_FIELD).decode()
            yield sample


@contextmanager
def _opened(
    args: argparse.Namespace, url: str, num_samples: int
) -> Iterator[Iterator[Sample]]:
    if not args.reverse:
        with open_source(url, key_rule=args.key_rule) as samples:
            yield samples
        return
    from shardbuild.shards.index import load_index
    from shardbuild.shards.reader import scan_shard
    from shardbuild.shards.readindexed import read_indexed

    index = load_index(url) or scan_shard(url)
    yield read_indexed(url, index, range(num_samples - 1, -1, -1))


SORT = Functions(parse_sort, run)
SHUFFLE = Functions(parse_shuffle, run)
