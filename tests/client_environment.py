"""Environments with some packages and nothing of celora, and the programs of clients that run there."""

import fcntl
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

CALLS = Path(__file__).parent / "acceptance" / "openai_calls.py"


def install(*wanted):
    """Return an interpreter that has some packages and nothing of celora; skip the test where they cannot be had.

    The environment is made once beside the virtual environment, and kept for all tests and their next run.
    """
    folder = Path(sys.prefix) / "foreign" / "-".join(one.replace("==", "-") for one in wanted)
    folder.parent.mkdir(exist_ok=True)
    python, complete = folder / "bin" / "python", folder / "complete"
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete.exists():
            return python
        venv.create(folder, clear=True)
        pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
        done = subprocess.run(
            [*pip, "install", "-q", "--no-compile", *wanted], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"{wanted} cannot be installed here: {done.stderr[-300:]}")
        complete.touch()
    return python


def run(python, url, key, sequence, *more, program=CALLS):
    """Run one sequence of calls of a program (``openai_calls.py``) and return what it found, its last line."""
    done = run_program([python, program, url, key, sequence, *more])
    return json.loads(done.splitlines()[-1])


def run_program(command, **environment):
    """Run a program without this installation's environment, and return what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CELORA_", "PYTHON"))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**kept, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout
