"""Torch, or where it is not installed a stand-in with the few calls that we make.

Torch brings gigabytes, and other packages change when it is there: most environments
of ours have none. What holds with the stand-in, holds with torch: run
``pytest tests/test_codecs_torchdata.py`` where it is installed.
"""

from __future__ import annotations

import importlib.util
import pickle
import types
from typing import Any


class Tensor:
    """An array that has only what we use of a tensor."""

    def __init__(self, array):
        self._array = array
        self.dtype = f"torch.{array.dtype}"

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self._array

    def is_contiguous(self):
        return self._array.flags.c_contiguous


class _WeightsOnly(pickle.Unpickler):
    def find_class(self, module, name):
        if module.partition(".")[0] in ("numpy", "torch"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no weight")


def _load(stream, *, weights_only, map_location):
    assert map_location == "cpu"
    return (_WeightsOnly if weights_only else pickle.Unpickler)(stream).load()


def stand_in() -> Any:
    """Make a module that does what torch does, of what we call."""
    module: Any = types.ModuleType("torch")
    Tensor.__module__ = "torch"
    module.Tensor = module.from_numpy = Tensor
    module.save = pickle.dump
    module.load = _load
    return module


def torch_or_stand_in() -> Any:
    """Give torch itself where it is installed."""
    if importlib.util.find_spec("torch"):
        return importlib.import_module("torch")
    return stand_in()
