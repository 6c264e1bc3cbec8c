"""Classifies keys that no format reads: harmless ones, and ones that would change the meaning of a row.

A key is in one of three lists: *read* (formats.py and the readers), *refused* with what to do, or *harmless*. Any other
key is reported as a warning, since nobody knows whether it changes the meaning of its row. The keys are those of TRL,
OpenAI, Anthropic, LLaMA-Factory, axolotl, ms-swift and GLM, and of the most frequent datasets on the hub.
"""

from collections import Counter
from typing import Literal

from ..files.faults import Fault, Where
from ..files.strict_json import JsonObject

UnknownKeys = Literal["refuse", "warn", "ignore"]
"""The treatment of keys that are neither read nor known to be harmless."""

_ONLY_TEXT = "only text can be trained on; leave these rows out"
_TOKENS = "give the text (messages, or prompt and completion): celora makes tokens and masks itself"
_PREFERENCES = "write a preference row: prompt, chosen and rejected"
_WEIGHT = "write weight 0 or 1 beside each message"

REFUSED = {
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios", "objects"), _ONLY_TEXT),
    **dict.fromkeys(("input_ids", "labels", "attention_mask", "completion_mask", "assistant_masks"), _TOKENS),
    **dict.fromkeys(("rejected_response", "rejected_messages", "rejected_images"), _PREFERENCES),
    **dict.fromkeys(("train_detail", "training_detail", "segments", "mask_history", "train_on_input"), _WEIGHT),
    "chat_template_kwargs": "leave it out: one template renders all rows in the same way",
    "chat_template": "leave it out, and name a template with the job's field template",
}
"""Keys that change the meaning of a row and that celora does not read, with the remedy. An empty value is no fault."""

HARMLESS = frozenset(
    {"id", "_id", "uid", "uuid", "guid", "idx", "index", "row_id", "hash", "md5", "sha256", "name", "title", "author"}
    | {"source", "sources", "dataset", "dataset_name", "origin", "url", "link", "link_id", "license", "citation"}
    | {"category", "categories", "topic", "topics", "subject", "domain", "task", "task_type", "type", "tags", "tag"}
    | {"keywords", "lang", "language", "split", "difficulty", "level", "hardness", "model", "generator", "version"}
    | {"score", "scores", "rating", "ratings", "avg_rating", "quality", "reward", "rewards", "rank", "upvotes"}
    | {"likes", "toxicity", "annotator", "annotators", "created_at", "updated_at", "date", "time", "timestamp"}
    | {"conversation_id", "conv_id", "dialog_id", "dialogue_id", "session_id", "message_id", "message_tree_id"}
    | {"parent_id", "prompt_id", "question_id", "tree_id", "turn_id", "user_id", "num_turns", "turns", "turn"}
    | {"length", "num_tokens", "token_count", "n_tokens", "metadata", "meta", "extra", "extra_info", "comment"}
    | {"Unnamed: 0", "__index_level_0__"}  # pandas' index in a CSV and in a Parquet file
    | {"schemaVersion", "system_fingerprint", "object", "usage", "created"}  # of Bedrock, and of OpenAI's answers
    | {"cache_control", "refusal", "annotations", "finish_reason", "parallel_tool_calls", "embedding"}
)
"""Keys that describe a row and change nothing in it."""


def refuse_keys(value: JsonObject, at: Where = ()) -> None:
    """Refuses a row or message that has a key which would change its meaning.

    Raises:
        Fault: The row or message has such a key; the fault names the key and the remedy.
    """
    for key in value.keys() & REFUSED.keys():
        if value[key]:
            reason = f"the key {key!r} changes what a row means, and is not read"
            raise Fault("refused_key", reason, REFUSED[key], at=(*at, key))


def unknown(ignored: Counter[str]) -> Counter[str]:
    """Returns the ignored keys that may change the meaning of a row, with their counts."""
    return Counter({key: count for key, count in ignored.items() if key.rpartition(".")[2] not in HARMLESS})
