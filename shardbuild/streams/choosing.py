"""Which fields and which samples: what a user writes, as pure functions."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shardbuild.codecs.encoders import encode_field
from shardbuild.errors import SampleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardbuild.shards.samples import Sample

__all__ = [
    "Condition",
    "FieldChoice",
    "KeyFormat",
    "MissingField",
    "choose_fields",
    "field_bytes",
    "parse_condition",
    "parse_fields",
    "parse_key_format",
    "parse_slice",
]

MissingField = Literal["error", "ignore", "skip"]
"""What a field that is not there does: an error, nothing, or drop the sample."""

_CONDITION = re.compile(r"([^=~]+)([=~])(.*)", re.DOTALL)
_NUMBER_SPEC = re.compile(r"(?:0?[1-9]\d?)?d?")


@dataclass(frozen=True, slots=True)
class FieldChoice:
    """One field to keep, under which name."""

    name: str
    sources: tuple[str, ...]
    """Its names in the sample; the first that is there counts."""


def parse_fields(text: str) -> tuple[FieldChoice, ...]:
    """Read fields to keep: ``jpg cls``, or ``new:old1,old2`` to give a new name.

    >>> [choice.name for choice in parse_fields("image:jpg,png cls")]
    ['image', 'cls']

    Raises:
        ValueError: It is no such list, or two fields get the same name.
    """
    choices = [_parse_choice(part) for part in text.lower().split()]
    names = [choice.name for choice in choices]
    if not names:
        raise ValueError("names no field: write them with spaces between, 'jpg cls'")
    if len(set(names)) < len(names):
        raise ValueError(f"{text!r} gives two fields the same name")
    return tuple(choices)


def _parse_choice(text: str) -> FieldChoice:
    name, colon, rest = text.partition(":")
    if not colon and "," in text:
        problem = f"{text!r}: write 'jpg cls' for two fields, 'new:jpg,png' for either"
        raise ValueError(problem)
    sources = tuple((rest if colon else name).split(","))
    if not name or not all(sources) or name.startswith("__"):
        raise ValueError(f"{text!r} is no field: write 'jpg' or 'new:old1,old2'")
    return FieldChoice(name, sources)


def choose_fields(
    sample: Sample,
    choices: Sequence[FieldChoice],
    *,
    missing: MissingField = "error",
    url: str = "<samples>",
) -> Sample | None:
    """Return a sample of the chosen fields, in their order; its meta fields stay.

    >>> sample = {"__key__": "7", "png": b"...", "cls": b"1", "txt": b"seven"}
    >>> choose_fields(sample, parse_fields("image:jpg,png cls"))
    {'__key__': '7', 'image': b'...', 'cls': b'1'}
    >>> choose_fields(sample, parse_fields("jpg cls"), missing="skip")

    Raises:
        SampleError: A field is missing, and that is an error.
    """
    chosen = {name: value for name, value in sample.items() if name.startswith("__")}
    for choice in choices:
        found = next((name for name in choice.sources if name in sample), None)
        if found is not None:
            chosen[choice.name] = sample[found]
        elif missing == "skip":
            return None
        elif missing == "error":
            raise _missing(sample, choice.sources, url)
    return chosen


def _missing(sample: Sample, names: Sequence[str], url: str) -> SampleError:
    here = " ".join(name for name in sample if not name.startswith("__"))
    problem = f"has no field {' or '.join(map(repr, names))} (it has: {here})"
    return SampleError(url, problem, str(sample.get("__key__")))


def field_bytes(sample: Sample, name: str, *, url: str = "<samples>") -> bytes:
    """Return a field as bytes; ``__key__`` is one too.

    >>> field_bytes({"__key__": "7", "cls": b"1"}, "__key__")
    b'7'

    Raises:
        SampleError: There is no such field.
        EncodeError: It cannot be made bytes.
    """
    if name not in sample:
        raise _missing(sample, [name], url)
    key = str(sample.get("__key__"))
    return encode_field(name, sample[name], key=key, url=url)


@dataclass(frozen=True, slots=True)
class Condition:
    """What a field of a sample has to be."""

    field: str
    pattern: re.Pattern[str]
    is_whole: bool = False
    """Whether the pattern is all of the field, but for space at its ends."""

    def holds(self, sample: Sample) -> bool:
        """Say whether it holds; it does not where there is no such field."""
        if self.field not in sample:
            return False
        data = field_bytes(sample, self.field)
        text = data.decode("utf-8", "surrogateescape")
        if self.is_whole:
            return self.pattern.fullmatch(text.strip()) is not None
        return self.pattern.search(text) is not None


def parse_condition(text: str) -> Condition:
    """Read ``FIELD=VALUE``, or ``FIELD~REGEX`` for a regex that is found in it.

    The field ``__key__`` is the key. Nothing of it is executed.

    >>> parse_condition("cls=3").holds({"__key__": "a", "cls": b"3"})
    True
    >>> parse_condition("__key__~^n01/").holds({"__key__": "n02/7"})
    False

    Raises:
        ValueError: It is neither, or the regex is none.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is neither FIELD=VALUE nor FIELD~REGEX")
    field, sign, rest = match.groups()
    if sign == "=":
        return Condition(field.lower(), re.compile(re.escape(rest.strip())), True)  # noqa: FBT003
    return Condition(field.lower(), parse_regex(rest))


