"""Tensors: pictures with channels first and back, and .pth without pickle."""

from __future__ import annotations

import pickle
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch

from shardbuild.codecs.decoders import decode_field
from shardbuild.codecs.encoders import encode_field
from shardbuild.codecs.handlers import Decoder
from shardbuild.codecs.images import decode_image
from shardbuild.codecs.torchdata import as_tensor, is_tensor
from shardbuild.errors import DecodeError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
COLOUR = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
CLEAR = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)

SPECS: list[tuple[Any, Any, str]] = [
    ("torchl8", GREY, "uint8"),
    ("torchrgb8", COLOUR, "uint8"),
    ("torchrgba8", CLEAR, "uint8"),
    ("torchl", GREY, "float32"),
    ("torchrgb", COLOUR, "float32"),
    ("torch", COLOUR, "float32"),
    ("torchrgba", CLEAR, "float32"),
]


@pytest.mark.parametrize(("spec", "pixels", "kind"), SPECS)
def test_a_picture_becomes_a_tensor_and_back(spec, pixels, kind):
    data = encode_field("png", pixels)
    tensor = decode_image(data, spec)
    assert is_tensor(tensor)
    assert str(tensor.dtype) == f"torch.{kind}"
    assert tensor.is_contiguous()
    expected = np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels
    if kind == "float32":
        expected = expected.astype(np.float32) / 255
    np.testing.assert_array_equal(tensor.numpy(), expected)
    assert tensor.numpy().flags.writeable
    assert encode_field("png", tensor) == data
    found = Decoder([spec])({"a.png": data})["a.png"]
    np.testing.assert_array_equal(found.numpy(), expected)


class Explodes:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


def test_what_torch_saves_is_read_and_ours_by_torch():
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    value = {"weights": [as_tensor(array), 3, "x", None]}
    data = encode_field("PTH", value)
    stream = BytesIO()
    torch.save(value, stream)
    for found in (
        decode_field("pth", data),
        decode_field("pth", stream.getvalue()),
        decode_field("pth", data, allow_pickle=True),
        torch.load(BytesIO(data), weights_only=True, map_location="cpu"),
    ):
        tensor, *rest = found["weights"]
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert rest == [3, "x", None]


@pytest.mark.parametrize("data", [pickle.dumps(Explodes()), b"", b"PK", b"junk"])
def test_pth_runs_no_code(data):
    with pytest.raises(DecodeError, match="field 'pth'"):
        decode_field("pth", data)


def test_other_objects_in_a_pth_are_read_only_when_they_are_trusted():
    data = encode_field("pth", pytest.Item)
    with pytest.raises(DecodeError, match="field 'pth'"):
        decode_field("pth", data)
    assert decode_field("pth", data, allow_pickle=True) is pytest.Item
