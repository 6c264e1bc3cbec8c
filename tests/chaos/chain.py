"""The mini engine: its weights are a hash chain, so that any lost, repeated or reordered step changes the end.

It keeps the contract of ``celora.tuning.training.engine.Engine`` without torch. A checkpoint has a second, larger file
that is derived from the weights, so that a torn or mixed one cannot pass for whole. Each step is also appended to the
attempt's step log, which shows afterwards what was done twice.
"""

import hashlib
import json
import os
import time
from pathlib import Path

from celora.errors import StorageError
from celora.settings.failpoints import hit
from celora.tuning.training.engine import EngineFacts, Step, ignore

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

    facts = EngineFacts(trainable_parameters=10, total_parameters=1000)
    eval_accuracy = None

    def __init__(self, weights, log, step_s):
        self.weights, self.best, self.done = weights, None, 0
        self.step_s, self._due = step_s, 0.0
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def start(self):
        self._due = time.monotonic()

    def resume(self, checkpoint):
        state = json.loads((checkpoint / "state.json").read_text())
        self.weights, self.best, self.done = state["weights"], state["best"], state["step"]
        if (checkpoint / "ballast.bin").read_bytes() != ballast_of(self.weights):
            raise StorageError(f"{checkpoint} is a mixture of two checkpoints.")
        self.start()

    def step(self, report=ignore):
        self._due = max(self._due + self.step_s, time.monotonic())
        time.sleep(max(0.0, self._due - time.monotonic()))
        hit("step.forward", 1)
        report(1, 1)
        number = self.done + 1
        return Step(number, number / 10, 1.0 / number, 1e-3, 0.5, 100)

    def update(self):
        self.done += 1
        self.weights = after(self.weights, self.done)
        os.write(self._log, f"{self.done} {time.monotonic():.6f}\n".encode())

    def evaluate(self, report=ignore):
        report(1, 1)
        return 1.0 / (1 + self.done)

    def samples(self, report=ignore):
        return []

    def keep_best(self):
        self.best = self.weights

    def restore_best(self):
        self.weights = self.best

    def save(self, folder):
        (folder / "ballast.bin").write_bytes(ballast_of(self.weights))
        (folder / "state.json").write_text(
            json.dumps({"weights": self.weights, "best": self.best, "step": self.done}), encoding="utf-8"
        )

    def write_adapter(self, folder):
        (folder / "adapter_model.safetensors").write_text(self.weights)
        (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "peft_type": "CHAIN"}))

    def memory(self):
        return None, None

    def close(self):
        if self._log is not None:
            os.close(self._log)
            self._log = None
