"""Decoding by a list of handlers: whole extensions, in order, errors named."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import webdataset.autodecode

from shardbuild.codecs.encoders import encode_field, encode_sample
from shardbuild.codecs.handlers import (
    Continue,
    Decoded,
    Decoder,
    basichandlers,
    gzfilter,
    handle_extension,
    imagehandler,
)
from shardbuild.codecs.packing import gzip
from shardbuild.errors import DecodeError, UsageError

PIXELS = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)


def equal(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


# -- one handler ------------------------------------------------------------


@pytest.mark.parametrize(
    ("extensions", "key", "taken"),
    [
        ("jpg", ".jpg", True),
        ("jpg", ".JPG", True),
        ("JPG", ".seg.jpg", True),
        ("png jpg", ".jpg", True),
        ("seg.jpg", ".a.seg.jpg", True),
        ("seg.jpg", ".jpg", False),
        ("seg.jpg", ".xseg.jpg", False),
        ("jpg", ".ajpg", False),
        ("jpg", ".jpg.gz", False),
        ("jpg", ".jp", False),
        ("jpeg", ".jpg jpeg", False),
        (".jpg", "jpg", True),
        ("", ".jpg", False),
    ],
)
def test_an_extension_matches_by_whole_components_in_any_case(extensions, key, taken):
    handler = handle_extension(extensions, len)
    assert handler(key, b"abc") == (3 if taken else None)


def test_a_picture_is_decoded_as_the_spec_says():
    data = encode_field("png", PIXELS)
    np.testing.assert_array_equal(imagehandler("rgb8")(".seg.PNG", data), PIXELS)
    assert imagehandler("l")(".png", data).dtype == np.float32
    assert imagehandler("rgb8")(".txt", data) is None
    assert imagehandler("rgb8", ["x"])(".png", data) is None
    assert imagehandler("pil", ["x"])(".x", data).size == (4, 3)


@pytest.mark.parametrize("spec", ["RGB8", "rgb9", "", None])
def test_an_unknown_spec_is_refused_at_once(spec):
    with pytest.raises(UsageError, match=r"no image spec .*: there are l8, rgb8"):
        imagehandler(spec)


def test_gz_is_unpacked_as_often_as_the_name_says():
    packed = gzip(gzip(b"7"))
    assert gzfilter(".a.cls.GZ.gz", packed) == Continue(".a.cls", b"7")
    assert gzfilter(".gz", gzip(b"x")) == Continue("", b"x")
    assert gzfilter(".tgz", packed) is None


def test_the_basic_handlers_take_what_has_a_decoder_and_no_part_of_it():
    assert basichandlers(".CLS", b"7") == 7
    assert basichandlers(".json", b"null") == Decoded(None)
    for key in (".t", ".x", ".son", ".jpg", ".bin", ""):
        assert basichandlers(key, b"7") is None
    with pytest.raises(ValueError, match="allow_pickle"):
        basichandlers(".pkl", pickle.dumps(1))
    assert basichandlers(".pkl", pickle.dumps(1), allow_pickle=True) == 1


# -- the decoder ------------------------------------------------------------


def sample():
    return encode_sample(
        {
            "__key__": "a/b",
            "cls": 7,
            "json": {"a": [1]},
            "seg.png": PIXELS,
            "txt.gz": "hé",
            "bin": b"\xff",
        }
    )


def test_a_sample_is_decoded_field_by_field():
    expected = {"__key__": "a/b", "cls": 7, "json": {"a": [1]}, "seg.png": PIXELS}
    expected |= {"txt.gz": "hé", "bin": b"\xff"}
    for decoder in (
        Decoder(["rgb8"]),
        Decoder([imagehandler("rgb8")]),
        Decoder("rgb8"),
        Decoder(imagehandler("rgb8")),
    ):
        equal(decoder(sample()), expected)
    equal(pickle.loads(pickle.dumps(Decoder(["rgb8"])))(sample()), expected)  # noqa: S301
    pixels = Decoder()(sample())["seg.png"]
    assert pixels == sample()["seg.png"]


def test_webdatasets_decoder_gives_the_same():
    theirs = webdataset.autodecode.Decoder([webdataset.autodecode.imagehandler("rgb8")])
    ours = Decoder(["rgb8"])
    equal(ours(sample()), theirs(sample()))


def test_the_first_handler_that_takes_a_field_decides():
    calls = []

    def never(key, data):
        calls.append(key)

    decode = Decoder(
        [never, handle_extension("cls", len), handle_extension("cls", str)]
    )
    assert decode({"cls": b"123", "txt": b"a"}) == {"cls": 3, "txt": "a"}
    assert calls == [".cls", ".txt"]
    assert Decoder([], post=[])({"cls": b"1"}) == {"cls": b"1"}


def test_other_bytes_under_another_extension_go_on_to_the_handlers_after():
    def unrot(key, data):
        if key.endswith(".rot"):
            return Continue(key[:-4], bytes(byte ^ 1 for byte in data))
        return None

    decode = Decoder([unrot])
    assert decode({"cls.rot": b"6", "x.rot": b"6"}) == {"cls.rot": 7, "x.rot": b"7"}
    assert Decoder([], pre=[unrot])({"cls.rot": b"6"}) == {"cls.rot": 7}
    assert Decoder([], pre=[])({"cls.gz": b"6"}) == {"cls.gz": b"6"}


def test_a_value_of_none_is_a_value():
    assert Decoder()({"json": b"null"}) == {"json": None}


def test_only_some_fields_are_decoded():
    for only in ("cls txt", ["cls", "txt"]):
        found = Decoder(only=only)({"cls": b"7", "json": b"[", "txt": b"a"})
        assert found == {"cls": 7, "json": b"[", "txt": "a"}


def test_meta_is_text_and_what_is_decoded_stays():
    found = Decoder()({"__key__": b"a", "_x": "b", "cls": 3, "x.npy": PIXELS})
    assert found.pop("x.npy") is PIXELS
    assert found == {"__key__": "a", "_x": "b", "cls": 3}


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("cls", b"x", "b'x' is no integer"),
        ("cls", None, "is None"),
        ("__note__", b"\xff", "can't decode byte"),
        ("a.pkl", b"", "allow_pickle=True"),
        ("txt.gz", b"abc", "is no gzip"),
        ("mine", b"", "division by zero"),
    ],
)
def test_an_error_names_shard_sample_and_field(field, value, problem):
    decode = Decoder([handle_extension("mine", lambda data: 1 / len(data))])
    broken = {"__key__": "k", "__url__": "a.tar", field: value}
    with pytest.raises(DecodeError, match=problem) as caught:
        decode(broken)
    assert str(caught.value).startswith(f"a.tar: sample 'k': field {field!r}: ")


def test_pickle_is_read_only_when_it_is_trusted():
    assert Decoder(allow_pickle=True)({"pyd": pickle.dumps({1})}) == {"pyd": {1}}


def test_what_is_no_handler_is_refused():
    with pytest.raises(UsageError, match="3 is no function and no image spec"):
        Decoder([3])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="no image spec 'rgb9'"):
        Decoder(["rgb9"])  # type: ignore[list-item]
