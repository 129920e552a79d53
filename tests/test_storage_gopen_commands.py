"""Commands and handlers of the user's own behind urls."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild.errors import GopenException, PipeError, StorageError
from shardbuild.shards.reader import read_samples
from shardbuild.storage import RangeSource, gopen, read_bytes, stat_url, write_bytes
from shardbuild.storage.commands import (
    CommandScheme,
    Pipe,
    schemes_from_environment,
)
from shardbuild.storage.gopen import gopen_schemes
from shardbuild.storage.urlparts import split_slice
from shardbuild.storage.urls import slice_of


@pytest.fixture
def schemes():
    """The registry, as it was before when the test is over."""
    before = dict(gopen_schemes)
    yield gopen_schemes
    gopen_schemes.clear()
    gopen_schemes.update(before)


# --- Pipe ---------------------------------------------------------------------


def test_a_pipe_is_read_by_pieces_lines_and_whole():
    with Pipe("printf 'one\\ntwo\\nthree'") as pipe:
        assert pipe.status is None or pipe.status == 0
        assert pipe.read(2) == b"on"
        assert pipe.readline() == b"e\n"
        assert pipe.readline(1) == b"t"
        buffer = bytearray(3)
        assert pipe.readinto(buffer) == 3
        assert bytes(buffer) == b"wo\n"
        assert pipe.read() == b"three"
        assert (pipe.read(), pipe.readline(), pipe.read(1)) == (b"", b"", b"")
    assert pipe.status == 0
    assert list(Pipe("printf 'a\\nb'")) == [b"a\n", b"b"]


def test_arguments_need_no_quotes_and_no_shell():
    assert Pipe(["printf", "%s|", "a b", "$HOME;'\"", ""]).read() == b"a b|$HOME;'\"||"


@pytest.mark.parametrize("command", ["cat x; exit 5", ["sh", "-c", "echo x; exit 5"]])
def test_a_failing_command_is_an_error_of_reading_and_of_closing(command):
    with pytest.raises(PipeError, match="exit status 5"):
        Pipe(command).read()
    pipe = Pipe(command)
    with pytest.raises(PipeError, match="exit status 5"):
        pipe.close()
    pipe.close()
    with pytest.raises(GopenException):
        list(Pipe(command))


def test_without_errors_the_status_still_tells():
    with Pipe("echo all; exit 5", raise_errors=False) as pipe:
        assert pipe.read() == b"all\n"
    assert pipe.status == 5
    with Pipe("kill -9 $$", raise_errors=False) as killed:
        assert killed.read() == b""
    assert killed.status == -9
    with Pipe("cat > /dev/null; exit 6", "wb", raise_errors=False) as written:
        written.write(b"x")
    assert written.status == 6


def test_a_pipe_that_is_not_read_to_the_end_is_stopped():
    with Pipe("yes") as pipe:
        assert pipe.read(2) == b"y\n"
    forgotten = Pipe("yes")
    process = forgotten._raw._command.process
    del forgotten
    gc.collect()
    assert process.returncode is not None


def test_an_exception_is_not_replaced_by_that_of_a_stopped_command():
    with pytest.raises(KeyError), Pipe("echo x; exit 3"):
        raise KeyError


def test_a_pipe_is_written_and_judged(tmp_path):
    with Pipe(["tee", f"{tmp_path}/x y"], "wb") as pipe:
        assert pipe.write(b"data") == 4
    assert (tmp_path / "x y").read_bytes() == b"data"
    with pytest.raises(PipeError, match="exit status 6"), Pipe("exit 6", "wb"):
        pass


def test_what_cannot_be_started_is_an_error_that_names_it():
    with pytest.raises(PipeError, match="pipe:no-such-program a: cannot be started: N"):
        Pipe(["no-such-program", "a"])
    with pytest.raises(PipeError, match="no command"):
        Pipe([])
    with pytest.raises(PipeError, match="no command"):
        Pipe(" ")
    with pytest.raises(ValueError, match="mode='r'"):
        Pipe("true", "r")


# --- handlers -----------------------------------------------------------------


def test_a_handler_opens_its_protocol_everywhere(schemes, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    calls = []

    def handler(url, mode):
        calls.append((url, mode))
        return (tmp_path / url.rpartition("/")[2]).open(mode)

    schemes["obj"] = handler
    data = (tmp_path / "x.tar").read_bytes()
    with gopen("obj://b/x.tar") as file:
        assert file.read() == data
    with gopen("OBJ://b/x.tar", bufsize=100) as file:
        assert file.readline() == data.partition(b"\n")[0]
    assert read_bytes("obj://b/x.tar") == data
    assert list(read_samples("obj://b/x.tar")) == [{"__key__": "a", "txt": b""}]
    assert stat_url("obj://b/x.tar").num_bytes is None
    with gopen("obj://b/y", "wb") as file:
        file.write(b"written")
    assert (tmp_path / "y").read_bytes() == b"written"
    assert set(calls) == {
        ("obj://b/x.tar", "rb"),
        ("OBJ://b/x.tar", "rb"),
        ("obj://b/y", "wb"),
    }
    with pytest.raises(StorageError, match="is a stream"):
        RangeSource("obj://b/x.tar")
    with pytest.raises(StorageError, match="is a stream"):
        write_bytes("obj://b/x.tar", b"")


def test_a_handler_comes_before_what_is_built_in_and_never_before_a_path(
    schemes, tmp_path
):
    schemes["memory"] = schemes["file"] = lambda url, mode: io.BytesIO(b"mine")
    assert gopen("memory://x").read() == b"mine"
    write_bytes(f"{tmp_path}/x", b"theirs")
    for url in (f"file:{tmp_path}/x", f"{tmp_path}/x"):
        with gopen(url) as file:
            assert file.read() == b"theirs"


def test_a_handler_s_error_names_the_url(schemes, tmp_path):
    schemes["obj"] = lambda url, mode: (tmp_path / "none").open(mode)
    with pytest.raises(GopenException, match="obj://b/k: no such file"):
        gopen("obj://b/k")
    assert gopen("obj://b/k", allow_missing=True) is None


# --- commands from the environment --------------------------------------------


def test_the_environment_s_commands_open_urls(schemes, tmp_path):
    (tmp_path / "x y.tar").write_bytes(b"data")
    environ = {
        "GOPEN_OBJ": f"cat {tmp_path}/$(basename '{{}}')",
        "GOPEN_DEBUG": "1",
        "GOPEN_BUFFER": "8192",
        "HOME": "/nowhere",
    }
    schemes.update(schemes_from_environment(environ))
    assert list(schemes) == ["obj"]
    (tmp_path / "z").write_bytes(b"zed")
    assert gopen("obj://b/z").read() == b"zed"
    with pytest.raises(PipeError, match="obj://b/none: the command ended with exit"):
        gopen("obj://b/none").read()
    with pytest.raises(GopenException, match="can only be read"):
        gopen("obj://b/z", "wb")


QUOTED = ["printf %s {}", "printf %s '{}'", 'printf %s "{}"', "printf '%s' \"x\"{}"]
NASTY = 'obj://it\'s; touch "$(id)" `id` \\ $HOME *\n{}'


@pytest.mark.parametrize("template", QUOTED)
def test_a_url_is_one_word_in_any_quotes(template):
    read = CommandScheme(template)(NASTY).read()
    assert read.removeprefix(b"x") == NASTY.encode()


@pytest.mark.parametrize(
    ("template", "read"),
    [
        ("printf '%s-%s' {} {}", b"obj://k-obj://k"),
        ("printf 'a {} b'", b"a obj://k b"),
        ('printf "a \\"{}\\" b"', b'a "obj://k" b'),
        ("printf it\\'s-{}", b"it's-obj://k"),
        ("echo $((1+1))", b"2\n"),
        ("printf {}00", b"obj://k00"),
    ],
)
def test_the_shell_s_own_signs_keep_their_meaning(template, read):
    assert CommandScheme(template)("obj://k").read() == read


PIECES = st.tuples(
    st.sampled_from(["{}", "'%s'", '"%s"']),
    st.sampled_from(["{}", "a", "a{}", "{} b", "; date", "$"]),
)


@settings(max_examples=40)
@given(st.lists(PIECES, min_size=1, max_size=4))
def test_no_mixture_of_quotes_lets_a_url_be_more_than_a_word(pieces):
    words = [quotes % text if "%" in quotes else quotes for quotes, text in pieces]
    texts = [text if "%" in quotes else quotes for quotes, text in pieces]
    read = CommandScheme("printf %s " + "".join(words))(NASTY).read()
    assert read == "".join(texts).replace("{}", NASTY).encode()


@pytest.mark.parametrize(
    ("name", "template", "problem"),
    [
        ("GOPEN_", "x", "no protocol"),
        ("GOPEN_A-B", "x", "no protocol"),
        ("GOPEN_A", " ", "holds no command"),
    ],
)
def test_variables_that_define_nothing_are_errors(name, template, problem):
    with pytest.raises(GopenException, match=problem):
        schemes_from_environment({name: template})


def test_the_library_looks_at_no_environment():
    code = "from shardbuild.storage.gopen import gopen_schemes; print(gopen_schemes)"
    argv = [sys.executable, "-c", code]
    environ = {**os.environ, "GOPEN_OBJ": "cat {}"}
    answer = subprocess.run(argv, capture_output=True, check=True, env=environ)
    assert answer.stdout == b"{}\n"


# --- missing files, buffers, slices ---------------------------------------------


def test_what_is_missing_may_be_allowed_and_nothing_else(tmp_path, shaped):
    for url in (f"{tmp_path}/none", "memory://none/x", shaped.url("none")):
        assert gopen(url, allow_missing=True) is None
        with pytest.raises(GopenException, match="no such file") as caught:
            gopen(url)
        assert caught.value.url == url
    with pytest.raises(GopenException, match="Is a directory"):
        gopen(str(tmp_path), allow_missing=True)
    shaped.put("x", b"data")
    shaped.set(fail=1, status=403)
    with pytest.raises(GopenException):
        gopen(shaped.url("x"), allow_missing=True)
    opened = gopen(shaped.url("x"), allow_missing=True)
    assert opened is not None
    with opened:
        assert opened.read() == b"data"


def test_a_buffer_serves_lines(tmp_path):
    write_bytes(f"{tmp_path}/x", b"one\ntwo\n")
    with gopen(f"{tmp_path}/x", "rb", 8192) as file:
        assert isinstance(file, io.BufferedReader)
        assert [file.readline(), file.readline()] == [b"one\n", b"two\n"]
    assert file.raw.closed


SLICES = [
    ("x.tar#0,9", ("x.tar", 0, 9)),
    ("x.tar#7", ("x.tar", 7, 7)),
    ("x#1.tar#2,3", ("x#1.tar", 2, 3)),
    ("http://h/x.tar?a=1#5,5", ("http://h/x.tar?a=1", 5, 5)),
    ("-#1,2", ("-", 1, 2)),
    ("x.tar", ("x.tar", 0, None)),
    ("x#1.tar", ("x#1.tar", 0, None)),
    ("x.tar#", ("x.tar#", 0, None)),
    ("x.tar#-1", ("x.tar#-1", 0, None)),
    ("x.tar#1,", ("x.tar#1,", 0, None)),
    ("#3", ("#3", 0, None)),
    ("x.tar#\u0663", ("x.tar#\u0663", 0, None)),
    ("pipe:cat x.tar#1,2", ("pipe:cat x.tar#1,2", 0, None)),
]


@pytest.mark.parametrize(("url", "expected"), SLICES)
def test_slices_are_split_off(url, expected):
    assert split_slice(url) == expected
    assert slice_of(url) == expected


def test_a_file_that_has_such_a_name_is_no_slice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.tar#1,2").touch()
    for url in ("x.tar#1,2", f"{tmp_path}/x.tar#1,2", f"file:{tmp_path}/x.tar#1,2"):
        assert slice_of(url) == (url, 0, None)
    assert slice_of("x.tar#1,2#3") == ("x.tar#1,2", 3, 3)


def test_a_slice_that_ends_before_it_begins_is_an_error():
    with pytest.raises(StorageError, match="ends at 3, before it begins"):
        split_slice("x.tar#5,3")
