# pyright: basic
# (torch and transformers ship incomplete types)
"""Answers to many prompts: batched decoding with transformers' own ``generate``.

Prompts are token ids, answered in batches of like length, padded on the left; the attention mask gives each row its
own positions, so that an answer does not depend on its neighbours (a test compares with one by one; on a GPU rounding
may differ with the batch's shape). Decoding is greedy unless a temperature is set, and nothing else: a repetition
penalty or top-p that the base's own generation_config asks for would measure the settings, not the model.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from .loss import evaluating
from .scoring import Progress

BATCH_ROWS = 32
"""Prompts decoded at once at most; halved for as long as the device runs out of memory."""
REPORT_EVERY_S = 2.0


@dataclass(frozen=True)
class Answers:
    """What a model wrote.

    Attributes:
        texts: One a prompt, in their order, without special tokens and without white space at the ends.
        tokens: Tokens written in all, the stop tokens included.
        seconds: Wall time of it.
        unanswered: Prompts that leave no room for an answer in the model's context; their text is empty.
    """

    texts: list[str]
    tokens: int
    seconds: float
    unanswered: int = 0


def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_tokens: Sequence[int],
    max_new_tokens: int,
    context_tokens: int,
    device: str,
    temperature: float = 0.0,
    batch_rows: int = BATCH_ROWS,
    progress: Progress = lambda _d, _t: None,
) -> Answers:
    """Answer every prompt with the model as it is (adapter on or off).

    Args:
        model: A causal language model, without a PEFT wrapper around it (its layers may carry an adapter).
        tokenizer: Decodes the answers; its pad token fills the batches.
        prompts: Token ids of each prompt, special tokens included.
        stop_tokens: Ids at which an answer ends.
        max_new_tokens: An answer's length at most, in tokens.
        context_tokens: The model's context; prompt and answer together stay within it.
        device: ``cpu`` or ``cuda``.
        temperature: 0 is greedy.
        batch_rows: Prompts decoded at once at most.
        progress: Told every few seconds, in rows, and at the end.
    """
    fits = [i for i, prompt in enumerate(prompts) if 0 < len(prompt) < context_tokens]
    texts, written, begun = [""] * len(prompts), 0, time.monotonic()
    queue = _batches(sorted(fits, key=lambda i: (-len(prompts[i]), i)), batch_rows)
    done = len(prompts) - len(fits)
    while queue:
        batch = queue.pop(0)
        room = context_tokens - len(prompts[batch[0]])
        config = _config(tokenizer, stop_tokens, min(max_new_tokens, room), temperature)
        watch = _Watch(done, len(batch), len(prompts), config.max_new_tokens, progress)
        try:
            rows = _decode(model, [prompts[i] for i in batch], config, device, watch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            torch.cuda.empty_cache()
            queue[:0] = _batches(batch, (len(batch) + 1) // 2)
            continue
        for i, row in zip(batch, rows, strict=True):
            kept = _until_stop(row, stop_tokens)
            written += len(kept)
            texts[i] = str(tokenizer.decode(kept, skip_special_tokens=True)).strip()
        done += len(batch)
        progress(done, len(prompts))
    return Answers(texts, written, time.monotonic() - begun, len(prompts) - len(fits))


def _batches(rows: list[int], size: int) -> list[list[int]]:
    """As few batches as the size allows, of nearly equal size."""
    count = -(-len(rows) // size)
    edges = [len(rows) * n // count for n in range(count + 1)] if count else []
    return [rows[start:end] for start, end in pairwise(edges)]


def _config(tokenizer: Any, stop_tokens: Sequence[int], max_new_tokens: int, temperature: float) -> GenerationConfig:
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_tokens) or None,
        pad_token_id=int(tokenizer.pad_token_id),
        use_cache=True,
        **sampling,
    )


def _decode(
    model: Any, prompts: Sequence[Sequence[int]], config: GenerationConfig, device: str, watch: "_Watch"
) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), int(config.pad_token_id))  # pyright: ignore[reportArgumentType]
    attention = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attention[row, width - len(prompt) :] = 1
    own, model.generation_config = model.generation_config, GenerationConfig()  # else generate() mixes it in
    try:
        with torch.inference_mode(), evaluating(model):
            written = model.generate(
                input_ids=ids.to(device),
                attention_mask=attention.to(device),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([watch]),
            )
    finally:
        model.generation_config = own
    return written[:, width:].tolist()


def _until_stop(tokens: list[int], stop_tokens: Sequence[int]) -> list[int]:
    end = next((i for i, token in enumerate(tokens) if token in stop_tokens), None)
    return tokens if end is None else tokens[: end + 1]


class _Watch(StoppingCriteria):
    """Stops nothing; it tells how far a batch is, counting its rows by the share of the steps that are done."""

    def __init__(self, done: int, rows: int, total: int, steps: int, progress: Progress) -> None:
        self.done, self.rows, self.total, self.steps, self.progress = done, rows, total, steps, progress
        self.step, self.reported = 0, time.monotonic()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        del scores
        self.step += 1
        if time.monotonic() - self.reported >= REPORT_EVERY_S:
            self.reported = time.monotonic()
            self.progress(self.done + self.rows * self.step // self.steps, self.total)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
