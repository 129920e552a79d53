"""Which sample goes where: pure functions on keys and arrays.

Every order is a sort by a key. ``keep`` sorts by (input shard, position),
``shuffle`` by a keyed hash, ``sort:FIELD`` by a field; ties are broken by
(input shard, position, place among the samples that a job made of one).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from shardbuild.codecs.encoders import encode_field
from shardbuild.errors import SampleError, UsageError
from shardbuild.shards.hashing import mix, text_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

SortKey = tuple[int | bytes, int, int, int]
"""(sort key, input shard, position, place among the samples made of one)."""
OrderKind = Literal["keep", "shuffle", "sort"]
FieldType = Literal["text", "int", "float"]

_INT_EXTENSIONS = frozenset({"cls", "cls2", "class", "count", "index", "inx", "id"})
_SIGN = 1 << 63
_BLOCK_BYTES = 512
_MAX_SUM = 1 << 62


@dataclass(frozen=True, slots=True)
class Order:
    """A total order of the samples of a data set."""

    kind: OrderKind
    field: str = ""
    """The field that ``sort`` sorts by."""
    field_type: FieldType = "text"
    seed: int = 0
    """Only ``shuffle`` depends on it."""

    def __str__(self) -> str:
        if self.kind == "sort":
            return f"sort:{self.field}:{self.field_type}"
        return self.kind

    @property
    def by_text(self) -> bool:
        """Whether sort keys are byte strings; else they are 64-bit numbers."""
        return self.kind == "sort" and self.field_type == "text"


def parse_order(text: str, seed: int = 0) -> Order:
    """Read ``keep``, ``shuffle`` or ``sort:FIELD[:text|int|float]``.

    Without a type, fields that the format stores as integers (``cls``, ``id``,
    ``index``, ...) sort as integers and all others as text.

    Raises:
        UsageError: it is none of these.

    >>> str(parse_order("sort:cls"))
    'sort:cls:int'
    >>> str(parse_order("sort:score.txt:float"))
    'sort:score.txt:float'
    """
    if text in ("keep", "shuffle"):
        return Order("keep" if text == "keep" else "shuffle", seed=seed)
    head, _, rest = text.partition(":")
    field, _, kind = rest.partition(":")
    if head != "sort" or not field or (kind and kind not in get_args(FieldType)):
        problem = "use keep, shuffle or sort:FIELD[:text|int|float]"
        raise UsageError(f"order {text!r}", problem)
    if kind == "int" or (not kind and field in _INT_EXTENSIONS):
        return Order("sort", field, "int", seed)
    return Order("sort", field, "float" if kind == "float" else "text", seed)


def place_hash(key: str, shard: int, position: int) -> int:
    """A 64-bit hash of where a sample comes from and what it is called.

    >>> place_hash("a", 0, 0) == place_hash("a", 0, 0)
    True
    >>> place_hash("a", 0, 0) == place_hash("a", 1, 0)
    False
    """
    name = _pack_place(shard, position) + _key_bytes(key)
    return _from_bytes(_blake2b(name, digest_size=8).digest(), "big")


_pack_place = struct.Struct("<QQ").pack
_blake2b = hashlib.blake2b
_from_bytes = int.from_bytes


def _key_bytes(key: str) -> bytes:
    """A key as its file name's bytes; one that no file can have, all the same."""
    try:
        return key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return key.encode("utf-8", "surrogatepass")


