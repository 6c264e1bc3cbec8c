# pyright: basic
# (torch and transformers ship incomplete types)
"""Answers a few held-out prompts during training, greedily and in one batch, to show the run's direction to a person.

The evaluate stage writes whole answers.
"""

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from ...batches.prepared_set import HeldOutRow
from ..engine import Report, Sample

SAMPLES = 2
SAMPLE_TOKENS = 24
"""Length of a sample."""


def greedy_samples(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[HeldOutRow],
    *,
    pad_id: int,
    device: str,
    report: Report,
) -> list[Sample]:
    """Answer the prompts of held-out rows.

    Args:
        model: The base with the adapter, in evaluation mode.
        tokenizer: The tokenizer of the prepared data.
        rows: The rows; at least one.
        pad_id: The tokenizer's pad token.
        device: ``cpu`` or ``cuda``.
        report: Called after each token.
    """
    prompts = [row["prompt_tokens"] for row in rows]
    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    ids = [[pad_id] * short + prompt for short, prompt in zip(padding, prompts, strict=True)]
    attention = [[0] * short + [1] * len(prompt) for short, prompt in zip(padding, prompts, strict=True)]
    # the base's own sampling settings (temperature, top_p) would only warn: this is greedy
    output = model.generate(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=torch.tensor(attention, device=device),
        max_new_tokens=SAMPLE_TOKENS,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=pad_id,
        use_cache=True,
        stopping_criteria=StoppingCriteriaList([_EachToken(report)]),
    )
    answers = [str(tokenizer.decode(row, skip_special_tokens=True)) for row in output[:, width:]]
    return [Sample(row["prompt"], answer, row["reference"]) for row, answer in zip(rows, answers, strict=True)]


class _EachToken(StoppingCriteria):
    """Reports each token of the answers; it never stops the generation by itself."""

    def __init__(self, report: Report) -> None:
        self._report, self._tokens = report, 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        del scores
        self._tokens += 1
        self._report(self._tokens, SAMPLE_TOKENS)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
