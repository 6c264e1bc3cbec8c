"""Defines the messages between a worker and a resident trainer host; this module is the protocol's specification.

A *trainer host* is one process a device that keeps a loaded base between jobs:

    python -m celora.tuning.trainer --serve SOCKET --owner PID[:START] --idle-s SECONDS --threads N --device cpu

**Process.** ``--owner`` names the process whose end also ends the host; ``START`` is field 22 of its
``/proc/PID/stat`` and guards against a process id that was used again. The program takes its standard output and error
as the host's log. It serves one environment, that of its start, and requests of one number of ``threads``, for which
its caller has set ``OMP_NUM_THREADS``. A small process starts first: it holds the lock ``lock_path`` for its whole
life, forks the host before any library is imported, waits for the host's end and then writes an ``ExitReport`` to
``exit_path``. If another process holds the lock already, the program ends with the exit code 0: its caller connects to
the other host. The socket appears only when connections are taken, has the mode 600, and is removed before the lock is
free. SIGTERM drains all runs and ends the host with the exit code 0. The host ends by itself after the idle time, at
the end of its owner, and with ``EXIT_BROKEN`` after an error of the device or a lack of memory, which no later run may
inherit.

**Connection.** A unix stream socket with one JSON object a line; one connection carries one run.

1. The host sends a ``Greeting``. A client that differs in ``host`` (the version of this protocol) or in a library sends
   ``Leave`` and starts another host on another socket; a client that only asks for the state closes the connection.
2. The client sends an ``Opening`` with exactly one descriptor (``SCM_RIGHTS``), the job's log, which is written with
   ``O_APPEND``. Then it sends a request line of ``tuning/protocol.py``.
3. The host answers with ``Refused`` and closes the connection, or with exactly the event lines of a trainer process.
   While a run waits for another one, the host sends for it the event ``phase`` with the words ``WAITING`` every
   ``WAITING_S`` seconds; ``Refused`` may still follow. A host of several slots adds ``device_s`` to ``phase`` and
   ``progress``, the seconds of the device that are the run's, and sends the last number after the run's ending.
4. The client may send a ``Control`` at any time after the request. A control of another job or attempt than the
   connection's is ignored.
5. The host's last line is a ``Final``. Its exit code is that of a trainer process: 0 done, 75 drained, the code of the
   error otherwise.

A connection that ends before the greeting met a host that was about to end: the client connects again, or starts one.
The end of file from the client means that its supervisor is gone: the run is checkpointed at the next step boundary and
forgotten. The end of file from the host without a ``Final`` means that the host died: ``exit_path`` of the greeting's
generation has the exit code, and the runs that were inside.

**Admission.** ``refusal`` (``host_admission.py``) decides about a request, for both sides; a refused run gets a process
of its own.

**Slots.** With ``--slots N`` up to N runs are inside at one time and take turns, from step to step. The first one in
the line enters when it may be beside those inside (``may_join``, ``host_admission.py``): the same base, the same tenant
(unless both permit others), and memory for it beside the base and the runs. Nobody overtakes it.

A client whose first line is ``Leave`` ends the host as soon as no run is inside. ``DropBase`` frees the memory of the
base if no run is inside. The host confirms both by closing the connection.

No torch here: both sides import this module. A path of a socket may be longer than the 107 bytes of an address;
``storage/unix_socket.py`` shortens it.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

HOST_PROTOCOL = 1
EXIT_BROKEN = 71
"""Exit code of a host that ends because its device or its memory failed (os.EX_OSERR)."""
WAITING = "waiting for its turn"
"""Phase of a run that waits for another run of the same host."""
WAITING_S = 5.0
OVER = "left the device"
"""Phase of a run that has ended, with its last ``device_s``."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Resident(_Message):
    """Describes the base that a host holds in memory.

    Attributes:
        base: The name of the base, as ``protocol.Base`` has it.
        revision: The revision of the base, which names its weights.
        quantization: ``nf4`` or ``none``.
        compute_dtype: The compute dtype of the loaded model.
        memory_bytes: Bytes of the model's tensors.
        runs: Runs that used the base since it was loaded.
        loaded_at: Time of the load, seconds of the epoch.
    """

    base: str
    revision: str
    quantization: Literal["nf4", "none"]
    compute_dtype: str
    memory_bytes: int
    runs: int
    loaded_at: float


