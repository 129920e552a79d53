"""A sample as the parts of a tar; what could not be read back is refused.

Most samples of a shard have the same fields, keys of few lengths, and sizes that
come again. So what a header is made of is kept: for a set of fields and a length
of key all that lies between the key and the size, for a size its digits, for a
checksum its digits. What is left for each member is one sum, two look-ups and
seven references; the bytes are joined later, for many samples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal, TypeAlias
from zlib import adler32

from shardbuild.errors import EncodeError, KeyRuleError
from shardbuild.shards.samples import KEY_RULES, KeyRule, Sample, is_meta, split_member
from shardbuild.shards.tarformat import (
    BLOCK,
    NAME_BYTES,
    SIZE_LIMIT,
    header_form,
    member_header,
    padding,
)

__all__ = [
    "Encoder",
    "Frame",
    "Layout",
    "SampleFramer",
    "TarOptions",
    "extension_problem",
    "key_problem",
]

Encoder: TypeAlias = (
    bool
    | Literal["default"]
    | Callable[[Sample], Sample]
    | Mapping[str, Callable[[Any], Any]]
    | None
)
"""True or "default": by extension; False or None: values are bytes already; or a
function of the sample; or functions of the value by extension."""

_MAX_KEPT = 1 << 10
_MAX_KEPT_SIZE = 1 << 14
_MTIME = b"00000000000\0"


@dataclass(frozen=True, slots=True)
class TarOptions:
    """How samples become members.

    >>> TarOptions(encoder="yes")
    Traceback (most recent call last):
      ...
    ValueError: 'encoder' is True, False, a function or a mapping, not 'yes'
    """

    user: str = "bigdata"
    group: str = "bigdata"
    mode: int = 0o444
    encoder: Encoder = True
    keep_meta: bool = False
    """Write fields whose names start with ``_`` too, except the key."""
    key_rule: KeyRule = "first-dot"

    def __post_init__(self) -> None:
        encoder: Any = self.encoder
        is_choice = isinstance(encoder, bool) or encoder in (None, "default")
        if not (is_choice or isinstance(encoder, Mapping) or callable(encoder)):
            problem = (
                f"'encoder' is True, False, a function or a mapping, not {encoder!r}"
            )
            raise ValueError(problem)
        if self.key_rule not in KEY_RULES:
            problem = f"'key_rule' is one of {KEY_RULES}, not {self.key_rule!r}"
            raise ValueError(problem)


_Middle: TypeAlias = tuple[bytes, int, bytes, int]
# The header from the key's end to the checksum, the sum of all but the key's bytes,
# less 1, the padding after the payload, and the bytes of header, payload and padding.


class _Form:
    """The headers of one extension, for keys of one length."""

    __slots__ = ("between", "kept", "rest")

    def __init__(self, between: bytes, rest: int) -> None:
        self.between = between
        """From the key's end to the size."""
        self.rest = rest
        """The checksum without the key's bytes, the size's digits, and 1."""
        self.kept: dict[int, _Middle] = {}
        """By size, of those that are likely to come again."""

    def middle(self, size: int) -> _Middle:
        digits = b"%011o\0" % size
        zeros = padding(size)
        middle = (
            self.between + digits + _MTIME,
            self.rest + sum(digits),
            zeros,
            BLOCK + size + len(zeros),
        )
        if size < _MAX_KEPT_SIZE and len(self.kept) < _MAX_KEPT:
            self.kept[size] = middle
        return middle


class Layout:
    """What samples with the same fields have in common."""

    __slots__ = ("extensions", "forms", "get_payloads")

    def __init__(self, extensions: tuple[str, ...]) -> None:
        self.extensions = extensions
        """In the order of the members."""
        self.get_payloads: Callable[[Sample], tuple[Any, ...]] = (
            itemgetter(*extensions)
            if len(extensions) > 1
            else lambda sample: (sample[extensions[0]],)
        )
        self.forms: dict[int, tuple[_Form, ...]] = {}
        """By bytes of the key, for each member. Only for keys of which all names fit
        into a header."""


Frame: TypeAlias = tuple[str, Layout, list[bytes], list[int], int, list[int] | None]
"""One sample, ready to be written: its key; its layout; headers, payloads and
padding, in order; payload bytes of each member; bytes in the tar; header bytes of
each member, None if they are 512 each. A tuple, as it is made for every sample."""


