"""Tensors: pictures with channels first, .pth without pickle; torch itself is used."""

from __future__ import annotations

import importlib
import pickle
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from shardbuild.codecs.decoders import decode_field
from shardbuild.codecs.encoders import encode_field
from shardbuild.codecs.handlers import Decoder
from shardbuild.codecs.images import decode_image
from shardbuild.errors import DecodeError

torch: Any = importlib.import_module("torch")

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
COLOUR = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
CLEAR = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)

SPECS: list[tuple[Any, Any, Any, bool]] = [
    ("torchl8", GREY, "uint8", False),
    ("torchrgb8", COLOUR, "uint8", True),
    ("torchrgba8", CLEAR, "uint8", True),
    ("torchl", GREY, "float32", False),
    ("torchrgb", COLOUR, "float32", True),
    ("torch", COLOUR, "float32", True),
    ("torchrgba", CLEAR, "float32", True),
]


@pytest.mark.parametrize(("spec", "pixels", "kind", "has_channels"), SPECS)
def test_a_picture_becomes_a_tensor_and_back(spec, pixels, kind, has_channels):
    data = encode_field("png", pixels)
    tensor = decode_image(data, spec)
    assert tensor.dtype == getattr(torch, kind)
    assert tensor.is_contiguous()
    expected = np.moveaxis(pixels, -1, 0) if has_channels else pixels
    if kind == "float32":
        expected = expected.astype(np.float32) / 255
    np.testing.assert_array_equal(tensor.numpy(), expected)
    tensor[0] = 0  # it can be written to
    assert encode_field("png", decode_image(data, spec)) == data
    found = Decoder([spec])({"a.png": data})["a.png"]
    assert torch.equal(found, decode_image(data, spec))


class Explodes:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


VALUES = [
    torch.arange(6, dtype=torch.int16).reshape(2, 3),
    {"weights": [torch.zeros(2), 3, "x", None]},
]


@pytest.mark.parametrize("value", VALUES, ids=["tensor", "tree"])
def test_what_torch_saves_is_read_and_ours_by_torch(value):
    data = encode_field("PTH", value)
    stream = BytesIO()
    torch.save(value, stream)
    for one in (
        decode_field("pth", data),
        decode_field("pth", stream.getvalue()),
        decode_field("pth", data, allow_pickle=True),
        torch.load(BytesIO(data), weights_only=True),
    ):
        assert repr(one) == repr(value)


@pytest.mark.parametrize("data", [pickle.dumps(Explodes()), b"", b"PK", b"junk"])
def test_pth_runs_no_code(data):
    with pytest.raises(DecodeError, match="field 'pth'"):
        decode_field("pth", data)


def test_other_objects_in_a_pth_are_read_only_when_they_are_trusted():
    data = encode_field("pth", pytest.Item)
    with pytest.raises(DecodeError, match="field 'pth'"):
        decode_field("pth", data)
    assert decode_field("pth", data, allow_pickle=True) is pytest.Item
