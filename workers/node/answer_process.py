"""Builds the command and the environment of the answer host, which answers chats for trying models out.

A host of ``celora up`` stays: until its first request it is a bare Python process, and after its idle time it is
started anew. Its environment holds no secret, and it downloads nothing.
"""

import os
import sys
from pathlib import Path

from ...settings.settings import Settings
from ..trainer.environment import inherited, of_its_threads

PROGRAM = ("-m", "celora.tuning.answering")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
NAME = "answer-host"
LEAST_IDLE_S = 1.0


def socket_of(settings: Settings) -> Path:
    """Return the socket of the answer host of an installation."""
    return settings.home / "run" / "answer.sock"


def log_of(settings: Settings) -> Path:
    """Return the log of the answer host."""
    return settings.logs / f"{NAME}.log"


def arguments_of(settings: Settings, *, stay: bool) -> list[str]:
    """Build the arguments after Python; the folder of the socket is made.

    Args:
        settings: Settings of the installation.
        stay: Wait for the first chat without an end, as a supervised process.
    """
    socket = socket_of(settings)
    socket.parent.mkdir(parents=True, exist_ok=True)
    places = ["--socket", str(socket), "--cache", str(settings.cache), "--device", settings.answer_device]
    idle = ["--idle-s", str(settings.warm_s or LEAST_IDLE_S)]
    return [*PROGRAM, *places, *idle, *(["--stay"] if stay else [])]


def environment_of(settings: Settings) -> dict[str, str]:
    """Build the whole environment of the host."""
    device = {} if settings.answer_device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    return {**inherited(), **of_its_threads(_threads(settings)), **OFFLINE, **device}


def starts_here(settings: Settings) -> bool:
    """Return whether chats are answered on this machine at all: by its settings, and on a system with such sockets."""
    return settings.answer_bytes > 0 and sys.platform == "linux"


def _threads(settings: Settings) -> int:
    """Return the CPU threads of the host: the operator's number, else that of its environment or a thread a core."""
    return 0 if os.environ.get("OMP_NUM_THREADS") else settings.trainer_threads
