"""Checks torch, bitsandbytes and the dtype for `celora doctor` in a child process that loads them.

A library that crashes ends the child only, and the crash is the finding.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from ..errors import CeloraError
from ..workers.gpu import Driver, driver
from .finding import Finding, fail, ok, warn

WITHIN_S = 120.0
PROGRAM = ("-m", "celora.tuning.trainer.probe")
LEAST_ERROR, MOST_ERROR = 0.05, 0.15
"""Relative error that NF4 costs Gaussian weights: about 0.09 in bitsandbytes' own format."""
CPU_WHY = {
    True: "this CPU computes in bf16",
    False: "this CPU has no bf16 instructions, without which bf16 is 25 times slower",
}
REINSTALL = "Install the pinned versions again: `pip install --constraint constraints.txt 'celora[train]'`."


def training() -> Iterator[Finding]:
    """Check torch against the driver, report the compute dtype, and check NF4 by a round trip."""
    if find_spec("torch") is None:
        fix = (
            "Where jobs are prepared or trained: `pip install 'celora[train]'`; a machine that only submits needs none."
        )
        yield warn("torch", "the training libraries are not installed", fix)
        return
    parts, said = probe()
    yield torch(parts.get("torch"), said, _driver())
    if "torch" in parts:
        yield dtype(parts.get("dtype"), said)
        yield nf4(parts.get("nf4") if "dtype" in parts else None, said)


def probe(device_uuid: str = "") -> tuple[dict[str, dict[str, Any]], str]:
    """Run the child on a GPU, by default the first.

    Returns:
        The child's facts by part, and the reason of its end where it failed.
    """
    pinned = {"CUDA_VISIBLE_DEVICES": device_uuid} if device_uuid else {}
    try:
        done = subprocess.run(
            [sys.executable, *PROGRAM], capture_output=True, text=True, timeout=WITHIN_S, check=False,
            stdin=subprocess.DEVNULL, env={**os.environ, **pinned},
        )  # fmt: skip
        output, code, errors = done.stdout, done.returncode, done.stderr
    except subprocess.TimeoutExpired as late:
        output, code, errors = _text(late.stdout), None, _text(late.stderr)
    lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"part":')]
    return {str(line["part"]): line for line in lines}, _ending(code, errors)


def torch(facts: dict[str, Any] | None, said: str, here: Driver | None) -> Finding:
    """Judge that torch loads, and that it was built for a CUDA that the driver supports."""
    check = "torch"
    if facts is None:
        return fail(check, f"torch does not load: {said}", REINSTALL)
    if here is None:
        built = " (built for CUDA, and there is no device)" if facts["cuda"] else ""
        return ok(check, f"torch {facts['version']}{built}")
    return against(facts, here)


def against(facts: dict[str, Any], here: Driver) -> Finding:
    """Compare the CUDA that torch was built for with the newest that the driver supports."""
    check, name, built = "torch", f"torch {facts['version']}", facts["cuda"]
    most = f"{here.cuda[0]}.{here.cuda[1]}"
    if built is None:
        fix = f"Install a build of torch for CUDA {most} or older, from the index that pytorch.org names for it."
        return fail(check, f"{name} was built for the CPU, and this machine has a GPU", fix)
    needs = tuple(map(int, str(built).split(".")[:2]))
    fix = f"Update the driver, or install a build of torch for CUDA {most} or older."
    if needs[0] > here.cuda[0]:
        return fail(check, f"{name} needs CUDA {built}; driver {here.version} supports up to {most}", fix)
    if not facts["cuda_usable"]:
        found = f"{name} can't use the GPU: {facts['said'] or 'no reason given'}"
        return fail(check, found, f"{fix} Look at CUDA_VISIBLE_DEVICES, too.")
    if needs > here.cuda:
        found = f"{name} is of CUDA {built}, the driver of {most}: kernels that are compiled late may fail"
        return warn(check, found, fix)
    return ok(check, f"{name}, CUDA {built}; the driver supports up to {most}")


def dtype(facts: dict[str, Any] | None, said: str) -> Finding:
    """Report the dtype that jobs compute in on this machine, with the reason."""
    check = "dtype"
    if facts is None:
        return fail(check, f"torch can't tell what the device computes in: {said}", REINSTALL)
    chosen = str(facts["dtype"])
    if facts["device"] == "cpu":
        return ok(check, f"{chosen} on {facts['name']}: {CPU_WHY[bool(facts['cpu_bf16'])]}")
    capability = str(facts["capability"])
    if f"sm_{capability.replace('.', '')}" not in facts["built_for"]:
        fix = "Run `celora doctor --gpu`; if it fails, install a build of torch that names this capability."
        return warn(check, f"{facts['name']} has compute capability {capability}, which torch was not built for", fix)
    why = "bf16 from 8.0 up" if chosen == "bfloat16" else "bf16 only from 8.0 up"
    return ok(check, f"{chosen} on {facts['name']}: compute capability {capability}, {why}")


def nf4(facts: dict[str, Any] | None, said: str) -> Finding:
    """Judge the error of a matrix that bitsandbytes quantized to NF4 and back."""
    check = "bitsandbytes"
    if facts is None:
        return fail(check, f"NF4 there and back did not work: {said}", REINSTALL)
    error = float(facts["error"])
    if not LEAST_ERROR < error < MOST_ERROR:
        found = f"NF4 there and back changed the weights by {error:.1%}, and about 9 % is right"
        return fail(check, found, REINSTALL)
    return ok(check, f"bitsandbytes {facts['version']}: NF4 there and back on {facts['device']}, error {error:.1%}")


def _driver() -> Driver | None:
    try:
        return driver()
    except CeloraError:  # the check of the devices reports it
        return None


def _ending(code: int | None, errors: str) -> str:
    if code == 0:
        return ""
    if code is None:
        return f"it gave no answer within {WITHIN_S:.0f} s"
    if code < 0:
        return f"the process was ended by signal {-code}"
    return next((line.strip()[:300] for line in reversed(errors.splitlines()) if line.strip()), f"exit code {code}")


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
