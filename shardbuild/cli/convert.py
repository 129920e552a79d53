"""``shardbuild convert``: transform, reorder and write a data set as shards."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from shardbuild.build import conversion
from shardbuild.build.jobs import load_job
from shardbuild.build.ordering import parse_order
from shardbuild.cli import options
from shardbuild.cli.joboptions import add_job_options, read_job_options
from shardbuild.cli.progress import ProgressBar
from shardbuild.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardbuild.build.jobs import Job

__all__ = ["parse", "run"]

DESCRIPTION = """\
Read a data set, transform its samples, put them in a new global order and write
them as shards with indexes, a manifest and a report.

SRC is a folder of files (those that share folder and base name are one sample), a
manifest, or shards: paths, urls, brace expansions, globs, @FILE with a list of
them. DST is the shards' pattern: out/train-%06d.tar gives the manifest
out/train.json.

The same command given again goes on where the last one stopped."""

EXAMPLES = (
    "a.json 'shuffled/a-%06d.tar' --order shuffle --seed 7 --maxcount 20",
    "photos 'photos-%06d.tar' --plan",
)

Group = argparse._ArgumentGroup


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of ``shardbuild convert``.

    First ``--job`` alone, for the job's own options are in its file; then all.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--job")
    parser = _parser()
    try:
        url = first.parse_known_args(argv)[0].job
    except SystemExit:  # --job without a FILE: the parser below says so
        url = None
    job = load_job(url) if url else None
    if job is not None:
        _add_job(parser, job)
    args = parser.parse_intermixed_args(argv)
    if job is not None and job.transform is not None:
        job = job.with_options(**read_job_options(args, job.transform))
    args.transform = job
    return args


def run(args: argparse.Namespace) -> int:
    """Convert and print the report, or only plan and print the plan."""
    chosen: dict[str, Any] = {name: getattr(args, name) for name in OPTIONS}
    chosen["storage_options"] = options.storage_options(args)
    if args.plan:
        plan = conversion.make_plan(args.src, args.dst, args.transform, **chosen)
        print(plan.to_bytes().decode() if args.json else plan.summary())
        return 0
    with ProgressBar() as progress:
        chosen["progress"] = progress
        report = conversion.convert(args.src, args.dst, args.transform, **chosen)
    print(report.to_bytes().decode().rstrip() if args.json else report.summary())
    return 0


OPTIONS = (
    "errors",
    "key_rule",
    "label_from",
    "max_errors",
    "maxcount",
    "maxsize",
    "memory",
    "method",
    "order",
    "overwrite",
    "rekey",
    "scheduler",
    "seed",
    "workers",
)


def _parser() -> argparse.ArgumentParser:
    parser = options.make_parser("convert", DESCRIPTION, *EXAMPLES)
    parser.add_argument("src", nargs="+", metavar="SRC", help="what to read")
    parser.add_argument("dst", metavar="DST", help="the shards to write")
    _add_content_options(parser.add_argument_group("what is written"))
    _add_running_options(parser.add_argument_group("how it runs"))
    _add_error_options(parser.add_argument_group("what a bad sample does"))
    _add_output_options(parser.add_argument_group("what is printed"))
    options.add_common_options(parser)
    return parser


def _add_job(parser: argparse.ArgumentParser, job: Job) -> None:
    """Add the job's options, and take the defaults it has for convert's."""
    unknown = sorted(set(job.defaults) - set(OPTIONS))
    if unknown:
        raise PlanError(job.url, f"its defaults name no option of convert: {unknown}")
    parser.set_defaults(**job.defaults)
    if job.transform is not None:
        try:
            add_job_options(parser, job.transform, job.help)
        except ValueError as error:
            raise PlanError(job.url, str(error)) from error


def _add_content_options(group: Group) -> None:
    group.add_argument(
        "--job", metavar="FILE", help="a Python file with a function `transform`"
    )
    group.add_argument(
        "--order",
        type=options.argument_type(_check_order),
        default="keep",
        metavar="ORDER",
        help="keep, shuffle, or sort:FIELD[:text|int|float] (default: keep)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="which shuffle (default: 0)"
    )
    group.add_argument(
        "--maxcount", type=options.COUNT, metavar="N", help="most samples in a shard"
    )
    group.add_argument(
        "--maxsize",
        type=options.SIZE,
        metavar="BYTES",
        help="most bytes of a shard on storage, such as 1GB or 512MiB; without this "
        "and --maxcount shards stay as they are, or become 1 GB large",
    )
    group.add_argument(
        "--label-from",
        choices=("folder",),
        help="give each sample of a folder a `cls`, and keep the list of classes",
    )
    group.add_argument(
        "--rekey",
        action="store_true",
        help="put the number of the input shard before each key",
    )
    group.add_argument(
        "--key-rule",
        choices=("first-dot", "last-dot"),
        default="first-dot",
        help="where a name's key ends and its extension begins (default: first-dot, "
        "the format's rule)",
    )


def _add_running_options(group: Group) -> None:
    group.add_argument(
        "--method",
        choices=("auto", "stream", "gather", "spill"),
        default="auto",
        help="how samples come to their place; the result is the same (default: auto)",
    )
    group.add_argument(
        "--workers",
        type=options.COUNT,
        metavar="N",
        help="how many tasks run at once: in N processes, or as --scheduler says",
    )
    group.add_argument(
        "--scheduler",
        metavar="WHERE",
        help="sync, threads, processes, or a Dask scheduler's address such as "
        "tcp://host:8786",
    )
    group.add_argument(
        "--memory",
        type=options.SIZE,
        metavar="BYTES",
        help="most bytes of samples that one task may hold (default: 128MiB)",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what another command wrote to DST",
    )


def _add_error_options(group: Group) -> None:
    group.add_argument(
        "--errors",
        choices=("raise", "skip", "quarantine"),
        default="raise",
        help="end the run, count and leave out, or leave out and keep in shards of "
        "their own (default: raise)",
    )
    group.add_argument(
        "--max-errors",
        type=options.argument_type(lambda text: options.parse_count(text, least=0)),
        metavar="N",
        help="more than N of them end the run all the same",
    )


def _add_output_options(group: Group) -> None:
    group.add_argument(
        "--plan",
        action="store_true",
        help="print shards, bytes, requests, memory and disk, and write nothing",
    )
    group.add_argument(
        "--json", action="store_true", help="print the plan or report as JSON, no more"
    )


def _check_order(text: str) -> str:
    try:
        parse_order(text)
    except PlanError as error:
        raise ValueError(str(error)) from error
    return text
