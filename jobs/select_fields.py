"""Keep, drop and rename fields.

``--keep jpg,cls`` keeps these alone, ``--drop seg.png`` drops that one, and
``--rename jpeg:jpg,label:cls`` gives fields other names, all in this order. A
sample that has not a field that is kept or renamed is an error, unless its
name ends in ``?``: ``--rename 'jpeg?:jpg'``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardbuild import Sample


def transform(
    sample: Sample, *, keep: str = "", drop: str = "", rename: str = ""
) -> Sample:
    """Return the sample with the fields that were asked for.

    >>> sample = {"__key__": "a", "jpeg": b"...", "cls": b"1", "txt": b"..."}
    >>> transform(sample, drop="txt", rename="jpeg:jpg")
    {'__key__': 'a', 'jpg': b'...', 'cls': b'1'}
    >>> transform(sample, keep="cls,seg.png")
    Traceback (most recent call last):
    KeyError: "has no field 'seg.png', only cls, jpeg, txt"
    """
    fields = {name: data for name, data in sample.items() if not _is_meta(name)}
    if keep:
        kept = {_find(fields, name) for name in keep.split(",")}
        fields = {name: data for name, data in fields.items() if name in kept}
    dropped = set(drop.split(","))
    fields = {name: data for name, data in fields.items() if name not in dropped}
    names = dict(pair.split(":") for pair in rename.split(",") if pair)
    names = {_find(fields, old): new for old, new in names.items()}
    renamed = [names.get(name, name) for name in fields]
    if len(set(renamed)) < len(renamed):
        raise ValueError(f"two fields would have one name: {sorted(renamed)}")
    meta = {name: value for name, value in sample.items() if _is_meta(name)}
    return meta | dict(zip(renamed, fields.values(), strict=True))


def _is_meta(name: str) -> bool:
    return name.startswith("__")


def _find(fields: Sample, name: str) -> str:
    """Return the name of a field that must be there, unless it ends in ``?``."""
    if name not in fields and not name.endswith("?"):
        raise KeyError(f"has no field {name!r}, only {', '.join(sorted(fields))}")
    return name.removesuffix("?")
