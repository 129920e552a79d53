"""What a catalog knows of a data set, and what selections of it hold."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild import ShardWriter
from shardbuild.errors import ManifestError, SampleError, StorageError, UsageError
from shardbuild.shards.index import index_url, load_index, save_index
from shardbuild.shards.reader import scan_shard
from shardbuild.storage import write_bytes
from shardbuild.train.catalog import Catalog, Columns
from shardbuild.train.keytable import KeyTable, hash_keys
from shardbuild.train.shardset import ShardSet
from tests.tars import entries_of, make_samples, make_tar


def written(folder: Path, count: int = 25, per_shard: int = 7) -> str:
    """Shards of samples ``k00``, ``k01``, ...; ``cls`` is as long as the number."""
    with ShardWriter(f"{folder}/x-%02d.tar", maxcount=per_shard) as writer:
        for number in range(count):
            sample = {"__key__": f"k{number:02d}", "cls": b"1" * number}
            writer.write(sample | ({"jpg": b"j"} if number % 3 == 0 else {}))
    return f"{folder}/x.json"


def found(urls, **more) -> Catalog:
    catalog = Catalog.find(urls, **more)
    assert catalog is not None
    return catalog


def numbers(catalog: Catalog) -> list[int]:
    """Which samples are selected, in order, by their keys."""
    keys = []
    for shard, count in enumerate(catalog.counts.tolist()):
        index = catalog.index(shard)
        rows = catalog.rows(shard, np.arange(count))
        keys += [int(index.key(row)[1:]) for row in rows.tolist()]
    return keys


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> str:
    return written(tmp_path_factory.mktemp("catalog"))


@pytest.fixture(scope="module")
def catalog(manifest) -> Catalog:
    return found(manifest)


class TestFinding:
    def test_a_manifest_of_ours_is_trusted_without_its_indexes(self, tmp_path):
        url = written(tmp_path)
        for number in (1, 2, 3):
            (tmp_path / f"x-{number:02d}.tar.npz").unlink()
        catalog = found(url)
        assert catalog.counts.tolist() == [7, 7, 7, 4]
        assert catalog.num_samples == len(catalog) == 25
        assert catalog.urls == [f"{tmp_path}/x-{n:02d}.tar" for n in range(4)]
        sizes = sum((tmp_path / f"x-{n:02d}.tar").stat().st_size for n in range(4))
        assert catalog.mean_bytes == sizes / 25
        with pytest.raises(ManifestError, match="shardbuild index"):
            catalog.index(2)

    @pytest.mark.parametrize("spec", ["x-*.tar", "x-{00..03}.tar", "@list.txt"])
    def test_lists_need_indexes_and_tell_the_same(self, tmp_path, spec):
        url = written(tmp_path)
        names = "".join(f"x-{n:02d}.tar\n" for n in range(4))
        (tmp_path / "list.txt").write_text(names)
        at = spec.startswith("@")
        catalog = found(f"@{tmp_path}/{spec[1:]}" if at else f"{tmp_path}/{spec}")
        assert catalog.counts.tolist() == [7, 7, 7, 4]
        assert catalog.urls == found(url).urls
        (tmp_path / "x-02.tar.npz").unlink()
        assert Catalog.find(catalog.urls) is None

    def test_several_specs_are_laid_end_to_end(self, tmp_path):
        (tmp_path / "b").mkdir()
        first, second = written(tmp_path), written(tmp_path / "b", 5)
        both = found([first, f"{tmp_path}/b/x-00.tar", second])
        assert both.counts.tolist() == [7, 7, 7, 4, 5, 5]
        assert numbers(both) == [*range(25), *range(5), *range(5)]

    def test_manifests_of_peers_need_every_index(self, tmp_path):
        url = written(tmp_path)
        document = json.loads(Path(url).read_text())
        del document["shardbuild"]
        for entry in document["shardlist"]:
            entry.pop("filesize")
        Path(url).write_text(json.dumps(document))
        assert found(url).counts.tolist() == [7, 7, 7, 4]
        document["shardlist"][1]["nsamples"] = 8
        Path(url).write_text(json.dumps(document))
        with pytest.raises(ManifestError, match="7 samples, the manifest says 8"):
            Catalog.find(url)
        document["shardlist"][1].update(nsamples=7, filesize=512)
        Path(url).write_text(json.dumps(document))
        with pytest.raises(ManifestError, match="this one has 512"):
            Catalog.find(url)
        (tmp_path / "x-03.tar.npz").unlink()
        del document["shardlist"][1]["filesize"]
        Path(url).write_text(json.dumps(document))
        assert Catalog.find(url) is None

    def test_a_manifest_that_does_not_fit_its_shards_is_an_error(self, tmp_path):
        url = written(tmp_path)
        document = json.loads(Path(url).read_text())
        document["shardlist"][2]["filesize"] += 512
        document["shardlist"][3]["nsamples"] += 1
        Path(url).write_text(json.dumps(document))
        catalog = found(url)
        with pytest.raises(ManifestError, match="it was made for a shard of"):
            catalog.index(2)
        with pytest.raises(ManifestError, match="the manifest says 5"):
            catalog.index(3)

    def test_where_no_places_are_known_there_is_no_catalog(self, tmp_path):
        with ShardWriter(f"{tmp_path}/z-%02d.tar.gz", maxcount=7) as writer:
            writer.write({"__key__": "a", "cls": b"1"})
        assert Catalog.find(f"{tmp_path}/z.json") is None
        assert Catalog.find(f"{tmp_path}/z-00.tar.gz") is None
        shutil.copy(tmp_path / "z-00.tar.gz", tmp_path / "named.tar")
        save_index(scan_shard(f"{tmp_path}/named.tar"), f"{tmp_path}/named.tar")
        assert Catalog.find(f"{tmp_path}/named.tar") is None
        with ShardWriter(f"{tmp_path}/n-%02d.tar", write_index=False) as writer:
            writer.write({"__key__": "a", "cls": b"1"})
        assert Catalog.find(f"{tmp_path}/n.json") is None
        assert Catalog.find("pipe:cat x.tar") is None
        assert Catalog.find("-") is None

    def test_what_cannot_be_read_is_an_error(self, tmp_path):
        with pytest.raises(StorageError, match="none"):
            Catalog.find(f"{tmp_path}/none.json")
        with pytest.raises(StorageError, match="matches no file"):
            Catalog.find(f"{tmp_path}/*.tar")
        url = written(tmp_path)
        (tmp_path / "x-00.tar.npz").write_bytes(b"nothing")
        with pytest.raises(ManifestError, match="not a sound index"):
            Catalog.find(url)

    def test_on_a_store(self, tmp_path):
        written(tmp_path)
        for path in tmp_path.iterdir():
            write_bytes(f"memory://catalog/{path.name}", path.read_bytes())
        there = found("memory://catalog/x.json")
        here = found(f"{tmp_path}/x.json")
        assert there.fingerprint == here.fingerprint
        assert numbers(there) == list(range(25))
        assert found("memory://catalog/x-*.tar").counts.tolist() == [7, 7, 7, 4]
        odd = there.where(lambda columns: columns.num_bytes % 2 == 1)
        assert numbers(odd) == numbers(
            here.where(lambda columns: columns.num_bytes % 2 == 1)
        )
        (tmp_path / "x-00.tar.npz").unlink()
        assert Catalog.find(f"{tmp_path}/x.json") is None

    def test_an_empty_data_set_has_no_samples(self, tmp_path):
        with ShardWriter(f"{tmp_path}/x-%02d.tar"):
            pass
        catalog = found(f"{tmp_path}/x.json")
        assert catalog.num_samples == 0
        assert catalog.mean_bytes == 0
        assert catalog[:5].num_samples == 0
        with pytest.raises(KeyError):
            catalog.find_key("a")


class TestFingerprint:
    def test_it_tells_the_data_set_and_not_where_it_lies(self, tmp_path, catalog):
        (tmp_path / "copy").mkdir()
        for path in Path(catalog.urls[0]).parent.iterdir():
            shutil.copy(path, tmp_path / "copy" / path.name)
        assert found(f"{tmp_path}/copy/x.json").fingerprint == catalog.fingerprint
        assert len(bytes.fromhex(catalog.fingerprint)) == 32

    def test_other_bytes_of_the_same_sizes_are_another(self, tmp_path):
        prints = []
        for content in (b"1", b"2"):
            with ShardWriter(f"{tmp_path}/x-%02d.tar") as writer:
                writer.write({"__key__": "a", "cls": content})
            prints.append(found(f"{tmp_path}/x.json").fingerprint)
        assert prints[0] != prints[1]

    def test_each_selection_has_its_own_and_the_same_one_always(self, catalog):
        def even(columns):
            return columns.num_bytes % 2 == 0

        made = [
            catalog,
            catalog[1:],
            catalog[:-1],
            catalog[::2],
            catalog[::-1],
            catalog.where(even),
            catalog.where(even)[1:],
        ]
        assert len({one.fingerprint for one in made}) == len(made)
        assert catalog[:].fingerprint == catalog.fingerprint
        assert catalog[1:].fingerprint == catalog[0:][1:25].fingerprint
        assert catalog[::-1][::-1].fingerprint == catalog.fingerprint
        everything = catalog.where(lambda columns: columns.num_bytes >= 0)
        assert everything.fingerprint == catalog.fingerprint
        twice = catalog.where(lambda columns: columns.num_bytes > 3).where(even)
        once = catalog.where(lambda c: (c.num_bytes > 3) & (c.num_bytes % 2 == 0))
        assert twice.fingerprint == once.fingerprint


bound = st.none() | st.integers(-30, 30)
steps = st.none() | st.integers(-4, 4).filter(bool)
slices = st.builds(slice, bound, bound, steps)
operations = st.lists(slices | st.integers(2, 4), max_size=4)


@settings(deadline=None)
@given(operations)
def test_selections_of_selections_are_those_of_a_list(catalog, chosen):
    expected, selection = list(range(25)), catalog
    for operation in chosen:
        if isinstance(operation, slice):
            expected, selection = expected[operation], selection[operation]
        else:
            expected = [n for n in expected if (n + n % 3) % operation]
            selection = selection.where(
                lambda columns, by=operation: np.array(
                    [
                        (int(key[1:]) + int(key[1:]) % 3) % by != 0
                        for key in columns.key
                    ],
                    dtype=np.bool_,
                )
            )
    assert numbers(selection) == expected
    assert selection.num_samples == len(expected)
    places = [selection.place(i) for i in range(len(expected))]
    assert places == [selection.place(i - len(expected)) for i in range(len(expected))]
    for number, (shard, row) in zip(expected, places, strict=True):
        assert selection.find_key(f"k{number:02d}") == (shard, row)
    missing = sorted(set(range(26)) - set(expected))[0]
    with pytest.raises(KeyError):
        selection.find_key(f"k{missing:02d}")
    with pytest.raises(IndexError):
        selection.place(len(expected))
    again = pickle.loads(pickle.dumps(selection))  # noqa: S301  # our own
    assert numbers(again) == expected
    assert again.fingerprint == selection.fingerprint


class TestColumns:
    def test_a_value_for_each_selected_sample(self, catalog):
        seen = []

        def look(columns: Columns):
            seen.append(
                (
                    Path(columns.url).name,
                    columns.key.tolist(),
                    columns.num_bytes.tolist(),
                    columns.size("jpg").tolist(),
                    columns.has("cls").tolist(),
                    columns.has("png").tolist(),
                )
            )
            return columns.has("jpg")

        jpgs = catalog[1:9].where(look)
        keys = [f"k{n:02d}" for n in range(1, 9)]
        assert numbers(jpgs) == [3, 6]
        assert seen == [
            (
                "x-00.tar",
                keys[:6],
                [1, 2, 4, 4, 5, 7],
                [-1, -1, 1, -1, -1, 1],
                [True] * 6,
                [False] * 6,
            ),
            ("x-01.tar", keys[6:], [7, 8], [-1, -1], [True] * 2, [False] * 2),
        ]

    @pytest.mark.parametrize(
        "answer", [True, [1] * 7, np.ones(3, np.bool_), np.ones((7, 2), np.bool_)]
    )
    def test_a_condition_has_to_give_truth_values(self, catalog, answer):
        with pytest.raises(UsageError, match="truth value for each of 7"):
            catalog.where(lambda _: answer)


class TestKeys:
    def test_a_key_of_two_samples_is_an_error_that_names_both(self, tmp_path):
        (tmp_path / "b").mkdir()
        both = found([written(tmp_path, 5), written(tmp_path / "b", 3)])
        assert both.find_key("k04") == (0, 4)
        with pytest.raises(SampleError) as caught:
            both.find_key("k02")
        assert f"{tmp_path}/x-00.tar" in str(caught.value)
        assert f"{tmp_path}/b/x-00.tar" in str(caught.value)
        assert both[:5].find_key("k02") == (0, 2)

    @pytest.mark.parametrize("key", ["", "k", "k001", "\udc80", "x" * 1000])
    def test_what_is_no_key_is_not_found(self, catalog, key):
        with pytest.raises(KeyError):
            catalog.find_key(key)

    def test_keys_whose_hashes_are_equal_are_told_apart(self, catalog, monkeypatch):
        monkeypatch.setattr(
            "shardbuild.train.keytable.hash_keys",
            lambda blob, starts, stops: np.zeros(len(starts), np.uint64),
        )
        selection = catalog[3:]
        assert selection.find_key("k07") == (1, 0)
        with pytest.raises(KeyError):
            selection.find_key("k00")

    @given(st.lists(st.text(max_size=40), max_size=20, unique=True))
    def test_each_text_has_its_place_in_the_table(self, keys):
        raw = [key.encode() for key in keys]
        blob = np.frombuffer(b"".join(raw), dtype=np.uint8)
        ends = np.cumsum([0, *map(len, raw)])
        table = KeyTable([(blob, ends, np.arange(len(keys)))])
        for number, key in enumerate(keys):
            assert table.candidates(key) == [number]

    def test_hashes_are_those_of_other_machines(self):
        blob = np.frombuffer(b"n01/0007n01/0008x", dtype=np.uint8)
        hashes = hash_keys(blob, np.array([0, 8, 16, 16]), np.array([8, 16, 17, 16]))
        assert [hex(value) for value in hashes.tolist()] == GOLDEN


GOLDEN = [
    "0x45647a104a2ade6d",
    "0x3c705df7f7ca8bac",
    "0x8c046a7d6bc6592c",
    "0xe220a8397b1dcdaf",
]


class TestIndexes:
    def test_learned_indexes_are_kept_also_in_a_pickle(self, tmp_path, catalog):
        tar = tmp_path / "plain.tar"
        tar.write_bytes(make_tar(entries_of(make_samples(9))))
        index = scan_shard(str(tar))
        learned = Catalog.of_indexes(
            [catalog.urls[0], str(tar)], [catalog.index(0), index]
        )
        assert learned is not None
        assert learned.counts.tolist() == [7, 9]
        assert learned[::-1].index(0) is index
        again = pickle.loads(pickle.dumps(learned))  # noqa: S301  # our own
        assert again.index(1).keys() == index.keys()
        assert again.fingerprint == learned.fingerprint
        with pytest.raises(UsageError):
            Catalog.of_indexes([str(tar)], [])

    def test_a_pickle_holds_no_loaded_index(self, manifest):
        catalog = found(manifest)
        before = len(pickle.dumps(catalog))
        for shard in range(4):
            catalog.index(shard)
        catalog.find_key("k03")
        assert len(pickle.dumps(catalog)) == before

    def test_they_are_kept_within_their_memory(self, manifest, monkeypatch):
        monkeypatch.setattr("shardbuild.train.shardset.INDEX_BYTES", 900)
        shards = ShardSet.find(manifest)
        assert shards is not None
        first = shards.index(0)
        assert shards.index(0) is first
        for shard in (1, 2, 3):
            shards.index(shard)
        assert shards.index(3) is shards.index(3)
        assert shards.index(0) is not first
        assert shards.index(2, keep=False) is not shards.index(2, keep=False)

    def test_an_index_made_anew_for_a_shard_that_grew_is_refused(self, tmp_path):
        catalog = found(written(tmp_path))
        url = catalog.urls[1]
        with Path(url).open("ab") as file:
            file.write(bytes(10240))
        save_index(scan_shard(url), url)
        assert load_index(url) is not None
        with pytest.raises(ManifestError, match=index_url(url).rpartition("/")[2]):
            catalog.index(1)


@pytest.mark.parametrize("place", [(4, 0), (-1, 0), (0, 7), (0, -1)])
def test_places_that_are_not_there(catalog, place):
    shard, row = place
    with pytest.raises(IndexError):
        catalog.positions(np.array([shard]), np.array([row]))
