"""A job's options on the command line: its transform's keyword-only parameters."""

from __future__ import annotations

import argparse
import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Any

from shardbuild.cli.options import argument_type

__all__ = ["add_job_options", "read_job_options"]

Transform = Callable[..., Any]

READERS: dict[type, Callable[[str], Any]] = {int: int, float: float, str: str}


def add_job_options(
    parser: argparse.ArgumentParser, transform: Transform, about: str = ""
) -> None:
    """Give ``parser`` an option for each keyword-only parameter of ``transform``.

    Its annotation says how a value is read (``int``, ``float``, ``str``, ``bool``,
    a ``Literal`` of texts, or one of these ``| None``), its default what it is when
    it is not given, and its line under ``Args:`` in the docstring what it is for.

    >>> def resize(sample, *, size: int = 256):
    ...     '''Resize pictures.
    ...
    ...     Args:
    ...         sample: The sample.
    ...         size: The longer side, in pixels.
    ...     '''
    >>> parser = argparse.ArgumentParser()
    >>> add_job_options(parser, resize)
    >>> read_job_options(parser.parse_args(["--size", "64"]), resize)
    {'size': 64}

    Raises:
        ValueError: A parameter cannot be an option, or the parser has its name.
    """
    docstring = inspect.getdoc(transform) or ""
    told = _told_arguments(docstring)
    group = parser.add_argument_group(
        "options of the job", about or docstring.partition("\n\n")[0]
    )
    types_of = _types_of(transform)
    for parameter in _options_of(transform):
        flag = "--" + parameter.name.replace("_", "-")
        try:
            group.add_argument(
                flag,
                dest=_destination(parameter.name),
                **_reading(types_of.get(parameter.name, str), parameter),
                **_help(parameter, told.get(parameter.name, "")),
            )
        except argparse.ArgumentError as error:
            problem = f"the job's option {flag} is already one of convert's"
            raise ValueError(problem) from error


def read_job_options(
    args: argparse.Namespace, transform: Transform
) -> dict[str, object]:
    """Return what was given for each keyword-only parameter of ``transform``."""
    return {
        parameter.name: getattr(args, _destination(parameter.name))
        for parameter in _options_of(transform)
    }


def _options_of(transform: Transform) -> list[inspect.Parameter]:
    parameters = inspect.signature(transform).parameters.values()
    return [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def _types_of(transform: Transform) -> dict[str, Any]:
    """Return the types of the options, and of nothing else.

    The sample's type is often imported for type checkers alone.
    """
    names = [parameter.name for parameter in _options_of(transform)]
    annotations = inspect.get_annotations(transform)
    wanted = {name: annotations[name] for name in names if name in annotations}
    holder = types.SimpleNamespace(__annotations__=wanted)
    return typing.get_type_hints(holder, globalns=transform.__globals__)


def _destination(name: str) -> str:
    return f"job_{name}"


def _reading(annotation: Any, parameter: inspect.Parameter) -> dict[str, Any]:
    """Say how a value of this type is read, in argparse's words."""
    if typing.get_origin(annotation) in {types.UnionType, typing.Union}:
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        annotation = kinds[0] if len(kinds) == 1 else annotation
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(annotation) is typing.Literal:
        return {"choices": typing.get_args(annotation)}
    if annotation in READERS:
        reader = argument_type(READERS[annotation])
        return {"type": reader, "metavar": annotation.__name__.upper()}
    problem = f"is {annotation}, which cannot be given on a command line"
    raise ValueError(f"the job's option {parameter.name} {problem}")


def _help(parameter: inspect.Parameter, told: str) -> dict[str, Any]:
    if parameter.default is parameter.empty:
        return {"required": True, "help": told.replace("%", "%%")}
    default = f"default: {parameter.default!r}"
    text = f"{told} ({default})" if told else default
    return {"default": parameter.default, "help": text.replace("%", "%%")}


def _told_arguments(docstring: str) -> dict[str, str]:
    """Read what a Google docstring tells under ``Args:``, by name."""
    section = re.search(r"^Args:\n((?:[ \t]+.*(?:\n|$)|\n)*)", docstring, re.MULTILINE)
    told = re.findall(
        r"^ {4}(\w+)(?: \(.*?\))?: ((?:.*)(?:\n {5,}.*)*)",
        section[1] if section else "",
        re.MULTILINE,
    )
    return {name: " ".join(text.split()) for name, text in told}
