"""A user's transform with its options, from a file or a callable."""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shardbuild.shards.samples import Sample

Transform = "Callable[[Sample], Sample | None | list[Sample]]"


@dataclass(frozen=True)
class Job:
    """The transform of a job file, with its options.

    What travels to a worker is the file's text, so that workers need neither the
    file nor an import path. A job whose ``transform`` is None leaves samples as
    they are.
    """

    url: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def module(self) -> types.ModuleType:
        module = types.ModuleType(Path(self.url).stem)
        module.__file__ = self.url
        code = compile(self.source, self.url, "exec")
        exec(code, module.__dict__)
        return module

    @property
    def transform(self) -> Callable[..., Any] | None:
        return self.module.__dict__["transform"]  # type: ignore[no-any-return]

    @property
    def defaults(self) -> dict[str, object]:
        """Options of `convert` that the job wants, unless the user says otherwise."""
        return dict(self.module.__dict__.get("defaults", {}))

    @property
    def help(self) -> str:
        return inspect.cleandoc(self.module.__doc__ or "")

    @property
    def all_options(self) -> dict[str, Any]:
        """Every option that the transform takes, with the value that it will have."""
        if self.transform is None:
            return {}
        found = inspect.signature(self.transform).parameters.values()
        taken = {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY}
        return taken | dict(self.options)

    def with_options(self, **options: Any) -> Job:
        """The same job with other options.

        Raises:
            PlanError: the transform has no such option.
        """
        for name in options:
            if name not in self.all_options:
                known = ", ".join(sorted(self.all_options)) or "none"
                problem = f"the job has no option {name!r} (it has: {known})"
                raise PlanError(self.url, problem)
        return Job(self.url, self.source, {**self.options, **options})

    def __call__(self, sample: Sample) -> Sample | list[Sample] | None:
        transform = self.transform
        if transform is None:
            return sample
        return transform(sample, **self.options)  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("url", "source", "options")}


def load_job(url: str, **options: Any) -> Job:
    """Read a job file.

    Args:
        url: a Python file that defines ``transform``, a function of a sample with
            keyword-only options, or None.
        options: values for the transform's options.

    Raises:
        PlanError: the file cannot be read or run, or has no ``transform``, or the
            transform has no such option.
    """
    try:
        job = Job(url, Path(url).read_text(encoding="utf-8"))
        has_transform = "transform" in job.module.__dict__
    except OSError as error:
        raise PlanError(url, f"cannot read the job: {error.strerror}") from error
    except Exception as error:  # the user's file may raise anything
        raise PlanError(url, f"cannot run the job file: {error!r}") from error
    if not has_transform:
        problem = "defines no transform: add 'def transform(sample): ...'"
        raise PlanError(url, problem)
    return job.with_options(**options)


def describe_transform(transform: Callable[..., Any] | None) -> dict[str, Any] | None:
    """What a manifest says of a transform: name, options and a hash of its text.

    >>> describe_transform(None) is None
    True
    >>> describe_transform(functools.partial(str.upper))["name"]
    'builtins.str.upper'
    """
    if transform is None:
        return None
    if isinstance(transform, Job):
        name = Path(transform.url).stem
        return _describe(name, transform.all_options, transform.source)
    if isinstance(transform, functools.partial):
        inner = describe_transform(transform.func) or {}
        given = {"args": transform.args} if transform.args else {}
        options = inner["options"] | _plain({**transform.keywords, **given})
        return {**inner, "options": options}
    try:
        text = inspect.getsource(transform)
    except (OSError, TypeError):
        text = ""
    kind: Any = transform if hasattr(transform, "__qualname__") else type(transform)
    owner = kind if getattr(kind, "__module__", None) else kind.__objclass__
    cells = inspect.getclosurevars(transform) if inspect.isfunction(transform) else None
    held = dict(cells.nonlocals) if cells else vars(transform) if text else {}
    return _describe(f"{owner.__module__}.{kind.__qualname__}", held, text)


def _describe(name: str, options: Mapping[str, Any], text: str) -> dict[str, Any]:
    digest = hashlib.sha256(text.encode()).hexdigest() if text else ""
    return {"name": name, "options": _plain(options), "sha256": digest}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON has them; of what it has not, only the type."""
    return {
        name: value if _is_plain(value) else f"<{type(value).__qualname__}>"
        for name, value in sorted(options.items())
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, bool | int | float | str)
