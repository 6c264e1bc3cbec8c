"""Reads a job file, the YAML form of a job spec.

Unusual: the text of a plain scalar is judged before its value is taken. YAML 1.1 makes a number of ``007``, ``010`` and
``1:30``, a switch of ``off`` and a date of ``2026-11-30``; where the field is a text, or the number differs from the
one in the file, the value would be wrong silently.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..errors import SettingsError
from ..models.spec import JobSpec

KINDS = {"bool": "a switch", "timestamp": "a date"}
"""Tags of YAML scalars in words; any other is a number."""
OF_LABELS = ("metadata", "columns")
"""Fields whose values are texts by name."""
MOST_LETTERS = 1_000_000
SEE = "See examples/job.yaml."


def read_job_file(path: Path) -> dict[str, Any]:
    """Read the fields of a job file.

    Raises:
        SettingsError: It is missing, no YAML, holds no fields, names one twice, or has a value that YAML takes for
            something else; the message shows the value as the file has it.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_LETTERS + 1)
        if len(text) > MOST_LETTERS:
            raise SettingsError(f"the job file {path} has more than {MOST_LETTERS:,} characters.", hint=SEE)
        root = _composed(text)
        content: Any = yaml.safe_load(text)
    except FileNotFoundError:
        raise SettingsError(f"the job file {path} does not exist.", hint=SEE) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the job file {path} can't be read ({error}).") from None
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise SettingsError(f"the job file {path} is no YAML: {where}.", hint=SEE) from None
    except ValueError as error:  # a date that is none
        raise SettingsError(f"the job file {path} holds a value that YAML can't read ({error}).", hint=SEE) from None
    if not isinstance(content, dict) or not isinstance(root, yaml.MappingNode):
        raise SettingsError(
            f"the job file {path} holds no fields.",
            hint="Write lines like `dataset: train.jsonl`; see examples/job.yaml.",
        )
    if faults := list(_faults(root)):
        raise SettingsError(f"the job file {path} is wrong: {'; '.join(faults)}.")
    return {str(name): value for name, value in content.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _composed(text: str) -> yaml.Node | None:
    return yaml.compose(text, Loader=yaml.SafeLoader)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _faults(root: yaml.MappingNode) -> Iterator[str]:
    """Yield a sentence for each field that stands twice, and for each value that YAML takes for something else."""
    lines: dict[str, int] = {}
    for key, value in root.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            yield f"{name} stands twice, in lines {lines[name]} and {line}"
        lines[name] = line
        if isinstance(value, yaml.ScalarNode):
            yield from _scalar_faults(name, value, text=name in _text_fields())
        elif isinstance(value, yaml.MappingNode) and name in OF_LABELS:
            for label, inner in value.value:
                if isinstance(inner, yaml.ScalarNode):
                    yield from _scalar_faults(f"{name}.{label.value}", inner, text=True)


def _scalar_faults(name: str, node: yaml.ScalarNode, *, text: bool) -> Iterator[str]:
    tag, written = node.tag.rsplit(":", 1)[-1], str(node.value)
    if node.style is not None or tag in ("str", "null"):  # in quotes, or what it looks like
        return
    where = f"line {node.start_mark.line + 1}, {name}: {written}"
    if text:
        yield f'{where} is {KINDS.get(tag, "a number")}: write "{written}"'
    elif tag in ("int", "float") and (":" in written or _is_octal(written)):
        value: Any = yaml.safe_load(written)
        yield f"{where} is the number {value} in YAML: write the number that you mean"


def _is_octal(written: str) -> bool:
    digits = written.lstrip("+-")
    return len(digits) > 1 and digits.startswith("0") and digits.replace("_", "").isdigit()


@cache
def _text_fields() -> frozenset[str]:
    """Return the fields that accept a text and no number and no switch."""
    properties: dict[str, Any] = JobSpec.model_json_schema()["properties"]
    kinds = {
        name: {each.get("type") for each in (about, *about.get("anyOf", []))} for name, about in properties.items()
    }
    return frozenset(
        name for name, found in kinds.items() if "string" in found and not found & {"integer", "number", "boolean"}
    )
