"""Optional packages: imported where they are needed, named where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from shardbuild.errors import MissingExtraError

__all__ = ["import_extra"]


def import_extra(module: str, *, package: str, extra: str, wanted_by: str) -> Any:
    """Import a module of an optional package.

    Raises:
        MissingExtraError: it is not installed; names the extra that brings it.

    >>> import_extra("no_such", package="no-such", extra="all", wanted_by="x.cbor")
    Traceback (most recent call last):
    shardbuild.errors.MissingExtraError: x.cbor: needs the package 'no-such': \
pip install 'shardbuild[all]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (module, module.partition(".")[0]):
            raise  # it is installed, and something that it needs is not
        raise MissingExtraError(wanted_by, package, extra) from error
