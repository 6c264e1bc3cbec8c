"""Words texts for the tenant that owns a job: a failure, a warning, an event, the end of a log.

celora's sentences are written for the operator: they name folders, machines, settings and commands. This module is the
one place that makes a tenant's sentence of them. The sentence of a failure that the operator must mend (a full disk, a
lost machine) is replaced as a whole, by its code. Of any other sentence the tenant's own matters stay, a line of its
file or a field of its job, and the names that are the operator's are replaced by their kind. A step that only an
operator can take is left out of a hint. A path that holds a blank is known as one only between quotes.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import CeloraError
from ...tuning.files.suffixes import SUFFIXES

PRODUCT = ("can", "could", "did", "does", "first", "has", "is", "keeps", "knows", "makes", "maps", "may", "must", "or",
           "quantizes", "reads", "runs", "speaks", "version", "was", "will", "writes")  # fmt: skip
"""Words that follow ``celora`` where it is the product; before any other word it is taken for a command."""
FILES = (*SUFFIXES, ".gz", ".json", ".safetensors", ".gguf", ".model", ".txt", ".jinja")
"""Suffixes of the files whose names a tenant may read, since it named or knows them; names of folders are left out."""
FOLDER, ADDRESS, MACHINE, SETTING, COMMAND = (
    "a folder of the service", "an address of the service", "a machine of the service", "a setting of the service",
    "a command of the operator",
)  # fmt: skip

OPERATORS: Mapping[str, str] = {
    "training": "the training failed on the server, for a cause that is not in the data or in the settings of the job.",
    "host_out_of_memory": "the machine that worked on the job ran out of memory.",
    "device": "the device that worked on the job failed.",
    "stalled": "the job made no progress for too long, and was stopped.",
    "killed": "the work on the job was ended from outside.",
    "storage": "the storage of the service failed.",
    "disk_full": "the storage of the service is full.",
    "unavailable": "a part of the service could not be reached.",
    "internal": "the service failed.",
    "worker_lost": "the machine that worked on the job was lost.",
    "host_lost": "the process that the job shared with others was lost.",
    "preempted": "the job made room for another one.",
}
"""The sentences of failures that the operator must mend, by code; their own words are for the operator."""
TENANTS = frozenset({
    "bad_settings", "bad_data", "data_limit", "base_model", "bad_base", "access", "tenant_limit", "bad_request",
    "not_found", "non_finite_loss", "diverged", "out_of_memory", "verification", "time_limit",
})  # fmt: skip
"""Codes of failures whose own sentence a tenant reads, without the operator's names."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as the job's tenant reads it.

    Attributes:
        code: The stable word.
        message: The fault and its place.
        hint: The next step that the tenant itself can take; empty if there is none.
    """

    code: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


def failure(code: str, message: str, hint: str, names: Collection[str] = ()) -> Failure:
    """Word a failure for a tenant.

    Args:
        code: The stable word; an unknown one counts as a fault of the service.
        message: The operator's sentence.
        hint: The operator's next step.
        names: Names of machines that the texts may hold.
    """
    if code in TENANTS:
        return Failure(code, text(message, names), hint_of(hint, names))
    return Failure(code, OPERATORS.get(code, OPERATORS["internal"]), "")


def failure_of(error: CeloraError) -> Failure:
    """Word an error for the tenant whose request raised it."""
    return failure(error.code, error.message, error.hint)


def text(words: str, names: Collection[str] = ()) -> str:
    """Replace the operator's names in a text by their kinds; the names of data files stay.

    Args:
        words: The text.
        names: Names of machines that the text may hold; others are known by their form.

    Example:
        ``/srv/artifacts/datasets/3f/data.jsonl, line 2`` becomes ``data.jsonl, line 2``.
    """
    for name in sorted(filter(None, names), key=len, reverse=True):
        words = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", MACHINE, words)
    for pattern, replaced in _PATTERNS:
        words = pattern.sub(replaced, words)
    return words


def hint_of(words: str, names: Collection[str] = ()) -> str:
    """Return the parts of a hint that name nothing of the operator's; a sentence ends before its first such part.

    Example:
        ``Split it, or let an operator raise CELORA_PREPARE_FILE_BYTES.`` becomes ``Split it.``
    """
    kept: list[str] = []
    for sentence in re.split(r"(?<=[.;?!])\s+", words.strip()):
        parts = re.split(r"(, (?:or|and) |; )", sentence)
        plain: list[str] = []
        for part in parts:
            if "operator" in part or text(part, names) != part:
                break
            plain.append(part)
        ended = len(plain) == len(parts)
        said = "".join(plain if ended or len(plain) % 2 else plain[:-1]).strip()
        kept += [said if ended else f"{said.rstrip('.')}."] if said else []
    told = " ".join(kept)
    return f"{told[:-1]}." if told.endswith(";") else told


def data(value: Any, names: Collection[str] = ()) -> Any:
    """Word every text in JSON-able data for a tenant; the keys of objects stay."""
    if isinstance(value, str):
        return text(value, names)
    if isinstance(value, Mapping):
        return {key: data(one, names) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [data(one, names) for one in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _file_or(kind: str, path: str) -> str:
    """Return the name of the data file at the end of a path, with the punctuation that follows the path."""
    bare = path.rstrip(".,:;?!)]}")
    name = bare.rstrip("/").rsplit("/", 1)[-1]
    return (name if name.lower().endswith(FILES) else kind) + path[len(bare) :]


def _path(found: re.Match[str]) -> str:
    return _file_or(FOLDER, found[0])


def _quoted_path(found: re.Match[str]) -> str:
    return f"{found[1]}{_file_or(FOLDER, found[2])}{found[1]}"


def _url(found: re.Match[str]) -> str:
    scheme, _, place = found[0].partition("://")
    kind = FOLDER if scheme.lower() == "file" else ADDRESS
    return _file_or(kind, f"/{place.partition('?')[0]}") if "/" in place.lstrip("/") else kind


def _host(found: re.Match[str]) -> str:
    """Keep a place in a data file, as in ``rows.jsonl:12``, which has the form of a host and its port."""
    return found[0] if found[0].rpartition(":")[0].lower().endswith(FILES) else ADDRESS


_COMMAND = rf"celora (?!(?:{'|'.join(PRODUCT)})\b)[a-z][a-z-]*|celery -A\b|pip install\b|nvidia-smi\b|dmesg\b"
_PATTERNS: tuple[tuple[re.Pattern[str], Any], ...] = (
    (re.compile(rf"`(?:{_COMMAND})[^`]*`|\b(?:{_COMMAND})[^.;,)\n]*"), COMMAND),
    (re.compile(r"\bCELOR[AY]_[A-Z0-9_]+(?:=\S+)?|\bCELERY_[A-Z_]+|\bcelora\.(?:toml|env)\b"), SETTING),
    (re.compile(r"\b(?:HF_TOKEN|max_gpus_per_tenant)\b"), SETTING),
    (re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://(?=[^\s'\"`<>]*[a-z0-9])[^\s'\"`<>]*"), _url),  # not https://HOST
    (re.compile(r"(['\"`])((?:~?/)[^'\"`\n]+)\1"), _quoted_path),
    (
        re.compile(
            r"(?<![\w<*/])(?<!:(?=//(?:[A-Z.,;)\s]|$)))(?!/v1/[a-z])(?:~|\.{1,2})?/+(?:[^\s/'\"`:;,()<>]+/)*[^\s/'\"`:;,()<>]+/?"
        ),
        _path,
    ),
    (re.compile(r"\b[A-Za-z][\w.-]*@(?!\d+\b)[\w][\w.-]*\w"), MACHINE),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[?\b[0-9a-f]{0,4}(?:::?[0-9a-f]{1,4}){3,}\]?"), ADDRESS),
    (re.compile(r"\b(?:localhost|[a-z][\w-]*(?:\.[a-z][\w-]*)*):\d{2,5}\b", re.IGNORECASE), _host),
    (re.compile(r"\b[\w-]+(?:\.[\w-]+)*\.(?:internal|local|lan|cluster|svc|corp)\b", re.IGNORECASE), ADDRESS),
)
"""The operator's names by their form, in the order of the replacement."""
