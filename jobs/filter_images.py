"""Drop samples whose pictures are small, or far longer than wide.

A sample without any picture is dropped too. A damaged picture is an error: what
becomes of it is for ``--errors`` to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardbuild.codecs.images import open_image

if TYPE_CHECKING:
    from shardbuild import Sample

IMAGES = frozenset({"jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "webp"})


def transform(
    sample: Sample, *, min_side: int = 64, max_aspect: float = 4.0, check: bool = True
) -> Sample | None:
    """Return the sample, or None if a picture of it does not fit.

    ``min_side`` is in pixels and ``max_aspect`` the longer side divided by the
    shorter. Without ``check`` only the headers are read, which is faster and
    finds no damage.

    >>> picture = b"P5 100 50 255 " + bytes(5000)
    >>> transform({"__key__": "a", "pgm": picture}, min_side=51) is None
    True
    >>> transform({"__key__": "a", "pgm": picture[:99]})
    Traceback (most recent call last):
    ValueError: field 'pgm': image file is truncated (85 bytes not processed)
    """
    names = [name for name in sample if name.rpartition(".")[2].lower() in IMAGES]
    for name in names:
        try:
            image = open_image(sample[name])
            if check:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"field {name!r}: {error}") from error
        shorter, longer = sorted(image.size)
        if shorter < min_side or longer > max_aspect * shorter:
            return None
    return sample if names else None
