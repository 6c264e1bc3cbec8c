"""Prints the receipt for people: tables, and a row of each kind with the words that are trained on in colour.

Off a terminal the trained words stand between brackets of their own (⟦ ⟧), so that a log shows them too.
The meaning of the parts is in docs/receipt.md.
"""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from .output import duration, money, size, table

Receipt = dict[str, Any]

TRAINED = "bold green"
BAR = 30
SHOWN_OF_A_KIND = 5
"""Bad lines of one kind that are shown; ``--json`` has the first hundred."""
SHORT = 48
GIB = 2**30

_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}


def show(receipt: Receipt, out: Console) -> None:
    """Print a receipt."""
    for part in _parts(receipt, terminal=out.is_terminal):
        out.print(part)


def _parts(receipt: Receipt, *, terminal: bool) -> Iterator[RenderableType]:
    if receipt["ok"]:
        yield _head(receipt)
    for file in receipt["files"]:
        yield ""
        yield from _file(file)
    if receipt["rows"]:
        yield ""
        yield from map(Text, _rows(receipt["rows"], refused=not receipt["ok"]))
    for name, facts in receipt.get("sets", {}).items():
        yield ""
        yield from _set(name, facts)
        if name in receipt.get("preferences", {}):
            yield from map(Text, _preferences(receipt["preferences"][name]))
    if receipt["ok"]:
        yield ""
        yield from _estimate(receipt["estimate"])
        yield ""
        yield from _samples(receipt, terminal=terminal)
    if receipt["warnings"]:
        yield ""
        for warned in receipt["warnings"]:
            yield Text.assemble(("warning ", "yellow"), (warned["name"], "bold yellow"), f": {warned['message']}")


def _head(receipt: Receipt) -> Text:
    template = receipt["template"]
    whose = "its own chat template" if template == "own" else f"the chat template {template}"
    if form := receipt.get("training_form"):
        whose += f" (rows in the training form {form['name']} of {form['library']})"
    again = "; prepared before, and reused" if receipt["reused"] else ""
    length = f"rows of at most {receipt['max_length']:,} tokens"
    method = f", method {receipt['method']}" if "preferences" in receipt else ""
    return Text.assemble((receipt["base"]["name"], "bold"), f"{method}, {whose}, {length}{again}")


def _preferences(facts: Receipt) -> Iterator[str]:
    """Count the answers of a set by label, with the mean of their trained tokens."""
    pairs = f"{_count(facts['pairs'], 'pair')}: " if "pairs" in facts else ""
    sides = (
        f"{facts[side]:,} {side} answers of {facts[f'{side}_tokens']:g} tokens in the mean"
        for side in ("wanted", "unwanted")
    )
    yield f"  {pairs}{', '.join(sides)}"


def _file(file: Receipt) -> Iterator[RenderableType]:
    bad = file["bad"]
    found = _count(file["rows"], "good row" if bad["total"] else "row")
    where = f"{found} in {_count(file['lines'], 'line')}, {size(file['size_bytes'])}"
    yield Text.assemble((file["name"], "bold"), f" ({file['set']}): {where}")
    if file["rows_by_format"]:
        formats = ", ".join(f"{count:,} {name}" for name, count in file["rows_by_format"].items())
        yield Text(f"  format: {formats}")
    for note in file["notes"]:
        yield Text(f"  note: {visible(note)}")
    if bad["total"]:
        yield from _bad(bad)


def _bad(bad: Receipt) -> Iterator[RenderableType]:
    counts = ", ".join(f"{count:,} {kind}" for kind, count in bad["counts"].items())
    yield Text(f"  {_count(bad['total'], 'bad line')}: {counts}", style="bold red")
    rows: list[tuple[Any, ...]] = []
    for kind, count in bad["counts"].items():
        lines = [line for line in bad["lines"] if line["kind"] == kind]
        for line in lines[:SHOWN_OF_A_KIND]:
            place = f"byte {line['byte']}" if line["byte"] is not None else visible(line["path"] or " ")
            rows.append((line["line"], place, kind, visible(line["reason"]), line["fix"]))
        if count > SHOWN_OF_A_KIND:
            rows.append(("…", " ", kind, f"and {count - SHOWN_OF_A_KIND:,} more", " "))
    yield table(["line", "where", "kind", "what is wrong", "what to do"], rows)


