"""Writes the model card of an adapter, in the hub's README format: its origin, its measured results and its use.

The card is pure text from the facts of ``celora.json``. An unknown fact is left out, never guessed (a license above
all).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ...settings import bases
from ..protocol import Base
from .usage import modelfile, nf4_snippet, python_snippet

MEASURES = {
    "eval_loss": ("eval loss", "{:.4f}"),
    "perplexity": ("perplexity", "{:.3f}"),
    "exact_match": ("exact match", "{:.3f}"),
    "exact_match_raw": ("exact match, scaffold included", "{:.3f}"),
    "tool_name": ("right tool", "{:.3f}"),
    "tool_arguments": ("right arguments", "{:.3f}"),
    "tool_over": ("calls too many", "{:.3f}"),
    "tool_under": ("calls too few", "{:.3f}"),
    "rouge_1": ("ROUGE-1", "{:.3f}"),
    "rouge_2": ("ROUGE-2", "{:.3f}"),
    "rouge_l": ("ROUGE-L", "{:.3f}"),
    "bleu": ("BLEU", "{:.2f}"),
    "reward_accuracy": ("reward accuracy", "{:.3f}"),
    "reward_margin": ("reward margin", "{:.4f}"),
    "logp_accuracy": ("wanted answer likelier", "{:.3f}"),
    "logps_wanted": ("log-probability of wanted answers", "{:.2f}"),
    "logps_unwanted": ("log-probability of unwanted answers", "{:.2f}"),
    "answer_tokens": ("tokens of an answer", "{:.1f}"),
}
"""Rows of the metrics table: our name, the name for people, the format of the numbers."""

SETTINGS = (
    "method", "rank", "alpha", "dropout", "target_modules", "dora", "rslora", "quantization", "compute_dtype", "epochs",
    "max_steps", "learning_rate", "schedule", "micro_batch", "accumulation", "effective_batch", "optimizer",
    "max_length", "packing", "completion_only",
)  # fmt: skip
"""Fields of the resolved recipe that the card shows; celora.json holds all of them."""

OWN = "the base's own"


def model_card(record: Mapping[str, Any]) -> str:
    """Return the README.md of a published adapter.

    Args:
        record: The content of ``celora.json``: base, spec, resolved, data, metrics, servable, facts.
    """
    base = Base.model_validate(record["base"])
    title = record["spec"].get("suffix") or "adapter"
    sections = [
        _front_matter(base, record["metrics"]),
        f"# {title}: a LoRA adapter for {base.name}\n\nTrained with celora; `celora.json` holds every fact.",
        f"## Results\n\n{_results(record['metrics'])}{_measured_on(base, record)}",
        f"## Use it\n\n```python\n{python_snippet(base, 'PATH/OF/THIS/FOLDER')}\n```",
        f"{_serving(base, record)}{_ollama(base, record)}",
        f"## Data\n\n{_list(_data(record))}",
        f"## Settings\n\n{_list(_settings(record))}",
    ]
    facts = [(str(name), value) for name, value in record["facts"].items() if _plain(value)]
    if facts:
        sections.append(f"## Run\n\n{_list(facts)}")
    return "\n\n".join(sections) + "\n"


def _front_matter(base: Base, metrics: Mapping[str, Any]) -> str:
    entry = bases.find(base.name) if base.kind == "catalogue" else None
    head: dict[str, Any] = {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "peft", "celora"],
    }
    if base.kind == "hub":
        head |= {"base_model": base.name, "base_model_relation": "adapter"}
    if entry is not None:
        head["license"] = entry.license.lower()
    tuned = {name: value for name, value in _tuned(metrics).items() if name in MEASURES and _plain(value)}
    if tuned:
        head["metrics"] = sorted(tuned)
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _results(metrics: Mapping[str, Any]) -> str:
    sets: Mapping[str, Any] = metrics.get("sets") or {}
    if not sets:
        return "Not measured: the job had no held-out rows."
    return "\n\n".join(
        f"Held-out set `{name}`, {found['rows']} rows.\n\n{_table(found)}" for name, found in sets.items()
    )


def _measured_on(base: Base, record: Mapping[str, Any]) -> str:
    """Return on which base the figures were measured, where the lines for use load another one; else nothing."""
    resolved: Mapping[str, Any] = record["resolved"]
    if resolved.get("quantization") != "nf4" or not record["metrics"].get("sets"):
        return ""
    dtype, job = resolved.get("compute_dtype", "bfloat16"), record["facts"].get("job", "ID")
    said = (
        f"\n\nThese figures are of the base in 4 bits (NF4, computed in {dtype}), as it was trained. The lines for use "
        f"load it unquantized, and on that base the figures differ a little. `celora evaluate {job}` measures "
        f"as above, `celora evaluate {job} --serving-dtype bf16` on the base as those lines load it."
    )
    lines = nf4_snippet(base, "PATH/OF/THIS/FOLDER", dtype)
    return f"{said} Without celora, these lines load it as measured:\n\n```python\n{lines}\n```" if lines else said


def _table(found: Mapping[str, Any]) -> str:
    lines = ["| | base | tuned |", "|---|---|---|"]
    for name, (label, form) in MEASURES.items():
        if name in found["base"] or name in found["tuned"]:
            lines.append(
                f"| {label} | {_number(found['base'].get(name), form)} | {_number(found['tuned'].get(name), form)} |"
            )
    return "\n".join(lines)


def _number(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else "-"


def _serving(base: Base, record: Mapping[str, Any]) -> str:
    servable = record["servable"]
    if not servable.get("vllm"):
        return f"vLLM can't serve it: {servable.get('reason', 'not checked')}."
    revision = f" --revision {base.revision}" if base.kind == "hub" else ""
    command = f"vllm serve {base.name}{revision} --enable-lora --max-lora-rank {servable.get('max_lora_rank') or 16}"
    folder = "PATH/OF/THIS/FOLDER"
    lora = f"--tokenizer {folder} --generation-config {folder}"
    lora += f" --lora-modules {record['spec'].get('suffix') or 'tuned'}={folder}"
    example = f" For example: `{command} {lora}`" if base.kind in ("hub", "folder") else ""
    return f"vLLM can serve it ({servable['reason']}).{example}"


def _ollama(base: Base, record: Mapping[str, Any]) -> str:
    """Return the lines for Ollama, which stops at the tokens of its Modelfile; nothing where they are not known."""
    end_token, adapts_experts = record["data"].get("end_token"), "experts" in str(record["servable"].get("reason"))
    if not end_token or adapts_experts or base.kind not in ("hub", "folder"):
        return ""
    lines = modelfile(base, "PATH/OF/THIS/FOLDER", end_token)
    return (
        "\n\nOllama reads the end of an answer from its Modelfile. By its documentation, and not tried by celora, "
        "these lines serve the adapter; `FROM` names a folder of the base, or Ollama's copy of it:\n\n"
        f"```\n{lines}\n```"
    )


def _data(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "dataset", record["spec"].get("dataset")
    data = record["data"]
    yield "SHA-256", data.get("dataset_sha256")
    yield "training rows", data.get("train_rows")
    yield "training tokens", data.get("train_tokens")
    held_out: dict[str, int] = data.get("eval_rows") or {}
    yield "held-out rows", ", ".join(f"{name} {rows}" for name, rows in held_out.items()) or None
    own = "the base's own; rows in TRL's training form" if record["resolved"].get("template") == "training" else OWN
    yield "chat template", {"own": own, None: None}.get(data.get("template"), data.get("template"))


def _settings(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    base, resolved = record["base"], record["resolved"]
    yield "base", f"{base['name']} ({base['kind']}), revision {base['revision']}"
    yield "trained on from", record["spec"].get("continue_from")
    yield "compared with", record["spec"].get("reference")
    yield "seed", record["facts"].get("seed", record["spec"].get("seed"))
    for name in SETTINGS:
        value = resolved.get(name)
        yield name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _list(entries: Any) -> str:
    return "\n".join(f"- {_label(name)}: {_value(value)}" for name, value in entries if value is not None)


def _label(name: str) -> str:
    if name == "cost":
        return "cost (US dollars)"
    return f"{name[:-2].replace('_', ' ')} (seconds)" if name.endswith("_s") else name.replace("_", " ")


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and value != ""


def _tuned(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    return metrics.get("tuned") or {}
