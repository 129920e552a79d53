"""The main job, whole, on real photographs and on made samples."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import dask.bag as db
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import shardbuild as sb
from shardbuild.build.jobs import load_job
from tests.building import (
    PHOTOS,
    assert_conserved,
    digests,
    is_clean,
    make_samples,
    make_shards,
    samples_of,
)

JOBS = Path(__file__).parent.parent / "jobs"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The real data set as shards of ten samples."""
    out = tmp_path_factory.mktemp("photos")
    sb.convert(str(PHOTOS), f"{out}/p-%06d.tar", label_from="folder", maxcount=10)
    return f"{out}/p.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("made"), 500, 37)


SCHEDULERS: list[dict[str, Any]] = [
    {"scheduler": "sync"},
    {"scheduler": "threads", "workers": 3},
    {"scheduler": "processes", "workers": 2},
    {"workers": 2},
    {"workers": 1},
]


class TestSameBytes:
    def test_on_every_scheduler_and_number_of_workers(
        self, photos: str, tmp_path: Path
    ) -> None:
        job = load_job(str(JOBS / "resize_images.py"), size=48)
        found = []
        for number, where in enumerate(SCHEDULERS):
            out = tmp_path / str(number)
            report = sb.convert(
                photos,
                f"{out}/s-%06d.tar",
                job,
                order="shuffle",
                seed=7,
                maxcount=9,
                **where,
            )
            assert_conserved(report)
            assert report.num_written == 65
            assert is_clean(out, "s")
            found.append(digests(out))
        assert len(found[0]) == 2 * 8 + 1
        assert all(one == found[0] for one in found)

    @pytest.mark.parametrize("order", ["keep", "shuffle", "sort:txt", "sort:cls"])
    @pytest.mark.parametrize(
        "limits",
        [{"maxcount": 40}, {"maxsize": 120_000}, {"maxcount": 40, "maxsize": 1e5}],
    )
    def test_by_gather_and_spill_and_in_any_memory(
        self, made: str, tmp_path: Path, order: str, limits: dict[str, Any]
    ) -> None:
        found = []
        for method in ("gather", "spill"):
            for memory in (1 << 20, 128 << 20):
                out = tmp_path / f"{method}{memory}"
                report = sb.convert(
                    made,
                    f"{out}/s-%06d.tar",
                    order=order,
                    method=method,
                    memory=memory,
                    scheduler="sync",
                    **limits,
                )
                assert report.num_written == 500
                assert is_clean(out, "s")
                found.append(digests(out))
        assert all(one == found[0] for one in found)

    def test_of_a_folder_by_gather_and_spill(self, tmp_path: Path) -> None:
        found = []
        for method in ("gather", "spill"):
            out = tmp_path / method
            sb.convert(
                str(PHOTOS),
                f"{out}/s-%06d.tar",
                order="shuffle",
                maxcount=20,
                method=method,
                label_from="folder",
            )
            found.append(digests(out))
        assert found[0] == found[1]