def parse_regex(text: str) -> re.Pattern[str]:
    """Compile a regex.

    Raises:
        ValueError: It is none.
    """
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regex: {error}") from error


def parse_slice(text: str) -> slice:
    """Read ``START:STOP:STEP``, each of which may be left out; or one number.

    >>> parse_slice("10:20"), parse_slice("::2"), parse_slice("3")
    (slice(10, 20, None), slice(None, None, 2), slice(3, 4, None))

    Raises:
        ValueError: It is no slice, or counts from the end.
    """
    parts = text.split(":")
    if len(parts) > 3 or not all(not part or part.isdecimal() for part in parts):
        raise ValueError(f"{text!r} is no slice: write START:STOP:STEP, from 0 on")
    numbers = [int(part) if part else None for part in parts]
    if len(numbers) == 1:
        if numbers[0] is None:
            raise ValueError("'' is no slice: write START:STOP:STEP, from 0 on")
        return slice(numbers[0], numbers[0] + 1)
    found = slice(*numbers)
    if found.step == 0:
        raise ValueError(f"{text!r}: a step of 0 leads nowhere")
    return found


@dataclass(frozen=True, slots=True)
class KeyFormat:
    """How keys are made of a number and, if it is wanted, of the key before."""

    text: str

    def make(self, number: int, key: str = "") -> str:
        """Make a key."""
        return self.text.format(record=number, key=key)


def parse_key_format(text: str) -> KeyFormat:
    """Read how keys are made.

    ``#`` is the number in nine digits, ``{record}`` the number, ``{record:06d}`` in
    six digits, ``{key}`` the key before. The name may be left out.

    >>> parse_key_format("train/#").make(7), parse_key_format("{:03d}").make(7)
    ('train/000000007', '007')
    >>> parse_key_format("b/{key}").make(7, "n01/a")
    'b/n01/a'
    >>> parse_key_format("{key.__class__}")
    Traceback (most recent call last):
    ValueError: '{key.__class__}' is no key format: its parts are '#', '{record:09d}' \
and '{key}'

    Raises:
        ValueError: It has other parts, or none that differs.
    """
    try:
        parts = list(string.Formatter().parse(text.replace("#", "{record:09d}")))
    except ValueError:
        parts = [("", "?", "", None)]
    named = [part[1:] for part in parts if part[1] is not None]
    if not named or not all(_is_key_part(*part) for part in named):
        problem = "its parts are '#', '{record:09d}' and '{key}'"
        raise ValueError(f"{text!r} is no key format: {problem}")
    return KeyFormat("".join(_key_part(*part[:3]) for part in parts))


def _key_part(literal: str, name: str | None, spec: str | None) -> str:
    escaped = literal.replace("{", "{{").replace("}", "}}")
    return escaped if name is None else f"{escaped}{{{name or 'record'}:{spec}}}"


def _is_key_part(name: str | None, spec: str | None, conversion: str | None) -> bool:
    if conversion is not None:
        return False
    if name == "key":
        return not spec
    return name in ("", "record") and _NUMBER_SPEC.fullmatch(spec or "") is not None
