"""A data set is what Grain takes as the source of its own pipelines."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import chain

import pytest

import shardbuild as sb

# In a process of its own: Grain parses the flags of a program, and has threads.
SCRIPT = """
import json, sys
import grain
import shardbuild as sb

source = sb.Dataset(sys.argv[1]).decode().to_tuple("__key__", "cls")
dataset = grain.MapDataset.source(source)
assert len(dataset) == len(source)
batches = dataset.shuffle(seed=3).to_iter_dataset().batch(8)
found = [batch[1].tolist() for batch in batches]

iterator = iter(batches)
begin = [next(iterator)[1].tolist() for _ in range(2)]
state = iterator.get_state()
after = iter(batches)
after.set_state(state)
print(json.dumps([found, begin + [batch[1].tolist() for batch in after]]))
"""


@pytest.fixture
def url(tmp_path) -> str:
    with sb.ShardWriter(f"{tmp_path}/a-%06d.tar", maxcount=7) as writer:
        for number in range(30):
            writer.write({"__key__": f"{number:02d}", "cls": number})
    return f"{tmp_path}/a.json"


def test_grain_shuffles_batches_and_resumes_a_data_set(url):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, url], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found, resumed = json.loads(done.stdout)
    numbers = list(chain(*found))
    assert [len(batch) for batch in found] == [8, 8, 8, 6]
    assert sorted(numbers) == list(range(30)) != numbers
    assert resumed == found