class SampleFramer:
    """Makes frames of samples; refuses what could not be read back.

    >>> framer = SampleFramer("a.tar", TarOptions())
    >>> frame = framer.frame({"__key__": "n01/7", "txt": b"seven", "cls": b"7"})
    >>> key, layout, parts, sizes, num_bytes, headers = frame
    >>> key, layout.extensions, sizes, num_bytes
    ('n01/7', ('cls', 'txt'), [1, 5], 2048)
    >>> framer.frame({"__key__": "n01/7", "TXT": b"seven"})
    Traceback (most recent call last):
      ...
    shardbuild.errors.KeyRuleError: a.tar: sample 'n01/7': its field 'TXT' would be \
read back as 'txt': name it so
    """

    def __init__(self, url: str, options: TarOptions) -> None:
        self.url = url
        """Named in errors."""
        self.options = options
        encoder = options.encoder
        self._encode = (
            None if isinstance(encoder, bool) or not callable(encoder) else encoder
        )
        self._encodes_fields = isinstance(encoder, Mapping)
        self._form = header_form(options.user, options.group, options.mode)
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._endings: dict[int, bytes] = {}
        """Of headers, from the checksum on; by checksum, of which there are few."""
        self._good_folders: set[str] = set()

    def frame(self, sample: Sample) -> Frame:  # noqa: C901 - every call would be felt
        """The parts of ``sample``.

        Raises:
            EncodeError: a field is not bytes and cannot be made bytes.
            KeyRuleError: it could not be read back as the same sample.
        """
        if self._encode is not None:
            sample = self._encode(sample)
        layout = self._layouts.get(tuple(sample)) or self._add_layout(sample)
        key = sample["__key__"]
        if type(key) is not str:
            key = self._text_of(key)
        if not key.isalnum():
            folder, slash, base = key.rpartition("/")
            if (
                (slash and folder not in self._good_folders)
                or not base
                or base[0] == "_"
                or "." in base
                or "\0" in base
            ):
                self._check_key(key, layout)
        try:
            raw = key.encode()
        except UnicodeEncodeError as error:
            problem = "its key cannot be written in UTF-8: rename it"
            raise KeyRuleError(self.url, problem, key) from error
        payloads = layout.get_payloads(sample)
        forms = layout.forms.get(len(raw))
        if forms is None:
            return self._frame_carefully(key, raw, layout, payloads)
        # Adler's lower half is one more than the sum of the bytes, made in C.
        key_sum = adler32(raw) & 0xFFFF
        endings = self._endings
        parts: list[bytes] = []
        sizes = []
        num_bytes = 0
        for payload, form in zip(payloads, forms):  # noqa: B905 - as many
            size = len(payload) if type(payload) is bytes else SIZE_LIMIT
            try:
                middle, rest, zeros, room = form.kept[size]
            except KeyError:
                if size >= SIZE_LIMIT:
                    return self._frame_carefully(key, raw, layout, payloads)
                middle, rest, zeros, room = form.middle(size)
            try:
                ending = endings[key_sum + rest]
            except KeyError:
                ending = self._ending(key_sum + rest)
            parts += (raw, middle, ending, payload, zeros)
            sizes.append(size)
            num_bytes += room
        return key, layout, parts, sizes, num_bytes, None

    def _ending(self, checksum: int) -> bytes:
        ending = self._endings[checksum] = b"%06o\0 " % checksum + self._form.tail
        return ending

    def _frame_carefully(
        self, key: str, raw: bytes, layout: Layout, values: tuple[Any, ...]
    ) -> Frame:
        """The frame of any sample."""
        pairs = zip(layout.extensions, values, strict=True)
        payloads = [self._encoded(name, value, key) for name, value in pairs]
        if not self._encodes_fields and len(raw) not in layout.forms:
            self._add_forms(layout, len(raw))
        options = self.options
        parts: list[bytes] = []
        headers = []
        for extension, payload in zip(layout.extensions, payloads, strict=True):
            header = member_header(
                f"{key}.{extension}",
                len(payload),
                user=options.user,
                group=options.group,
                mode=options.mode,
            )
            parts += (header, payload, padding(len(payload)))
            headers.append(len(header))
        sizes = [len(payload) for payload in payloads]
        return key, layout, parts, sizes, sum(map(len, parts)), headers

    def _encoded(self, extension: str, value: Any, key: str) -> bytes:
        encoder = self.options.encoder
        if isinstance(encoder, Mapping) and extension in encoder:
            value = encoder[extension](value)
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if extension.startswith("_") and isinstance(value, str):
            return value.encode()
        if encoder is True or encoder == "default":
            from shardbuild.codecs.encoders import encode_field

            return encode_field(extension, value, key=key, url=self.url)
        problem = (
            f"its field {extension!r} is a {type(value).__name__}, not bytes, "
            f"and the encoder {encoder!r} does not change that"
        )
        raise EncodeError(self.url, problem, key)

    def _check_key(self, key: str, layout: Layout) -> None:
        """Refuse a key if what is named by it would not be read back under it."""
        problem = key_problem(key, self.options.key_rule)
        if problem:
            raise KeyRuleError(self.url, problem, key)
        for extension in layout.extensions:
            if is_meta(f"{key}.{extension}"):
                problem = f"its member {key}.{extension} would be taken for meta data"
                raise KeyRuleError(self.url, problem, key)
        if len(self._good_folders) >= _MAX_KEPT:
            self._good_folders.clear()
        self._good_folders.add(key.rpartition("/")[0])

    def _text_of(self, key: Any) -> str:
        """A key that was given as bytes."""
        if isinstance(key, bytes):
            try:
                return key.decode()
            except UnicodeDecodeError as error:
                problem = "its key is not UTF-8: rename it"
                raise KeyRuleError(self.url, problem, repr(key)) from error
        if isinstance(key, str):
            return str(key)
        problem = f"its key is a {type(key).__name__}: make it text"
        raise KeyRuleError(self.url, problem, repr(key))

    def _add_layout(self, sample: Sample) -> Layout:
        names: tuple[Any, ...] = tuple(sample)
        if "__key__" not in sample:
            problem = f"it has no '__key__', only {sorted(map(str, names))}"
            raise KeyRuleError(self.url, problem, "")
        key = sample["__key__"]
        shown = key if isinstance(key, str) else repr(key)
        by_case: dict[str, str] = {}
        for name in names:
            if not isinstance(name, str):
                problem = f"its field {name!r} is not named by text"
                raise KeyRuleError(self.url, problem, shown)
            if name == "__key__" or (name[:1] == "_" and not self.options.keep_meta):
                continue
            twin = by_case.setdefault(name.lower(), name)
            if twin != name:
                problem = f"its fields {twin!r} and {name!r} would be read back as one"
                raise KeyRuleError(self.url, problem, shown)
        if not by_case:
            problem = "it has no field to write: drop it, or give it one"
            raise KeyRuleError(self.url, problem, shown)
        for name in by_case.values():
            trouble = extension_problem(name, self.options.key_rule)
            if trouble:
                raise KeyRuleError(self.url, trouble, shown)
        if len(self._layouts) > _MAX_KEPT:
            self._layouts.clear()
        layout = self._layouts[names] = Layout(tuple(sorted(by_case.values())))
        return layout

    def _add_forms(self, layout: Layout, key_bytes: int) -> None:
        """Be ready for keys of this length, if all names fit into a header."""
        suffixes = [b"." + extension.encode() for extension in layout.extensions]
        if key_bytes + max(map(len, suffixes)) > NAME_BYTES:
            return
        forms = []
        for suffix in suffixes:
            zeros = bytes(NAME_BYTES - key_bytes - len(suffix))
            between = suffix + zeros + self._form.owner
            forms.append(_Form(between, self._form.base_sum + sum(suffix) - 1))
        layout.forms[key_bytes] = tuple(forms)


