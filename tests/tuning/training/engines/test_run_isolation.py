"""A run leaves the process as it found it, and its output in its own log."""

import ctypes
import logging
import os
import random
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import pytest


@pytest.fixture
def isolated(tmp_path):
    """Run a function as a run of its own; return the log."""
    from celora.tuning.training.engines.run_isolation import Isolation

    path = tmp_path / "log"

    def run(body):
        with path.open("ab") as log, Isolation("cpu").run(log.fileno()):
            body()
        return path.read_text()

    return run


def state():
    import numpy as np
    import torch

    return {
        "environment": dict(os.environ),
        "filters": list(warnings.filters),
        "loggers": (logging.root.level, logging.getLogger("transformers").level, list(logging.root.handlers)),
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),  # noqa: NPY002
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "gradients": (torch.is_grad_enabled(), torch.is_anomaly_enabled()),
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "folder": Path.cwd(),
    }


def test_nothing_that_a_run_sets_in_the_process_outlives_it(isolated, tmp_path):
    import numpy as np
    import torch

    logging.getLogger("transformers")

    def body():
        os.environ["A_RUN"] = "1"
        os.environ["PATH"] = "/nowhere"
        del os.environ["HOME"]
        warnings.simplefilter("error")
        logging.root.setLevel(logging.CRITICAL)
        logging.root.addHandler(logging.NullHandler())
        logging.getLogger("transformers").setLevel(logging.CRITICAL)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002  (the generator that libraries use)
        torch.manual_seed(1)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.use_deterministic_algorithms(mode=True)
        torch.backends.cudnn.benchmark = True
        torch.set_grad_enabled(False)
        torch.autograd.set_detect_anomaly(mode=True, check_nan=False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        os.chdir(tmp_path)

    os.environ.setdefault("HOME", "/")
    before = state()
    isolated(body)
    assert state() == before


def test_what_a_failed_run_sets_is_undone_too(isolated):
    before = state()

    def body():
        os.environ["A_RUN"] = "1"
        raise ValueError("of the run")

    with pytest.raises(ValueError, match="of the run"):
        isolated(body)
    assert state() == before


def test_each_run_draws_the_same_numbers(isolated):
    import torch

    drawn = []
    for _ in range(2):
        isolated(lambda: drawn.append((random.getrandbits(64), torch.rand(1).item())))
    assert drawn[0] == drawn[1]


def test_all_that_is_printed_goes_to_the_log_of_the_run_and_nothing_later(isolated, capfd):
    def body():
        os.write(1, b"python\n")
        subprocess.run([sys.executable, "-c", "import sys; print('child', file=sys.stderr)"], check=True)
        ctypes.CDLL(None).puts(b"library")  # into a buffer of C, which nobody has flushed yet

    assert sorted(isolated(body).split()) == ["child", "library", "python"]
    os.write(1, b"after")
    assert capfd.readouterr().out == "after"


def test_accelerates_state_is_that_of_one_run(isolated):
    from accelerate.state import AcceleratorState

    before = dict(AcceleratorState._shared_state)
    isolated(lambda: AcceleratorState._shared_state.update(mixed_precision="bf16"))
    assert AcceleratorState._shared_state == before


def test_each_run_in_turns_has_its_own_state_and_the_process_keeps_its_own(tmp_path):
    import torch

    from celora.tuning.training.engines.run_isolation import RunState

    def draw():
        facts = (float(torch.rand(1)), random.random(), os.environ.get("A_RUN"), len(warnings.filters))  # noqa: S311
        os.write(1, (" ".join(map(str, facts)) + "\n").encode())

    before, logs, states = state(), {}, {}
    for name in "ab":
        logs[name] = (tmp_path / name).open("ab")
        states[name] = RunState("cpu", logs[name].fileno())
        states[name].install()
        os.environ["A_RUN"] = name
        torch.manual_seed(ord(name))
        random.seed(name)
        if name == "a":
            warnings.filterwarnings("ignore", message="of the run a")
        states[name].remove()
        assert state() == before
    for turns in ("abab", "ab"):
        for name in turns:
            states[name].install()
            draw()
            states[name].remove()
    assert state() == before
    for name in "ab":
        states[name].close()
        logs[name].close()
        torch.manual_seed(ord(name))
        random.seed(name)
        alone = [(float(torch.rand(1)), random.random()) for _ in range(3)]  # noqa: S311
        drawn = [line.split() for line in (tmp_path / name).read_text().splitlines()]
        assert [(float(first), float(second)) for first, second, *_ in drawn] == alone
        assert {line[2] for line in drawn} == {name}
        assert {int(line[3]) for line in drawn} == {len(before["filters"]) + (name == "a")}
