"""Defines the version of celora's results for the same rows, template and tokenizer; no torch.

A number is raised whenever the same input gives other tokens, another loss mask or another measure. The versions are a
part of the key of prepared data and of a schedule's record of its data, so that no cache returns a result of a fixed
fault. They are a part of each receipt, so that `celora doctor --adapters` finds the adapters that were trained before a
fix.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

SEMANTICS = {"rows": 2, "templates": 4, "tokenizers": 2}
"""rows: the keys that are read and their meaning; templates: the trained part of a turn, the end of an answer and the
border between prompt and answer; tokenizers: the conversion of a base's tokenizer."""
MEANING = ".".join(str(version) for version in SEMANTICS.values())
"""All versions of ``SEMANTICS`` as one word."""
FIRST = 1
"""Version of everything that was prepared before versions were recorded."""
WHOLE_TURNS, APART, APART_WHOLE = 2, 3, 4
"""Versions of templates since which a turn is trained whole, since which prompt and answer share no token, and since
which that holds for rows with loss on everything too."""

READ_NOW = frozenset(
    {"reasoning_content", "thinking", "reasoning", "system", "system_prompt", "tools", "label"}
    | {"loss", "train", "training", "loss_weight"}
)
"""Keys of rows that version 1 left out without an error."""
THINKING = frozenset({"qwen3", "qwen3_moe", "qwen3_5", "deepseek_v2", "deepseek_v3", "glm4", "glm4_moe", "gpt_oss"})
"""Model types whose own templates write or cut thoughts."""
TWO_ENDS = frozenset({"phi3", "phi4", "internlm2", "gemma", "gemma2", "deepseek"})
"""Model types with templates that write more than one control token behind the last turn."""
TOOL_MARKS = frozenset({"mistral", "mixtral", "deepseek_v3", "kimi_k2", "gpt_oss", "lfm2", "minicpm"})
"""Model types with templates that write tool calls between control tokens."""
FROM_GGUF = frozenset({"gguf", "catalogue"})


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Recorded facts about the data and the base of a published adapter.

    Attributes:
        semantics: The versions of the receipt.
        base_kind: hub, folder, gguf or catalogue.
        model_type: ``model_type`` of the base.
        own_template: Whether the base's own chat template was used.
        ignored_keys: Keys of the rows that were not read.
        chat: Whether rows are conversations.
        joined_borders: Checked rows whose prompt and answer shared a token.
        completion_only: Whether the loss was on the answers alone.
    """

    semantics: Mapping[str, int]
    base_kind: str
    model_type: str
    own_template: bool
    ignored_keys: frozenset[str]
    chat: bool
    joined_borders: int = 0
    completion_only: bool = True

    @classmethod
    def of(cls, base: Mapping[str, Any], receipt: Mapping[str, Any]) -> "Trained":
        """Read the facts from a job's base and receipt; a missing version counts as the first."""
        files = cast("list[dict[str, dict[str, int]]]", receipt.get("files") or [])
        versions = cast("dict[str, int]", receipt.get("semantics") or {})
        sets = cast("dict[str, dict[str, dict[str, int]]]", receipt.get("sets") or {})
        formats = {name for file in files for name in file.get("rows_by_format", {})}
        return cls(
            semantics={name: versions.get(name, FIRST) for name in SEMANTICS},
            base_kind=str(base.get("kind", "")),
            model_type=str(base.get("model_type", "")),
            own_template=receipt.get("template") == "own",
            ignored_keys=frozenset(key for file in files for key in file.get("ignored_keys", {})),
            chat=bool(formats & {"chat", "sharegpt"}),
            joined_borders=sum(found.get("boundary", {}).get("merged", 0) for found in sets.values()),
            completion_only=receipt.get("completion_only") is not False,
        )


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fixed fault that an adapter may carry.

    Attributes:
        found: The fault, in words.
        remedy: The next step.
    """

    found: str
    remedy: str


AGAIN = "Train it again on the same data: celora submit, with the spec of its celora.json."
MEASURE = "Measure it again: celora evaluate {id}; the adapter itself may be good."


def faults_of(trained: Trained) -> list[Fault]:
    """List the fixed faults that may have affected an adapter; the certain ones come first."""
    older = {name for name, version in SEMANTICS.items() if trained.semantics[name] < version}
    found: list[Fault] = []
    if "rows" in older and (left_out := sorted(trained.ignored_keys & READ_NOW)):
        words = f"its rows had {', '.join(left_out)}, which was not read and is now"
        found.append(Fault(found=words, remedy=AGAIN))
    if "tokenizers" in older and trained.base_kind in FROM_GGUF:
        words = "its base came from a .gguf file, whose words may have been cut by another model's rules"
        found.append(Fault(found=words, remedy=AGAIN))
    if trained.semantics["templates"] < WHOLE_TURNS and trained.own_template:
        found += _of_template(trained)
    if trained.joined_borders and trained.semantics["templates"] < (APART if trained.completion_only else APART_WHOLE):
        words = (
            f"in {trained.joined_borders} of its checked rows prompt and answer shared a token, which no server sends"
        )
        found.append(Fault(found=words, remedy=AGAIN))
    return found


def _of_template(trained: Trained) -> list[Fault]:
    kind, found = trained.model_type, list[Fault]()
    if kind in TWO_ENDS:
        words = f"the last turn of templates of {kind} was trained beyond its end token"
        found.append(Fault(found=words, remedy=AGAIN))
    if kind in THINKING:
        words = f"templates of {kind} write or cut thoughts: reasoning may be untrained, and exact match was too low"
        found.append(Fault(found=words, remedy=f"{MEASURE} With reasoning in its rows: {AGAIN[0].lower()}{AGAIN[1:]}"))
    if kind in TOOL_MARKS and trained.chat:
        words = f"tool calls in templates of {kind} were compared with control words taken off one side only"
        found.append(Fault(found=words, remedy=MEASURE))
    return found