class TestOrder:
    def test_keep_is_the_order_of_the_input(self, made: str, tmp_path: Path) -> None:
        sb.convert(made, f"{tmp_path}/s-%06d.tar", maxcount=60)
        assert samples_of(f"{tmp_path}/s.json") == samples_of(made)

    def test_without_limits_shards_stay_as_they_are(
        self, made: str, tmp_path: Path
    ) -> None:
        report = sb.convert(made, f"{tmp_path}/in-%06d.tar")
        assert report.method == "stream"
        shards = [name for name in digests(tmp_path) if name.endswith(".tar")]
        assert {n: digests(tmp_path)[n] for n in shards} == {
            n: digests(Path(made).parent)[n] for n in shards
        }

    def test_shuffle_moves_samples_and_loses_none(
        self, made: str, tmp_path: Path
    ) -> None:
        orders = []
        for seed in (1, 2):
            out = tmp_path / str(seed)
            sb.convert(
                made, f"{out}/s-%06d.tar", order="shuffle", seed=seed, maxcount=50
            )
            orders.append(samples_of(f"{out}/s.json"))
        original = samples_of(made)
        for order in orders:
            assert order != original
            assert sorted(order, key=_key) == sorted(original, key=_key)
        assert orders[0] != orders[1]

    def test_sort_keeps_equal_keys_in_the_order_of_the_input(
        self, made: str, tmp_path: Path
    ) -> None:
        sb.convert(made, f"{tmp_path}/s-%06d.tar", order="sort:cls", maxcount=50)
        expected = sorted(samples_of(made), key=lambda sample: int(sample["cls"]))
        assert samples_of(f"{tmp_path}/s.json") == expected

    def test_sort_by_key_and_by_float(self, made: str, tmp_path: Path) -> None:
        def halved(sample: sb.Sample) -> sb.Sample:
            number = json.loads(sample["json"])["i"]
            return {**sample, "score": str(-number / 2)}

        sb.convert(
            made,
            f"{tmp_path}/s-%06d.tar",
            halved,
            order="sort:score:float",
            maxcount=70,
        )
        by_float = [sample["__key__"] for sample in samples_of(f"{tmp_path}/s.json")]
        keys = [sample["__key__"] for sample in samples_of(made)]
        assert by_float == keys[::-1]
        sb.convert(made, f"{tmp_path}/k-%06d.tar", order="sort:__key__", maxcount=70)
        by_key = [sample["__key__"] for sample in samples_of(f"{tmp_path}/k.json")]
        assert by_key == sorted(keys)

    def test_a_missing_sort_field_names_the_sample(
        self, made: str, tmp_path: Path
    ) -> None:
        with pytest.raises(sb.SampleError, match=r"'\d/\d{6}': has no field 'score'"):
            sb.convert(made, f"{tmp_path}/s-%06d.tar", order="sort:score", maxcount=9)

    def test_shards_that_repeat_the_same_keys_are_shuffled_too(
        self, tmp_path: Path
    ) -> None:
        urls = []
        for number in range(3):
            url = f"{tmp_path}/in{number}.tar"
            with sb.TarWriter(url) as writer:
                for sample in make_samples(20, seed=number):
                    writer.write(sample)
            urls.append(url)
        with pytest.raises(sb.KeyRuleError, match="twice") as caught:
            sb.convert(urls, f"{tmp_path}/a/s-%06d.tar", order="shuffle", maxcount=60)
        assert "--rekey" in "".join(getattr(caught.value, "__notes__", ()))
        report = sb.convert(
            urls, f"{tmp_path}/b/s-%06d.tar", order="shuffle", maxcount=60, rekey=True
        )
        assert report.num_written == 60
        keys = [sample["__key__"] for sample in samples_of(f"{tmp_path}/b/s.json")]
        assert len(set(keys)) == 60
        assert keys != sorted(keys)

    @pytest.mark.parametrize("order", ["keep", "shuffle", "sort:__key__", "sort:cls"])
    def test_new_keys_are_the_same_by_every_method(
        self, order: str, tmp_path: Path
    ) -> None:
        urls = []
        for number in range(3):
            urls.append(f"{tmp_path}/in{number}.tar")
            with sb.TarWriter(urls[-1]) as writer:
                for sample in make_samples(20, seed=number):
                    writer.write(sample)
        outcomes = []
        for method in ("gather", "spill"):
            dst = f"{tmp_path}/{method}/s-%06d.tar"
            sb.convert(
                urls,
                dst,
                order=order,
                maxcount=25,
                rekey=True,
                method=method,
            )
            outcomes.append(digests(f"{tmp_path}/{method}"))
        assert outcomes[0] == outcomes[1]
        keys = [sample["__key__"] for sample in samples_of(f"{tmp_path}/spill/s.json")]
        wanted = {
            f"{number:06d}/{sample['__key__']}"
            for number in range(3)
            for sample in make_samples(20)
        }
        assert len(keys) == 60
        assert set(keys) == wanted
        if order == "sort:__key__":
            assert keys == sorted(keys, key=lambda key: key.partition("/")[2])


def _key(sample: sb.Sample) -> str:
    return str(sample["__key__"])


