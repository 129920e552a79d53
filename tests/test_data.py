"""The photographs in tests/data are what their licence says, and more is to be had."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import pytest

from shardbuild.codecs.decoders import decode_sample
from shardbuild.codecs.images import decode_image
from tests.real_data import fetch_digits, fetch_stamps

PHOTOS = Path(__file__).parent / "data" / "photos"
LICENSE = PHOTOS.parent / "LICENSE.md"
PICTURES = sorted(PHOTOS.glob("*/*.jpg"))


def test_thirteen_labels_have_five_samples_each_in_under_5_mb():
    labels = {picture.parent.name for picture in PICTURES}
    assert len(labels) == 13
    assert len(PICTURES) == 65
    files = [path for path in PHOTOS.rglob("*") if path.is_file()]
    assert len(files) == 3 * 65
    assert sum(path.stat().st_size for path in files) < 5_000_000


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_a_photograph_has_its_text_and_facts(picture):
    sample = decode_sample(
        {
            extension: picture.with_suffix(f".{extension}").read_bytes()
            for extension in ("jpg", "json", "txt")
        }
    )
    facts = sample["json"]
    assert sample["jpg"].shape[:2] == (facts["height"], facts["width"])
    left, upper, right, lower = facts["box"]
    assert (right - left, lower - upper) == (facts["width"], facts["height"])
    assert facts["license"] in {"public domain", "CC0-1.0"}
    whole = picture.with_name(f"{picture.parent.name}.txt").read_text("utf-8")
    assert whole.strip()
    assert sample["txt"].endswith(whole)
    assert ("Detail, " in sample["txt"]) == ("-" in picture.stem)


def test_the_licence_names_each_label_with_its_author_and_source():
    rows = {
        cells[1]: line
        for line in LICENSE.read_text("utf-8").splitlines()
        if len(cells := [cell.strip() for cell in line.split("|")]) == 7
    }
    for picture in PICTURES:
        facts = json.loads(picture.with_suffix(".json").read_text("utf-8"))
        row = rows[picture.parent.name]
        assert facts["author"] in row
        assert facts["source"].partition(": ")[2] in row
        assert facts["url"] is None or facts["url"] in row


def test_the_stamps_are_samples_of_pictures_texts_and_sounds():
    stamps = fetch_stamps()
    assert fetch_stamps() == stamps
    samples = collections.defaultdict(set)
    for path in stamps.rglob("*"):
        if path.is_file():
            key, extension = path.name.split(".", 1)
            samples[path.parent / key].add(extension)
    with_picture = [fields for fields in samples.values() if {"png", "svg"} & fields]
    assert len(with_picture) > 900
    assert sum("txt" in fields for fields in with_picture) > 900
    assert sum("desc_es.ogg" in fields for fields in with_picture) > 800
    assert len({folder.parent for folder in samples}) > 100
    assert not list(stamps.rglob("*_desc*"))


def test_the_digits_are_five_hundred_of_each():
    digits = fetch_digits()
    assert fetch_digits() == digits
    assert {
        folder.name: len(list(folder.glob("*.png"))) for folder in digits.iterdir()
    } == {str(label): 500 for label in range(10)}
    seven = decode_image(next((digits / "7").iterdir()).read_bytes(), "l8")
    assert seven.shape == (28, 28)
    assert seven.max() > 200