class Greeting(_Message):
    """Opens a connection from the host's side."""

    host: int = Field(default=HOST_PROTOCOL, description="version of this protocol")
    generation: str = Field(description="names this process among all hosts of the socket")
    pid: int = Field(description="process id of the host, in the host's own process namespace")
    versions: dict[str, str] = Field(description="celora, and the libraries that shape results")
    device: Literal["cpu", "cuda"]
    threads: int = Field(description="CPU threads of its arithmetic; 0: a thread a core")
    started_at: float = Field(description="seconds of the epoch")
    memory_bytes: int = Field(description="memory that the process holds on its device: resident set, or CUDA's")
    resident: Resident | None = None
    tensors: int = Field(0, description="live tensors after the last run, which the collector of Python knows")
    runs: list[str] = Field(default_factory=list, description="runs inside and waiting, as ``run_name`` names them")


class Opening(_Message):
    """Opens a run; the message carries the descriptor of the job's log."""

    op: Literal["open"] = "open"
    tenant: str = Field("", description="whose job it is; between tenants all but the base is dropped")
    exclusive: bool = Field(default=False, description="the job asked to share its process with no other")
    between_tenants: bool = Field(default=False, description="whether runs of other tenants may be inside with it")
    weight: float = Field(default=1.0, gt=0, description="weight of the run where several take turns")
    memory_bytes: int = Field(
        default=0, description="estimate of its device memory, base included; 0: its part of the device"
    )
    variables: list[str] = Field(
        default_factory=list, description="names of environment variables that the job has of its own"
    )


class Leave(_Message):
    """Asks the host to end as soon as no run is inside, and to take no other run."""

    op: Literal["leave"] = "leave"


class DropBase(_Message):
    """Asks the host to free the memory of its base, if no run is inside."""

    op: Literal["drop_base"] = "drop_base"


class Control(_Message):
    """Tells the host something about the connection's run.

    Attributes:
        op: ``drain`` and ``cancel`` end the run at the next step boundary, after a checkpoint; ``kept`` confirms that
            the checkpoint of a step is stored; ``stacks`` writes the stacks of all threads to the job's log.
        job: The job's id.
        attempt: The attempt's number: a late line of a fenced attempt must not reach its successor.
        step: The step of ``kept``.
    """

    op: Literal["drain", "cancel", "kept", "stacks"]
    job: str
    attempt: int
    step: int = 0


Reason = Literal["base", "device", "exclusive", "leaving", "operation", "remote_code", "secrets", "threads", "trackers"]


class Refused(_Message):
    """Ends a connection before its run has begun; the client starts a trainer process instead.

    Attributes:
        refused: ``operation``: only train, evaluate and generate run in a host. ``secrets``: the job has environment
            variables of its own. ``trackers``: it reports to a tracker, which writes to the environment.
            ``remote_code``: its base may bring code of its own. ``exclusive``: it asked for a process. ``threads``,
            ``device``: it needs others than this host's. ``base``: the cache lacks files of its base; a host downloads
            nothing. ``leaving``: the host ends.
        message: The reason in words.
    """

    refused: Reason
    message: str


class Final(_Message):
    """Ends the answer to a run."""

    exit: int
    resident: Resident | None = Field(default=None, description="the base that the host holds after the run")


class ExitReport(_Message):
    """Reports the end of a host to processes that are not its parent.

    Attributes:
        generation: The host's generation.
        code: The exit code; None after a signal.
        signal: The signal that ended the host; None after an exit.
        oom_kills: Processes that the kernel killed in this control group for lack of memory while the host lived.
        runs: The runs that were inside at the end (``run_name``).
    """

    generation: str
    code: int | None
    signal: int | None
    oom_kills: int = 0
    runs: list[str] = Field(default_factory=list)


First = Annotated[Opening | Leave | DropBase, Field(discriminator="op")]
_first: TypeAdapter[First] = TypeAdapter(First)


def parse_first(line: bytes) -> First:
    """Parse the first line of a client; raises pydantic's ValidationError where it is none."""
    return _first.validate_json(line)


def line_of(message: BaseModel) -> bytes:
    """Write a message as a line."""
    return message.model_dump_json().encode() + b"\n"


def run_name(job: str, attempt: int) -> str:
    """Return the name of a run in ``Greeting.runs`` and ``ExitReport.runs``."""
    return f"{job}:{attempt}"


def lock_path(socket: Path) -> Path:
    """Return the file whose exclusive flock is held while a host of the socket lives."""
    return socket.with_suffix(".lock")


def exit_path(socket: Path, generation: str) -> Path:
    """Return the file in which a generation's ``ExitReport`` is written after its end; a day later it is removed."""
    return socket.with_suffix(f".{generation}.exit")


def owner_argument(pid: int | None = None) -> str:
    """Return the value of ``--owner`` for a process, by default the calling one."""
    pid = os.getpid() if pid is None else pid
    return f"{pid}:{start_of(pid)}"


def start_of(pid: int) -> int:
    """Return the start of a process in clock ticks since the boot; 0 where the system has no ``/proc``."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[19])
