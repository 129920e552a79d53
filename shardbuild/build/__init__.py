"""Conversion on Dask: plans, tasks, and what runs them."""

from shardbuild.build.bags import read_shards, reshuffle, write_shards
from shardbuild.build.conversion import convert, make_plan
from shardbuild.build.plan import Plan
from shardbuild.build.report import Report

__all__ = [
    "Plan",
    "Report",
    "convert",
    "make_plan",
    "read_shards",
    "reshuffle",
    "write_shards",
]
