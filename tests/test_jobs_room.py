"""Jobs: files and callables, what travels of them, and what is said of them."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardbuild.build.jobs import Job, describe_transform, load_job
from shardbuild.build.settings import read_settings
from shardbuild.errors import PlanError

ROOT = Path(__file__).parent.parent

SHRINK = '''\
"""Make texts shorter.

All of them.
"""

from __future__ import annotations

from dataclasses import dataclass

defaults = {"maxsize": "1GB"}


@dataclass
class Options:
    length: int
    suffix: str = "txt"


def transform(sample, *, length: int = 3, suffix: str = "txt"):
    options = Options(length, suffix)
    return {**sample, options.suffix: sample[options.suffix][: options.length]}
'''


@pytest.fixture
def shrink(tmp_path):
    path = tmp_path / "shrink.py"
    path.write_text(SHRINK)
    return str(path)


def sample():
    return {"__key__": "a", "txt": b"abcdef"}


# --- files ---------------------------------------------------------------------


def test_a_job_calls_its_transform_with_its_options(shrink):
    assert load_job(shrink)(sample()) == {"__key__": "a", "txt": b"abc"}
    assert load_job(shrink, length=1)(sample()) == {"__key__": "a", "txt": b"a"}
    longer = load_job(shrink, length=1).with_options(length=5)
    assert longer(sample()) == {"__key__": "a", "txt": b"abcde"}


def test_a_job_tells_its_help_defaults_and_options(shrink):
    job = load_job(shrink, length=7)
    assert job.help == "Make texts shorter.\n\nAll of them."
    assert job.defaults == {"maxsize": "1GB"}
    assert job.all_options == {"length": 7, "suffix": "txt"}
    assert job.options == {"length": 7}


def test_a_job_without_transform_leaves_samples_as_they_are(tmp_path):
    path = tmp_path / "copy.py"
    path.write_text("transform = None\n")
    job = load_job(str(path))
    assert job(sample()) == sample()
    assert (job.transform, job.all_options, job.defaults, job.help) == (
        None,
        {},
        {},
        "",
    )


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "jobs").glob("*.py")))
def test_the_jobs_that_ship_travel(name):
    job = load_job(str(ROOT / "jobs" / name))
    again = pickle.loads(pickle.dumps(job))  # noqa: S301 - our own
    assert again == job
    assert describe_transform(again) == describe_transform(job)


def test_a_job_travels_without_its_file(shrink, tmp_path):
    job: Any = load_job(shrink, length=2)
    assert job(sample())["txt"] == b"ab"
    Path(shrink).write_text("raise RuntimeError('the file has changed')")
    (tmp_path / "job.pickle").write_bytes(pickle.dumps(job))
    code = """
        import pickle, pathlib
        job = pickle.loads(pathlib.Path("job.pickle").read_bytes())
        print(job({"__key__": "a", "txt": b"abcdef"}), job.all_options)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    options = {"length": 2, "suffix": "txt"}
    assert done.stdout == f"{ {'__key__': 'a', 'txt': b'ab'} } {options}\n"


def test_two_jobs_of_one_name_are_two_jobs(tmp_path):
    jobs: list[Any] = []
    for number in (1, 2):
        path = tmp_path / f"{number}" / "job.py"
        path.parent.mkdir()
        path.write_text(f"def transform(sample): return {number}")
        jobs.append(load_job(str(path)))
    assert [job(sample()) for job in jobs] == [1, 2]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1", "defines no transform: add 'def transform"),
        ("transform = 7", "its transform is 7, which is no function"),
        ("def transform(:", "cannot run the job file: SyntaxError"),
        ("import no_such_package", "cannot run .*no_such_package"),
        ("raise ValueError('oh')", r"cannot run the job file: ValueError\('oh'\)"),
        ("transform = None\0", "cannot run the job file"),
        ("# \udcff", "cannot run the job file: UnicodeDecodeError"),
    ],
)
def test_a_file_that_is_no_job_is_refused(tmp_path, text, problem):
    path = tmp_path / "job.py"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PlanError, match=problem) as raised:
        load_job(str(path))
    assert raised.value.url == str(path)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("none.py", "No such file or directory"), (".", "Is a directory")],
)
def test_a_job_that_cannot_be_read_is_refused(tmp_path, name, problem):
    with pytest.raises(PlanError, match=f"cannot read the job: {problem}"):
        load_job(str(tmp_path / name))


def test_an_option_that_the_job_has_not_is_refused(shrink):
    with pytest.raises(
        PlanError, match=r"no option 'size' \(it has: length, suffix\)"
    ) as raised:
        load_job(shrink, size=3)
    assert raised.value.url == shrink
    copy = Job("copy.py", "transform = None")
    with pytest.raises(PlanError, match=r"no option 'size' \(it has: none\)"):
        copy.with_options(size=3)


def test_an_option_without_a_value_is_refused_before_any_sample():
    job = Job("a.py", "def transform(sample, *, size, side='a'): return sample")
    with pytest.raises(PlanError, match=r"a.py: the job's option 'size' needs a value"):
        read_settings("out/%06d.tar", job, {})
    assert read_settings("out/%06d.tar", job.with_options(size=1), {}).transform


