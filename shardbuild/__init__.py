"""Convert, transform, shuffle and verify data sets of tar shards.

Public names resolve on first use: ``import shardbuild`` alone loads nothing but
this file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardbuild.build.bags import read_shards as read_shards
    from shardbuild.build.bags import reshuffle as reshuffle
    from shardbuild.build.bags import write_shards as write_shards
    from shardbuild.build.conversion import convert as convert
    from shardbuild.build.conversion import make_plan as make_plan
    from shardbuild.build.plan import Plan as Plan
    from shardbuild.build.report import Report as Report
    from shardbuild.codecs import tenbin as tenbin
    from shardbuild.codecs.audiovideo import torch_audio as torch_audio
    from shardbuild.codecs.audiovideo import torch_video as torch_video
    from shardbuild.codecs.decoders import decode_field as decode_field
    from shardbuild.codecs.decoders import decode_sample as decode_sample
    from shardbuild.codecs.encoders import encode_field as encode_field
    from shardbuild.codecs.encoders import encode_sample as encode_sample
    from shardbuild.codecs.handlers import Continue as Continue
    from shardbuild.codecs.handlers import Decoder as Decoder
    from shardbuild.codecs.handlers import gzfilter as gzfilter
    from shardbuild.codecs.handlers import handle_extension as handle_extension
    from shardbuild.codecs.handlers import imagehandler as imagehandler
    from shardbuild.errors import DecodeError as DecodeError
    from shardbuild.errors import DestinationError as DestinationError
    from shardbuild.errors import EncodeError as EncodeError
    from shardbuild.errors import GopenException as GopenException
    from shardbuild.errors import KeyRuleError as KeyRuleError
    from shardbuild.errors import ManifestError as ManifestError
    from shardbuild.errors import MissingExtraError as MissingExtraError
    from shardbuild.errors import PipeError as PipeError
    from shardbuild.errors import PlanError as PlanError
    from shardbuild.errors import SampleError as SampleError
    from shardbuild.errors import ShardbuildError as ShardbuildError
    from shardbuild.errors import ShardError as ShardError
    from shardbuild.errors import StateError as StateError
    from shardbuild.errors import StorageError as StorageError
    from shardbuild.errors import TenbinError as TenbinError
    from shardbuild.errors import TransformError as TransformError
    from shardbuild.errors import TruncatedShardError as TruncatedShardError
    from shardbuild.errors import UsageError as UsageError
    from shardbuild.errors import ignore_and_continue as ignore_and_continue
    from shardbuild.errors import ignore_and_stop as ignore_and_stop
    from shardbuild.errors import reraise_exception as reraise_exception
    from shardbuild.errors import warn_and_continue as warn_and_continue
    from shardbuild.errors import warn_and_stop as warn_and_stop
    from shardbuild.shards.index import ShardIndex as ShardIndex
    from shardbuild.shards.index import index_url as index_url
    from shardbuild.shards.index import load_index as load_index
    from shardbuild.shards.index import save_index as save_index
    from shardbuild.shards.manifest import Manifest as Manifest
    from shardbuild.shards.manifest import ShardFacts as ShardFacts
    from shardbuild.shards.manifest import load_manifest as load_manifest
    from shardbuild.shards.manifest import manifest_url as manifest_url
    from shardbuild.shards.manifest import save_manifest as save_manifest
    from shardbuild.shards.reader import read_samples as read_samples
    from shardbuild.shards.reader import scan_shard as scan_shard
    from shardbuild.shards.samples import Sample as Sample
    from shardbuild.shards.samples import base_plus_ext as base_plus_ext
    from shardbuild.shards.shardwriter import ShardWriter as ShardWriter
    from shardbuild.shards.verify import Finding as Finding
    from shardbuild.shards.verify import VerifyReport as VerifyReport
    from shardbuild.shards.verify import verify as verify
    from shardbuild.shards.writer import TarWriter as TarWriter
    from shardbuild.storage.commands import Pipe as Pipe
    from shardbuild.storage.commands import (
        schemes_from_environment as schemes_from_environment,
    )
    from shardbuild.storage.gopen import gopen as gopen
    from shardbuild.storage.partcache import PartCache as PartCache
    from shardbuild.storage.paths import ChDir as ChDir
    from shardbuild.storage.paths import DirPlusFile as DirPlusFile
    from shardbuild.storage.paths import FilePlusExt as FilePlusExt
    from shardbuild.storage.paths import dir_plus_file as dir_plus_file
    from shardbuild.storage.paths import filebase as filebase
    from shardbuild.storage.paths import fullext as fullext
    from shardbuild.storage.paths import read_binary as read_binary
    from shardbuild.storage.paths import write_binary as write_binary
    from shardbuild.storage.schemes import gopen_schemes as gopen_schemes
    from shardbuild.storage.shardcache import CacheStream as CacheStream
    from shardbuild.storage.shardcache import ShardCache as ShardCache
    from shardbuild.storage.shardcache import cache_shards as cache_shards
    from shardbuild.storage.shardcache import guess_shard as guess_shard
    from shardbuild.storage.shardcache import shard_uuid as shard_uuid
    from shardbuild.storage.urls import expand_urls as expand_urls
    from shardbuild.streams import curried as curried
    from shardbuild.streams import filters as filters
    from shardbuild.streams import zcom as zcom
    from shardbuild.streams.checks import check as check
    from shardbuild.streams.checks import checkcallable as checkcallable
    from shardbuild.streams.checks import checkmember as checkmember
    from shardbuild.streams.checks import checknotnone as checknotnone
    from shardbuild.streams.checks import checkrange as checkrange
    from shardbuild.streams.checks import checktype as checktype
    from shardbuild.streams.dbcache import DBCache as DBCache
    from shardbuild.streams.filters import ishuffle as ishuffle
    from shardbuild.streams.hooks import add_hook as add_hook
    from shardbuild.streams.hooks import call_hook as call_hook
    from shardbuild.streams.mixing import RandomMix as RandomMix
    from shardbuild.streams.mixing import RoundRobin as RoundRobin
    from shardbuild.streams.ports import open_sink as open_sink
    from shardbuild.streams.ports import open_source as open_source
    from shardbuild.streams.splitters import single_node_only as single_node_only
    from shardbuild.streams.splitters import split_by_node as split_by_node
    from shardbuild.streams.splitters import split_by_worker as split_by_worker
    from shardbuild.streams.tariterators import TarIterator as TarIterator
    from shardbuild.streams.tariterators import TarIterator1 as TarIterator1
    from shardbuild.streams.tariterators import tariterator as tariterator
    from shardbuild.streams.tarwriters import TarWriter1 as TarWriter1
    from shardbuild.streams.zcom import Connection as Connection
    from shardbuild.streams.zcom import MultiWriter as MultiWriter
    from shardbuild.streams.zcom import is_zmq_url as is_zmq_url
    from shardbuild.streams.zcom import urls2list as urls2list
    from shardbuild.streams.zcom import zmq_connect as zmq_connect
    from shardbuild.streams.zcom import zmq_make as zmq_make
    from shardbuild.train.batches import Batch as Batch
    from shardbuild.train.batches import Skipped as Skipped
    from shardbuild.train.batches import stack as stack
    from shardbuild.train.dataset import Dataset as Dataset
    from shardbuild.train.feed import Feed as Feed
    from shardbuild.train.mixture import Mixture as Mixture

__version__ = "0.1.0"

# Where each public name lives: the same as the imports above (a test holds it).
_HOMES = {
    "shardbuild.codecs": "tenbin",
    "shardbuild.streams": "curried filters zcom",
    "shardbuild.build.bags": "read_shards reshuffle write_shards",
    "shardbuild.build.conversion": "convert make_plan",
    "shardbuild.build.plan": "Plan",
    "shardbuild.build.report": "Report",
    "shardbuild.codecs.audiovideo": "torch_audio torch_video",
    "shardbuild.codecs.decoders": "decode_field decode_sample",
    "shardbuild.codecs.encoders": "encode_field encode_sample",
    "shardbuild.codecs.handlers": (
        "Continue Decoder gzfilter handle_extension imagehandler"
    ),
    "shardbuild.errors": (
        "DecodeError DestinationError EncodeError GopenException KeyRuleError "
        "ManifestError MissingExtraError PipeError PlanError SampleError "
        "ShardError ShardbuildError StateError StorageError TenbinError TransformError "
        "TruncatedShardError UsageError ignore_and_continue ignore_and_stop "
        "reraise_exception warn_and_continue warn_and_stop"
    ),
    "shardbuild.shards.index": "ShardIndex index_url load_index save_index",
    "shardbuild.shards.manifest": (
        "Manifest ShardFacts load_manifest manifest_url save_manifest"
    ),
    "shardbuild.shards.reader": "read_samples scan_shard",
    "shardbuild.shards.samples": "Sample base_plus_ext",
    "shardbuild.shards.shardwriter": "ShardWriter",
    "shardbuild.shards.verify": "Finding VerifyReport verify",
    "shardbuild.shards.writer": "TarWriter",
    "shardbuild.storage.commands": "Pipe schemes_from_environment",
    "shardbuild.storage.gopen": "gopen",
    "shardbuild.storage.partcache": "PartCache",
    "shardbuild.storage.paths": (
        "ChDir DirPlusFile FilePlusExt dir_plus_file filebase fullext "
        "read_binary write_binary"
    ),
    "shardbuild.storage.schemes": "gopen_schemes",
    "shardbuild.storage.shardcache": (
        "CacheStream ShardCache cache_shards guess_shard shard_uuid"
    ),
    "shardbuild.storage.urls": "expand_urls",
    "shardbuild.streams.checks": (
        "check checkcallable checkmember checknotnone checkrange checktype"
    ),
    "shardbuild.streams.dbcache": "DBCache",
    "shardbuild.streams.filters": "ishuffle",
    "shardbuild.streams.hooks": "add_hook call_hook",
    "shardbuild.streams.mixing": "RandomMix RoundRobin",
    "shardbuild.streams.ports": "open_sink open_source",
    "shardbuild.streams.splitters": "single_node_only split_by_node split_by_worker",
    "shardbuild.streams.tariterators": "TarIterator TarIterator1 tariterator",
    "shardbuild.streams.tarwriters": "TarWriter1",
    "shardbuild.streams.zcom": (
        "Connection MultiWriter is_zmq_url urls2list zmq_connect zmq_make"
    ),
    "shardbuild.train.batches": "Batch Skipped stack",
    "shardbuild.train.dataset": "Dataset",
    "shardbuild.train.feed": "Feed",
    "shardbuild.train.mixture": "Mixture",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605  # one place knows the names


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        problem = f"module 'shardbuild' has no attribute {name!r}"
        raise AttributeError(problem)
    home = importlib.import_module(_HOME_OF[name])
    if hasattr(home, name):
        value = getattr(home, name)
    else:
        value = importlib.import_module(f"{home.__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
