"""A user's transform with its options, from a file or a callable."""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.errors import PlanError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shardbuild.shards.samples import Sample

_MISSING = object()

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
        """What the file defines, imported under a name that its text decides."""
        digest = hashlib.sha256(self.source.encode()).hexdigest()[:16]
        module = types.ModuleType(f"shardbuild_job_{digest}")
        module.__file__ = self.url
        code = compile(self.source, self.url, "exec")
        # Dataclasses and pickle look for the module of a class by its name.
        sys.modules[module.__name__] = module
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
                raise UsageError(self.url, problem)
        return Job(self.url, self.source, {**self.options, **options})

    def check(self) -> None:
        """Refuse options without a value: every sample would fail.

        Raises:
            PlanError: names one.
        """
        for name, value in self.all_options.items():
            if value is inspect.Parameter.empty:
                raise UsageError(self.url, f"the job's option {name!r} needs a value")

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
        transform = job.module.__dict__.get("transform", _MISSING)
    except OSError as error:
        raise PlanError(url, f"cannot read the job: {error.strerror}") from error
    except Exception as error:  # the user's file may raise anything
        raise PlanError(url, f"cannot run the job file: {error!r}") from error
    if transform is _MISSING:
        problem = "defines no transform: add 'def transform(sample): ...'"
        raise PlanError(url, problem)
    if transform is not None and not callable(transform):
        raise PlanError(url, f"its transform is {transform!r}, which is no function")
    return job.with_options(**options)


def describe_transform(transform: Callable[..., Any] | None) -> dict[str, Any] | None:
    """What a manifest says of a transform: name, options and a hash of its text.

    The options of a function are what it closes over and its defaults; those of an
    object that is called, its attributes. Of values that JSON has not, only the
    type is told: two transforms that differ in such a value alone look the same.

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
        given = {"args": transform.args} if transform.args else {}
        return _with_options(transform.func, {**transform.keywords, **given})
    if inspect.ismethod(transform):
        return _with_options(transform.__func__, _attributes(transform.__self__))
    if inspect.isfunction(transform):
        return _describe(_name_of(transform), _captured(transform), _text_of(transform))
    kind = transform if hasattr(transform, "__qualname__") else type(transform)
    return _describe(_name_of(kind), _attributes(transform), _text_of(kind))


def _with_options(
    transform: Callable[..., Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    inner = describe_transform(transform) or {}
    return {**inner, "options": {**inner["options"], **_plain(options)}}


def _name_of(kind: Any) -> str:
    owner = getattr(kind, "__objclass__", kind)
    return f"{getattr(owner, '__module__', None) or 'builtins'}.{kind.__qualname__}"


def _text_of(kind: Any) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""


def _captured(function: types.FunctionType) -> dict[str, Any]:
    defaults = {
        parameter.name: parameter.default
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is not parameter.empty
    }
    return {**defaults, **inspect.getclosurevars(function).nonlocals}


def _attributes(owner: Any) -> dict[str, Any]:
    return {} if inspect.isclass(owner) else dict(getattr(owner, "__dict__", {}))


def _describe(name: str, options: Mapping[str, Any], text: str) -> dict[str, Any]:
    digest = hashlib.sha256(text.encode()).hexdigest() if text else ""
    return {"name": name, "options": _plain(options), "sha256": digest}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON has them; of what it has not, only the type."""
    return {str(name): _plain_value(value) for name, value in sorted(options.items())}


def _plain_value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain_value(one) for one in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return _plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    return f"<{type(value).__qualname__}>"
