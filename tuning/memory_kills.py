"""Counts the processes that the kernel ended for lack of memory, as the control group of this process knows them."""

from pathlib import Path


def oom_kills(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the processes of this control group that the kernel's memory limit has ended; 0 where that is unknown."""
    for name in ("memory.events", "memory/memory.oom_control"):
        for folder in _groups(root):
            try:
                lines = (folder / name).read_text(encoding="ascii").splitlines()
            except OSError:
                continue
            counts = dict(line.split(maxsplit=1) for line in lines if " " in line)
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0


def _groups(root: Path) -> list[Path]:
    """List the folders of this process's control group and of the root that a container sees as its own."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return [root]
    own = [root / line.rpartition(":")[2].lstrip("/") for line in lines if line.startswith("0::")]
    return [*own, root]
