"""Why a job waits, in words that tell what to do about it."""

from collections.abc import Mapping, Sequence

GIB = 2**30


def quota(tenant: str, limit: int) -> str:
    """The tenant holds as many slots as it may."""
    return f"tenant {tenant} holds all {limit} of its GPU slots (max_gpus_per_tenant)"


def nothing_fits(memory_bytes: int | None, online: Mapping[str, int], out: Sequence[str] = ()) -> str:
    """No device that is online and takes work has the memory."""
    if not online:
        if out:
            return f"no GPU worker takes work: {'; '.join(out)}"
        return "no GPU worker is online; start one with `celery -A celora.workers worker --gpu 0` or `celora node`"
    largest = max(online, key=lambda name: online[name])
    need = f"{(memory_bytes or 0) / GIB:.1f} GiB"
    return f"needs about {need} of device memory; the largest online is {largest} with {online[largest] / GIB:.0f} GiB"


def busy(gpu_type: str | None, *, total: int, used: int, ahead: int, out: Sequence[str] = ()) -> str:
    """Every slot of the type is taken, or no worker of it is online and takes work."""
    if not total:
        if out:
            return f"no {gpu_type or 'prep'} worker takes work: {'; '.join(out)}"
        if gpu_type is None:
            return "no prep worker is online; start one with `celora node`"
        return (
            f"no worker of type {gpu_type} is online; start one with `celery -A celora.workers worker --gpu 0` "
            "on such a machine"
        )
    what = "prep" if gpu_type is None else f"gpu.{gpu_type}"
    line = f"{ahead} {'job' if ahead == 1 else 'jobs'} ahead" if ahead else "next in line"
    return f"all {total} {what} slots are taken ({used} in use); {line}"


def paused(job_id: str) -> str:
    """A person paused it."""
    return f"paused; `celora resume {job_id}` lets it go on"


def held_back(wait_s: float, faults: Mapping[str, int]) -> str:
    """It failed a moment ago and is tried again in a while."""
    told = ", ".join(f"{code} x{count}" for code, count in faults.items())
    return f"tried again in {max(1, round(wait_s))} s" + (f" (so far: {told})" if told else "")
