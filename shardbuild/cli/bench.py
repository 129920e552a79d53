"""``shardbuild bench``: what our speed is, as ratios within the same minute."""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shardbuild.bench.catalog import WORKLOADS
from shardbuild.bench.results import (
    as_records,
    as_table,
    machine_line,
    machine_record,
)
from shardbuild.bench.session import (
    describe_machine,
    kept_bytecode,
    run_workload,
    scratch_folder,
)
from shardbuild.bench.shards import add_arguments, measure_shards
from shardbuild.bench.workloads import Scene
from shardbuild.cli import options
from shardbuild.cli.stopping import ended_by_sigterm
from shardbuild.errors import MissingExtraError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from shardbuild.bench.session import Result
    from shardbuild.bench.workloads import Workload

__all__ = ["parse", "run"]

DESCRIPTION = """\
Measure reading, writing, converting, reshuffling and feeding on data made here; or,
given urls, how fast these shards are read and what is in them.

Every workload runs its contestants in turns, round by round, beside a raw baseline
(readinto, a raw write, dd, bare codec calls), on a warm cache; those of reading,
writing, training and of converting in one process have each a process of their own.
What is told are medians of the ratios within a round, and how far they went. --peers
adds webdataset, wids, litData, tarfile and Dask's groupby, checked to give the same
bytes, and says of each of shardbuild's own floors whether it was met.

Exit status 0: measured; 1: something failed, or, with --strict, a floor was missed."""

EXAMPLES = ("read-small --samples 200 --rounds 1",)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild bench``."""
    parser = options.make_parser("bench", DESCRIPTION, *EXAMPLES)
    count = options.argument_type(options.parse_count)
    parser.add_argument(
        "workloads",
        nargs="*",
        metavar="WORKLOAD|URL",
        help=f"one or more of {', '.join(WORKLOADS)} (default: all); or shards",
    )
    add_arguments(parser.add_argument_group("of shards"))
    parser.add_argument(
        "--peers",
        action="store_true",
        help="measure others too (extra `bench`)",
    )
    parser.add_argument(
        "--rounds", type=count, default=5, metavar="N", help="default: 5"
    )
    parser.add_argument(
        "--samples",
        type=count,
        default=20_000,
        metavar="N",
        help="small samples, of 3 KB (default: 20000)",
    )
    parser.add_argument(
        "--photos",
        type=count,
        default=1_500,
        metavar="N",
        help="photographs, of 100 KB (default: 1500)",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="the sizes that the floors are about, whatever they cost in time; who is "
        "quick runs again in each round, until 2 seconds are over",
    )
    parser.add_argument(
        "--workers", type=count, default=2, metavar="N", help="default: 2"
    )
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="default: 7")
    parser.add_argument(
        "--folder",
        metavar="DIR",
        help="where the data is made (default: in memory where the system has a place)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument(
        "--strict", action="store_true", help="exit status 1 if a floor was missed"
    )
    options.add_common_options(parser)
    args = parser.parse_intermixed_args(argv)
    args.urls = []
    # No workload has a name like that of a file.
    if any(name == "-" or set("./:") & set(name) for name in args.workloads):
        args.urls, args.workloads = args.workloads, []
    for name in args.workloads:
        if name not in WORKLOADS:
            parser.error(f"{name!r} is no workload: {', '.join(WORKLOADS)}")
    return args


def run(args: argparse.Namespace) -> int:
    """Run the workloads and print each as soon as it is measured."""
    if args.urls:
        return _measure_urls(args)
    machine = describe_machine()
    _print(machine_record(machine) if args.json else machine_line(machine))
    missed = 0
    names = args.workloads or WORKLOADS
    with ended_by_sigterm(), contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder(args.folder))
        if any(WORKLOADS[name].starts_python for name in names):
            stack.enter_context(kept_bytecode(Path(folder) / "bytecode"))
        scene = Scene(Path(folder), args.samples, args.photos, args.workers, args.seed)
        for name in names:
            workload = WORKLOADS[name]
            try:
                with _scene_of(workload, scene, is_full=args.full) as its_scene:
                    result = run_workload(
                        workload, its_scene, args.rounds, with_peers=args.peers
                    )
            except MissingExtraError as error:
                # Named, or a peer that was asked for: it has to be there.
                if args.workloads or args.peers:
                    raise
                _print_not_run(name, error, as_json=args.json)
                continue
            _print_result(result, as_json=args.json)
            missed += sum(not verdict.is_met for verdict in result.verdicts)
    return 1 if args.strict and missed else 0


def _measure_urls(args: argparse.Namespace) -> int:
    """Read the shards that were named."""
    for speed in measure_shards(
        args.urls,
        max_samples=args.count,
        images=args.decode,
        storage_options=options.storage_options(args),
    ):
        _print(speed.to_json() if args.json else f"{speed}\n")
    return 0


@contextlib.contextmanager
def _scene_of(workload: Workload, scene: Scene, *, is_full: bool) -> Iterator[Scene]:
    """Give a workload its place: one of its own where each has its own sizes."""
    if not is_full:
        yield scene
        return
    with tempfile.TemporaryDirectory(dir=scene.folder) as folder:
        size = workload.full_size
        yield replace(scene, folder=Path(folder), num_samples=size, num_photos=size)


def _print(line: str | dict[str, object]) -> None:
    print(line if isinstance(line, str) else json.dumps(line), flush=True)


def _print_result(result: Result, *, as_json: bool) -> None:
    if as_json:
        for record in as_records(result):
            _print(record)
    else:
        _print("\n" + as_table(result))


def _print_not_run(name: str, error: MissingExtraError, *, as_json: bool) -> None:
    if as_json:
        _print({"kind": "not run", "workload": name, "problem": str(error)})
    else:
        _print(f"\n{name}: not run: {error}")
