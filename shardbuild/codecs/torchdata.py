"""Torch tensors: from arrays, and as ``.pth``. Torch is loaded when it is needed."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from shardbuild.codecs.extras import import_extra

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["as_tensor", "decode_pth", "encode_pth", "is_tensor"]


def as_tensor(array: npt.NDArray[Any]) -> Any:
    """Make a torch tensor that shares the array's memory.

    Raises:
        MissingExtraError: torch is not installed.
    """
    return _torch().from_numpy(array)


def is_tensor(value: object) -> bool:
    """Whether a value is a torch tensor; torch is not loaded to tell.

    >>> is_tensor([1.0])
    False
    """
    kinds = type(value).__mro__
    return any(
        (kind.__module__, kind.__name__) == ("torch", "Tensor") for kind in kinds
    )


def encode_pth(value: Any) -> bytes:
    """Encode as ``torch.save`` does.

    Raises:
        MissingExtraError: torch is not installed.
    """
    stream = BytesIO()
    _torch().save(value, stream)
    return stream.getvalue()


def decode_pth(data: bytes, *, allow_pickle: bool = False) -> Any:
    """Decode what ``torch.save`` wrote, to the CPU: tensors, numbers, text, containers.

    Other objects are pickled in it, and that is code: only with ``allow_pickle``.

    Raises:
        MissingExtraError: torch is not installed.
    """
    stream = BytesIO(data)
    return _torch().load(stream, weights_only=not allow_pickle, map_location="cpu")


def _torch() -> Any:
    return import_extra("torch", package="torch", extra="torch", wanted_by="a tensor")
