"""Plans the jobs of another service anew: the base, the spec and the price of each; and writes the plan as a table."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..api.client.base_table import BaseTable
from ..api.client.openai_source import SourceJob
from ..storage.json_values import JsonObject
from .output import ABSENT, duration, money

SUCCEEDED = "succeeded"
METHODS = {"supervised": "sft", "dpo": "dpo"}
MOST_SEED = 2**31 - 1
CPU = "cpu"
COLUMNS = ("job there", "model there", "status", "tokens there", "base here", "rows", "tokens here", "device", "time",
           "cost", "job here", "remark")  # fmt: skip


@dataclass(kw_only=True)
class Planned:
    """A job of the other service, and what becomes of it here.

    Attributes:
        source: The job there.
        base: The base here; None where the table has none.
        fields: The spec of the new job, without its files.
        files: The files by role, train and eval: name, size and SHA-256.
        rows: Rows that are trained on.
        trained_tokens: Tokens that carry loss, over all epochs.
        device: The cheapest type of GPU that fits, else the CPU.
        seconds: The time of training and evaluation there.
        cost: Its cost.
        job_id: The new job; None until it is submitted.
        remark: The reason why the job is not done again, or something to know.
        failed: True if the job should be done again and cannot be.
    """

    source: SourceJob
    base: str | None
    fields: JsonObject = field(default_factory=dict[str, Any])
    files: dict[str, JsonObject] = field(default_factory=dict[str, JsonObject])
    rows: int | None = None
    trained_tokens: int | None = None
    device: str | None = None
    seconds: float | None = None
    cost: float | None = None
    job_id: str | None = None
    remark: str = ""
    failed: bool = False

    @property
    def wanted(self) -> bool:
        """True if the job is to be done again."""
        return bool(self.fields) and not self.failed

    def refuse(self, why: str) -> None:
        """Record why the job cannot be done again."""
        self.remark, self.failed = why, True

    def price(self, receipt: JsonObject) -> None:
        """Take rows, tokens, time and cost from a receipt."""
        estimate: JsonObject = receipt["estimate"]
        epoch: JsonObject = estimate["epoch"]
        self.rows, self.trained_tokens = epoch["examples"], round(epoch["trained_tokens"] * epoch["epochs"])
        fitting: list[JsonObject] = [device for device in estimate["devices"] if device["fits"]]
        if not fitting:
            self.refuse("it fits on no type of device; see `celora check`.")
            return
        chosen = min(fitting, key=lambda device: (device["name"] == CPU, _cost(device)))
        self.device, self.cost = str(chosen["name"]), _cost(chosen)
        self.seconds = chosen["train_s"] + chosen["evaluate_s"]

    def plain(self) -> JsonObject:
        """Return the entry as plain data, ``before`` and ``after``."""
        after = {name: value for name, value in asdict(self).items() if name not in ("source", "failed")}
        return {"before": self.source.model_dump(), "after": after, "failed": self.failed}

    def cells(self) -> tuple[Any, ...]:
        """Return the row of the table."""
        source = self.source
        return (
            source.id, source.model, source.status, source.trained_tokens, self.base, self.rows, self.trained_tokens,
            self.device, duration(self.seconds), money(self.cost), self.job_id, self.remark,
        )  # fmt: skip


def plan(job: SourceJob, table: BaseTable) -> Planned:
    """Plan a job anew: its base, and its settings as far as both services have them.

    ``batch_size`` and ``learning_rate_multiplier`` are left out: another model was trained with them.
    """
    planned = Planned(source=job, base=table.find(job.model))
    if job.status != SUCCEEDED:
        planned.remark = f"its status there is {job.status}"
    elif job.method not in METHODS:
        planned.refuse(f"the method {job.method} is not offered here.")
    elif planned.base is None:
        planned.refuse(f"the table has no base for {job.model}: add a line, --bases TABLE.")
    else:
        planned.fields = _fields(job, planned.base)
        if job.model.startswith("ft:"):
            planned.remark = "it went on from a trained model there; here it starts from the base"
    return planned


def _fields(job: SourceJob, base: str) -> JsonObject:
    asked = job.hyperparameters
    fields: JsonObject = {"base_model": base, "eval_fraction": 0.0, "epoch_checkpoints": True, "suffix": _suffix(job)}
    fields |= {"epochs": asked.n_epochs, "metadata": job.metadata, "method": METHODS[job.method]}
    fields |= {"beta": asked.beta if job.method == "dpo" else None}
    fields |= {"seed": job.seed if job.seed is not None and 0 <= job.seed <= MOST_SEED else None}
    return {name: value for name, value in fields.items() if value not in (None, "auto", "", {})}


def _suffix(job: SourceJob) -> str:
    """Return the suffix that the user gave, or else the one in the trained model's id."""
    parts = (job.fine_tuned_model or "").split(":")
    return job.suffix or (parts[3] if len(parts) == 5 else "")  # noqa: PLR2004  (ft:base:owner:suffix:tail)


def _cost(device: JsonObject) -> float:
    return device["train_cost"] + device["evaluate_cost"]


def write_table(rows: list[Planned], folder: Path) -> tuple[Path, Path]:
    """Write the table for people (Markdown) and for programs (JSON); return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(map(_cell, row.cells())) + " |" for row in rows]
    people, programs = folder / "before-after.md", folder / "before-after.json"
    people.write_text("# Before and after\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    programs.write_text(json.dumps([row.plain() for row in rows], indent=1) + "\n", encoding="utf-8")
    return people, programs


def _cell(value: Any) -> str:
    """Return a value as a cell of Markdown, in which no text of another service has a meaning."""
    if value is None or value == "":
        return ABSENT
    text = f"{value:,}" if isinstance(value, int) else " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\|<>[]`*_" else letter for letter in text)
