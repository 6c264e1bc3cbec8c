"""The errors that celora raises on purpose: one root, a small tree.

    CeloraError                  anything we can explain
      SettingsError              a setting or a job spec is wrong            (exit 64)
      DataError                  a dataset is wrong, missing or unreadable   (exit 65)
        LimitError               it asks for more memory, time or room than it may have
      BaseModelError             a base model is missing, gated or refused   (exit 69)
      StorageError               bytes could not be written or read          (exit 74)
        DiskFullError            no space left                               (exit 73)
      UnavailableError           broker, database or extra is not there      (exit 69)
      NotFoundError              no such job, adapter, worker                (exit 66)
      TrainingError              the training itself went wrong              (exit 70)
        NonFiniteError           a loss or gradient is NaN or infinite
        DivergedError            the loss has grown far above where it began
        OutOfMemoryError         the device ran out of memory
        HostMemoryError          the machine ran out of memory
        DeviceError              the GPU or its driver failed
      VerificationError          the finished adapter failed its check       (exit 70)

It stands on the ground floor because every room raises from it. A message says what is wrong and where; the hint
says what to do next. ``code`` is the stable word that programs may match on.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class CeloraError(Exception):
    """Anything that celora can explain in a sentence.

    Args:
        message: What is wrong and where, one sentence.
        hint: What to do next: the command, the setting, the line.
        facts: The numbers behind it, JSON-able, for programs that decide by them.
    """

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "", facts: Mapping[str, Any] | None = None) -> None:
        self.message = message
        self.hint = hint
        self.facts = dict(facts or {})
        super().__init__(message if not hint else f"{message} {hint}")


class SettingsError(CeloraError):
    """A setting or a job spec is wrong."""

    code = "bad_settings"
    exit_code = 64


class DataError(CeloraError):
    """A dataset is wrong, missing or unreadable."""

    code = "bad_data"
    exit_code = 65


class LimitError(DataError):
    """Reading or preparing a dataset asks for more memory, time or room than the installation gives it."""

    code = "data_limit"


class NotFoundError(CeloraError):
    """No such job, adapter or worker."""

    code = "not_found"
    exit_code = 66


class BaseModelError(CeloraError):
    """A base model is missing, gated or refused."""

    code = "base_model"
    exit_code = 69


class UnavailableError(CeloraError):
    """The broker, the database or an optional part is not there."""

    code = "unavailable"
    exit_code = 69


class StorageError(CeloraError):
    """Bytes could not be written or read back whole."""

    code = "storage"
    exit_code = 74


class DiskFullError(StorageError):
    """No space left where bytes had to go."""

    code = "disk_full"
    exit_code = 73


class TrainingError(CeloraError):
    """The training itself went wrong."""

    code = "training"


class NonFiniteError(TrainingError):
    """A loss or a gradient is NaN or infinite; the same settings would fail again."""

    code = "non_finite_loss"


class DivergedError(TrainingError):
    """The loss has grown far above where it began; the same settings would do so again."""

    code = "diverged"


class OutOfMemoryError(TrainingError):
    """The device ran out of memory; its facts say with which settings, and how full it was."""

    code = "out_of_memory"


class HostMemoryError(TrainingError):
    """The machine ran out of memory."""

    code = "host_out_of_memory"


class DeviceError(TrainingError):
    """The GPU or its driver failed; the process cannot use it any more."""

    code = "device"


class VerificationError(CeloraError):
    """The finished adapter failed its check; nothing is published."""

    code = "verification"


def of_code(code: str) -> type[CeloraError]:
    """The error of a stable word, the root where there is none; never one that inherits its word from a parent."""
    kinds: list[type[CeloraError]] = [CeloraError]
    while kinds:
        kind = kinds.pop()
        if vars(kind).get("code") == code:
            return kind
        kinds += kind.__subclasses__()
    return CeloraError
