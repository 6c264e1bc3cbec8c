"""What a trial found: its steps with seconds and outcome, the device, the versions; a JSON-able report."""

import platform
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..settings.errors import CeloraError, UnavailableError
from ..workers import doctor_torch
from ..workers.finding import Level
from ..workers.gpu import Device, driver
from ..workers.registration import REPORTED


class Report:
    """Takes the steps of a trial.

    Args:
        device: What it runs on.
        told: Is given a line for each step, when it is over.
    """

    def __init__(self, device: Device, told: Callable[[str], None]) -> None:
        self.facts: dict[str, Any] = {}
        self.steps: list[dict[str, Any]] = []
        self._device, self._told = device, told
        self._began = time.monotonic()

    @property
    def passed(self) -> bool:
        """Whether every step so far was good."""
        return bool(self.steps) and all(step["ok"] for step in self.steps)

    def take(self, name: str, step: Callable[[], str]) -> bool:
        """Do a step and write down how it went; False if it failed."""
        began = time.monotonic()
        try:
            detail = step()
        except Exception as error:  # noqa: BLE001  (whatever it was: on a new device that is what the report is for)
            told = str(error) if isinstance(error, CeloraError) else f"{type(error).__name__}: {error}"
            return self._add(name, began, ok=False, detail=told)
        return self._add(name, began, ok=True, detail=detail)

    def failed(self, name: str, error: Exception) -> None:
        """Write down what kept the trial from its first step."""
        self._add(name, time.monotonic(), ok=False, detail=str(error))

    def probed(self) -> str:
        """The first step: torch and bitsandbytes, each in the state that ``celora doctor`` tells.

        Raises:
            UnavailableError: One of them does not work.
        """
        parts, said = doctor_torch.probe(self._device.uuid)
        self.facts["torch"] = {key: value for key, value in parts.get("torch", {}).items() if key != "part"}
        found = [
            doctor_torch.torch(parts.get("torch"), said, driver()),
            doctor_torch.dtype(parts.get("dtype"), said),
            doctor_torch.nf4(parts.get("nf4"), said),
        ]
        bad = next((finding for finding in found if finding.level is Level.FAIL), None)
        if bad is not None:
            raise UnavailableError(f"{bad.found}.", hint=bad.fix)
        return found[-1].found

    def finished(self, *, log: Path | None) -> dict[str, Any]:
        """All of it as JSON; ``log`` is the folder that was kept because a step failed."""
        here = driver()
        return {
            "what": "celora doctor --gpu",
            "passed": self.passed,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._began, 1),
            "device": {
                "type": self._device.gpu_type,
                "name": self._device.name if self._device.uuid else _cpu(),
                "memory_bytes": self._device.memory_bytes,
            },
            "driver": {"version": here.version, "cuda": ".".join(map(str, here.cuda))} if here else None,
            "platform": platform.platform(),
            "versions": _versions(),
            **self.facts,
            "tried_in": str(log) if log else None,
            "stages": self.steps,
        }

    def _add(self, name: str, began: float, *, ok: bool, detail: str) -> bool:
        seconds = round(time.monotonic() - began, 2)
        self.steps.append({"name": name, "ok": ok, "seconds": seconds, "detail": detail})
        self._told(f"{'ok' if ok else 'fail':<5} {name:<18} {seconds:7.1f} s  {detail}")
        return ok


def _cpu() -> str:
    """The processor's name where Linux tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in REPORTED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
