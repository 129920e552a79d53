"""Commands as files: `Pipe`, and urls that a command of the user's reads."""

from __future__ import annotations

import io
import re
import shlex
from typing import TYPE_CHECKING, Any

from shardbuild.errors import GopenException, PipeError
from shardbuild.storage.pipes import PipeReader, PipeWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

__all__ = ["CommandScheme", "Pipe", "schemes_from_environment"]

_PREFIX = "GOPEN_"
_RESERVED = frozenset(("BUFFER", "DEBUG", "REWRITE", "VERBOSE"))
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_BUFFER_BYTES = 1 << 18


class Pipe:
    r"""A command's output to read, or its input to write, and always its status.

    A text is run by the shell, a list of arguments as it is. A status other than 0
    is an error of the read that meets the end, and of ``close``; with
    ``raise_errors=False`` it is only told, in ``status``. Closing before the end of
    a command that has more to say stops it: that is no error.

    >>> with Pipe("printf 'a\nb\n'") as pipe:
    ...     pipe.readline(), pipe.read()
    (b'a\n', b'b\n')
    >>> Pipe(["false"]).read()
    Traceback (most recent call last):
    ...
    shardbuild.errors.PipeError: pipe:false: the command ended with exit status 1

    Raises:
        PipeError: The command failed, or cannot be started.
        ValueError: The mode is neither ``rb`` nor ``wb``.
    """

    def __init__(
        self,
        command: str | Sequence[str],
        mode: str = "rb",
        *,
        raise_errors: bool = True,
    ) -> None:
        if mode not in ("rb", "wb"):
            raise ValueError(f"expected mode 'rb' or 'wb', got mode={mode!r}")
        arguments = None if isinstance(command, str) else list(command)
        text = command if isinstance(command, str) else shlex.join(command)
        self._raise_errors = raise_errors
        self._closed = False
        kind = PipeReader if mode == "rb" else PipeWriter
        if mode == "rb" and not raise_errors:
            kind = _PatientReader
        self._raw: Any = kind(f"pipe:{text}", arguments)
        self._file: Any = self._raw
        if mode == "rb":
            self._file = io.BufferedReader(self._raw, _BUFFER_BYTES)

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while the command runs."""
        status: int | None = self._raw.status
        return status

    def read(self, size: int = -1) -> bytes:
        """So many bytes, fewer only at the end; by default all that come."""
        data: bytes = self._file.read(size)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 when a command that succeeded has ended."""
        num_bytes: int = self._file.readinto(buffer)
        return num_bytes

    def readline(self, size: int = -1) -> bytes:
        """The next line with its end, or nothing at the end."""
        line: bytes = self._file.readline(size)
        return line

    def write(self, data: Any) -> int:
        """Write all of a bytes-like object."""
        num_bytes: int = self._file.write(data)
        return num_bytes

    def close(self) -> None:
        """End the command and look at its status; closing twice is safe."""
        if self._closed:
            return
        self._closed = True
        try:
            self._raw.close()
        except PipeError:
            if self._raise_errors:
                raise

    def discard(self) -> None:
        """Stop the command, whatever it has done; how it ends is no error."""
        if not self._closed:
            self._closed = True
            self._raw.__exit__(GeneratorExit, None, None)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.discard()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def __enter__(self) -> Pipe:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class _PatientReader(PipeReader):
    """Takes the end of a command that failed for an end like any other."""

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer)
        except PipeError:
            return 0


class CommandScheme:
    """Opens urls by a command of the user's own: ``{}`` in it is the url.

    The shell gets the text as it was written, and the url as an argument beside it:
    so no url can be more than one word, or a command, whatever quotes are around
    the ``{}``.

    >>> opener = CommandScheme("printf '%s' 'read {}' | tr a-z A-Z")
    >>> opener("obj://it's; date", "rb").read()
    b"READ OBJ://IT'S; DATE"
    """

    def __init__(self, template: str) -> None:
        self.template = template
        self._text = _with_argument(template)

    def __call__(self, url: str, mode: str = "rb") -> PipeReader:
        if mode != "rb":
            raise GopenException(url, f"can only be read: by {self.template!r}")
        return PipeReader(url, ["/bin/sh", "-c", self._text, "sh", url])

    def __repr__(self) -> str:
        return f"CommandScheme({self.template!r})"


def _with_argument(template: str) -> str:
    r"""The template with the shell's first argument for ``{}``, in any quotes.

    >>> _with_argument("cat {}"), _with_argument("cat '{}'"), _with_argument('"{}"')
    ('cat "${1}"', 'cat \'\'"${1}"\'\'', '"${1}"')
    """
    pieces = []
    quote = ""
    at = 0
    while at < len(template):
        sign = template[at]
        if sign == "\\" and quote != "'":
            pieces.append(template[at : at + 2])
            at += 2
            continue
        if template.startswith("{}", at):
            pieces.append({"": '"${1}"', "'": "'\"${1}\"'", '"': "${1}"}[quote])
            at += 2
            continue
        if sign in ("'", '"') and quote in ("", sign):
            quote = "" if quote else sign
        pieces.append(sign)
        at += 1
    return "".join(pieces)


def schemes_from_environment(environ: Mapping[str, str]) -> dict[str, CommandScheme]:
    """Schemes that variables such as ``GOPEN_OBJ="objget {}"`` define.

    For the command line, which adds them to `gopen_schemes`; the library looks at no
    environment. ``GOPEN_BUFFER``, ``_DEBUG``, ``_REWRITE`` and ``_VERBOSE`` are none.

    >>> schemes_from_environment({"GOPEN_OBJ": "objget {}", "GOPEN_DEBUG": "1"})
    {'obj': CommandScheme('objget {}')}

    Raises:
        GopenException: A variable names no protocol, or is empty.
    """
    found = {}
    for name, template in sorted(environ.items()):
        if not name.startswith(_PREFIX) or name[len(_PREFIX) :] in _RESERVED:
            continue
        scheme = name[len(_PREFIX) :]
        if not _SCHEME.fullmatch(scheme):
            raise GopenException(name, f"{scheme!r} is no protocol of a url")
        if not template.strip():
            raise GopenException(name, "holds no command")
        found[scheme.lower()] = CommandScheme(template)
    return found
