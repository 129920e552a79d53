"""``shardbuild table`` and ``shardbuild from-table``: fields as text, and back."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any

from shardbuild.cli import options
from shardbuild.cli.create import DEFAULT_KEY, open_lines, read_source
from shardbuild.cli.streaming import (
    KEY_FORMAT,
    Functions,
    add_choice_options,
    add_output_option,
    add_source_options,
    choose,
    open_samples,
    write_samples,
)
from shardbuild.codecs.encoders import encoders, handler_name
from shardbuild.errors import SampleError, StorageError
from shardbuild.storage import gopen, join_url
from shardbuild.streams.choosing import field_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["FROM_TABLE", "TABLE", "parse_tsv_line", "tsv_line"]

TABLE_DESCRIPTION = """\
Write the key and fields of each sample as a row of text.

tsv: tabs between cells; a tab, an end of line and a backslash in a cell are written
\\t, \\n, \\r and \\\\. csv: as spreadsheets read it. json: an object a line, in which a
json field is its value and a cls, id and the like a number."""

FROM_TABLE_DESCRIPTION = """\
Make a sample of each row of a table, of which the first row names the fields.

A cell is the field's text. Under a name that begins with @, such as @jpg, it names
the file, or a url, whose content is the field. The column __key__ is the key, else
--key makes it. tsv and csv are as `shardbuild table` writes them."""

TABLE_EXAMPLES = (
    "a-000000.tar -f 'cls txt' -o table.tsv",
    "a.json --format json -f 'cls txt' -c 5",
)
FROM_TABLE_EXAMPLES = ("plan.tsv -C photos -k 'photo/{record:06d}' -o photos.tar",)

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_ESCAPED = {escaped: sign for sign, escaped in _ESCAPES.items()}
_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPE = re.compile(r"\\.?", re.DOTALL)
_BLOCK_BYTES = 1 << 16


def tsv_line(cells: Iterable[str]) -> str:
    r"""One line of a table, without its end.

    >>> tsv_line(["a", "two\nlines", "C:\\"])
    'a\ttwo\\nlines\tC:\\\\'
    """
    return "\t".join(_SPECIAL.sub(lambda m: _ESCAPES[m[0]], cell) for cell in cells)


def parse_tsv_line(line: str) -> list[str]:
    r"""The cells of a line that `tsv_line` made.

    >>> parse_tsv_line("a\ttwo\\nlines")
    ['a', 'two\nlines']

    Raises:
        ValueError: A backslash stands before something else.
    """
    return [_ESCAPE.sub(_unescaped, cell) for cell in line.split("\t")]


def _unescaped(match: re.Match[str]) -> str:
    if match[0] not in _ESCAPED:
        raise ValueError(f"{match[0]!r} means nothing: write '\\\\' for a backslash")
    return _ESCAPED[match[0]]


def parse_table(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild table``."""
    parser = options.make_parser("table", TABLE_DESCRIPTION, *TABLE_EXAMPLES)
    add_source_options(parser)
    parser.add_argument(
        "--format",
        choices=("tsv", "csv", "json"),
        default="tsv",
        help="what is written (default: tsv)",
    )
    parser.add_argument("--no-key", action="store_true", help="leave the key out")
    parser.add_argument(
        "--no-header", action="store_true", help="write no row with the names"
    )
    parser.add_argument(
        "-o",
        "--output",
        default="-",
        metavar="URL",
        help="a file, any url, - for stdout (default: -)",
    )
    add_choice_options(parser)
    options.add_common_options(parser)
    args = parser.parse_intermixed_args(argv)
    if args.fields is None and args.format != "json":
        parser.error("a table needs --fields, such as -f 'cls txt': its columns")
    return args


def run_table(args: argparse.Namespace) -> int:
    """Write the rows."""
    with open_samples(args) as samples:
        chosen = choose(args, samples)
        rows = _json_lines(args, chosen) if args.format == "json" else None
        lines = _table_lines(args, chosen) if rows is None else rows
        _write_lines(args, lines)
    return 0


def _table_lines(args: argparse.Namespace, samples: Iterable[Sample]) -> Iterator[str]:
    columns = [choice.name for choice in args.fields]
    columns = columns if args.no_key else ["__key__", *columns]
    line = tsv_line if args.format == "tsv" else _csv_line
    if not args.no_header:
        yield line(columns)
    for sample in samples:
        # Where --field-mode lets a field be missing, its cell is empty.
        yield line([_text(sample, name) if name in sample else "" for name in columns])


