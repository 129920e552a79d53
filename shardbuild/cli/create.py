"""``shardbuild create`` and ``shardbuild lines``: samples of what is no shard."""

from __future__ import annotations

import io
from itertools import chain
from typing import TYPE_CHECKING, cast

from shardbuild.cli import options
from shardbuild.cli.streaming import (
    KEY_FORMAT,
    Functions,
    add_choice_options,
    add_output_option,
    choose,
    write_samples,
)
from shardbuild.errors import KeyRuleError, StorageError, UsageError
from shardbuild.shards.framing import extension_problem
from shardbuild.shards.samples import skip_reason, split_member
from shardbuild.storage import expand_urls, gopen, join_url, local_path
from shardbuild.streams.choosing import parse_key_format

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from shardbuild.shards.samples import Sample
    from shardbuild.storage import StorageOptions

__all__ = ["CREATE", "LINES", "open_lines", "read_source"]

CREATE_DESCRIPTION = """\
Make samples of a plan: a text of lines, each a member's name, white space, and its
source. Members of one sample stand on lines that follow each other.

  n01/7.jpg  photos/7.jpg             the content of a file, or of any url
  n01/7.cls  text:3                   the text itself
  n01/7.txt  file:notes of today.txt  a file whose name would be taken for another
  n01/7.json pipe:jq .meta 7.json     what a command prints, with --allow-pipe only"""

LINES_DESCRIPTION = """\
Make a sample of each line of a text: its bytes, without the end of the line."""

CREATE_EXAMPLES = ("plan.txt -o created.tar", "plan.txt -C photos -c 1 -o one.tar")
LINES_EXAMPLES = ("words.txt -k 'word/{record:06d}' -o words.tar",)

DEFAULT_KEY = parse_key_format("#")
_CUT_BYTES = 1 << 20


def parse_create(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild create``."""
    parser = options.make_parser("create", CREATE_DESCRIPTION, *CREATE_EXAMPLES)
    parser.add_argument("plan", metavar="PLAN", help="the plan: a file, a url, or -")
    parser.add_argument(
        "-C",
        "--dir",
        default="",
        metavar="DIR",
        help="what the sources' names are relative to (default: here)",
    )
    parser.add_argument(
        "--allow-pipe", action="store_true", help="run the pipe: sources of the plan"
    )
    add_output_option(parser)
    add_choice_options(parser)
    options.add_common_options(parser)
    return parser.parse_intermixed_args(argv)


def run_create(args: argparse.Namespace) -> int:
    """Make the samples of the plan."""
    write_samples(args, choose(args, _planned(args)))
    return 0


def _planned(args: argparse.Namespace) -> Iterator[Sample]:
    """The samples of a plan: lines of one key that follow each other."""
    sample: Sample = {}
    storage_options = options.storage_options(args)
    for number, line in enumerate(_texts(args.plan, storage_options), 1):
        if not line.strip():
            continue
        where = f"{args.plan}:{number}"
        name, source = [*line.strip().split(None, 1), ""][:2]
        key, field = _split_name(where, name)
        if sample and sample["__key__"] != key:
            yield sample
            sample = {}
        if field in sample:
            raise KeyRuleError(where, f"its field {field!r} comes twice", key)
        sample["__key__"] = key
        sample[field] = _content(args, where, source)
    if sample:
        yield sample


def _split_name(where: str, name: str) -> tuple[str, str]:
    parts = split_member(name)
    if parts is None:
        reason = skip_reason(name)
        raise StorageError(where, f"{name!r} is no part of a sample: {reason}")
    problem = extension_problem(parts[1])
    if problem:
        raise KeyRuleError(where, problem, parts[0])
    return parts


def _content(args: argparse.Namespace, where: str, source: str) -> bytes:
    if source.startswith("text:"):
        return source.removeprefix("text:").encode("utf-8", "surrogateescape")
    if not source:
        raise StorageError(where, "names no source after the member's name")
    if source == "-":
        raise StorageError(where, "names '-', which is no file")
    if source.startswith("pipe:") and not args.allow_pipe:
        raise UsageError(where, f"names {source!r}: --allow-pipe permits that")
    url = _in_folder(args.dir, source)
    return read_source(url, options.storage_options(args))


def _in_folder(folder: str, source: str) -> str:
    """The url of a source of a plan: ``file:`` takes a name as it is.

    >>> _in_folder("d", "a.txt"), _in_folder("d", "file:pipe:7"), _in_folder("d", "/a")
    ('d/a.txt', 'file:d/pipe:7', '/a')
    """
    if not folder:
        return source
    path = source.removeprefix("file:")
    is_relative = path != source and not path.startswith("/")
    if is_relative and local_path(folder) is not None:
        return f"file:{local_path(folder)}/{path}"
    return join_url(folder, source)


def read_source(url: str, storage_options: StorageOptions | None) -> bytes:
    """Return all that a url holds.

    Raises:
        StorageError: It cannot be read.
    """
    with gopen(url, "rb", storage_options=storage_options) as stream:
        return b"".join(iter(lambda: stream.read(_CUT_BYTES), b""))


def open_lines(url: str, storage_options: StorageOptions | None) -> Iterator[bytes]:
    r"""The lines of a text, each without its ``\n``.

    >>> with gopen("memory://doc/lines.txt", "wb") as file:
    ...     _ = file.write(b"one\n\ntwo")
    >>> list(open_lines("memory://doc/lines.txt", None))
    [b'one', b'', b'two']

    Raises:
        StorageError: It cannot be read.
    """
    with gopen(url, "rb", storage_options=storage_options) as stream:
        lines = io.BufferedReader(cast("io.RawIOBase", stream), _CUT_BYTES)
        try:
            for line in lines:
                yield line.removesuffix(b"\n")
        finally:
            lines.detach()


def _texts(url: str, storage_options: StorageOptions | None) -> Iterator[str]:
    for line in open_lines(url, storage_options):
        yield line.decode("utf-8", "surrogateescape")


def parse_lines(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild lines``."""
    parser = options.make_parser("lines", LINES_DESCRIPTION, *LINES_EXAMPLES)
    parser.add_argument("urls", nargs="+", metavar="URL", help="texts: files, urls, -")
    parser.add_argument(
        "-k",
        "--key",
        type=KEY_FORMAT,
        default=DEFAULT_KEY,
        metavar="FORMAT",
        help="keys: # is the number in nine digits, {record:06d} in six (default: #)",
    )
    parser.add_argument(
        "--field",
        default="txt",
        metavar="FIELD",
        help="what the line becomes (default: txt)",
    )
    add_output_option(parser)
    add_choice_options(parser)
    options.add_common_options(parser)
    return parser.parse_intermixed_args(argv)


def run_lines(args: argparse.Namespace) -> int:
    """Make a sample of each line."""
    storage_options = options.storage_options(args)
    urls = expand_urls(args.urls, storage_options)
    lines = chain.from_iterable(open_lines(url, storage_options) for url in urls)
    field = args.field.lower()
    samples = (
        {"__key__": args.key.make(number), field: line}
        for number, line in enumerate(lines)
    )
    write_samples(args, choose(args, samples))
    return 0


CREATE = Functions(parse_create, run_create)
LINES = Functions(parse_lines, run_lines)
