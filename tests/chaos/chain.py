"""The mini engine: its weights are a hash chain, so that any lost, repeated or reordered step changes the end.

It keeps the contract of ``celora.tuning.engine.Engine`` without torch. A checkpoint has a second, larger file that is
derived from the weights, so that a torn or mixed one cannot pass for whole. Each step is also appended to the
attempt's step log, which tells afterwards what was done twice.
"""

import hashlib
import json
import os
import time
from pathlib import Path

from celora.settings.errors import StorageError
from celora.settings.failpoints import hit
from celora.tuning.course import Step

BALLAST_BYTES = 64 * 1024


def start_of(seed, dataset_sha256):
    """The weights before the first step."""
    return hashlib.sha256(f"{seed} {dataset_sha256}".encode()).hexdigest()


def after(weights, step):
    """The weights after a step."""
    return hashlib.sha256(f"{weights} {step}".encode()).hexdigest()


def expected(seed, dataset_sha256, steps):
    """The weights of a run that nothing ever interrupted."""
    weights = start_of(seed, dataset_sha256)
    for step in range(1, steps + 1):
        weights = after(weights, step)
    return weights


def ballast_of(weights):
    """A file's worth of bytes that only these weights have."""
    return bytes.fromhex(weights) * (BALLAST_BYTES // 32)


def step_log(folder, job, attempt):
    """Where an attempt's steps are written down, a line each: number, monotonic time."""
    return Path(folder) / job / f"{attempt:03d}.log"


class ChainEngine:
    """A run of the chain.

    Args:
        weights: Before the first step.
        log: The attempt's step log.
        step_s: Seconds that a step takes.
    """

    def __init__(self, weights, log, step_s):
        self.weights, self.best, self.step = weights, None, 0
        self.step_s = step_s
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def run(self, course, resume_from):
        if resume_from is not None:
            self._load(resume_from)
        if not course.begin():
            return
        due = time.monotonic()
        while True:
            due = max(due + self.step_s, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            self.step += 1
            hit("step.forward", 1)
            course.check(self.step, 1e-3, 1.0, 1.0)
            self.weights = after(self.weights, self.step)
            os.write(self._log, f"{self.step} {time.monotonic():.6f}\n".encode())
            if not course.boundary(Step(self.step, self.step / 10, 1.0 / self.step, 1e-3, 0.5, 100)):
                return

    def _load(self, folder):
        state = json.loads((folder / "state.json").read_text())
        self.weights, self.best, self.step = state["weights"], state["best"], state["step"]
        if (folder / "ballast.bin").read_bytes() != ballast_of(self.weights):
            raise StorageError(f"{folder} is a mixture of two checkpoints.")

    def evaluate(self):
        return 1.0 / (1 + self.step)

    def samples(self):
        return []

    def keep_best(self):
        self.best = self.weights

    def restore_best(self):
        self.weights = self.best

    def save(self, folder):
        (folder / "ballast.bin").write_bytes(ballast_of(self.weights))
        (folder / "state.json").write_text(
            json.dumps({"weights": self.weights, "best": self.best, "step": self.step}), encoding="utf-8"
        )

    def memory(self):
        return None, None