def _csv_line(cells: Iterable[str]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\r\n").writerow(cells)  # quotes both signs
    return stream.getvalue().removesuffix("\r\n")


def _json_lines(args: argparse.Namespace, samples: Iterable[Sample]) -> Iterator[str]:
    for sample in samples:
        names = [name for name in sample if not name.startswith("__")]
        names = names if args.no_key else ["__key__", *names]
        row = {name: _plain(name, _text(sample, name)) for name in names}
        yield json.dumps(row, ensure_ascii=True)


def _text(sample: Sample, name: str) -> str:
    try:
        return field_bytes(sample, name).decode()
    except UnicodeDecodeError as error:
        problem = f"field {name!r} is no UTF-8 text: choose others with --fields"
        raise SampleError("table", problem, str(sample["__key__"])) from error


def _plain(name: str, text: str) -> Any:
    kind = handler_name(name)
    is_number = encoders.get(kind) is encoders["cls"]
    if kind not in ("json", "jsn") and not is_number:
        return text
    try:
        return int(text) if is_number else json.loads(text)
    except ValueError:
        return text


def _write_lines(args: argparse.Namespace, lines: Iterable[str]) -> None:
    storage_options = options.storage_options(args)
    with gopen(args.output, "wb", storage_options=storage_options) as stream:
        block: list[bytes] = []
        num_bytes = 0
        for line in lines:
            block.append(line.encode() + b"\n")
            num_bytes += len(block[-1])
            if num_bytes >= _BLOCK_BYTES:
                stream.write(b"".join(block))
                block, num_bytes = [], 0
        stream.write(b"".join(block))


def parse_from_table(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild from-table``."""
    parser = options.make_parser(
        "from-table", FROM_TABLE_DESCRIPTION, *FROM_TABLE_EXAMPLES
    )
    parser.add_argument("plan", metavar="PLAN", help="the table: a file, a url, or -")
    parser.add_argument(
        "--format", choices=("tsv", "csv"), default="tsv", help="default: tsv"
    )
    parser.add_argument(
        "-k",
        "--key",
        type=KEY_FORMAT,
        default=DEFAULT_KEY,
        metavar="FORMAT",
        help="keys: # is the row's number in nine digits, {record:06d} in six "
        "(default: #)",
    )
    parser.add_argument(
        "-C",
        "--dir",
        default="",
        metavar="DIR",
        help="what the files' names are relative to (default: here)",
    )
    add_output_option(parser)
    add_choice_options(parser)
    options.add_common_options(parser)
    return parser.parse_intermixed_args(argv)


def run_from_table(args: argparse.Namespace) -> int:
    """Make a sample of each row."""
    write_samples(args, choose(args, _from_rows(args)))
    return 0


def _from_rows(args: argparse.Namespace) -> Iterator[Sample]:
    rows = _rows(args)
    names = next(rows, None)
    if names is None:
        raise StorageError(args.plan, "is empty: the first row names the fields")
    _check_names(args.plan, names)
    for number, cells in enumerate(rows):
        where = f"{args.plan}: row {number + 1}"
        if len(cells) != len(names):
            problem = f"has {len(cells)} cells where there are {len(names)} names"
            raise StorageError(where, problem)
        row = dict(zip(names, cells, strict=True))
        sample: Sample = {"__key__": row.pop("__key__", args.key.make(number))}
        for name, cell in row.items():
            field = name.removeprefix("@").lower()
            sample[field] = (
                _file(args, where, cell) if name.startswith("@") else cell.encode()
            )
        yield sample


def _check_names(plan: str, names: Sequence[str]) -> None:
    fields = [name.removeprefix("@").lower() for name in names]
    if len(set(fields)) < len(fields) or not all(fields):
        raise StorageError(plan, f"its names {names} are not all there, and different")


def _rows(args: argparse.Namespace) -> Iterator[list[str]]:
    lines = open_lines(args.plan, options.storage_options(args))
    parse: Callable[[str], list[str]] = parse_tsv_line
    if args.format == "csv":
        # The ends of lines are a part of cells that are quoted.
        yield from csv.reader(f"{line.decode()}\n" for line in lines)
        return
    for number, line in enumerate(lines, 1):
        text = line.decode().removesuffix("\r")
        if text:
            try:
                yield parse(text)
            except ValueError as error:
                raise StorageError(f"{args.plan}:{number}", str(error)) from error


def _file(args: argparse.Namespace, where: str, name: str) -> bytes:
    if not name or name == "-" or name.startswith("pipe:"):
        raise StorageError(where, f"names {name!r}, which is no file")
    return read_source(
        join_url(args.dir, name) if args.dir else name, options.storage_options(args)
    )


TABLE = Functions(parse_table, run_table)
FROM_TABLE = Functions(parse_from_table, run_from_table)
