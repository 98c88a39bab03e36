"""The stream: order, errors, and exits that do not abort."""

import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from data.loader import make_stream


@pytest.fixture(params=["mlx-data", "threads"], autouse=True)
def reader(request, monkeypatch):
    """Whether mlx-data is there."""
    if request.param == "threads":
        monkeypatch.setitem(sys.modules, "mlx.data", None)  # its import raises ModuleNotFoundError
    return request.param


def number(position):
    """A sample whose values tell its position, slower for some so that threads overtake each other."""
    time.sleep(0.001 * (position % 3))
    x = np.random.default_rng(position).normal(size=(2, 3)).astype(np.float32)
    return {"x": x, "index": np.int64(position)}


def drain(stream):
    with stream:
        batches = []
        while (batch := stream.next()) is not None:
            batches.append(batch)
        return batches


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_batches_do_not_depend_on_the_number_of_threads(workers):
    plan = [5, 3, 11, 2, 7, 0, 9]
    batches = drain(make_stream(plan, number, 3, workers, prefetch=8))
    assert [b["index"].tolist() for b in batches] == [[5, 3, 11], [2, 7, 0], [9]]
    for batch in batches:
        expected = [number(position)["x"] for position in batch["index"]]
        np.testing.assert_array_equal(batch["x"], expected)
        assert batch["x"].dtype == np.float32
        assert batch["index"].dtype == np.int64


@pytest.mark.parametrize("prefetch", [1, 4, 100])
@pytest.mark.parametrize("workers", [1, 3])
def test_plain_threads_make_the_batches_of_mlx_data(monkeypatch, workers, prefetch):
    def sample(position):
        rng = np.random.default_rng(position)
        dtypes = ("int8", "uint8", "int32", "int64", "float32", "float64")
        return {dtype: rng.integers(0, 99, (2, 3)).astype(dtype) for dtype in dtypes} | {"index": np.int64(position)}

    plan = list(np.random.default_rng(0).permutation(23))
    monkeypatch.delitem(sys.modules, "mlx.data", raising=False)
    expected = drain(make_stream(plan, sample, 4, workers, prefetch))
    monkeypatch.setitem(sys.modules, "mlx.data", None)
    found = drain(make_stream(plan, sample, 4, workers, prefetch))
    assert len(found) == len(expected) == 6
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key, array in theirs.items():
            assert ours[key].dtype == array.dtype
            np.testing.assert_array_equal(ours[key], array)


def test_samples_are_made_once_and_copied_where_they_must() -> None:
    made = []
    drain(make_stream(range(5), lambda p: made.append(p) or number(p), 2, 2, prefetch=64))
    assert sorted(made) == [0, 1, 2, 3, 4]
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    base.flags.writeable = False
    (batch,) = drain(make_stream([0], lambda _: {"x": base[:, ::-1]}, 1))
    np.testing.assert_array_equal(batch["x"][0], base[:, ::-1])


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("bad", range(7))
def test_error_of_a_sample_reaches_the_caller_with_its_case(workers, bad):
    def sample(position):
        if position >= bad:
            raise OSError(f"truncated {position}")
        return number(position)

    stream = make_stream(range(7), sample, 3, workers, describe=lambda p: f"case_{p}.nii")
    with pytest.raises(OSError, match="truncated") as caught:
        drain(stream)
    position = str(caught.value).split()[-1]
    assert caught.value.__notes__ == [f"while reading case_{position}.nii"]
    assert stream.next() is None  # closed


def test_shapes_that_differ_are_an_error_not_padding():
    stream = make_stream(range(4), lambda p: {"x": np.zeros(2 + p // 2, np.float32)}, 4)
    with stream, pytest.raises(ValueError, match=r"must agree .* x float32 \[2\], got x float32 \[3\]"):
        stream.next()


@pytest.mark.slow
def test_waiting_is_measured_only_in_next():
    made = threading.Event()

    def slow(position):
        time.sleep(0.2)
        if position == 1:
            made.set()
        return number(position)

    with make_stream(range(2), slow, 1) as stream:
        stream.next()
        first = stream.seconds_waiting
        made.wait()
        time.sleep(0.3)
        stream.next()
        assert first >= 0.19
        assert stream.seconds_waiting - first < 0.19  # far below the time since


def test_streams_left_early_or_never_started_close():
    for _ in range(50):
        with make_stream(range(100), number, 2, 2) as stream:
            stream.next()
        with make_stream(range(100), number, 2, 2):
            pass


PROGRAM = """
import signal
import time
import numpy as np
from data.loader import make_stream

# a shell's background jobs, and with them a test run there, ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)

def sample(position):
    time.sleep(0.003)
    return {"x": np.zeros((8, 8), np.float32)}

streams = [make_stream(range(1000), sample, 2, 2), make_stream(range(1000), sample, 2, 1)]
for stream in streams:
    stream.next()
"""
ENDS = {
    "error": ("raise RuntimeError('uncaught')", 1),
    "exit": ("raise SystemExit(3)", 3),
    "return": ("", 0),
    "interrupt": ("print('ready', flush=True)\nwhile streams[0].next(): pass\ntime.sleep(60)", -signal.SIGINT),
}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_open_streams_leave_a_clean_exit(end, reader, request):
    last, code = ENDS[end]
    without = "import sys\nsys.modules['mlx.data'] = None\n" if reader == "threads" else ""
    program = without + textwrap.dedent(PROGRAM) + last
    repeats = 6 if end in ("error", "interrupt") and not without else 1  # mlx-data aborts now and then
    for _ in range(0, repeats, 2):
        pair = [_start(program, request.config.rootpath) for _ in range(min(repeats, 2))]
        for child in pair:
            if end == "interrupt":
                assert child.stdout.readline() == "ready\n"
                child.send_signal(signal.SIGINT)
        for child in pair:
            _, errors = child.communicate(timeout=60)
            assert child.returncode == code, errors


def _start(program, folder):
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", program], cwd=folder, stdout=pipe, stderr=pipe, text=True)
