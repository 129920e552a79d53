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
    from shardbuild.codecs.decoders import decode_field as decode_field
    from shardbuild.codecs.decoders import decode_sample as decode_sample
    from shardbuild.codecs.encoders import encode_field as encode_field
    from shardbuild.codecs.encoders import encode_sample as encode_sample
    from shardbuild.errors import DecodeError as DecodeError
    from shardbuild.errors import DestinationError as DestinationError
    from shardbuild.errors import EncodeError as EncodeError
    from shardbuild.errors import KeyRuleError as KeyRuleError
    from shardbuild.errors import ManifestError as ManifestError
    from shardbuild.errors import MissingExtraError as MissingExtraError
    from shardbuild.errors import PipeError as PipeError
    from shardbuild.errors import PlanError as PlanError
    from shardbuild.errors import SampleError as SampleError
    from shardbuild.errors import ShardbuildError as ShardbuildError
    from shardbuild.errors import ShardError as ShardError
    from shardbuild.errors import StorageError as StorageError
    from shardbuild.errors import TransformError as TransformError
    from shardbuild.errors import TruncatedShardError as TruncatedShardError
    from shardbuild.errors import UsageError as UsageError
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
    from shardbuild.shards.shardwriter import ShardWriter as ShardWriter
    from shardbuild.shards.verify import Finding as Finding
    from shardbuild.shards.verify import VerifyReport as VerifyReport
    from shardbuild.shards.verify import verify as verify
    from shardbuild.shards.writer import TarWriter as TarWriter
    from shardbuild.storage.gopen import gopen as gopen
    from shardbuild.storage.urls import expand_urls as expand_urls

__version__ = "0.1.0"

# Where each public name lives: the same as the imports above (a test holds it).
_HOMES = {
    "shardbuild.build.bags": "read_shards reshuffle write_shards",
    "shardbuild.build.conversion": "convert make_plan",
    "shardbuild.build.plan": "Plan",
    "shardbuild.build.report": "Report",
    "shardbuild.codecs.decoders": "decode_field decode_sample",
    "shardbuild.codecs.encoders": "encode_field encode_sample",
    "shardbuild.errors": (
        "DecodeError DestinationError EncodeError KeyRuleError ManifestError "
        "MissingExtraError PipeError PlanError SampleError ShardError "
        "ShardbuildError StorageError TransformError TruncatedShardError UsageError"
    ),
    "shardbuild.shards.index": "ShardIndex index_url load_index save_index",
    "shardbuild.shards.manifest": (
        "Manifest ShardFacts load_manifest manifest_url save_manifest"
    ),
    "shardbuild.shards.reader": "read_samples scan_shard",
    "shardbuild.shards.samples": "Sample",
    "shardbuild.shards.shardwriter": "ShardWriter",
    "shardbuild.shards.verify": "Finding VerifyReport verify",
    "shardbuild.shards.writer": "TarWriter",
    "shardbuild.storage.gopen": "gopen",
    "shardbuild.storage.urls": "expand_urls",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605  # one place knows the names


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        problem = f"module 'shardbuild' has no attribute {name!r}"
        raise AttributeError(problem)
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
