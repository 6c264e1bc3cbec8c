"""Collects the result of a trial as JSON: its steps with seconds and outcome, the device, the versions."""

import platform
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...errors import CeloraError, UnavailableError
from ...workers.gpu import Device, driver
from ...workers.versions import installed_versions
from .. import torch
from ..finding import Level


class Report:
    """Runs the steps of a trial and notes their outcome.

    Args:
        device: Device of the trial.
        told: Called with one line at the end of each step.
    """

    def __init__(self, device: Device, told: Callable[[str], None]) -> None:
        self.facts: dict[str, Any] = {}
        self.steps: list[dict[str, Any]] = []
        self._device, self._told = device, told
        self._began = time.monotonic()

    @property
    def passed(self) -> bool:
        """Return whether there was a step and no step failed."""
        return bool(self.steps) and all(step["ok"] for step in self.steps)

    def take(self, name: str, step: Callable[[], str]) -> bool:
        """Run a step and note its outcome; return False if it failed."""
        began = time.monotonic()
        try:
            detail = step()
        except Exception as error:  # noqa: BLE001  (the report is made to show every error of a new device)
            told = str(error) if isinstance(error, CeloraError) else f"{type(error).__name__}: {error}"
            return self._add(name, began, ok=False, detail=told)
        return self._add(name, began, ok=True, detail=detail)

    def failed(self, name: str, error: Exception) -> None:
        """Note the error that kept the trial from its first step."""
        self._add(name, time.monotonic(), ok=False, detail=str(error))

    def probed(self) -> str:
        """Check torch and bitsandbytes as ``celora doctor`` does; the first step of a trial.

        Raises:
            UnavailableError: One of them does not work.
        """
        parts, said = torch.probe(self._device.uuid)
        self.facts["torch"] = {key: value for key, value in parts.get("torch", {}).items() if key != "part"}
        found = [
            torch.torch(parts.get("torch"), said, driver()),
            torch.dtype(parts.get("dtype"), said),
            torch.nf4(parts.get("nf4"), said),
        ]
        bad = next((finding for finding in found if finding.level is Level.FAIL), None)
        if bad is not None:
            raise UnavailableError(f"{bad.found}.", hint=bad.fix)
        return found[-1].found

    def finished(self, *, log: Path | None) -> dict[str, Any]:
        """Return the report as JSON.

        Args:
            log: Folder that was kept because a step failed.
        """
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
            "versions": installed_versions(),
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
    """Read the processor's name from Linux, or the machine's architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
