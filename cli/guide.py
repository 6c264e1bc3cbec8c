"""Defines ``celora guide``, which recommends settings to begin with. The figures are the field's, with sources."""

from typing import Any

from .output import Json, console, print_json, table

TABLES: dict[str, dict[str, Any]] = {
    "rank": {
        "title": "Rank and alpha: how much the adapter can learn",
        "columns": ["rank", "alpha", "for"],
        "rows": [
            [4, 8, "a tone, a fixed reply; very little data"],
            [8, 16, "one narrow task: classify, extract"],
            [16, 32, "the default; most tasks"],
            [32, 64, "several tasks, a new domain"],
            [64, 128, "much new knowledge, 50,000 rows and more"],
            [128, 256, "close to full fine-tuning; consider rslora=true"],
        ],
        "note": "alpha = 2 x rank keeps the update's scale the same while you try ranks (the update is scaled by "
        "alpha / rank; with rslora by alpha / sqrt(rank), arXiv 2312.03732).",
    },
    "target_modules": {
        "title": "Target modules: which layers get an adapter",
        "columns": ["preset", "layers", "for"],
        "rows": [
            ["minimal", "q, v", "least memory; the first LoRA paper's choice (arXiv 2106.09685)"],
            ["attention", "q, k, v, o", "style and format"],
            ["full", "q, k, v, o, gate, up, down", "the default; what QLoRA found necessary (arXiv 2305.14314)"],
            ["all-linear", "every linear layer but the head", "architectures with other names"],
        ],
        "note": "",
    },
    "learning_rate": {
        "title": "Learning rate",
        "columns": ["base", "method", "start with"],
        "rows": [
            ["up to about 135M", "LoRA or QLoRA", "1e-3"],
            ["larger", "QLoRA (nf4)", "2e-4"],
            ["larger", "LoRA (16 bit)", "1e-4"],
            ["any", "full fine-tuning, for comparison (celora does not do it)", "2e-5"],
        ],
        "note": "learning_rate=auto picks by this table and records the rule. Loss jumps or turns NaN: divide by 3. "
        "Loss falls too slowly: multiply by 2.",
    },
    "data": {
        "title": "Data: how many rows, how often",
        "columns": ["rows", "expect", "epochs"],
        "rows": [
            ["50 - 200", "a format or a tone", "3 - 5, with early_stopping_patience=2"],
            ["200 - 2,000", "one narrow task, reliably", "2 - 3"],
            ["2,000 - 20,000", "several tasks, a domain's language", "1 - 3"],
            ["more than 20,000", "new knowledge, with a rank of 32 and more", "1 - 2"],
        ],
        "note": "Rows that are right beat rows that are many. Hold some out (eval_dataset, or eval_fraction): eval "
        "loss that rises while train loss falls means too many epochs.",
    },
}


def guide(*, as_json: Json = False) -> None:
    """Advice on rank, alpha, target modules, learning rate and data size.

    Example: `celora guide`
    """
    if as_json:
        print_json(TABLES)
        return
    out = console()
    for part in TABLES.values():
        out.print(table(part["columns"], part["rows"], title=part["title"]))
        if part["note"]:
            out.print(f"[dim]{part['note']}[/dim]")
        out.print()
