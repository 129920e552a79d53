"""Train a small network on photographs; kill it at any time, and start it again.

    shardbuild convert tests/data/photos 'out/train-%06d.tar' --label-from folder \
        --order shuffle --seed 7 --maxcount 20
    python notebooks/train_photos.py out/train.json state.pt --workers 2

Each line is a step and its loss. Started again with any number of workers, it goes on
from the last checkpoint, and every loss is what it would have been, to the last digit.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import shardbuild as sb

SIZE = 32
NUM_CLASSES = 13


def to_pair(sample: dict[str, Any]) -> tuple[Any, int]:
    """Make a small picture and its class."""
    picture = sample["jpg"].convert("RGB").resize((SIZE, SIZE))
    return np.asarray(picture), sample["cls"]


def make_network() -> nn.Module:
    """Two convolutions, dropout (which needs random numbers), and a layer on top."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16 * 5 * 5, NUM_CLASSES),
    )


def main() -> None:
    """Train from the checkpoint, if there is one, to the last epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--every", type=int, default=5, help="steps to a checkpoint")
    options = parser.parse_args()

    torch.manual_seed(1)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # noqa: FBT003  # as torch wants it
    network = make_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    dataset = sb.Dataset(options.url).decode("pil").map(to_pair)
    feed = dataset.feed(
        global_batch=options.batch, shuffle=True, seed=7, collate=sb.stack
    )

    step = 0
    if options.checkpoint.exists():
        saved = torch.load(options.checkpoint)
        step = saved["step"]
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        feed.load_state_dict(saved["feed"])
        torch.set_rng_state(saved["random"])

    loader = feed.loader(num_workers=options.workers)
    while feed.epoch < options.epochs:
        for images, classes in loader:
            guesses = network(images.permute(0, 3, 1, 2) / 255)
            loss = nn.functional.cross_entropy(guesses, classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            print(step, loss.item(), flush=True)
            if step % options.every == 0:
                saved = {
                    "step": step,
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "feed": feed.state_dict(),
                    "random": torch.get_rng_state(),
                }
                torch.save(saved, f"{options.checkpoint}.new")
                Path(f"{options.checkpoint}.new").replace(options.checkpoint)


if __name__ == "__main__":
    main()
