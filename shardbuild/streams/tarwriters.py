"""tarproc's writers: samples into one tar, or to whoever listens at a ZMQ url."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

from shardbuild.shards import writer

if TYPE_CHECKING:
    import os

    from shardbuild.shards.framing import Encoder
    from shardbuild.streams.zcom import MultiWriter

__all__ = ["TarWriter", "TarWriter1"]


class TarWriter1(writer.TarWriter):
    """Writes samples of bytes into one tar, with the parameters in tarproc's order.

    >>> with TarWriter1("memory://doc/writer1.tar", True) as tar:
    ...     tar.write({"__key__": "a", "__source__": "b.tar", "txt": b"hello"})
    10

    Args:
        fileobj: a url, or an open binary file, which is not closed.
        keep_meta: write fields named ``_...`` too.
        user: the owner's name in the headers.
        group: the group's name in the headers.
        mode: the members' permissions.
        compress: by default the name decides; True is ``"gz"``, False is none.
        encoder: None takes bytes only; else as `shardbuild.TarWriter` takes it.
        output_mode: of ZMQ urls, and no matter here.
    """

    def __init__(  # noqa: PLR0913 - the signature is the seed's
        self,
        fileobj: str | os.PathLike[str] | BinaryIO,
        keep_meta: bool = False,  # noqa: FBT001, FBT002 - the signature is the seed's
        user: str = "bigdata",
        group: str = "bigdata",
        mode: int = 0o444,
        compress: str | bool | None = None,  # noqa: FBT001 - the signature is the seed's
        encoder: Encoder = None,
        output_mode: str | None = None,
    ) -> None:
        self.output_mode = output_mode
        super().__init__(fileobj, user, group, mode, compress, encoder, keep_meta)


def TarWriter(url: str, **kw: Any) -> TarWriter1 | MultiWriter:  # noqa: N802 - the name is the seed's
    """Give what writes samples to a url: `TarWriter1`, or ``MultiWriter`` for ZMQ.

    >>> with TarWriter("memory://doc/any.tar", keep_meta=True) as tar:
    ...     tar.write({"__key__": "a", "txt": b"hello"})
    5

    Args:
        url: a shard by any url, or a ZMQ url.
        kw: what `TarWriter1` takes, or ``MultiWriter``.
    """
    from shardbuild.streams.ports import is_network

    if is_network(url):
        from shardbuild.streams.zcom import MultiWriter

        return MultiWriter(url, **kw)
    return TarWriter1(url, **kw)
