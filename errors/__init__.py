"""Defines the errors that celora raises on purpose: one root, a small tree.

    CeloraError                  anything we can explain
      SettingsError              a setting or a job spec is wrong            (exit 64)
      DataError                  a dataset is wrong, missing or unreadable   (exit 65)
        LimitError               it asks for more memory, time or room than it may have
      BaseModelError             a base model is missing, gated or refused   (exit 69)
        BadBaseError             a file of it is malformed or of the wrong kind
      StorageError               bytes could not be written or read          (exit 74)
        DiskFullError            no space left                               (exit 73)
          RecordFullError        the record's disk; also an UnavailableError, since it may be written later
      UnavailableError           broker, database or extra is not there      (exit 69)
      NotFoundError              no such job, adapter, worker                (exit 66)
      RequestError               a request over HTTP is refused              (exit 64)
      AccessError                a key is missing, invalid, or may not do it (exit 77)
      TenantLimitError           the tenant has reached one of its limits    (exit 77)
      TrainingError              the training itself went wrong              (exit 70)
        NonFiniteError           a loss or gradient is NaN or infinite
        DivergedError            the loss has grown far above where it began
        OutOfMemoryError         the device ran out of memory
        HostMemoryError          the machine ran out of memory
        DeviceError              the GPU or its driver failed
      VerificationError          the finished adapter failed its check       (exit 70)

The module stands on the ground floor because every room raises its errors. A message says what is wrong and where; the
hint says what to do next. ``code`` is the stable word that programs may match on.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class CeloraError(Exception):
    """The root of all errors that celora can explain in a sentence.

    Args:
        message: The fault and its place, one sentence.
        hint: The next step: the command, the setting, the line.
        facts: The numbers behind the message, JSON-able, for programs that decide by them.
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


class AccessError(CeloraError):
    """A key is missing, unknown, revoked or expired, or lacks the scope."""

    code = "access"
    exit_code = 77


class TenantLimitError(CeloraError):
    """The tenant has reached one of its limits; the facts hold the limit and the numbers."""

    code = "tenant_limit"
    exit_code = 77


class BaseModelError(CeloraError):
    """A base model is missing, gated or refused."""

    code = "base_model"
    exit_code = 69


class BadBaseError(BaseModelError):
    """A file of a base model is malformed, of the wrong kind, or too large."""

    code = "bad_base"


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


class RecordFullError(DiskFullError, UnavailableError):
    """No space left for the record: code that waits for an unavailable record waits for this one, too."""


class RequestError(CeloraError):
    """A request over HTTP is refused.

    Args:
        message: The fault and its place; the clients of the API show this sentence alone.
        reason: The stable word that programs match on, the ``code`` of the answer.
        param: The dotted name of the field that is wrong, if one is.
        status: The HTTP status.
        headers: Further headers of the answer.
    """

    code = "bad_request"
    exit_code = 64

    def __init__(
        self,
        message: str,
        *,
        reason: str = "invalid_value",
        param: str | None = None,
        status: int = 400,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.reason, self.param, self.status = reason, param, status
        self.headers = dict(headers or {})
        super().__init__(message)


class TrainingError(CeloraError):
    """The training itself went wrong."""

    code = "training"


class NonFiniteError(TrainingError):
    """A loss or a gradient is NaN or infinite; the same settings would fail again."""

    code = "non_finite_loss"


class DivergedError(TrainingError):
    """The loss has grown far above its first values; the same settings would diverge again."""

    code = "diverged"


class OutOfMemoryError(TrainingError):
    """The device ran out of memory; the facts hold the settings and the memory in use."""

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
    """Return the error class of a code, the root where no class has it; a class that inherits the code is skipped."""
    kinds: list[type[CeloraError]] = [CeloraError]
    while kinds:
        kind = kinds.pop()
        if vars(kind).get("code") == code:
            return kind
        kinds += kind.__subclasses__()
    return CeloraError


def did_you_mean(word: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6, otherwise: str = ".") -> str:
    """End a sentence about an unknown name with the known names that are spelled nearly like it.

    Upper and lower case, ``_`` and ``-`` are alike.

    Args:
        word: The unknown name.
        known: The names that exist.
        most: The largest number of names that the sentence may offer.
        cutoff: The least similarity, 0 to 1, as ``difflib`` measures it.
        otherwise: The end of the sentence where no name is near.

    Example:
        ``"there is no champion suport" + did_you_mean("suport", ["support"])`` ends in ``; did you mean support?``
    """
    near = nearest(word, known, most=most, cutoff=cutoff)
    return f"; did you mean {' or '.join(near)}?" if near else otherwise


def nearest(word: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """List known names that are spelled nearly like a word, the nearest first; the arguments are ``did_you_mean``'s."""
    by_plain = {_plain(name): name for name in known}
    return [by_plain[name] for name in difflib.get_close_matches(_plain(word), by_plain, n=most, cutoff=cutoff)]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
