"""Real LoRA training for the figures: a tiny base, prepared data, requests, and the processes that answer them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from celora.errors import StorageError
from celora.storage.manifest import file_sha256, verify_manifest
from celora.tuning.training import checkpoint

FORGE = Path(__file__).with_name("forge.py")
MEASURED = ("loss", "grad_norm", "learning_rate")
WAIT_S = 120


class Forge:
    """A process that forks one for each request (forge.py); a context manager."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, str(FORGE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "forge.log").open("wb"),
            text=True,
            start_new_session=True,
        )

    def __enter__(self):
        self._process.stdout.readline()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def begin(self, request, **order):
        """Start answering a request; see forge.py for what else an order may hold."""
        self.count += 1
        path = self.folder / f"events-{self.count}.jsonl"
        order = {
            "request": request.model_dump(mode="json"),
            "events": str(path),
            "log": str(self.folder / f"log-{self.count}"),
            **order,
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Answer(json.loads(self._process.stdout.readline())["pid"], path, self._process.stdout)

    def run(self, request, **order):
        """Answer a request to its end."""
        return self.begin(request, **order).end()


class Answer:
    """A request on its way in a forked process."""

    def __init__(self, pid, path, codes):
        self.pid, self._path, self._codes, self.code = pid, path, codes, None

    @property
    def events(self):
        """What it has said so far; a last line may be cut off by a kill."""
        lines = self._path.read_bytes().split(b"\n")[:-1] if self._path.exists() else []
        return [json.loads(line) for line in lines]

    def of(self, name):
        """Its events of one name."""
        return [event for event in self.events if event["event"] == name]

    def until(self, condition):
        """Wait until something holds, or until it is gone; whether it held."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            if self.gone() or time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def gone(self):
        """Whether it has ended (the forge reaps it)."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    def kill(self):
        """SIGKILL, and wait for its end; whether it met a live process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.end()
        return self.code == -signal.SIGKILL

    def end(self):
        """Wait for its end."""
        if self.code is None:
            self.code = json.loads(self._codes.readline())["code"]
        return self

    @property
    def error(self):
        """What it failed of; None where it did not."""
        return next((event["error"] for event in self.of("failed")), None)


class Job:
    """One job's attempts at one training: each has its folder, and goes on from the newest checkpoint of all of them.

    Args:
        folder: For the attempts.
        request: Its first attempt's; the others are like it.
    """

    def __init__(self, folder, request):
        self.folder, self._request, self.attempt = folder, request, 0
        self.rejected = []

    def next(self, **changes):
        """The next attempt's request."""
        self.attempt += 1
        newest = self.newest()
        return self._request.model_copy(
            update={
                "attempt": self.attempt,
                "out_dir": str(self.folder / f"attempt-{self.attempt}"),
                "resume_from": str(newest) if newest else None,
                **changes,
            }
        )

    def newest(self):
        """The newest checkpoint that verifies, as the worker finds it (tasks/train.py)."""
        found = []
        for root in self.folder.glob("attempt-*/checkpoints"):
            for step, path in checkpoint.committed(root):
                try:
                    verify_manifest(path)
                except StorageError as error:
                    self.rejected.append((str(path), error.message))
                else:
                    found.append((step, path))
                    break
        return max(found, default=(0, None))[1]

    def adapter_sha256(self):
        """Of the last attempt's adapter; None where there is none."""
        path = self.folder / f"attempt-{self.attempt}" / "adapter" / "adapter_model.safetensors"
        return file_sha256(path) if path.exists() else None


def trace(events):
    """What each step measured, to the bit."""
    return {event["step"]: tuple(event[name] for name in MEASURED) for event in events if event["event"] == "progress"}


def prepare(forge, folder, *, rows=40, words=6):
    """A tiny base and prepared data: what requests need (base, prepared_dir, cache_dir)."""
    from chaos.figures.r04_drain import tiny_base

    from celora.tuning.protocol import Base, PrepareRequest
    from celora.tuning.recipe import Recipe

    base, dataset = tiny_base(folder / "base"), dataset_file(folder / "rows.jsonl", rows, words)
    request = PrepareRequest(
        job="job", attempt=1, cache_dir=str(folder / "cache"), base_model=str(base), dataset=str(dataset),
        recipe=Recipe(max_length=96), seed=1, out_dir=str(folder / "prepared"),
    )  # fmt: skip
    done = forge.run(request).of("done")[0]["result"]
    return {
        "base": Base.model_validate(done["base"]),
        "prepared_dir": str(folder / "prepared"),
        "cache_dir": str(folder / "cache"),
    }


def dataset_file(path, rows, words):
    """Rows with something to learn, of different lengths."""
    colours = ["red", "blue", "green", "grey", "black"]
    made = [
        {
            "instruction": f"colour of {number}" + " please" * (number % words),
            "output": f"{number} is {colours[number % 5]}" + "!" * (number % 4),
        }
        for number in range(rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def train_request(data, out, **recipe):
    """A train request on prepared data; keyword arguments are the recipe's."""
    from celora.tuning.protocol import HubAccess, TrainRequest
    from celora.tuning.recipe import Recipe

    settings = {
        "rank": 4, "alpha": 8, "quantization": "none", "micro_batch": 2, "accumulation": 2, "max_steps": 60,
        "learning_rate": 5e-3, "max_length": 96, "eval_steps": 30,
    } | recipe  # fmt: skip
    return TrainRequest(
        job="job", attempt=1, hub=HubAccess(offline=True), threads=1, recipe=Recipe(**settings), seed=11,
        out_dir=str(out), **data,
    )  # fmt: skip


def program(request, events):
    """Answer a request with the trainer program itself, from the interpreter's start; its exit code."""
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "celora.tuning.trainer", "--events-fd", str(write_end)]
    log = events.with_suffix(".log").open("wb")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=[write_end], env=environment
        ) as process,
    ):
        os.close(write_end)
        process.stdin.write(request.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        with os.fdopen(read_end, "rb") as lines:
            events.write_bytes(lines.read())
        process.stdin.close()
        return process.wait()
