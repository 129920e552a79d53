"""A cache of samples in a file of SQLite.

The first epoch reads the source and writes its samples into the file; once an epoch
is whole there, all later ones come from the file. A pass that was not finished is
never taken for an epoch. Samples are told apart by their place in the epoch: equal
keys are kept, and no key is needed.

The file is in WAL mode: it can be read while it is filled, and a killed process
harms nothing. It has to be on a local disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.errors import StorageError, UsageError
from shardbuild.storage.claims import claim_file
from shardbuild.streams.packing import pack_sample, unpack_sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Sample = dict[str, Any]
    # Pass, place in it, key, the sample's bytes.
    Row = tuple[int, int, str, bytes]

__all__ = ["DBCache"]

logger = logging.getLogger(__name__)

_APPLICATION = 0x73686264  # "shbd"
_BUSY_SECONDS = 60.0
_BATCH_SAMPLES = 64
_BATCH_BYTES = 8 << 20
_FILLING, _WHOLE, _TOO_LARGE = range(3)
_SCHEMA = """
create table passes (
    id integer primary key autoincrement,
    part text not null,
    state integer not null,
    num_samples integer not null default 0,
    num_bytes integer not null default 0
);
create table samples (
    pass integer not null,
    place integer not null,
    key text,
    data blob not null,
    unique (pass, place)
);
create table meta (key text primary key, value text);
"""


class DBCache:
    """Samples of a source, from a file once a whole epoch of it is there.

    The first epoch is never cut: when more than ``size`` samples come, or more than
    ``max_bytes`` of them, no more are written, all are given on, and later epochs
    read the source again. Of several processes one writes, the others read their
    source meanwhile. Without a name (None) all epochs are the source's.

    ``shuffle=True`` gives each epoch from the file an order of its own, by ``seed``
    and epoch. Workers that read different parts of a data set into one file say
    which by ``part``: each part is cached by itself.

    >>> import tempfile
    >>> source = [{"__key__": str(n), "txt": b"x"} for n in range(3)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = DBCache(f"{folder}/cache.db", 1000, source)
    ...     first = list(cache)
    ...     first == source, cache.is_whole, list(cache) == source, len(cache)
    (True, True, True, 3)

    Raises:
        StorageError: The file cannot be used, or holds something else.
        EncodeError: A field cannot be stored without pickle: cache before decoding.
        UsageError: A source that can be read only once would be read again.
    """

    def __init__(  # noqa: PLR0913  # the seed's, and three
        self,
        dbname: str | None,
        size: float,
        source: Iterable[Sample] | None = None,
        shuffle: bool = False,  # noqa: FBT001, FBT002  # as it always was
        verbose: bool = False,  # noqa: FBT001, FBT002  # as it always was
        *,
        seed: int = 0,
        part: str = "",
        max_bytes: int | None = None,
    ) -> None:
        self.dbname = dbname
        self.size = int(size)
        self.source = source
        self.shuffle = shuffle
        self.seed = seed
        self.part = part
        self.max_bytes = max_bytes
        self.epoch = 0
        """Which order the next epoch gets; counted up, and free to be set."""
        self._level = logging.INFO if verbose else logging.DEBUG
        self._was_read = False

    def __call__(self, source: Iterable[Sample]) -> DBCache:
        """Take another source; for pipelines, which give one to each stage."""
        self.source = source
        self._was_read = False
        return self

    def __iter__(self) -> Iterator[Sample]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        if self.dbname is None:
            return self._read_source()
        return self._epoch(epoch)

    def __len__(self) -> int:
        """How many samples an epoch has.

        Raises:
            TypeError: That is not known before one is whole.
        """
        found = None
        if self.dbname is not None:
            with self._open() as db:
                found = db.whole(self.part)
        if found is None:
            raise TypeError(f"{self.dbname}: no epoch is whole yet")
        return found[1]

    def __bool__(self) -> bool:
        return True

    @property
    def is_whole(self) -> bool:
        """Whether a whole epoch is in the file."""
        if self.dbname is None:
            return False
        with self._open() as db:
            return db.whole(self.part) is not None

    def dbiter(self) -> Iterator[Sample]:
        """The samples that are in the file now, also while it is filled."""
        with self._open() as db:
            found = db.whole(self.part) or db.newest(self.part)
            if found is not None:
                yield from self._read(db, *found, self.epoch)

    def key_exists(self, key: str) -> bool:
        """Whether a sample with this key is in the file now."""
        with self._open() as db:
            text = "select 1 from samples join passes on id = pass"
            text += " where part = ? and key = ? limit 1"
            return bool(db.ask(text, self.part, key))

    def getmeta(self, key: str) -> str | None:
        """A text that was kept with ``setmeta``; None if there is none."""
        with self._open() as db:
            rows = db.ask("select value from meta where key = ?", key)
        return rows[0][0] if rows else None

    def setmeta(self, key: str, value: str) -> None:
        """Keep a text of the user's own in the file."""
        with self._open() as db:
            db.ask("insert or replace into meta values (?, ?)", key, value)

    def _open(self) -> _Database:
        if self.dbname is None:
            raise UsageError("DBCache", "has no file: its dbname is None")
        return _Database(self.dbname)

    def _read_source(self) -> Iterator[Sample]:
        if self.source is None:
            raise UsageError(str(self.dbname), "the cache has no source to read")
        if isinstance(self.source, Iterator):
            if self._was_read:
                problem = "its source can be read only once, and that was before the "
                problem += "cache was whole: give an iterable that can begin anew"
                raise UsageError(str(self.dbname), problem)
            self._was_read = True
        return iter(self.source)

    def _epoch(self, epoch: int) -> Iterator[Sample]:
        """One epoch: from the file, or else from the source."""
        with contextlib.ExitStack() as stack:
            db = stack.enter_context(self._open())
            found = db.whole(self.part)
            if found is None and not self._is_too_large(db):
                claim = claim_file(self._claim_path())
                if claim is not None:
                    stack.enter_context(claim)
                    found = db.whole(self.part)  # who had the claim may have filled it
                    if found is None:
                        yield from self._fill(db)
                        return
            if found is None:
                yield from self._read_source()
            else:
                yield from self._read(db, *found, epoch)

    def _claim_path(self) -> str:
        mark = hashlib.sha256(self.part.encode()).hexdigest()[:16]
        return f"{self.dbname}.{mark}.claim"

    def _is_too_large(self, db: _Database) -> bool:
        """Whether an epoch is known that is larger than what may be written."""
        text = "select num_samples, num_bytes from passes where part = ? and state = ?"
        return any(
            num_samples > self.size
            or (self.max_bytes is not None and num_bytes > self.max_bytes)
            for num_samples, num_bytes in db.ask(text, self.part, _TOO_LARGE)
        )

    def _fill(self, db: _Database) -> Iterator[Sample]:
        """Give on the source's samples, and write them down as long as they fit."""
        source = self._read_source()
        filling = _Filling(db, db.begin(self.part))
        is_filling = True
        for sample in source:
            if is_filling:
                is_filling = self._take(filling, sample)
            yield sample
        # That nothing comes is not worth remembering, and more often a mistake.
        if is_filling and filling.num_samples and filling.end(_WHOLE):
            words = "%s: an epoch of %d samples is whole"
            logger.log(self._level, words, self.dbname, filling.num_samples)

    def _take(self, filling: _Filling, sample: Sample) -> bool:
        """Write a sample down; False when this and all later ones are not."""
        data = pack_sample(sample, str(self.dbname))
        key = (
            str(sample.get("__key__", "")).encode("utf-8", "backslashreplace").decode()
        )
        is_kept = filling.add(key, data)
        total, limit = filling.num_bytes, self.max_bytes
        if not is_kept:
            return False
        if filling.num_samples <= self.size and (limit is None or total <= limit):
            return True
        filling.drop_last()
        filling.end(_TOO_LARGE)
        logger.log(self._level, "%s: the source is larger than that", self.dbname)
        return False

    def _read(
        self, db: _Database, number: int, num_samples: int, epoch: int
    ) -> Iterator[Sample]:
        places: Sequence[int] = range(num_samples)
        if self.shuffle:
            places = list(places)
            random.Random(f"{self.seed} {epoch}").shuffle(places)
        text = "select data from samples where pass = ? and place = ?"
        for place in places:
            rows = db.ask(text, number, place)
            if not rows:
                raise StorageError(db.url, f"sample {place} went while it was read")
            try:
                sample = unpack_sample(rows[0][0])
            except ValueError as error:
                raise StorageError(db.url, f"sample {place}: {error}") from error
            yield sample


class _Filling:
    """Samples on their way into a pass, some at a time.

    A batch is one short transaction: nobody waits while the source is read.
    """

    def __init__(self, db: _Database, number: int) -> None:
        self.num_samples = 0
        self.num_bytes = 0
        self._db = db
        self._number = number
        self._rows: list[Row] = []
        self._row_bytes = 0

    def add(self, key: str, data: bytes) -> bool:
        """Take one sample; False when the disk is full."""
        is_much = len(self._rows) >= _BATCH_SAMPLES or self._row_bytes >= _BATCH_BYTES
        if is_much and not self.end(_FILLING):
            return False
        self._rows.append((self._number, self.num_samples, key, data))
        self._row_bytes += len(data)
        self.num_samples += 1
        self.num_bytes += len(data)
        return True

    def drop_last(self) -> None:
        """Count the sample that was added last, and do not write it."""
        self._rows.pop()

    def end(self, state: int) -> bool:
        """Write what was taken, and what the pass is now; False on a full disk."""
        rows, self._rows, self._row_bytes = self._rows, [], 0
        try:
            facts = (self._number, state, self.num_samples, self.num_bytes)
            self._db.write(rows, *facts)
        except StorageError as error:
            if not _is_full(error.__cause__):
                raise
            logger.warning("%s: caches no more: %s", self._db.url, error.problem)
            return False
        return True


def _is_full(error: BaseException | None) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_FULL


class _Database:
    """The file, open; each use opens it anew, so nothing is shared across forks."""

    def __init__(self, path: str) -> None:
        self.url = path
        # Who opens a file first makes it, or mends it after a kill.
        with claim_file(f"{path}.open.claim", wait=True) or contextlib.nullcontext():
            with self._guarded():
                self._connection = sqlite3.connect(
                    Path(path).absolute(),
                    timeout=_BUSY_SECONDS,
                    isolation_level=None,
                    check_same_thread=False,
                )
            try:
                with self._guarded():
                    self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        connection = self._connection
        (application,) = connection.execute("pragma application_id").fetchone()
        (tables,) = connection.execute("select count(*) from sqlite_master").fetchone()
        if application != _APPLICATION and tables:
            raise StorageError(self.url, "is a database of something else")
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        if not tables:
            text = f"begin immediate; {_SCHEMA} pragma application_id = {_APPLICATION};"
            connection.executescript(f"{text} commit;")

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(self.url, f"{error}") from error

    def ask(self, text: str, *values: Any) -> list[Any]:
        """All rows that a statement answers."""
        with self._guarded():
            return self._connection.execute(text, values).fetchall()

    def whole(self, part: str) -> tuple[int, int] | None:
        """The number of a whole pass and how many samples it has."""
        text = "select id, num_samples from passes where part = ? and state = ?"
        rows = self.ask(f"{text} order by id desc limit 1", part, _WHOLE)
        return rows[0] if rows else None

    def newest(self, part: str) -> tuple[int, int] | None:
        """The number of the newest pass and how many samples are there of it."""
        text = "select id from passes where part = ? order by id desc limit 1"
        rows = self.ask(text, part)
        if not rows:
            return None
        (number,) = rows[0]
        ((count,),) = self.ask("select count(*) from samples where pass = ?", number)
        return number, count

    def begin(self, part: str) -> int:
        """Begin a pass, and forget those before it; for who has the claim."""
        with self._transaction():
            old = "(select id from passes where part = ?)"
            self._connection.execute(f"delete from samples where pass in {old}", [part])
            self._connection.execute("delete from passes where part = ?", [part])
            text = "insert into passes (part, state) values (?, ?)"
            return int(self._connection.execute(text, (part, _FILLING)).lastrowid or 0)

    def write(
        self, rows: list[Row], number: int, state: int, num_samples: int, num_bytes: int
    ) -> None:
        """Add samples to a pass, and say what it is now."""
        with self._transaction():
            text = "insert into samples values (?, ?, ?, ?)"
            self._connection.executemany(text, rows)
            text = "update passes set state = ?, num_samples = ?, num_bytes = ?"
            values = (state, num_samples, num_bytes, number)
            self._connection.execute(f"{text} where id = ?", values)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._guarded():
            self._connection.execute("begin immediate")
            try:
                yield
                self._connection.execute("commit")
            except BaseException:
                if self._connection.in_transaction:  # a full disk ends one itself
                    self._connection.execute("rollback")
                raise

    def __enter__(self) -> _Database:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
