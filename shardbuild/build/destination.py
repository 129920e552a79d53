"""The place a run writes to: what is there, what may go, what is published last."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardbuild.build.report import Report
from shardbuild.errors import DestinationError, ManifestError
from shardbuild.shards.index import index_url
from shardbuild.shards.manifest import load_manifest
from shardbuild.storage import (
    exists,
    join_url,
    list_names,
    local_path,
    protocol_of,
    read_bytes,
    remove,
    remove_leftovers,
    remove_tree,
    split_url,
    write_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardbuild.build.plan import Plan, Source
    from shardbuild.build.settings import Settings

_WAYS = frozenset(("memory", "method"))
"""Options that lead to the same bytes, but leave another state on the way."""

FORMAT = 1
"""Raised when the same command would give other bytes than before."""


@dataclass(frozen=True, slots=True)
class Destination:
    """What a run finds where it writes to."""

    settings: Settings
    identity: Mapping[str, Any]
    """What this run is asked to do, and with which input."""

    def find_report(self) -> Report | None:
        """The report of the run that has finished here, if it was this one.

        Leaves an unfinished run of the same command as it is, to be gone on with,
        and what is to be overwritten until `start`.

        Raises:
            DestinationError: something else is here.
        """
        self._check_apart()
        state = self._state()
        if self.settings.overwrite:
            if state != self.identity:
                self._remove_state()
            return None
        if state is not None:
            self._compare(state, "an unfinished run of another command")
            return None
        self._remove_state()
        finished = self._finished()
        if finished is not None:
            self._compare(finished.identity, "the result of another command", _WAYS)
            self._check_whole()
            return finished
        self._check_free()
        return None

    def _state(self) -> dict[str, Any] | None:
        url = self._identity_url
        options = self.settings.storage_options
        if not exists(url, storage_options=options):
            return None
        found: dict[str, Any] = json.loads(read_bytes(url, storage_options=options))
        return found

    @property
    def _identity_url(self) -> str:
        return self.settings.state_url("identity.json")

    def _finished(self) -> Report | None:
        settings = self.settings
        options = settings.storage_options
        for url in (settings.manifest, settings.report):
            if not exists(url, storage_options=options):
                return None
        data = read_bytes(settings.report, storage_options=options)
        try:
            return Report.from_bytes(settings.report, data)
        except ManifestError:
            return None

    def _compare(
        self, found: Mapping[str, Any], what: str, ways: frozenset[str] = frozenset()
    ) -> None:
        """Refuse what differs in more than these ways to the same bytes."""
        names = {*found, *self.identity} - ways
        differing = sorted(n for n in names if found.get(n) != self.identity.get(n))
        details = "; ".join(_difference(n, found, self.identity) for n in differing)
        if not differing:
            return
        problem = f"holds {what} ({details}): use --overwrite, or another place"
        raise DestinationError(self.settings.manifest, problem)

    def _check_apart(self) -> None:
        """Refuse to write over an input, even if overwriting is wanted."""
        place = _place(self.settings.folder)
        for url, *_ in self.identity["inputs"]:
            if protocol_of(url) in (None, "pipe"):
                continue
            folder, name = split_url(url)
            if self._is_ours(name) and _place(folder) == place:
                problem = "is an input of this run: write to another place"
                raise DestinationError(url, problem)

    def _check_whole(self) -> None:
        """Refuse to call a data set finished whose shards have gone since."""
        settings = self.settings
        options = settings.storage_options
        names = set(list_names(settings.folder, storage_options=options))
        manifest = load_manifest(settings.manifest, storage_options=options)
        missing = [shard.url for shard in manifest.shards if shard.url not in names]
        if missing:
            problem = (
                f"is missing, {len(missing)} shards of {len(manifest.shards)} in all: "
                "use --overwrite to write them again"
            )
            raise DestinationError(join_url(settings.folder, missing[0]), problem)

    def _check_free(self) -> None:
        """Refuse to write over shards that no finished run of ours accounts for."""
        taken = self._names()
        if taken:
            problem = (
                f"is there already, {len(taken)} files in all: use --overwrite, or "
                "another place"
            )
            raise DestinationError(join_url(self.settings.folder, taken[0]), problem)

    def _names(self) -> list[str]:
        """Files that a run with this pattern writes, or wrote."""
        settings = self.settings
        names = list_names(settings.folder, storage_options=settings.storage_options)
        return sorted(filter(self._is_ours, names))

    def _is_ours(self, name: str) -> bool:
        settings = self.settings
        patterns = [
            split_url(settings.pattern)[1],
            f"{settings.stem}.quarantine-input-%06d.tar",
            f"{settings.stem}.quarantine-shard-%06d.tar",
        ]
        shard = name.removesuffix(index_url(""))
        if any(_Numbered(pattern).matches(shard) for pattern in patterns):
            return True
        return name in {
            split_url(url)[1] for url in (settings.manifest, settings.report)
        }

    def clear(self) -> None:
        """Remove what an earlier run with this pattern wrote, manifest first."""
        settings = self.settings
        options = settings.storage_options
        remove(settings.manifest, storage_options=options)
        self._remove_state()
        for name in self._names():
            url = join_url(settings.folder, name)
            remove(url, storage_options=options)

    def start(self) -> None:
        """Note what this run does, so that the same command can go on with it.

        Clears the way first, if ``overwrite`` says so and this run is not one that
        did it already and was stopped.
        """
        if self.settings.overwrite and self._state() is None:
            self.clear()
        data = json.dumps(self.identity).encode()
        options = self.settings.storage_options
        write_bytes(self._identity_url, data, storage_options=options)

    def sweep(self) -> None:
        """Remove what killed processes have left half-written."""
        remove_leftovers(
            self.settings.folder,
            self._is_ours,
            storage_options=self.settings.storage_options,
        )

    def finish(self) -> None:
        """Remove all that a run keeps only while it runs."""
        self.sweep()
        self._remove_state()

    def _remove_state(self) -> None:
        """Remove the state of a run, or what is left of one that was being removed.

        What says that there is a run to go on with goes first: so a process that is
        killed here leaves nothing that a later run would trust.
        """
        options = self.settings.storage_options
        remove(self._identity_url, storage_options=options)
        remove_tree(self.settings.state, storage_options=options)


def _place(folder: str) -> str:
    """A folder by the one name that it has, whatever it is called."""
    path = local_path(folder)
    return folder.rstrip("/") if path is None else os.path.realpath(path)


class _Numbered:
    """The names that a pattern with one number gives, and no others.

    >>> names = _Numbered("train-%06d.tar")
    >>> names.matches("train-000012.tar"), names.matches("train-1234567.tar")
    (True, True)
    >>> names.matches("train-12.tar"), names.matches("train-0000012.tar")
    (False, False)
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.prefix, self._suffix = re.split(r"%\d*d", pattern)

    def matches(self, name: str) -> bool:
        number = name.removeprefix(self.prefix).removesuffix(self._suffix)
        is_number = number.isascii() and number.isdigit()
        return is_number and self._pattern % int(number) == name


def make_identity(settings: Settings, plan: Plan) -> dict[str, Any]:
    """What decides the output and the state of a run, as JSON has it."""
    identity = {
        "format": FORMAT,
        "shards": split_url(settings.pattern)[1],
        **settings.describe(),
        "errors": settings.errors,
        "memory": settings.memory,
        "method": plan.method,
        "inputs": [_input(source) for source in plan.sources],
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain


def _input(source: Source) -> list[Any]:
    return [source.url, source.num_bytes, source.fingerprint]


def _difference(name: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    old, new = found.get(name), wanted.get(name)
    if name != "inputs" or not isinstance(old, list) or not isinstance(new, list):
        return f"{name} {old!r}, not {new!r}"
    return _input_difference(old, new)


def _input_difference(old: Sequence[Any], new: Sequence[Any]) -> str:
    if [one[0] for one in old] != [one[0] for one in new]:
        return f"{len(old)} other inputs"
    changed = [a[0] for a, b in zip(old, new, strict=True) if a != b]
    return f"{changed[0]} has changed since" + (
        f", and {len(changed) - 1} more" if len(changed) > 1 else ""
    )
