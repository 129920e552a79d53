"""What a sample is, and how the names of members make one.

A member's name is a key, a dot and an extension: ``n01/0007.seg.png`` is the
field ``seg.png`` of the sample ``n01/0007``. The key ends at the *first* dot of
the file's own name (the rule of the WebDataset format); dots in folder names do
not count. File names such as ``v1.5.jpg`` lose half of themselves to that rule,
so there is one switch: with ``"last-dot"`` the key ends at the last dot.

Beyond the format's own rule, a leading ``./`` is removed (``tar cf x.tar .``
writes it), and a hidden file belongs to no sample: the old rule took
``dir/.a.txt`` as the field ``a.txt`` of a sample named ``dir/``.
"""

from __future__ import annotations

import re
from typing import Any, Literal

__all__ = [
    "KEY_RULES",
    "KeyRule",
    "NameSplitter",
    "Sample",
    "base_plus_ext",
    "is_meta",
    "skip_reason",
    "split_member",
]

Sample = dict[str, Any]
"""``__key__``, one field per extension, and meta fields named ``__...``."""

KeyRule = Literal["first-dot", "last-dot"]
"""Where the key ends: at the first or the last dot of the file's own name."""

KEY_RULES: tuple[KeyRule, ...] = ("first-dot", "last-dot")

_here = re.compile(r"(?:\./+)+")
_meta = re.compile(r"__[^/]*__(?:/|\Z)")


def base_plus_ext(path: str, key_rule: KeyRule = "first-dot") -> tuple[str, str] | None:
    """Split a member's name into key and extension; None if it has no extension.

    The extension is as written; reading a shard lower-cases it (`split_member`).

    >>> base_plus_ext("./n01/0007.seg.PNG")
    ('n01/0007', 'seg.PNG')
    >>> base_plus_ext("v1.5/x.y.jpg"), base_plus_ext("v1.5/x.y.jpg", "last-dot")
    (('v1.5/x', 'y.jpg'), ('v1.5/x.y', 'jpg'))
    >>> base_plus_ext("README"), base_plus_ext("photos/.hidden.txt")
    (None, None)
    """
    if path.startswith("./"):
        path = path[_end_of_here(path) :]
    slash = path.rfind("/") + 1
    if path.startswith(".", slash):
        return None
    dot = path.find(".", slash) if key_rule == "first-dot" else path.rfind(".", slash)
    if dot < 0:
        return None
    return path[:dot], path[dot + 1 :]


def is_meta(name: str) -> bool:
    """Say whether a member belongs to the shard and not to a sample.

    These are ``__x__`` at the top, and all inside a top folder of such a name.

    >>> is_meta("__index__"), is_meta("__notes__/a.txt"), is_meta("a/__x__/b.txt")
    (True, True, False)
    """
    start = _end_of_here(name)
    return name.startswith("__", start) and _meta.match(name, start) is not None


def split_member(name: str, key_rule: KeyRule = "first-dot") -> tuple[str, str] | None:
    """Give the key of the sample a member belongs to, and its field there.

    None for members that belong to no sample (see `skip_reason`).

    >>> split_member("./a/7.JPG")
    ('a/7', 'jpg')
    >>> split_member("__index__.json"), split_member("__x__/a.json")
    (('__index__', 'json'), None)
    """
    parts = base_plus_ext(name, key_rule)
    if parts is None or is_meta(name):
        return None
    return parts[0], parts[1].lower()


class NameSplitter:
    """`split_member` for names that come sample by sample: twice as fast.

    A name that begins as the one before it did belongs to the same key, if what
    is left is an extension.

    >>> splitter = NameSplitter()
    >>> [splitter.split(name) for name in ("a/7.JPG", "a/7.seg.png", "a/8.jpg")]
    [('a/7', 'jpg'), ('a/7', 'seg.png'), ('a/8', 'jpg')]
    """

    __slots__ = ("_key", "_known", "_prefix", "_rule", "_without")

    def __init__(self, key_rule: KeyRule = "first-dot") -> None:
        self._rule = key_rule
        self._without = "/" if key_rule == "first-dot" else "./"
        self._prefix = _NO_PREFIX
        self._key = ""
        # Fields by what is written after the dot, lower-cased once.
        self._known: dict[str, str] = {}

    def split(self, name: str) -> tuple[str, str] | None:
        """Do as `split_member` does."""
        if name.startswith(self._prefix):
            rest = name[len(self._prefix) :]
            field = self._known.get(rest) or self._field(rest)
            if field is not None:
                return self._key, field
        parts = base_plus_ext(name, self._rule)
        if parts is None or is_meta(name):
            return None
        key, rest = parts
        self._key = key
        # Whether a name that begins with low lines is meta, its end may decide.
        is_simple = not key.startswith("__")
        self._prefix = name[: len(name) - len(rest)] if is_simple else _NO_PREFIX
        return key, rest.lower()

    def _field(self, rest: str) -> str | None:
        if any(sign in rest for sign in self._without):
            return None
        field = self._known[rest] = rest.lower()
        return field


_NO_PREFIX = "\0"
"""What no name begins with."""


def skip_reason(name: str) -> str:
    """Say why `split_member` gave None for a file of this name.

    >>> [skip_reason(name) for name in ("__x__/a.txt", "a/.b.txt", "README")]
    ['meta', 'hidden', 'no extension']
    """
    if is_meta(name):
        return "meta"
    file_name = name[name.rfind("/") + 1 :]
    return "hidden" if file_name.startswith(".") else "no extension"


def _end_of_here(path: str) -> int:
    """Where the leading ``./`` of a path end, 0 if there are none."""
    match = _here.match(path)
    return match.end() if match else 0