def _rows(rows: Receipt, *, refused: bool) -> Iterator[str]:
    again = rows["duplicates"]
    kinds = [f"{again[kind]:,} {kind}" for kind in ("exact", "normalised", "near") if again[kind]]
    shown = ", ".join(f"line {line['line']} is {line['repeats']} again" for line in again["lines"][:SHOWN_OF_A_KIND])
    left_out = "" if refused else f"; {again['dropped']:,} left out"  # (of a refused file nothing is used)
    yield f"repeated rows: {', '.join(kinds)}{left_out} ({shown})" if kinds else "repeated rows: none"
    for name, shared in rows["overlap"].items():
        yield (
            f"rows of {name} that training sees too: {shared['exact']:,} exact, {shared['normalised']:,} normalised; "
            f"{shared['prompts']:,} more share the prompt"
        )
    contested = rows["conflicts"]
    if contested["prompts"]:
        lines = "; ".join(", ".join(map(str, lines)) for lines in contested["lines"][:SHOWN_OF_A_KIND])
        asked = f"{_count(contested['prompts'], 'prompt')} in {_count(contested['rows'], 'row')}"
        yield f"same prompt, different answers: {asked} (lines {lines})"
    for name, found in rows["sensitive"].items():
        for kind, facts in found.items():
            where = f"{_count(facts['rows'], 'row')} of {name} (line {_listed(facts['lines'], facts['rows'])})"
            yield f"likely {kind} in {where}"
    if labels := rows["labels"]:
        most, fewest = labels["most"], labels["fewest"]
        yield (
            f"answers are {_count(labels['distinct'], 'label')}: {_short(most['label'])!r} in {most['rows']:,} rows "
            f"({most['share']:.0%}), the rarest {_short(fewest['label'])!r} in {fewest['rows']:,}"
        )
    task = rows["task"]
    yield f"kind of task: {task['kind']}, {_count(task['rows'], 'row')}: {'enough' if task['enough'] else 'few'}"
    yield f"  {task['advice']}"


