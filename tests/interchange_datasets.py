"""What Hugging Face `datasets` sees in shards: run in a process of its own.

It reads at its import where it may keep things and whether it may use a network.
Prints a list of samples for each data set that it is given; bytes in base 64.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise where a connection would be made."""
    if event in {"socket.connect", "socket.getaddrinfo"}:
        raise PermissionError(event, arguments[1:])


def as_json(value: Any) -> Any:
    """Give a field that JSON can hold; of an image, its bytes."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return as_json(value["bytes"])
    return value


def see(cache: str, *, streaming: bool, shards: list[str]) -> list[dict[str, Any]]:
    """Load shards as the documentation of `datasets` says."""
    import datasets

    found = datasets.load_dataset(
        "webdataset",
        data_files={"train": shards},
        split="train",
        cache_dir=cache,
        streaming=streaming,
    )
    for name, feature in found.features.items() if found.features else ():
        if isinstance(feature, datasets.Image):
            found = found.cast_column(name, datasets.Image(decode=False))
    return [
        {name: as_json(field) for name, field in sample.items() if name != "__url__"}
        for sample in found
    ]


def main(cache: str, data_sets: dict[str, list[str]]) -> None:
    """See each data set as users do, and again with every field left as bytes."""
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    seen = {
        name: see(f"{cache}/decoded", streaming=False, shards=shards)
        for name, shards in data_sets.items()
    }
    WebDataset.DECODERS.clear()
    raw = {
        name: see(f"{cache}/raw", streaming=True, shards=shards)
        for name, shards in data_sets.items()
    }
    json.dump({"decoded": seen, "raw": raw}, sys.stdout)


if __name__ == "__main__":
    sys.addaudithook(refuse_network)
    main(sys.argv[1], json.loads(sys.argv[2]))
