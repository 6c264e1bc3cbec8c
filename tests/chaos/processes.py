"""Processes as the kernel shows them (/proc): who belongs to an installation, who is a trainer, whose child it is."""

import os
from dataclasses import dataclass
from pathlib import Path

TRAINERS = (b"mini_trainer.py", b"celora.tuning.trainer")


@dataclass(frozen=True)
class Process:
    """One process at one moment."""

    pid: int
    parent: int
    state: str
    command: bytes

    @property
    def is_trainer(self):
        return any(name in self.command for name in TRAINERS)


def processes_of(home):
    """Every live process with this CELORA_HOME in its environment, ourselves and zombies aside."""
    wanted = f"CELORA_HOME={home}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                process = look(int(folder.name))
                if process is not None and process.state != "Z":
                    found.append(process)
        except OSError:
            continue  # gone meanwhile, or not ours to see
    return found


def look(pid):
    """A process by its number; None where it is gone."""
    folder = Path("/proc") / str(pid)
    try:
        state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
        return Process(pid, int(parent), state, (folder / "cmdline").read_bytes())
    except OSError:
        return None


def trainers_of(home):
    """The trainers of an installation."""
    return [process for process in processes_of(home) if process.is_trainer]


def descends_from(process, ancestor):
    """Whether a process is below another one now."""
    while process is not None and process.parent > 1:
        if process.parent == ancestor:
            return True
        process = look(process.parent)
    return False