def _set(name: str, facts: Receipt) -> Iterator[RenderableType]:
    spread = facts["tokens_per_row"]
    about = f"{facts['rows']:,} rows, {facts['tokens']:,} tokens, {facts['trained_share']:.0%} of them trained on"
    yield Text.assemble((name, "bold"), f": {about}")
    steps = ", ".join(f"{step} {spread[step]:,}" for step in ("min", "p50", "p95", "max"))
    yield Text(f"  tokens a row: {steps}")
    widest = max((bin_["rows"] for bin_ in spread["bins"]), default=1)
    for bin_ in spread["bins"]:
        bar = "█" * max(1, BAR * bin_["rows"] // widest)
        yield Text.assemble(f"  {'≤ ' + format(bin_['up_to'], ','):>8} ", (bar, "cyan"), f" {bin_['rows']:,}")
    if facts["truncated"]:
        yield Text(
            f"  too long: {_count(facts['truncated'], 'row')} cut, {facts['cut_tokens']:,} tokens lost; "
            f"{facts['rows_that_lose_answer']:,} of them lose {facts['cut_trained_tokens']:,} tokens of answers"
        )
    if facts["dropped"]:
        lines = _listed(facts["dropped_lines"], facts["dropped"])
        yield Text(f"  nothing to learn is left of {_count(facts['dropped'], 'row')} (line {lines}): left out")


def _estimate(estimate: Receipt) -> Iterator[RenderableType]:
    epoch, packing = estimate["epoch"], estimate["packing"]
    seen = f"{epoch['examples']:,} examples, {epoch['tokens']:,} tokens ({epoch['trained_tokens']:,} trained on)"
    steps = f"{_count(epoch['steps'], 'step')} of {_count(epoch['effective_batch'], 'row')}"
    yield Text.assemble(
        ("an epoch", "bold"),
        f": {seen}, {steps}; {epoch['epochs']:g} epochs are {_count(epoch['planned_steps'], 'step')}",
    )
    on = "" if packing["on"] else " (packing is off)"
    yield Text(
        f"  {epoch['useful']:.0%} of what a step computes is rows, the rest padding; packed{on} it would be "
        f"{_count(packing['sequences'], 'sequence')}, {packing['full']:.1%} full"
    )
    if estimate["devices"]:
        yield ""
        yield from _devices(estimate["devices"])


def _devices(devices: list[Receipt]) -> Iterator[RenderableType]:
    columns = ["device", "fits", "GiB", "of", "weights", "LoRA", "AdamW", "activ.", "logits", "rest"]
    columns += ["batch", "ckpt", "train", "evaluate", "cost"]
    title = "Estimate by type of device (GiB by part; * unproven: no measured run on this type)"
    yield table(columns, map(_device, devices), title=title)
    for device in devices:
        if not device["fits"]:
            yield Text(f"  {device['name']}: {_remedy(device['would_fit_with'])}")
    for device in devices:
        if history := device.get("history"):
            yield Text(
                f"  {device['name']}: {history['runs']} earlier runs of this base family took {history['factor']:.2f} "
                f"times as long ({history['low']:.2f} to {history['high']:.2f}); queue and budget count with that"
            )
    for basis in {device["basis"] for device in devices if device["name"] == "cpu"}:
        yield Text(f"  cpu: {basis}", style="dim")


def _device(device: Receipt) -> tuple[Any, ...]:
    memory, fits = device["memory_bytes"], device["fits"]
    parts = [memory[part] for part in ("weights", "adapter", "optimizer", "activations", "logits")]
    return (
        device["name"] + ("" if device["proven"] else " *"),
        "yes" if fits else "no",
        *(f"{part / GIB:.1f}" for part in (memory["total"], memory["room"])),
        *(f"{part / GIB:.2f}" for part in (*parts, memory["work"] + memory["overhead"])),
        f"{device['micro_batch']} x {device['accumulation']}",
        "on" if device["gradient_checkpointing"] else "off",
        *(duration(device[f"{stage}_s"]) if fits else None for stage in ("train", "evaluate")),
        money(device["train_cost"] + device["evaluate_cost"]) if fits else None,
    )


def _remedy(changes: Receipt | None) -> str:
    if changes is None:
        return "too small for this base at any length; take a smaller base"
    words = [f"{name} {str(value).lower()}" for name, value in changes.items() if name != "rows_cut"]
    cut = f", which cuts {_count(changes['rows_cut'], 'row')}" if changes.get("rows_cut") else ""
    return f"would fit with {', '.join(words)}{cut}"


def _samples(receipt: Receipt, *, terminal: bool) -> Iterator[RenderableType]:
    """Yield a row of each kind; a receipt of an earlier version has one row."""
    how = "in green" if terminal else "between ⟦ and ⟧"
    shown: list[Receipt] = receipt.get("samples") or [{"parts": receipt["sample"]}]
    yield Text.assemble(
        ("a training row" if len(shown) == 1 else "a training row of each kind", "bold"), f", what is trained on {how}:"
    )
    for sample in shown:
        if len(shown) > 1:
            yield Text(f"line {sample['line']}: {', '.join(sample['kinds'])}", style="bold")
        yield _row_text(sample["parts"], terminal=terminal)


def _row_text(pieces: list[Receipt], *, terminal: bool) -> Text:
    text = Text()
    for piece in pieces:
        words = visible(piece["text"])
        if piece["trained"]:
            text.append(words if terminal else f"⟦{words}⟧", style=TRAINED)
        else:
            text.append(words, style="dim")
    text.rstrip()
    return text


def visible(text: str) -> str:
    """Data may hold what moves a terminal's cursor, or worse; it is shown as pictures of its control characters."""
    return text.translate(_CONTROLS)


def _short(text: str) -> str:
    return visible(text if len(text) <= SHORT else text[:SHORT] + "…")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _listed(numbers: list[int], total: int) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN_OF_A_KIND]))
    return shown + (", …" if total > SHOWN_OF_A_KIND else "")