class TestShards:
    @settings(max_examples=25, deadline=None)
    @given(num_samples=st.integers(1, 60), maxcount=st.integers(1, 70))
    def test_are_balanced_by_count(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        num_samples: int,
        maxcount: int,
    ) -> None:
        tmp_path = tmp_path_factory.mktemp("count")
        source = make_shards(tmp_path / "in", num_samples, 13)
        report = sb.convert(
            source, f"{tmp_path}/s-%06d.tar", maxcount=maxcount, scheduler="sync"
        )
        counts = [s.num_samples for s in sb.load_manifest(report.manifest).shards]
        assert len(counts) == -(-num_samples // maxcount)
        assert sum(counts) == num_samples
        assert max(counts, default=0) - min(counts, default=0) <= 1

    @settings(max_examples=25, deadline=None)
    @given(
        num_samples=st.integers(1, 60),
        maxsize=st.integers(20_480, 300_000),
        maxcount=st.none() | st.integers(1, 20),
    )
    def test_are_no_larger_than_maxsize_on_disk(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        num_samples: int,
        maxsize: int,
        maxcount: int | None,
    ) -> None:
        tmp_path = tmp_path_factory.mktemp("size")
        source = make_shards(tmp_path / "in", num_samples, 13, max_bytes=6000)
        sb.convert(
            source,
            f"{tmp_path}/s-%06d.tar",
            maxsize=maxsize,
            maxcount=maxcount,
            scheduler="sync",
        )
        shards = list(tmp_path.glob("s-*.tar"))
        assert max(path.stat().st_size for path in shards) <= maxsize
        counts = [s.num_samples for s in sb.load_manifest(f"{tmp_path}/s.json").shards]
        assert sum(counts) == num_samples
        assert min(counts) > 0
        assert maxcount is None or max(counts) <= maxcount

    def test_a_sample_larger_than_maxsize_is_refused(
        self, photos: str, tmp_path: Path
    ) -> None:
        with pytest.raises(sb.PlanError, match="raise --maxsize"):
            sb.convert(photos, f"{tmp_path}/s-%06d.tar", maxsize=10_240)


class TestTransform:
    def test_resizes_real_photographs(self, photos: str, tmp_path: Path) -> None:
        job = load_job(str(JOBS / "resize_images.py"), size=32)
        report = sb.convert(photos, f"{tmp_path}/s-%06d.tar", job)
        assert report.num_written == 65
        for before, after in zip(
            samples_of(photos), samples_of(f"{tmp_path}/s.json"), strict=True
        ):
            with Image.open(io.BytesIO(after["jpg"])) as image:
                assert min(image.size) == 32
            assert {k: v for k, v in after.items() if k != "jpg"} == {
                k: v for k, v in before.items() if k != "jpg"
            }

    @pytest.mark.parametrize("order", ["keep", "shuffle"])
    def test_may_drop_and_make_samples(
        self, made: str, tmp_path: Path, order: str
    ) -> None:
        def thin_and_double(sample: sb.Sample) -> Any:
            number = json.loads(sample["json"])["i"]
            if number % 3 == 0:
                return None
            if number % 3 == 1:
                return [
                    {**sample, "__key__": f"{sample['__key__']}-{n}"} for n in (0, 1)
                ]
            return sample

        limits: dict[str, Any] = {"maxcount": 50} if order == "shuffle" else {}
        report = sb.convert(
            made, f"{tmp_path}/s-%06d.tar", thin_and_double, order=order, **limits
        )
        assert_conserved(report)
        assert (report.num_read, report.num_made) == (500, 167)
        assert (report.num_written, report.num_dropped) == (500, 167)
        assert report.reasons == {"returned None": 167}
        assert len(samples_of(f"{tmp_path}/s.json")) == 500

    def test_values_are_encoded_by_extension(self, made: str, tmp_path: Path) -> None:
        def labelled(sample: sb.Sample) -> sb.Sample:
            return {"cls": 3, "txt": "héllo", "json": {"a": [1, 2]}}

        sb.convert(made, f"{tmp_path}/s-%06d.tar", labelled)
        first = samples_of(f"{tmp_path}/s.json")[0]
        assert sb.decode_sample(first) == {
            "__key__": "0/000000",
            "cls": 3,
            "txt": "héllo",
            "json": {"a": [1, 2]},
        }


def broken(sample: sb.Sample) -> Any:
    """Raises for every tenth sample, and returns nonsense for some."""
    number = json.loads(sample["json"])["i"]
    if number % 10 == 0:
        raise RuntimeError(f"no {number}")
    if number % 10 == 1:
        return 7
    if number % 10 == 2:
        return {"__key__": "a.b", "txt": b""}
    return sample


class TestErrors:
    @pytest.mark.parametrize("limits", [{}, {"maxcount": 50}])
    def test_raise_names_input_key_and_cause(
        self, made: str, tmp_path: Path, limits: dict[str, Any]
    ) -> None:
        with pytest.raises(
            sb.TransformError,
            match=r"in-\d+.tar: sample '\d/\d+0': the job",
        ):
            sb.convert(
                made, f"{tmp_path}/s-%06d.tar", broken, scheduler="sync", **limits
            )
        assert not (tmp_path / "s.json").exists()

    @pytest.mark.parametrize("limits", [{}, {"maxcount": 50}])
    def test_skip_counts_by_reason(
        self, made: str, tmp_path: Path, limits: dict[str, Any]
    ) -> None:
        report = sb.convert(
            made, f"{tmp_path}/s-%06d.tar", broken, errors="skip", **limits
        )
        assert_conserved(report)
        assert (report.num_read, report.num_written, report.num_dropped) == (
            500,
            350,
            150,
        )
        assert report.reasons == {
            "KeyRuleError": 50,
            "RuntimeError": 50,
            "TransformError": 50,
        }

    @pytest.mark.parametrize("limits", [{}, {"maxcount": 50}])
    def test_quarantine_keeps_the_raw_sample_and_says_why(
        self, made: str, tmp_path: Path, limits: dict[str, Any]
    ) -> None:
        report = sb.convert(
            made, f"{tmp_path}/s-%06d.tar", broken, errors="quarantine", **limits
        )
        assert_conserved(report)
        assert (report.num_written, report.num_quarantined) == (350, 150)
        bad = [sample for url in report.quarantine for sample in sb.read_samples(url)]
        originals = {_key(sample): sample for sample in samples_of(made)}
        assert len(bad) == 150
        for sample in bad:
            about = json.loads(sample.pop("quarantine.json"))
            assert sample == originals[about["key"]]
            if about["reason"] == "RuntimeError":
                assert "raise RuntimeError" in about["traceback"]

    def test_more_than_max_errors_fail_the_run(self, made: str, tmp_path: Path) -> None:
        options: dict[str, Any] = {"errors": "skip", "maxcount": 50}
        with pytest.raises(sb.PlanError, match="max_errors 149"):
            sb.convert(
                made, f"{tmp_path}/a/s-%06d.tar", broken, max_errors=149, **options
            )
        assert not (tmp_path / "a" / "s.json").exists()
        report = sb.convert(
            made, f"{tmp_path}/b/s-%06d.tar", broken, max_errors=150, **options
        )
        assert report.num_written == 350


class TestDestination:
    def test_the_same_command_again_does_nothing(
        self, made: str, tmp_path: Path
    ) -> None:
        first = sb.convert(made, f"{tmp_path}/s-%06d.tar", maxcount=50)
        times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert sb.convert(made, f"{tmp_path}/s-%06d.tar", maxcount=50) == first
        assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    def test_another_command_is_refused_unless_overwrite(
        self, made: str, tmp_path: Path
    ) -> None:
        sb.convert(made, f"{tmp_path}/s-%06d.tar", maxcount=10)
        with pytest.raises(sb.DestinationError, match="maxcount 10, not 100"):
            sb.convert(made, f"{tmp_path}/s-%06d.tar", maxcount=100)
        sb.convert(made, f"{tmp_path}/s-%06d.tar", maxcount=100, overwrite=True)
        assert is_clean(tmp_path, "s")
        assert len(list(tmp_path.glob("s-*.tar"))) == 5

    def test_shards_of_others_are_not_overwritten(
        self, made: str, tmp_path: Path
    ) -> None:
        (tmp_path / "s-000003.tar").write_bytes(b"precious")
        with pytest.raises(sb.DestinationError, match=r"s-000003\.tar"):
            sb.convert(made, f"{tmp_path}/s-%06d.tar", maxcount=10)
        assert (tmp_path / "s-000003.tar").read_bytes() == b"precious"

    def test_changed_input_is_noticed(self, tmp_path: Path) -> None:
        source = make_shards(tmp_path / "in", 20, 10)
        sb.convert(source, f"{tmp_path}/s-%06d.tar", maxcount=5)
        make_shards(tmp_path / "in", 20, 10, seed=1)
        with pytest.raises(sb.DestinationError, match=r"in-000000\.tar has changed"):
            sb.convert(source, f"{tmp_path}/s-%06d.tar", maxcount=5)

    def test_a_shard_that_has_gone_is_written_again(
        self, made: str, tmp_path: Path
    ) -> None:
        pattern = f"{tmp_path}/s-%06d.tar"
        expected = tmp_path.with_name(f"{tmp_path.name}-expected")
        sb.convert(made, f"{expected}/s-%06d.tar", maxcount=50, scheduler="sync")

        def stop(progress: Any) -> None:
            if (progress.phase, progress.tasks_done) == ("write", 3):
                raise KeyboardInterrupt

        options: dict[str, Any] = {"maxcount": 50, "scheduler": "sync"}
        with pytest.raises(KeyboardInterrupt):
            sb.convert(made, pattern, progress=stop, method="spill", **options)
        written = sorted(tmp_path.glob("s-*.tar"))
        assert len(written) > 1
        written[0].unlink()
        sb.convert(made, pattern, method="spill", **options)
        assert digests(tmp_path) == digests(expected)


class TestBag:
    def test_gives_the_same_shards_as_convert(self, made: str, tmp_path: Path) -> None:
        options: dict[str, Any] = {"order": "shuffle", "seed": 3, "maxcount": 50}
        sb.convert(made, f"{tmp_path}/a/s-%06d.tar", **options)
        bag = sb.read_shards(made)
        for where in ({"scheduler": "threads"}, {"workers": 2}):
            out = f"{tmp_path}/{len(where)}{next(iter(where))}"
            report = sb.write_shards(bag, f"{out}/s-%06d.tar", **options, **where)
            assert_conserved(report)
            shards = {n: d for n, d in digests(out).items() if ".tar" in n}
            assert shards.items() <= digests(tmp_path / "a").items()

    def test_may_be_any_dask_bag(self, tmp_path: Path) -> None:
        samples = list(make_samples(40))
        bag = db.from_sequence(samples, npartitions=4).repartition(npartitions=3)
        grouped = bag.groupby(lambda sample: sample["cls"], shuffle="tasks")
        flat = grouped.map(lambda pair: pair[1]).flatten()
        report = sb.write_shards(
            flat, f"{tmp_path}/s-%06d.tar", order="sort:__key__", scheduler="sync"
        )
        assert report.num_written == 40
        keys = sorted(sample["__key__"] for sample in samples)
        assert [_key(sample) for sample in samples_of(report.manifest)] == keys

    def test_is_split_by_the_index_of_a_large_shard(
        self, made: str, tmp_path: Path
    ) -> None:
        sb.convert(made, f"{tmp_path}/s-%06d.tar", maxcount=500)
        shard = f"{tmp_path}/s-000000.tar"
        bag = sb.read_shards(shard, partition_bytes=200_000)
        assert bag.npartitions > 5
        assert bag.compute(scheduler="sync") == list(sb.read_samples(shard))

    def test_that_holds_no_samples_is_dealt_with_by_the_policy(
        self, tmp_path: Path
    ) -> None:
        bad = [7, {"txt": b"no key"}, {"__key__": 3}, {"__key__": "\ud800"}]
        good = {"__key__": "good", "txt": b"good"}
        bag = db.from_sequence([*bad, good], npartitions=1)
        with pytest.raises(sb.SampleError, match="is no sample"):
            sb.write_shards(bag, f"{tmp_path}/a/s-%06d.tar", scheduler="sync")
        report = sb.write_shards(
            bag, f"{tmp_path}/b/s-%06d.tar", errors="quarantine", scheduler="sync"
        )
        assert_conserved(report)
        assert (report.num_read, report.num_written) == (5, 1)
        assert report.num_quarantined == 4

    def test_reshuffled_is_a_bag_in_a_new_order(self, made: str) -> None:
        bag = sb.read_shards(made)
        shuffled = sb.reshuffle(bag, seed=5, maxcount=100, scheduler="threads")
        assert shuffled.npartitions == 5
        before = bag.compute(scheduler="sync")
        after = shuffled.compute(scheduler="sync")
        assert after != before
        assert sorted(after, key=_key) == sorted(before, key=_key)


class TestPlan:
    def test_writes_nothing(self, made: str, tmp_path: Path) -> None:
        plan = sb.make_plan(
            made, f"{tmp_path}/s-%06d.tar", order="shuffle", maxcount=50
        )
        assert list(tmp_path.iterdir()) == []
        assert (plan.num_samples, plan.num_shards, plan.is_exact) == (500, 10, True)
        assert "gather" in plan.summary()
