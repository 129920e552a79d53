"""A filter with its arguments, waiting for samples; and how fluid methods are made.

A filter is a plain function of samples and options. `curried` makes of it a function
of the options alone, `fluid` a method: both with the filter's own signature.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

from shardbuild.streams.seeds import epoch_seed

__all__ = ["Stage", "curried", "fluid"]

_CURRIED, _FLUID = "shardbuild.streams.curried:", "shardbuild.streams.fluid:Pipeline"
"""Where the made functions are to be found."""

P = ParamSpec("P")
Filter = Callable[Concatenate[Iterable[Any], P], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Stage:
    """A filter and all its arguments but the samples. It can be pickled.

    >>> from shardbuild.streams.filters import listed
    >>> list(Stage(listed, (2,))([1, 2, 3]))
    [[1, 2], [3]]
    """

    function: Callable[..., Iterable[Any]]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, samples: Iterable[Any]) -> Iterator[Any]:
        return iter(self.function(samples, *self.args, **self.kwargs))

    def arguments(self) -> dict[str, Any]:
        """The options by name, with their defaults.

        Raises:
            TypeError: They are not what the filter takes.
        """
        bound = inspect.signature(self.function).bind((), *self.args, **self.kwargs)
        bound.apply_defaults()
        return bound.arguments

    def in_epoch(self, epoch: int) -> Stage:
        """The same stage, if it draws by a seed with that of an epoch.

        >>> from shardbuild.streams.filters import shuffle
        >>> Stage(shuffle, (4,)).in_epoch(0).kwargs
        {'seed': 0}
        """
        if "seed" not in _names_of(self.function):
            return self
        seed = epoch_seed(self.kwargs.get("seed", 0), epoch)
        return Stage(self.function, self.args, {**self.kwargs, "seed": seed})


def _names_of(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def curried(function: Filter[P]) -> Callable[P, Stage]:
    """A function of a filter's options, that makes its `Stage`.

    >>> from shardbuild.streams.filters import listed
    >>> list(curried(listed)(2)([1, 2, 3]))
    [[1, 2], [3]]
    """

    def make(*args: P.args, **kwargs: P.kwargs) -> Stage:
        stage = Stage(function, args, kwargs)
        stage.arguments()
        return stage

    signature = inspect.signature(function)
    options = list(signature.parameters.values())[1:]
    _describe(make, function, _CURRIED, signature.replace(parameters=options))
    return make


class Composable(Protocol):
    """What has stages, and gives itself with more of them."""

    def compose(self, *stages: Callable[[Iterable[Any]], Iterable[Any]]) -> Self:
        """Itself, with these stages at its end."""
        ...


F = TypeVar("F", bound=Composable)


def fluid(function: Filter[P]) -> Callable[Concatenate[F, P], F]:
    """A method that adds the stage of a filter."""

    def method(self: F, /, *args: P.args, **kwargs: P.kwargs) -> F:
        stage = Stage(function, args, kwargs)
        stage.arguments()
        return self.compose(stage)

    signature = inspect.signature(function)
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    options = list(signature.parameters.values())[1:]
    parameters = [this, *options]
    _describe(method, function, _FLUID, signature.replace(parameters=parameters))
    return method


def _describe(
    made: Any, function: Any, home: str, signature: inspect.Signature
) -> None:
    """Give a function the name, words and options of the filter it stands for."""
    module, _, name = home.partition(":")
    made.__module__, made.__name__ = module, function.__name__
    made.__qualname__ = f"{name}.{function.__name__}".lstrip(".")
    made.__doc__ = _without_examples(inspect.getdoc(function) or "")
    made.__signature__ = signature.replace(return_annotation=inspect.Signature.empty)


def _without_examples(words: str) -> str:
    """A docstring without its examples, which are of the plain function."""
    paragraphs = words.split("\n\n")
    plain = "\n\n".join(part for part in paragraphs if ">>>" not in part)
    return re.sub(r"^    samples: .*\n", "", plain, flags=re.MULTILINE)
