"""Damaged input through the whole job: named, counted, and never passed on."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

import shardbuild as sb
from shardbuild.cli.main import main
from tests.building import assert_conserved, make_shards, samples_of

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 512
METHODS: dict[str, dict[str, Any]] = {
    "stream": {},
    "gather": {"method": "gather", "order": "shuffle", "maxcount": 7},
    "spill": {"method": "spill", "order": "shuffle", "maxcount": 7},
}


@pytest.fixture(params=list(METHODS))
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {**METHODS[request.param], "scheduler": "sync"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of eight samples."""
    folder = tmp_path_factory.mktemp("whole")
    make_shards(folder, 24, 8, max_bytes=2000)
    return folder


@pytest.fixture
def shards(whole: Path, tmp_path: Path) -> Path:
    """Copies of them without indexes or manifest, to be damaged."""
    folder = tmp_path / "in"
    folder.mkdir()
    for path in whole.glob("*.tar"):
        shutil.copy(path, folder)
    return folder


def starts_of(shard: Path) -> list[int]:
    """Where samples start, with the end of the last."""
    offsets: list[int] = sb.scan_shard(str(shard)).sample_offsets.tolist()
    return offsets


def keys_of(samples: list[sb.Sample]) -> list[str]:
    return sorted(sample["__key__"] for sample in samples)


class TestTruncation:
    def test_is_an_error_at_every_block(
        self, shards: Path, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        victim = shards / "in-000001.tar"
        data = victim.read_bytes()
        end = starts_of(victim)[-1] + 2 * BLOCK
        for size in range(0, end, 3 * BLOCK):
            victim.write_bytes(data[:size])
            with pytest.raises(sb.ShardError, match="in-000001") as caught:
                sb.convert(
                    f"{shards}/*.tar", f"{tmp_path}/{size}/s-%06d.tar", **options
                )
            assert caught.value.url == str(victim)
            assert caught.value.offset <= size
            assert not (tmp_path / str(size) / "s.json").exists()

    def test_skipped_keeps_the_whole_samples_before_it(
        self, shards: Path, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        victim = shards / "in-000001.tar"
        starts = starts_of(victim)
        victim.write_bytes(victim.read_bytes()[: starts[5] + BLOCK])
        report = sb.convert(
            f"{shards}/*.tar", f"{tmp_path}/s-%06d.tar", errors="skip", **options
        )
        assert_conserved(report)
        (loss,) = report.losses
        assert loss.url == str(victim)
        assert loss.offset is not None
        assert starts[5] <= loss.offset <= starts[5] + BLOCK
        written = samples_of(f"{tmp_path}/s.json")
        assert report.num_written == len(written) == 8 + 5 + 8

    def test_skipped_says_how_many_samples_are_missing_where_it_is_known(
        self, whole: Path, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        folder = tmp_path / "in"
        shutil.copytree(whole, folder)
        victim = folder / "in-000001.tar"
        victim.write_bytes(victim.read_bytes()[: starts_of(victim)[3]])
        report = sb.convert(
            f"{folder}/in.json", f"{tmp_path}/s-%06d.tar", errors="skip", **options
        )
        assert_conserved(report)
        lost = sum(loss.num_samples or 0 for loss in report.losses)
        assert report.num_written + lost == 24
        assert report.num_written == len(samples_of(f"{tmp_path}/s.json"))


class TestFlippedBit:
    def test_in_every_field_of_a_header_is_an_error(
        self, shards: Path, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        victim = shards / "in-000001.tar"
        data = victim.read_bytes()
        offset = starts_of(victim)[4]
        fields = (0, 100, 108, 116, 124, 136, 148, 156, 257, 263, 265, 297, 500)
        for place in fields:
            changed = bytearray(data)
            changed[offset + place] ^= 0x10
            victim.write_bytes(changed)
            with pytest.raises(sb.ShardError) as caught:
                sb.convert(
                    f"{shards}/*.tar", f"{tmp_path}/{place}/s-%06d.tar", **options
                )
            assert caught.value.url == str(victim)
            assert caught.value.offset == offset

    def test_is_an_error_in_an_indexed_shard_too(
        self, whole: Path, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        folder = tmp_path / "in"
        shutil.copytree(whole, folder)
        victim = folder / "in-000001.tar"
        offset = starts_of(victim)[4]
        data = bytearray(victim.read_bytes())
        data[offset + 3] ^= 1
        victim.write_bytes(data)
        with pytest.raises(sb.ShardError) as caught:
            sb.convert(f"{folder}/in.json", f"{tmp_path}/a/s-%06d.tar", **options)
        assert (caught.value.url, caught.value.offset) == (str(victim), offset)
        report = sb.convert(
            f"{folder}/in.json", f"{tmp_path}/b/s-%06d.tar", errors="skip", **options
        )
        assert_conserved(report)
        lost = sum(loss.num_samples or 0 for loss in report.losses)
        assert lost + report.num_written == 24
        assert all(loss.url == str(victim) for loss in report.losses)


class TestMissing:
    def test_a_missing_shard_is_an_error_that_names_it(
        self, shards: Path, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        urls = [f"{shards}/in-00000{n}.tar" for n in (0, 1, 7)]
        with pytest.raises(sb.StorageError, match=r"in-000007\.tar"):
            sb.convert(urls, f"{tmp_path}/s-%06d.tar", **options)

    def test_skipped_it_is_a_loss(
        self, shards: Path, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        urls = [f"{shards}/in-00000{n}.tar" for n in (0, 7, 1)]
        report = sb.convert(urls, f"{tmp_path}/s-%06d.tar", errors="skip", **options)
        assert_conserved(report)
        assert [loss.url for loss in report.losses] == [urls[1]]
        assert report.num_written == 16


class TestPipe:
    @pytest.mark.parametrize("method", ["stream", "spill"])
    def test_that_fails_is_an_error_even_after_a_whole_shard(
        self, shards: Path, tmp_path: Path, method: str
    ) -> None:
        options = METHODS[method]
        url = f"pipe:cat {shards}/in-000000.tar; exit 7"
        with pytest.raises(sb.PipeError, match="7"):
            sb.convert(url, f"{tmp_path}/a/s-%06d.tar", scheduler="sync", **options)
        report = sb.convert(
            [url, f"{shards}/in-000001.tar"],
            f"{tmp_path}/b/s-%06d.tar",
            errors="skip",
            scheduler="sync",
            **options,
        )
        assert_conserved(report)
        assert [loss.url for loss in report.losses] == [url]

    def test_that_is_short_is_an_error(self, shards: Path, tmp_path: Path) -> None:
        size = starts_of(shards / "in-000000.tar")[3]
        url = f"pipe:head -c {size} {shards}/in-000000.tar"
        with pytest.raises(sb.ShardError) as caught:
            sb.convert(url, f"{tmp_path}/s-%06d.tar", scheduler="sync")
        assert caught.value.offset == size


class TestExitStatus:
    def test_tells_damage_from_what_the_policy_allows(
        self, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        victim = shards / "in-000001.tar"
        victim.write_bytes(victim.read_bytes()[: starts_of(victim)[3]])
        command = ["convert", f"{shards}/*.tar", f"{tmp_path}/s-%06d.tar"]
        command += ["--scheduler", "sync"]
        assert main(command) == 1
        assert "in-000001.tar: at byte" in capsys.readouterr().err
        assert main([*command, "--errors", "skip"]) == 1
        assert "use --overwrite" in capsys.readouterr().err
        assert main([*command, "--errors", "skip", "--overwrite"]) == 0
        assert "lost ? samples of" in capsys.readouterr().out
