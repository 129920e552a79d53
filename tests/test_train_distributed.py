"""Several processes that train together, and one that is killed while it trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import shardbuild as sb
from shardbuild.shards.index import save_index
from tests.building import PHOTOS

ROOT = Path(__file__).parents[1]
NUM_SAMPLES = 101
COUNTS = [40, 3, 27, 1, 30]


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    """A data set whose shards are as uneven as can be."""
    folder = tmp_path_factory.mktemp("uneven")
    numbers = iter(range(NUM_SAMPLES))
    for shard, count in enumerate(COUNTS):
        shard_url = f"{folder}/a-{shard}.tar"
        with sb.TarWriter(shard_url) as writer:
            for _ in range(count):
                number = next(numbers)
                writer.write({"__key__": f"{number:03d}", "cls": number})
        save_index(sb.scan_shard(shard_url), shard_url)
    return f"{folder}/a-{{0..4}}.tar"


def run_both(script: str, *arguments: str) -> list[Any]:
    """Run a script as two ranks; what each of them printed last."""
    environment = {
        k: v for k, v in os.environ.items() if k not in {"RANK", "WORLD_SIZE"}
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, str(rank), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**environment, "PYTHONPATH": str(ROOT)},
        )
        for rank in range(2)
    ]
    found = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0], found
    return [json.loads(printed.splitlines()[-1]) for printed, _ in found]


BY_TORCH = """
import json, sys
import torch
import torch.distributed as distributed
import shardbuild as sb
from shardbuild.streams.splitters import place_of_node

rank, url, meeting, last = int(sys.argv[1]), *sys.argv[2:]
distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
assert place_of_node() == (rank, 2)
feed = sb.Dataset(url).decode().to_tuple("__key__", "cls").feed(
    global_batch=8, shuffle=True, last=last
)
assert (feed.rank, feed.world) == (rank, 2)
epochs = []
for epoch in range(2):
    steps, keys, total = 0, [], torch.zeros(2, dtype=torch.int64)
    for batch in feed.loader(epoch + 1):
        # Waits for the other rank: with uneven steps, for ever.
        agreed = torch.tensor([steps])
        distributed.all_reduce(agreed)
        assert agreed.item() == 2 * steps
        steps += 1
        real = [True] * 4 if batch.mask is None else batch.mask
        for (key, number), counts in zip(batch, real, strict=True):
            if counts:
                keys.append(key)
                total += torch.tensor([1, number * number])
    distributed.all_reduce(total)
    epochs.append([steps, keys, *total.tolist()])
print(json.dumps([epochs, feed.state_dict()]))
distributed.destroy_process_group()
"""


@pytest.mark.parametrize("last", ["wrap", "mask", "drop"])
def test_two_ranks_of_torch_make_equal_steps_and_exact_sums(url, tmp_path, last):
    ours, theirs = run_both(BY_TORCH, url, str(tmp_path / "meeting"), last)
    assert ours[1] == theirs[1]
    for (steps, keys, count, squares), (their_steps, their_keys, *_) in zip(
        ours[0], theirs[0], strict=True
    ):
        assert steps == their_steps == {"wrap": 13, "mask": 13, "drop": 12}[last]
        both = {*keys, *their_keys}
        assert len(both) == (96 if last == "drop" else NUM_SAMPLES)
        if last == "mask":
            assert count == len(keys) + len(their_keys) == NUM_SAMPLES
            assert squares == sum(number**2 for number in range(NUM_SAMPLES))
    assert ours[0][0][1] != ours[0][1][1]


BY_JAX = """
import json, sys
import jax
from jax._src import xla_bridge
import numpy as np
import shardbuild as sb
from shardbuild.streams.splitters import place_of_node

rank, url, address = int(sys.argv[1]), *sys.argv[2:]
assert place_of_node() == (0, 1)
jax.distributed.initialize(address, 2, rank, initialization_timeout=120)
assert place_of_node() == (rank, 2)
feed = sb.Dataset(url).decode().to_tuple("cls", "cls").feed(
    global_batch=8, last="mask", collate=sb.stack
)
assert not xla_bridge.backends_are_initialized()
assert (jax.process_index(), jax.process_count()) == (feed.rank, feed.world)

mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
total = jax.jit(lambda numbers, mask: (numbers * numbers * mask).sum())
squares, shapes, first = 0, set(), []
for columns in feed:
    numbers, _, mask = (
        jax.make_array_from_process_local_data(sharding, column) for column in columns
    )
    shapes.add(numbers.shape)
    squares += int(total(numbers, mask))
    first.append(int(columns[0][0]))
print(json.dumps([squares, sorted(shapes), first]))
jax.distributed.shutdown()
"""


def test_two_processes_of_jax_make_one_array_of_their_batches(url):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ours, theirs = run_both(BY_JAX, url, f"127.0.0.1:{port}")
    assert ours[:2] == theirs[:2]
    assert ours[:2] == [sum(number**2 for number in range(NUM_SAMPLES)), [[8]]]
    assert ours[2] != theirs[2]


# -- killed, and resumed ---------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    sb.convert(
        str(PHOTOS),
        f"{folder}/train-%06d.tar",
        label_from="folder",
        order="shuffle",
        seed=7,
        maxcount=20,
        scheduler="sync",
    )
    return f"{folder}/train.json"


def train(photos: str, checkpoint: Path, *options: str) -> subprocess.Popen[str]:
    script = ROOT / "notebooks" / "train_photos.py"
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "error", str(script), photos, str(checkpoint)),
            *("--epochs", "3", *options),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def losses(child: subprocess.Popen[str]) -> dict[int, str]:
    assert child.stdout is not None
    with child.stdout as printed:
        lines = [line.split() for line in printed]
    assert child.wait() == 0
    return {int(step): loss for step, loss in lines}


def test_training_that_was_killed_goes_on_with_other_workers_as_if_never(
    photos, tmp_path
):
    whole = losses(train(photos, tmp_path / "whole.pt", "--workers", "0"))
    assert list(whole) == list(range(1, 28))
    assert len(set(whole.values())) == 27

    found: dict[int, str] = {}
    # In the middle of an epoch, and just at the end of one.
    for num_workers, killed_at in (("2", 13), ("1", 18)):
        child = train(
            photos, tmp_path / "killed.pt", "--workers", num_workers, "--every", "3"
        )
        assert child.stdout is not None
        for line in child.stdout:
            step, loss = line.split()
            assert whole[int(step)] == loss
            found[int(step)] = loss
            if int(step) == killed_at:
                child.kill()
                break
        child.stdout.close()
        child.wait()
    rest = losses(train(photos, tmp_path / "killed.pt", "--workers", "0"))
    assert min(rest) > 12
    assert {**found, **rest} == whole
