"""What tarproc and webdataset 0.1 documented, and what has its place here.

A list made from the two libraries' ``pydoc`` pages, module by module.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Name:
    """One documented name."""

    seed: str
    """As the seed calls it, in its module."""
    ours: str
    """Where it is now: module and name."""
    parameters: str = ""
    """The seed's parameters, those renamed as ``old=new``, those gone as ``old!``."""


TENBIN = "shardbuild.codecs.tenbin"
FILTERS = (
    *("info", "shuffle", "select", "decode", "map", "rename", "associate", "map_dict"),
    *("to_tuple", "map_tuple", "batched", "unbatched", "getfirst", "parse_field_spec"),
    *("transform_with", "transformer", "pipeline", "compose"),
)

SEEDS: dict[str, list[Name]] = {
    "tarproclib.gopen": [
        Name("gopen", "shardbuild:gopen", "url mode"),
        Name("Pipe", "shardbuild:Pipe", "raise_errors"),
        Name("Pipe.read", "shardbuild:Pipe.read"),
        Name("Pipe.readLine", "shardbuild:Pipe.readline"),
        Name("Pipe.close", "shardbuild:Pipe.close"),
        Name("GopenException", "shardbuild:GopenException"),
        Name("handlers", "shardbuild:gopen_schemes"),
        Name("prefix", "shardbuild:schemes_from_environment"),
        Name("bufsize", "shardbuild:gopen", "bufsize"),
    ],
    "tarproclib.paths": [
        Name("base_plus_ext", "shardbuild:base_plus_ext", "path"),
        Name("dir_plus_file", "shardbuild:dir_plus_file", "path"),
        Name("filebase", "shardbuild:filebase", "fname"),
        Name("fullext", "shardbuild:fullext", "fname"),
        Name("FilePlusExt", "shardbuild:FilePlusExt", "path"),
        Name("FilePlusExt.base", "shardbuild:FilePlusExt.base"),
        Name("FilePlusExt.key", "shardbuild:FilePlusExt.key"),
        Name("DirPlusFile", "shardbuild:DirPlusFile", "path"),
        Name("DirPlusFile.base", "shardbuild:DirPlusFile.base"),
        Name("DirPlusFile.key", "shardbuild:DirPlusFile.key"),
        Name("ChDir", "shardbuild:ChDir", "path"),
        Name("read_binary", "shardbuild:read_binary", "fname"),
        Name("write_binary", "shardbuild:write_binary", "fname data"),
    ],
    "tarproclib.proc": [
        Name("ishuffle", "shardbuild:ishuffle", "data bufsize initial"),
    ],
    "tarproclib.reader": [
        Name(
            "tariterator",
            "shardbuild:tariterator",
            "fileobj keys decoder suffixes errors container",
        ),
        Name(
            "TarIterator1",
            "shardbuild:TarIterator1",
            "url braceexpand shuffle allow_missing",
        ),
        Name("TarIterator", "shardbuild:TarIterator", "url"),
    ],
    "tarproclib.writer": [
        Name(
            "TarWriter1",
            "shardbuild:TarWriter1",
            "fileobj keep_meta user group mode compress encoder output_mode",
        ),
        Name("TarWriter1.write", "shardbuild:TarWriter1.write", "obj=sample"),
        Name("TarWriter1.close", "shardbuild:TarWriter1.close"),
        Name("TarWriter", "shardbuild.streams.tarwriters:TarWriter", "url"),
    ],
    "tarproclib.zcom": [
        Name("schemes", "shardbuild.streams.zcom:schemes"),
        Name("urls2list", "shardbuild:urls2list", "urls noexpand"),
        Name("zmq_make", "shardbuild:zmq_make", "context url linger"),
        Name("zmq_connect", "shardbuild:zmq_connect", "socket urls topic"),
        Name("Connection", "shardbuild:Connection", "urls noexpand keep_meta"),
        Name(
            "Connection.connect",
            "shardbuild:Connection.connect",
            "urls topic noexpand",
        ),
        Name("Connection.send", "shardbuild:Connection.send", "sample"),
        Name("Connection.send_eof", "shardbuild:Connection.send_eof"),
        Name("Connection.write", "shardbuild:Connection.write", "sample"),
        Name("Connection.recv", "shardbuild:Connection.recv"),
        Name("Connection.close", "shardbuild:Connection.close", "linger"),
        Name(
            "MultiWriter",
            "shardbuild:MultiWriter",
            "urls noexpand keep_meta linger output_mode",
        ),
        Name(
            "MultiWriter.connect",
            "shardbuild:MultiWriter.connect",
            "urls topic noexpand",
        ),
        Name("MultiWriter.send", "shardbuild:MultiWriter.send", "sample"),
        Name("MultiWriter.send_eof", "shardbuild:MultiWriter.send_eof"),
        Name("MultiWriter.write", "shardbuild:MultiWriter.write", "sample"),
        Name("MultiWriter.close", "shardbuild:MultiWriter.close", "linger"),
    ],
    "webdataset.autodecode": [
        Name("imagehandler", "shardbuild:imagehandler", "imagespec"),
        Name("default_handlers", "shardbuild.codecs.decoders:decoders"),
    ],
    "webdataset.bench": [
        Name("main", "shardbuild.bench.shards:main", "args"),
        Name("TotalSize", "shardbuild.bench.shards:TotalSize"),
        Name(
            "TotalSize.__call__", "shardbuild.bench.shards:TotalSize.__call__", "sample"
        ),
    ],
    "webdataset.checks": [
        Name("check", "shardbuild:check", "value msg"),
        Name("checkcallable", "shardbuild:checkcallable", "value msg"),
        Name("checkmember", "shardbuild:checkmember", "value values msg"),
        Name("checknotnone", "shardbuild:checknotnone", "value msg"),
        Name("checkrange", "shardbuild:checkrange", "value lo hi msg"),
        Name("checktype", "shardbuild:checktype", "value types msg"),
    ],
    "webdataset.dataset": [
        Name("Dataset", "shardbuild:Dataset", "urls"),
        Name("reraise_exception", "shardbuild:reraise_exception", "exn"),
    ],
    "webdataset.dbcache": [
        Name("DBCache", "shardbuild:DBCache", "dbname size source shuffle verbose"),
        Name("DBCache.__call__", "shardbuild:DBCache.__call__", "source"),
        Name("DBCache.__len__", "shardbuild:DBCache.__len__"),
        Name("DBCache.dbiter", "shardbuild:DBCache.dbiter"),
        Name("DBCache.getmeta", "shardbuild:DBCache.getmeta", "key"),
        Name("DBCache.setmeta", "shardbuild:DBCache.setmeta", "key value"),
        Name("DBCache.key_exists", "shardbuild:DBCache.key_exists", "key"),
        Name("get_uuid", "shardbuild:shard_uuid", "data=path"),
    ],
    "webdataset.fluid": [
        Name("Dataset", "shardbuild:Dataset", "urls length splitter handler shuffle"),
        Name("Dataset.__len__", "shardbuild:Dataset.__len__"),
        Name("FluidPipes", "shardbuild.streams.fluid:Pipeline"),
    ],
    "webdataset.gopen": [
        Name("gopen", "shardbuild:gopen", "url mode bufsize"),
        Name("gopen_schemes", "shardbuild:gopen_schemes"),
    ],
    "webdataset.iterators": [
        Name("WebDataset", "shardbuild:Dataset", "urls"),
        Name("tariterator", "shardbuild:tariterator"),
        *(Name(name, f"shardbuild.streams.filters:{name}") for name in FILTERS),
    ],
    "webdataset.shardcache": [
        Name("CacheStream", "shardbuild:CacheStream", "fname stream verbose"),
        Name("CacheStream.read", "shardbuild:CacheStream.read"),
        Name("CacheStream.close", "shardbuild:CacheStream.close", "complete"),
        Name(
            "cache_shards",
            "shardbuild:cache_shards",
            "urls cache_dir cache_size cache_name verbose",
        ),
        Name("guess_shard", "shardbuild:guess_shard", "path"),
        Name("shard_uuid", "shardbuild:shard_uuid", "path"),
    ],
    "webdataset.tariterators": [
        Name("group_by_keys", "shardbuild.streams.tariterators:group_by_keys"),
        Name("url_opener", "shardbuild.streams.tariterators:url_opener"),
        Name("tar_file_expander", "shardbuild.streams.tariterators:tar_file_expander"),
        Name("reraise_exception", "shardbuild:reraise_exception", "exn"),
    ],
    "webdataset.tenbin": [
        Name("read", f"{TENBIN}:read", "stream n infos"),
        Name("write", f"{TENBIN}:write", "stream l=arrays infos"),
        Name("save", f"{TENBIN}:save", "fname infos nocheck"),
        Name("load", f"{TENBIN}:load", "fname infos nocheck"),
        Name("encode_buffer", f"{TENBIN}:encode_buffer", "infos"),
        Name("decode_buffer", f"{TENBIN}:decode_buffer", "buf infos"),
        Name(
            "zsend_single",
            f"{TENBIN}:zsend_single",
            "socket l=arrays infos",
        ),
        Name("zrecv_single", f"{TENBIN}:zrecv_single", "socket infos"),
        Name(
            "zsend_multipart",
            f"{TENBIN}:zsend_multipart",
            "socket l=arrays infos",
        ),
        Name(
            "zrecv_multipart",
            f"{TENBIN}:zrecv_multipart",
            "socket infos",
        ),
        Name(
            "sctp_send",
            f"{TENBIN}:sctp_send",
            "socket dest l=arrays infos",
        ),
        Name("sctp_recv", f"{TENBIN}:sctp_recv", "socket infos maxsize"),
    ],
    "webdataset.utils": [
        Name("add_hook", "shardbuild:add_hook", "fs f"),
        Name("call_hook", "shardbuild:call_hook", "fs"),
        Name("reraise_exception", "shardbuild:reraise_exception", "exn"),
        Name("ignore_and_continue", "shardbuild:ignore_and_continue", "exn"),
        Name("ignore_and_stop", "shardbuild:ignore_and_stop", "exn"),
        Name("warn_and_continue", "shardbuild:warn_and_continue", "exn"),
        Name("warn_and_stop", "shardbuild:warn_and_stop", "exn"),
    ],
    "webdataset.writer": [
        Name("ShardWriter", "shardbuild:ShardWriter", "pattern maxcount maxsize post"),
        Name("ShardWriter.write", "shardbuild:ShardWriter.write", "obj=sample"),
        Name("ShardWriter.next_stream", "shardbuild:ShardWriter.finish"),
        Name("ShardWriter.finish", "shardbuild:ShardWriter.finish"),
        Name("ShardWriter.close", "shardbuild:ShardWriter.close"),
        Name(
            "TarWriter",
            "shardbuild:TarWriter",
            "fileobj user group mode compress encoder keep_meta",
        ),
        Name("TarWriter.write", "shardbuild:TarWriter.write", "obj=sample"),
        Name("TarWriter.dwrite", "shardbuild:TarWriter.dwrite", "key"),
        Name("TarWriter.close", "shardbuild:TarWriter.close"),
    ],
}

COMMANDS = {
    "tarcats": "cat",
    "tarpcat": "cat",
    "tarproc": "proc",
    "tarshow": "show",
    "tarsort": "sort",
    "tarsplit": "split",
    "tarmix": "mix",
    "tarfirst": "first",
    "tar2tsv": "table",
    "tar2json": "table",
    "tsv2tar": "from-table",
    "lines2tar": "lines",
    "tarp cat": "cat",
    "tarp proc": "proc",
    "tarp sort": "sort",
    "tarp split": "split",
    "tarp create": "create",
}
"""The commands of tarproc and of tarp, and ours."""
