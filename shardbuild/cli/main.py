"""The command ``shardbuild``: find the command's module, run it, tell its errors."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import select
import sys
from typing import TYPE_CHECKING, Protocol, cast

import shardbuild
from shardbuild.errors import ShardbuildError, StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["COMMANDS", "main"]

DONE, FAILED, WRONG_USAGE = 0, 1, 2
INTERRUPTED = 130  # as a shell says of a command that Ctrl-C ended
READER_GONE = 141  # and of one that wrote into a closed pipe


class CommandModule(Protocol):
    """What a command's module has."""

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Read the command's own arguments; exit with status 2 on wrong usage."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it and return the exit status."""


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """One command of ``shardbuild``."""

    module: str
    summary: str
    name: str = ""
    """What the command is in a module of several."""

    def load(self) -> CommandModule:
        """Import the command's module, and with it what the command needs."""
        module = importlib.import_module(self.module)
        return cast(
            "CommandModule", getattr(module, self.name) if self.name else module
        )


COMMANDS = {
    "convert": Command(
        "shardbuild.cli.convert", "transform, reorder and write a data set as shards"
    ),
    "verify": Command(
        "shardbuild.cli.verify", "read shards again and name every difference"
    ),
    "show": Command("shardbuild.cli.show", "show samples of shards"),
    "first": Command(
        "shardbuild.cli.select", "show the first sample that is as asked", "FIRST"
    ),
    "grep": Command(
        "shardbuild.cli.select", "keep the samples in which a regex is found", "GREP"
    ),
    "cat": Command(
        "shardbuild.cli.cat", "join, cut, thin out, rename and mix up samples"
    ),
    "mix": Command("shardbuild.cli.mix", "draw samples from several sets by weights"),
    "split": Command("shardbuild.cli.split", "cut samples into shards"),
    "sort": Command("shardbuild.cli.order", "sort samples by a field", "SORT"),
    "shuffle": Command(
        "shardbuild.cli.order", "put samples in a random order", "SHUFFLE"
    ),
    "proc": Command("shardbuild.cli.process", "run a command on each sample's files"),
    "create": Command(
        "shardbuild.cli.create", "make samples of a list of names and sources", "CREATE"
    ),
    "lines": Command(
        "shardbuild.cli.create", "make a sample of each line of a text", "LINES"
    ),
    "table": Command(
        "shardbuild.cli.tables", "write fields as a table: tsv, csv or json", "TABLE"
    ),
    "from-table": Command(
        "shardbuild.cli.tables", "make a sample of each row of a table", "FROM_TABLE"
    ),
    "send": Command("shardbuild.cli.network", "send samples over ZMQ", "SEND"),
    "recv": Command("shardbuild.cli.network", "receive samples over ZMQ", "RECV"),
    "index": Command(
        "shardbuild.cli.index", "write indexes and a manifest for shards of others"
    ),
    "bench": Command(
        "shardbuild.cli.bench", "measure the speed of this machine, ours and others'"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    0 done, 1 failed, 2 wrong usage; 130 and 141 as a shell says of a command
    that was interrupted, or whose output nobody reads any more.

    >>> main(["show", "/nowhere/a.tar"])
    1
    >>> main(["show", "--count", "many", "a.tar"])
    2
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else FAILED
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except Exception as error:
        if _is_broken_pipe(error) and _reader_is_gone():
            return READER_GONE
        if "--debug" in arguments:
            raise
        return _failed(error)
    return status


def _run(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    command = COMMANDS[args.command].load()
    with _schemes_of_the_user():
        return command.run(command.parse(args.arguments))


@contextlib.contextmanager
def _schemes_of_the_user() -> Iterator[None]:
    """Open urls as variables like ``GOPEN_OBJ="objget {}"`` say, in this process."""
    if not any(name.startswith("GOPEN_") for name in os.environ):
        yield
        return
    from shardbuild.storage.commands import schemes_from_environment
    from shardbuild.storage.schemes import gopen_schemes

    before = dict(gopen_schemes)
    gopen_schemes.update(schemes_from_environment(os.environ))
    try:
        yield
    finally:
        gopen_schemes.clear()
        gopen_schemes.update(before)


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {n:{width}}  {c.summary}" for n, c in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="shardbuild",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=shardbuild.__doc__.splitlines()[0] if shardbuild.__doc__ else None,
        epilog=f"commands:\n{listing}\n\n`shardbuild COMMAND --help` tells more.",
        usage="shardbuild [--version] COMMAND ...",
    )
    parser.add_argument(
        "--version", action="version", version=f"shardbuild {shardbuild.__version__}"
    )
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _failed(error: Exception) -> int:
    """Tell an error in one line.

    One of ours says what it is about; of any other the kind matters, and where
    it came from is for ``--debug`` to tell.
    """
    lines = [str(error), *getattr(error, "__notes__", ())]
    text = "; ".join(" ".join(line.split()) for line in lines if line.strip())
    if not isinstance(error, ShardbuildError):
        text = f"{type(error).__name__}: {text} (--debug shows where)"
    _say(text)
    return WRONG_USAGE if isinstance(error, UsageError) else FAILED


def _say(text: str) -> None:
    """Write one line to stderr, of which no character moves the cursor."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    print(f"shardbuild: {line}", file=sys.stderr)


def _is_broken_pipe(error: Exception) -> bool:
    """Whether it is about a pipe that nobody reads, as we or the system say it."""
    return isinstance(error, BrokenPipeError) or (
        isinstance(error, StorageError)
        and error.url == "-"
        and isinstance(error.__cause__, BrokenPipeError)
    )


def _reader_is_gone() -> bool:
    """Whether it is stdout that broke; if so, nothing more is written to it."""
    try:
        stdout = sys.stdout.fileno()
    except OSError:  # it is no file of the system
        return False
    states = select.poll()
    states.register(stdout, 0)
    if not any(state & select.POLLERR for _, state in states.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stdout)
    os.close(nowhere)
    return True
