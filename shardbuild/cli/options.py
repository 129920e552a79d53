"""What several commands' options have in common."""

from __future__ import annotations

import argparse
import decimal
import json
from typing import TYPE_CHECKING, TypeVar

from shardbuild.build.report import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "COUNT",
    "SIZE",
    "add_common_options",
    "argument_type",
    "make_parser",
    "parse_bytes",
    "parse_count",
    "parse_pair",
    "storage_options",
]

T = TypeVar("T")


def parse_count(text: str, *, least: int = 1) -> int:
    """Read a whole number of at least ``least``, such as 100, 10_000 or 1e6.

    >>> parse_count("10_000"), parse_count("1e6"), parse_count("0", least=0)
    (10000, 1000000, 0)

    Raises:
        ValueError: It is no such number.
    """
    try:
        count = decimal.Decimal(text)
    except decimal.InvalidOperation:
        raise ValueError(f"{text!r} is no number") from None
    if not count.is_finite() or count < least or count != int(count):
        raise ValueError(f"{text!r} is not a whole number of at least {least}")
    return int(count)


def parse_pair(text: str) -> tuple[str, object]:
    """Read ``KEY=VALUE``; a value that is JSON means what JSON says.

    >>> parse_pair("anon=true"), parse_pair("key=AKIA")
    (('anon', True), ('key', 'AKIA'))
    >>> parse_pair('client_kwargs={"verify": false}')
    ('client_kwargs', {'verify': False})
    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def argument_type(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Let argparse tell why ``parse`` refused a value, in ``parse``'s own words."""

    def parse_argument(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_argument


COUNT = argument_type(parse_count)
SIZE = argument_type(parse_bytes)


def make_parser(
    command: str, description: str, *examples: str
) -> argparse.ArgumentParser:
    """Make the parser of one command; no option may be shortened.

    Each of ``examples`` is what is written after ``shardbuild`` and the command's
    name, and maybe more after a pipe sign.
    """
    lines = "".join(f"\n  shardbuild {command} {example}" for example in examples)
    return argparse.ArgumentParser(
        prog=f"shardbuild {command}",
        description=description,
        epilog=f"examples:{lines}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has."""
    parser.add_argument(
        "--storage-option",
        action="append",
        default=[],
        type=argument_type(parse_pair),
        metavar="KEY=VALUE",
        help="passed on to fsspec for every url; may be given again; a VALUE that "
        "is JSON is read as JSON",
    )
    parser.add_argument(
        "--debug", action="store_true", help="show the whole traceback of an error"
    )


def storage_options(args: argparse.Namespace) -> dict[str, object] | None:
    """Return what ``--storage-option`` gave, or None where it was not given."""
    return dict(args.storage_option) or None