# --- what a manifest says of a transform ---------------------------------------------


def plain(sample):
    return sample


def sized(sample, size=3, *, side="shorter"):
    return sample


class Resize:
    def __init__(self, size):
        self.size = size

    def __call__(self, sample):
        return sample

    def apply(self, sample):
        return sample

    @classmethod
    def of_class(cls, sample):
        return sample

    @staticmethod
    def of_none(sample):
        return sample


class Crop(Resize):
    def __call__(self, sample):
        return [sample]


def resizing(size):
    def resize(sample):
        return sample, size

    return resize


def described(transform: Any) -> dict[str, Any]:
    found = describe_transform(transform)
    assert found is not None
    return found


def test_no_transform_is_not_described():
    assert describe_transform(None) is None


odd_partial: Any = partial  # takes options that the function does not have

DESCRIBED: list[tuple[Any, str, Any]] = [
    (plain, "plain", {}),
    (sized, "sized", {"size": 3, "side": "shorter"}),
    (partial(sized, size=4), "sized", {"size": 4, "side": "shorter"}),
    (partial(plain, 1), "plain", {"args": [1]}),
    (resizing(5), "resizing.<locals>.resize", {"size": 5}),
    (Resize(6), "Resize", {"size": 6}),
    (Resize(7).apply, "Resize.apply", {"size": 7}),
    (Resize.of_class, "Resize.of_class", {}),
    (Resize.of_none, "Resize.of_none", {}),
    (odd_partial(Resize(8), x=9), "Resize", {"size": 8, "x": 9}),
    (resizing({"b": [1, (2,)], "a": None}), "resizing.<locals>.resize", None),
    (dict, "builtins.dict", {}),
    (str.upper, "builtins.str.upper", {}),
    ({"a": 1}.get, "builtins.dict.get", {}),
    (len, "builtins.len", {}),
]


@pytest.mark.parametrize(
    ("transform", "name", "options"),
    DESCRIBED,
    ids=[str(n) for n in range(len(DESCRIBED))],
)
def test_a_transform_is_described_by_name_and_options(transform, name, options):
    found = described(transform)
    assert found["name"].removeprefix(f"{__name__}.") == name
    if options is not None:
        assert found["options"] == options
    assert json.loads(json.dumps(found)) == found


def test_a_job_is_described_by_its_file_name_options_and_text(shrink):
    assert describe_transform(load_job(shrink, length=4)) == {
        "name": "shrink",
        "options": {"length": 4, "suffix": "txt"},
        "sha256": hashlib.sha256(SHRINK.encode()).hexdigest(),
    }


DIFFERENT: list[tuple[Any, Any]] = [
    (plain, sized),
    (partial(sized, size=4), partial(sized, size=5)),
    (partial(plain, 1), partial(plain, 2)),
    (resizing(5), resizing(6)),
    (resizing({"size": 5}), resizing({"size": 6})),
    (resizing([1, {"size": 5}]), resizing([1, {"size": 6}])),
    (resizing(None), resizing(0)),
    (resizing("5"), resizing(5)),
    (Resize(6), Resize(7)),
    (Resize(6), Crop(6)),
    (Resize(6).apply, Resize(7).apply),
    (Job("a.py", "transform = None"), Job("a.py", "transform =  None")),
]


@pytest.mark.parametrize(
    ("one", "other"), DIFFERENT, ids=[str(n) for n in range(len(DIFFERENT))]
)
def test_transforms_that_differ_look_different(one, other):
    assert describe_transform(one) != describe_transform(other)


def test_values_that_json_has_not_are_told_by_their_type():
    odd = {"size": np.ones(3), "odd": float("nan")}
    found = described(odd_partial(plain, {"side": {1, 2}}, **odd))
    args = [{"side": "<set>"}]
    assert found["options"] == {"size": "<ndarray>", "odd": "nan", "args": args}
    assert found == described(odd_partial(plain, {"side": {2, 1}}, **odd))


def test_what_is_said_is_the_same_in_every_process(shrink, tmp_path):
    code = f"""
        import functools, json, sys
        sys.path.insert(0, {str(ROOT)!r})
        from shardbuild.build.jobs import describe_transform, load_job
        import module
        made = [
            module.resizing({{"b": 1, "a": {{2, 3}}}}), module.Resize(7),
            functools.partial(module.resizing(1), y=1, x=2),
            load_job({shrink!r}, suffix="a", length=3),
        ]
        print(json.dumps([describe_transform(one) for one in made]))
    """
    (tmp_path / "module.py").write_text(
        textwrap.dedent("""
            class Resize:
                def __init__(self, size):
                    self.size, self.names = size, {"x", "y", "z"}
                def __call__(self, sample):
                    return sample

            def resizing(options):
                return lambda sample: (sample, options)
        """)
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    (text,) = printed
    assert [one["name"] for one in json.loads(text)] == [
        "module.resizing.<locals>.<lambda>",
        "module.Resize",
        "module.resizing.<locals>.<lambda>",
        "shrink",
    ]
