"""Sources and sinks by url."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from shardbuild import save_index, scan_shard
from shardbuild.errors import KeyRuleError, StorageError, TruncatedShardError
from shardbuild.shards.index import load_index
from shardbuild.streams.ports import expand_sources, open_sink, open_source
from tests.commands import has_ended
from tests.streamed import keys_of, numbered, samples_of, write_set

NETWORK = [
    f"{scheme}{transport}://127.0.0.1:{{9000..9003}}"
    for scheme in ("zpush", "zpull", "zrpub", "zrsub")
    for transport in ("", "+tcp")
]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.zst"])
def test_what_goes_into_a_sink_comes_out_of_a_source(tmp_path, suffix):
    url = f"{tmp_path}/a{suffix}"
    with open_sink(url) as sink:
        for sample in numbered(20):
            sink.write(sample)
    with open_source(url) as samples:
        assert list(samples) == numbered(20)


def test_a_sink_left_by_an_error_publishes_nothing(tmp_path):
    def fail() -> None:
        with open_sink(f"{tmp_path}/a.tar") as sink:
            sink.write({"__key__": "a", "txt": b"1"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_index_of_what_was_there_before_goes(tmp_path):
    url = f"{tmp_path}/a.tar"
    write_set(tmp_path, "b", count=3)
    save_index(scan_shard(f"{tmp_path}/b-000000.tar"), url)
    with open_sink(url) as sink:
        sink.write({"__key__": "a", "txt": b"1"})
    assert load_index(url) is None
    assert samples_of(url) == [{"__key__": "a", "txt": b"1"}]


def test_standard_input_and_output(tmp_path, monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=out))
    with open_sink("-") as sink:
        for sample in numbered(5):
            sink.write(sample)
    stdin = io.BufferedReader(io.BytesIO(out.getvalue()))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stdin))
    with open_source("-") as samples:
        assert list(samples) == numbered(5)


def test_a_source_that_is_left_early_is_closed_and_its_command_stopped(tmp_path):
    write_set(tmp_path, count=50)
    endless = f"exec cat {tmp_path}/a-000000.tar /dev/zero"
    url = f"pipe:echo $$ > {tmp_path}/pid; {endless}"
    with open_source(url) as samples:
        assert next(samples)["__key__"] == "n00/000"
    assert has_ended(int((tmp_path / "pid").read_text()), 10)


def test_damage_is_an_error_where_it_is(tmp_path):
    write_set(tmp_path, count=10)
    whole = (tmp_path / "a-000000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:5000])
    with (
        open_source(f"{tmp_path}/cut.tar") as samples,
        pytest.raises(TruncatedShardError, match=r"cut\.tar"),
    ):
        list(samples)


def test_options_of_a_sink_are_the_writers(tmp_path):
    with (
        open_sink(f"{tmp_path}/a.tar", key_rule="last-dot") as sink,
        pytest.raises(KeyRuleError),
    ):
        sink.write({"__key__": "v1.5", "seg.png": b""})
    with pytest.raises(TypeError), open_sink(f"{tmp_path}/b.tar", colour="red"):
        pass


@pytest.mark.parametrize("url", NETWORK)
def test_zmq_urls_stay_as_they_are(url):
    assert expand_sources([url]) == [url]


def test_other_urls_are_expanded(tmp_path):
    write_set(tmp_path)
    shards = [f"{tmp_path}/a-{i:06d}.tar" for i in range(2)]
    assert expand_sources([f"{tmp_path}/a.json", "-"]) == [*shards, "-"]
    assert expand_sources([f"{tmp_path}/a-*.tar"]) == shards
    with pytest.raises(StorageError, match="matches no file"):
        expand_sources([f"{tmp_path}/b-*.tar"])


def test_samples_go_over_zmq_and_end(tmp_path):
    url = f"+ipc://{tmp_path}/socket"
    with open_source(f"zpull{url}", timeout=60) as samples:
        with open_sink(f"zpush{url}") as sink:
            for sample in numbered(10):
                sink.write(sample)
        assert list(samples) == numbered(10)


def test_keys_of_a_written_shard_are_in_order(tmp_path):
    with open_sink(f"{tmp_path}/a.tar") as sink:
        for key in ("b", "a"):
            sink.write({"__key__": key, "txt": b""})
    assert keys_of(f"{tmp_path}/a.tar") == ["b", "a"]