def place_hashes(
    keys: Sequence[str], shard: int, positions: Iterable[int]
) -> NDArray[np.uint64]:
    """`place_hash` of many samples of one shard."""
    digests = [
        _blake2b(_pack_place(shard, position) + raw, digest_size=8).digest()
        for raw, position in zip(map(_key_bytes, keys), positions, strict=True)
    ]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def shuffle_keys(seed: int, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What samples of these `place_hashes` are sorted by in a shuffle.

    For each seed another permutation of all numbers of 64 bits: `mix`, from a
    start that is the seed's hash.

    >>> hashes = place_hashes(["a", "b", "c"], 0, range(3))
    >>> [shuffle_keys(seed, hashes).argsort().tolist() for seed in (7, 8)]
    [[1, 0, 2], [1, 2, 0]]
    """
    return mix(hashes ^ np.uint64(text_hash(str(seed))))


def number_key(value: float) -> int:
    """A 64-bit unsigned integer that sorts as ``value`` does.

    Raises:
        ValueError: an int needs more than 64 bits, or a float is not a number.

    >>> number_key(-5) < number_key(0) < number_key(3)
    True
    >>> number_key(-1.5) < number_key(-0.5) < number_key(0.0) < number_key(2.0)
    True
    """
    if isinstance(value, int):
        if not -_SIGN <= value < _SIGN:
            problem = f"{value} needs more than 64 bits: sort it as text or as float"
            raise ValueError(problem)
        return value + _SIGN
    if value != value:
        problem = "is not a number"
        raise ValueError(problem)
    (bits,) = struct.unpack(">Q", struct.pack(">d", value + 0.0))
    return int(bits ^ ((1 << 64) - 1) if bits & _SIGN else bits | _SIGN)


def field_key(order: Order, url: str, sample: Mapping[str, object]) -> int | bytes:
    """The sort key that the field of a sample gives, as it is stored.

    Raises:
        SampleError: the field is missing, or is not of the order's type.

    >>> field_key(parse_order("sort:json"), "a.tar", {"__key__": "0", "json": [1]})
    b'[1]'
    """
    name = str(sample["__key__"])
    value = sample.get(order.field)
    if value is None:
        here = ", ".join(k for k in sample if not k.startswith("__"))
        raise SampleError(url, f"has no field {order.field!r} (it has: {here})", name)
    if order.field == "__key__":
        value = _key_bytes(name)
    value = encode_field(order.field, value, key=name, url=url)
    if order.field_type == "text":
        return value
    try:
        if order.field_type == "int":
            return number_key(int(value))
        return number_key(float(value))
    except ValueError as error:
        problem = f"field {order.field!r} does not sort as {order.field_type}: {error}"
        raise SampleError(url, problem, name) from error


# --- balanced shards ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one output shard may hold; at least one of the two is given.

    A sample's *cost* is one number that serves both limits: the costs of some
    samples add up to at most `capacity` only if they are at most ``max_samples``
    and take at most ``max_body_bytes``.
    """

    max_samples: int | None
    max_body_bytes: int | None
    """Bytes of members in a shard, without its end blocks and padding."""

    @property
    def capacity(self) -> int:
        if self.max_body_bytes is None:
            return self.max_samples or 1
        if self.max_samples is None:
            return self.max_body_bytes
        return self._max_blocks * self._divisor

    def costs(self, num_bytes: Ints) -> Ints:
        """The costs of samples that take ``num_bytes`` in a shard each.

        With both limits a sample costs its blocks of 512 bytes, in parts of a
        block so small that ``max_samples`` equal shares of a shard are whole
        numbers of them, and at least such a share.

        >>> Limits(4, 4096).costs(np.array([512, 2048])).tolist()
        [8, 16]
        >>> Limits(4, 4096).capacity
        32
        """
        if self.max_body_bytes is None:
            return np.ones(len(num_bytes), np.int64)
        if self.max_samples is None:
            return num_bytes
        blocks = -(-num_bytes // _BLOCK_BYTES)
        costs: Ints = np.maximum(blocks * self._divisor, self._max_blocks)
        return costs

    @property
    def _max_blocks(self) -> int:
        return (self.max_body_bytes or 0) // _BLOCK_BYTES

    @property
    def _divisor(self) -> int:
        """Parts of a block; a sample takes a block, so that more are no limit."""
        return min(self.max_samples or 1, self._max_blocks)


def count_cuts(num_samples: int, max_samples: int) -> Ints:
    """Where balanced shards of at most ``max_samples`` begin, and the end.

    >>> count_cuts(10, 4).tolist()
    [0, 4, 7, 10]
    >>> count_cuts(8, 4).tolist()
    [0, 4, 8]
    """
    num_shards = -(-num_samples // max_samples)
    cuts = [-(-shard * num_samples // num_shards) for shard in range(num_shards)]
    return np.array([*cuts, num_samples], np.int64)


def cost_cuts(blocks: Callable[[], Iterable[Ints]], capacity: int) -> Ints:
    """Where balanced shards begin in a sequence of costs, and the end.

    The number of shards is the least that any contiguous division within the
    capacity can have, or slightly more where only that balances. Where samples
    are small beside the capacity, no shard is further from the mean than the
    largest sample.

    Args:
        blocks: gives the costs in order, in blocks of any length; called once a
            pass, so that only one block is in memory.
        capacity: what a shard holds; no single cost exceeds it.

    >>> cost_cuts(lambda: [np.array([5, 5, 5]), np.array([5])], 10).tolist()
    [0, 2, 4]
    >>> cost_cuts(lambda: [np.array([3, 3, 3, 3, 3])], 6).tolist()
    [0, 2, 3, 5]
    """
    greedy, total = _greedy_cuts(_summed(blocks(), capacity), capacity)
    least = len(greedy) - 1
    if least <= 1:
        return np.array(greedy, np.int64)
    for num_shards in sorted({least + n for n in (0, 1, 2, 3, least // 20)}):
        sums = _summed(blocks(), capacity)
        cuts = _even_cuts(sums, total, num_shards, capacity)
        if cuts is not None:
            return np.array(cuts, np.int64)
    return np.array(greedy, np.int64)


def _summed(blocks: Iterable[Ints], capacity: int) -> Iterator[Ints]:
    """The running sums of each block, of blocks so short that none overflows."""
    most = max(1, _MAX_SUM // capacity)
    for block in blocks:
        for first in range(0, len(block), most):
            yield np.cumsum(block[first : first + most])


def _greedy_cuts(sums: Iterable[Ints], capacity: int) -> tuple[list[int], int]:
    """Cuts where the next sample would not fit, and the total of the costs."""
    cuts = [0]
    rank = total = 0
    full = capacity  # the total at which the shard being filled is full
    for ends in sums:
        while full - total < ends[-1]:
            fitting = int(np.searchsorted(ends, full - total, side="right"))
            cuts.append(rank + fitting)
            full = capacity + total + (int(ends[fitting - 1]) if fitting else 0)
        rank += len(ends)
        total += int(ends[-1])
    if rank:
        cuts.append(rank)
    return cuts, total


def _even_cuts(
    sums: Iterable[Ints], total: int, num_shards: int, capacity: int
) -> list[int] | None:
    """Cuts as near to even shares of the total as the capacity lets them be.

    Returns:
        None if the last shard is too full, or no samples are left for it.
    """
    cuts = [0]
    rank = done = 0  # samples and costs before the block
    before = 0  # costs before the last cut
    for ends in sums:
        last = done + int(ends[-1])
        while len(cuts) < num_shards:
            target = max(before + 1, -(-total * len(cuts) // num_shards))
            goal = min(target, before + capacity)
            if goal > last:
                break
            after = int(np.searchsorted(ends, goal - done))
            up, down = done + int(ends[after]), done
            if after:
                down += int(ends[after - 1])
            is_up = up <= before + capacity and up - target <= target - down
            if is_up or rank + after == cuts[-1]:
                after, down = after + 1, up
            cuts.append(rank + after)
            before = down
        rank += len(ends)
        done = last
    if len(cuts) < num_shards or cuts[-1] == rank or total - before > capacity:
        return None
    return [*cuts, rank]


# --- splitting the sort ------------------------------------------------------


def sample_ranks(num_rows: int, salt: int) -> Ints:
    """Which rows of a sorted table stand for all: one of each stratum, at random.

    Large tables have many strata. Small ones have few, for there are many of them,
    and what stands for 10^5 tables has to fit into the memory of one process.

    >>> len(sample_ranks(10, 0)), len(sample_ranks(10_000, 0))
    (1, 4)
    >>> len(sample_ranks(100_000, 0)), len(sample_ranks(10**6, 0))
    (16, 30)
    """
    strata = min(num_rows, max(1, min(16, num_rows >> 11), num_rows >> 15))
    edges = np.linspace(0, num_rows, strata + 1).astype(np.int64)
    jitter = np.random.default_rng(salt).random(strata)
    return edges[:-1] + (jitter * np.diff(edges)).astype(np.int64)


def choose_splitters(
    samples: Sequence[tuple[SortKey, float]], num_parts: int
) -> list[SortKey]:
    """Keys that divide weighted samples into parts of about equal weight.

    Args:
        samples: (sort key with its tie-breakers, number of rows it stands for).
        num_parts: how many parts are wanted.

    Returns:
        At most ``num_parts - 1`` keys, ascending: part ``i`` holds the rows from
        splitter ``i - 1`` on, up to and without splitter ``i``.
    """
    ordered = sorted(samples)
    total = sum(weight for _, weight in ordered)
    splitters: list[SortKey] = []
    passed = 0.0
    for key, weight in ordered:
        target = total * (len(splitters) + 1) / num_parts
        if passed >= target and len(splitters) < num_parts - 1:
            splitters.append(key)
        passed += weight
    return splitters
