# pyright: basic
# (torch and transformers ship incomplete types)
"""Answers many prompts by batched decoding with transformers' own ``generate``, and runs the ``generate`` request.

Prompts are token ids, answered in batches of similar length and padded on the left. The attention mask gives each row
its own positions, so that an answer does not depend on the other rows (a test compares with answers one by one; on a
GPU rounding may differ with the batch's shape). Decoding is greedy unless a temperature is set. No other setting
applies: a repetition penalty or top-p of the base's own generation_config would measure the settings, not the model.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from .. import device as devices
from ..adapters.load import plain_peft
from ..bases import base as bases
from ..bases.generation import stop_tokens
from ..batches.loss import evaluating
from ..batches.row_losses import Progress
from ..failures import Situation, explained
from ..protocol import (
    PART_S,
    WHOLE_DEVICE,
    Base,
    Emit,
    GenerateRequest,
    GenerateResult,
    HubAccess,
    Turn,
)
from ..templates.chat_template import ChatTemplate
from ..templates.template_choice import choose
from ..templates.tokenizer_calls import answer_text

BATCH_ROWS = 32
"""Largest number of prompts decoded at once; it is halved for as long as the device runs out of memory."""
REPORT_EVERY_S = 2.0


@dataclass(frozen=True)
class Answers:
    """The answers of a model.

    Attributes:
        texts: One text for each prompt, in order, without special tokens and without white space at the ends.
        written: The tokens of each answer, the stop token included.
        tokens: The number of written tokens, the stop tokens included.
        seconds: The wall time of the decoding.
        unanswered: The number of prompts that leave no room for an answer in the context; their answers are empty.
    """

    texts: list[str]
    tokens: int
    seconds: float
    unanswered: int = 0
    written: list[list[int]] = field(default_factory=list[list[int]])


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
    """Answer every prompt with the model in its present state (adapter on or off).

    Args:
        model: A causal language model without a PEFT wrapper (its layers may carry an adapter).
        tokenizer: The tokenizer that decodes the answers; its pad token fills the batches.
        prompts: Token ids of each prompt, special tokens included.
        stop_tokens: Ids at which an answer ends.
        max_new_tokens: The largest length of an answer in tokens.
        context_tokens: The model's context in tokens; prompt and answer together stay within it.
        device: ``cpu`` or ``cuda``.
        temperature: 0 is greedy.
        batch_rows: The largest number of prompts decoded at once.
        progress: Called with the progress in rows, every few seconds and at the end.
    """
    fits = [i for i, prompt in enumerate(prompts) if 0 < len(prompt) < context_tokens]
    texts, begun = [""] * len(prompts), time.monotonic()
    written: list[list[int]] = [[] for _ in prompts]
    queue = _batches(sorted(fits, key=lambda i: (-len(prompts[i]), i)), batch_rows)
    done = len(prompts) - len(fits)
    while queue:
        batch = queue.pop(0)
        room = context_tokens - len(prompts[batch[0]])
        config = decoding(tokenizer, stop_tokens, min(max_new_tokens, room), temperature)
        watch = _Watch(done, len(batch), len(prompts), config.max_new_tokens, progress)
        try:
            rows = decode(model, [prompts[i] for i in batch], config, device, watch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            torch.cuda.empty_cache()
            queue[:0] = _batches(batch, (len(batch) + 1) // 2)
            continue
        for i, row in zip(batch, rows, strict=True):
            written[i] = until_stop(row, stop_tokens)
            texts[i] = answer_text(tokenizer, written[i], stop_tokens)
        done += len(batch)
        progress(done, len(prompts))
    tokens = sum(map(len, written))
    return Answers(texts, tokens, time.monotonic() - begun, len(prompts) - len(fits), written)


def generate(
    request: GenerateRequest,
    emit: Emit,
    load_model: bases.LoadModel = bases.load_model,
    turn: Turn = WHOLE_DEVICE,
) -> GenerateResult:
    """Answer prompts with an adapter, or with the bare base, each as one user message in the chat template in force.

    Args:
        request: The prompts, and the adapter.
        emit: Receives the phases.
        load_model: Loads the base, or returns the one that the process holds.
        turn: The run's turn on its device, which ends between two batches.

    Raises:
        StorageError: ``adapter_dir`` holds no adapter.
        BaseModelError: The base is not available here.
        TrainingError: Memory ran out, or the device failed.
    """
    situation = Situation(request.device)
    with explained(situation):
        return _generate(request, emit, situation, load_model, turn)


def _generate(
    request: GenerateRequest, emit: Emit, situation: Situation, load_model: bases.LoadModel, turn: Turn
) -> GenerateResult:
    cache, device = Path(request.cache_dir), request.device
    folder = Path(request.adapter_dir) if request.adapter_dir else None
    template = template_in_force(request.base, folder, cache, request.hub, emit)
    model: Any
    model, _ = load_model(
        request.base,
        cache,
        request.hub,
        quantization=request.quantization,
        compute_dtype=devices.compute_dtype(device),
        device=device,
        emit=emit,
    )
    if folder is not None:
        model = plain_peft(model, folder).get_base_model()
    situation.doing = "generating"

    def report(done: int, total: int) -> None:
        turn.over(PART_S)
        emit("phase", phase="answering", done=done, total=total)

    before = [{"role": "system", "content": request.system}] if request.system else []
    talks = [[*before, {"role": "user", "content": prompt}] for prompt in request.prompts]
    found = answer(
        model,
        template.tokenizer,
        [prompt_tokens(template, template.render(talk, generation_prompt=True)) for talk in talks],
        stop_tokens=ends_of(template, model),
        max_new_tokens=request.max_new_tokens,
        context_tokens=request.base.context_tokens,
        device=device,
        temperature=request.temperature,
        progress=report,
    )
    return GenerateResult(answers=found.texts)


def template_in_force(
    base: Base, folder: Path | None, cache: Path, hub: HubAccess, emit: Emit, *, named: str | None = None
) -> ChatTemplate:
    """Return the chat template of an adapter's folder; where it brings no tokenizer, that of the base.

    Args:
        base: The adapter's base.
        folder: The adapter; None for the bare base.
        cache: The installation's cache.
        hub: The hub's address and the operator's limits.
        emit: Receives a ``phase`` event for each slow operation.
        named: The template that the training named, for a folder without a tokenizer (a checkpoint).
    """
    own = folder is not None and (folder / "tokenizer_config.json").is_file()
    place = folder if folder is not None and own else bases.folder(base, cache, hub, emit)
    return choose(bases.load_tokenizer(place), None if own else named, stops=stop_tokens(place))


def prompt_tokens(template: ChatTemplate, text: str) -> list[int]:
    """Tokenize a rendered prompt, which has its special tokens already."""
    tokenizer: Any = template.tokenizer
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def ends_of(template: ChatTemplate, model: Any) -> list[int]:
    """Return the tokens at which an answer ends: those of the template, and those that the base names."""
    return sorted({*template.stop_tokens(), *own_stop_tokens(model)})


def own_stop_tokens(model: Any) -> list[int]:
    """Return the stop tokens that the base's generation_config names (Llama 3 has three)."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return [own] if isinstance(own, int) else list(own or [])


