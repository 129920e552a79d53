"""``shardbuild proc``: run a command on each sample's files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from shardbuild.cli import options
from shardbuild.cli.printing import count_of
from shardbuild.cli.scratch import Naming, read_scratch, write_scratch
from shardbuild.cli.stopping import ended_by_sigterm
from shardbuild.cli.streaming import (
    FIELDS,
    KEY_FORMAT,
    SLICE,
    add_output_option,
    add_source_options,
    choose,
    open_samples,
    warn,
    write_samples,
)
from shardbuild.errors import SampleError, TransformError
from shardbuild.streams.choosing import parse_regex

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Iterator, Sequence
    from concurrent.futures import Future

    from shardbuild.shards.samples import Sample

__all__ = ["parse", "run"]

DESCRIPTION = """\
Run a command on each sample, in a folder of its own that is deleted afterwards.

There each field is a file, sample.jpg, sample.cls and so on, and the key is in the
file __key__. What is called sample.* when the command has ended is the new sample;
sample-1.* and the like are further ones, whose keys have -1 at the end. Samples
come out in the order in which they came in. What the command prints goes to
stderr; its exit status is looked at."""

EXAMPLES = (
    "a-000000.tar -C 'wc -c < sample.txt > sample.count' -p 2 -o counted.tar",
    "a-000000.tar -f 'txt cls' -C 'mv sample.txt sample-copy.txt' -e skip -o two.tar",
)

REGEX = options.argument_type(parse_regex)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild proc``."""
    parser = options.make_parser("proc", DESCRIPTION, *EXAMPLES)
    add_source_options(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-C", "--command", metavar="COMMAND", help="the command")
    what.add_argument("--script", metavar="FILE", help="a file for the interpreter")
    _add_running_options(parser)
    _add_file_options(parser)
    add_output_option(parser)
    options.add_common_options(parser)
    args = parser.parse_intermixed_args(argv)
    if not args.base or "." in args.base or "/" in args.base:
        parser.error(f"--base {args.base!r} is no file's name without a dot")
    if args.script is not None and not Path(args.script).is_file():
        parser.error(f"--script {args.script!r} is no file")
    if args.working_dir is not None and not Path(args.working_dir).is_dir():
        parser.error(f"--working-dir {args.working_dir!r} is no folder")
    return args


def _add_running_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interpreter",
        default="bash",
        metavar="PROGRAM",
        help="what runs the command (with -c) or the script (default: bash)",
    )
    parser.add_argument(
        "-p",
        "--parallel",
        type=options.COUNT,
        default=1,
        metavar="N",
        help="run N at once; the output is the same (default: 1)",
    )
    parser.add_argument(
        "-e",
        "--error-handling",
        choices=("abort", "skip", "ignore"),
        default="abort",
        help="when the command fails: end with an error, leave the sample out, or take "
        "what files there are (default: abort)",
    )
    parser.add_argument(
        "-w",
        "--working-dir",
        metavar="DIR",
        help="where the folders are made (default: $TMPDIR or /tmp)",
    )


def _add_file_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-b",
        "--base",
        default="sample",
        metavar="NAME",
        help="how files begin (default: sample)",
    )
    parser.add_argument(
        "-f", "--fields", type=FIELDS, metavar="FIELDS", help="only these are files"
    )
    parser.add_argument(
        "-F",
        "--field-mode",
        choices=("error", "ignore", "skip"),
        default="error",
        help="what a sample without such a field does: fail, go on without it, or "
        "stay behind (default: error)",
    )
    parser.add_argument(
        "-I", "--include", type=REGEX, metavar="REGEX", help="take only these files"
    )
    parser.add_argument(
        "-E", "--exclude", type=REGEX, metavar="REGEX", help="do not take these files"
    )
    parser.add_argument(
        "--separator",
        default="",
        metavar="TEXT",
        help="between the key and what follows NAME in a file's name (default: none)",
    )
    parser.add_argument(
        "-c", "--count", type=options.COUNT, metavar="N", help="the first N samples"
    )
    parser.add_argument(
        "--slice", type=SLICE, metavar="START:STOP:STEP", help="these samples, from 0"
    )
    parser.add_argument(
        "-R", "--rekey", type=KEY_FORMAT, metavar="FORMAT", help="new keys: see cat"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command on each sample, and copy what it makes."""
    with (
        ended_by_sigterm(),
        open_samples(args) as samples,
        _Commands(args) as commands,
    ):
        with contextlib.closing(
            commands.run_all(choose(_inputs(args), samples))
        ) as made:
            write_samples(args, choose(_outputs(args), made))
        if commands.num_skipped:
            told = count_of(commands.num_skipped, "sample")
            warn(f"{told} skipped: the command failed")
    return 0


def _inputs(args: argparse.Namespace) -> argparse.Namespace:
    return _with(args, rekey=None)


def _outputs(args: argparse.Namespace) -> argparse.Namespace:
    return _with(args, slice=None, count=None, fields=None)


def _with(args: argparse.Namespace, **changed: object) -> argparse.Namespace:
    return type(args)(**{**vars(args), **changed})


class _Commands:
    """Runs the command in folders, some at once; at the end none is running."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.num_skipped = 0
        self._args = args
        self._naming = Naming(args.base, args.separator, args.include, args.exclude)
        self._argv = _command_line(args)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_stopped = False

    def __enter__(self) -> _Commands:
        self._folder = Path(
            tempfile.mkdtemp(prefix="shardbuild-", dir=self._args.working_dir)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run_all(self, samples: Iterator[Sample]) -> Generator[Sample]:
        """What the command makes of the samples, in their order."""
        under_way: deque[Future[list[Sample] | None]] = deque()
        pool = ThreadPoolExecutor(self._args.parallel)
        try:
            for sample in samples:
                under_way.append(pool.submit(self._run_one, sample))
                if len(under_way) > self._args.parallel:
                    yield from self._taken(under_way.popleft())
            while under_way:
                yield from self._taken(under_way.popleft())
        finally:
            self._stop()  # or the pool would wait for commands that nobody wants
            pool.shutdown(cancel_futures=True)

    def _taken(self, result: Future[list[Sample] | None]) -> list[Sample]:
        made = result.result()
        if made is None:
            self.num_skipped += 1
        return made or []

    def _run_one(self, sample: Sample) -> list[Sample] | None:
        """Run the command on a sample; None if it failed and is to be skipped."""
        key = str(sample["__key__"])
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            folder = Path(name)
            write_scratch(folder, sample, self._naming)
            status = self._call(folder)
            if status != 0 and self._args.error_handling == "abort":
                problem = f"the command ended with exit status {status}"
                raise TransformError("proc", problem, key)
            if status != 0 and self._args.error_handling == "skip":
                return None
            made = read_scratch(folder, key, self._naming)
        if not made:
            raise SampleError("proc", "the command left no files of it", key)
        return made

    def _call(self, folder: Path) -> int:
        with self._lock:
            if self._is_stopped:
                return -signal.SIGTERM
            process = subprocess.Popen(
                self._argv,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=2,  # ours may be the output
                start_new_session=True,
            )
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)

    def _stop(self) -> None:
        """Kill what is running, with all that it started; start nothing more."""
        with self._lock:
            self._is_stopped = True
            for process in self._running:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)


def _command_line(args: argparse.Namespace) -> list[str]:
    if args.script is not None:
        return [args.interpreter, str(Path(args.script).resolve())]
    return [args.interpreter, "-c", args.command]