def key_problem(  # noqa: PLR0911 - one a reason
    key: str, key_rule: KeyRule = "first-dot"
) -> str | None:
    """Why a key would not be read back; None if it would.

    >>> key_problem("n01/0007")
    >>> key_problem("v1.5")
    "the dot in its own name would end its key: rename it, or use key_rule='last-dot'"
    """
    folder, _, base = key.rpartition("/")
    if not base or "\0" in key:
        return "its key ends in '/' or has a NUL in it: rename it"
    if key.startswith("/") or ".." in folder.split("/"):
        return "its key leads out of the folder it is unpacked in: make it relative"
    if key.startswith("./"):
        return "its key would be read back without the leading './': remove it"
    if base.startswith("."):
        return "its key's own name starts with a dot and would be skipped: rename it"
    if split_member(f"{key}.x", key_rule) == (key, "x"):
        return None
    if "." in base and key_rule == "first-dot":
        return (
            "the dot in its own name would end its key: rename it, "
            "or use key_rule='last-dot'"
        )
    return "its members would be taken for meta data: rename its folder"


def extension_problem(extension: str, key_rule: KeyRule = "first-dot") -> str | None:
    """Why an extension would not be read back; None if it would.

    >>> extension_problem("seg.png")
    >>> extension_problem("seg.png", "last-dot")
    "its field 'seg.png' would be read back as 'png': name it without a dot"
    """
    shown = f"its field {extension!r}"
    if extension != extension.lower():
        return f"{shown} would be read back as {extension.lower()!r}: name it so"
    if "/" in extension or "\0" in extension:
        return f"{shown} has a '/' or a NUL in its name: rename it"
    if "." in extension and key_rule == "last-dot":
        last = extension.rpartition(".")[2]
        return f"{shown} would be read back as {last!r}: name it without a dot"
    try:
        extension.encode()
    except UnicodeEncodeError:
        return f"{shown} cannot be written in UTF-8: rename it"
    return None