def _batches(rows: list[int], size: int) -> list[list[int]]:
    """Divide rows into as few batches as the size allows, of nearly equal size."""
    count = -(-len(rows) // size)
    edges = [len(rows) * n // count for n in range(count + 1)] if count else []
    return [rows[start:end] for start, end in pairwise(edges)]


def decoding(
    tokenizer: Any, stop_tokens: Sequence[int], max_new_tokens: int, temperature: float, top_p: float = 1.0
) -> GenerationConfig:
    """Make the settings of a decoding: greedy where the temperature is 0, else sampling from the most likely tokens.

    Args:
        tokenizer: Its pad token fills the batches.
        stop_tokens: Ids at which an answer ends.
        max_new_tokens: The largest length of an answer in tokens.
        temperature: 0 is greedy.
        top_p: The share of the probability that the sampled tokens have together.
    """
    sampled = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
    sampling = sampled if temperature > 0 else {"do_sample": False}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_tokens) or None,
        pad_token_id=int(tokenizer.pad_token_id),
        use_cache=True,
        **sampling,
    )


def decode(
    model: Any, prompts: Sequence[Sequence[int]], config: GenerationConfig, device: str, watch: StoppingCriteria
) -> list[list[int]]:
    """Decode a batch; return the new tokens of each prompt, padded behind its stop token.

    Args:
        model: A causal language model in its present state.
        prompts: Token ids of each prompt, padded on the left here.
        config: The result of ``decoding``.
        device: ``cpu`` or ``cuda``.
        watch: Called after each token; it may end the decoding.
    """
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


def until_stop(tokens: list[int], stop_tokens: Sequence[int]) -> list[int]:
    """Cut the tokens of an answer behind the first stop token."""
    end = next((i for i, token in enumerate(tokens) if token in stop_tokens), None)
    return tokens if end is None else tokens[: end + 1]


class _Watch(StoppingCriteria):
    """Reports the progress of a batch: its rows times the share of finished steps. It never stops the generation."""

    def __init__(self, done: int, rows: int, total: int, steps: int, progress: Progress) -> None:
        self.done, self.rows, self.total, self.steps, self.progress = done, rows, total, steps, progress
        self.step, self.reported = 0, time.monotonic()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        del scores
        self.step += 1
        if time.monotonic() - self.reported >= REPORT_EVERY_S:
            self.progress(self.done + self.rows * self.step // self.steps, self.total)
            self.reported = time.monotonic()  # after a turn of another run, where there is one
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
