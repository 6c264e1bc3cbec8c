# pyright: basic
# (torch and transformers ship incomplete types)
"""``evaluate``: the adapter against its base and its rivals, on the same rows with the same prompts; and ``generate``.

Evaluating is also the verification: this is a fresh process that loads the written adapter through plain PEFT, and no
number is published of an adapter that fails a check. There is one model in memory: base means adapter switched off,
and a rival (the champion that this adapter is to beat) is another adapter on the same base, switched on in its place.
Loss is measured over every held-out row, answers over at most ``max_rows`` of each set (always the same rows of a set,
so that jobs can be compared). What goes wrong while measuring answers is a warning; the adapter is good without them.
"""

import json
import shutil
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from peft import PeftModel

from ..settings.errors import CeloraError, DeviceError
from ..storage.manifest import commit
from . import base as bases
from . import device as devices
from . import metrics as text
from .adapter import CONFIG, servable
from .evaluated import lines
from .failures import Situation, explained, kind_of
from .generation import BATCH_ROWS, Answers, answer
from .loss import pad_batch
from .prepared import TRAIN, PreparedSet, eval_rows, load_result, load_settings, permutation
from .protocol import Emit, EvaluateRequest, EvaluateResult, GenerateRequest, GenerateResult, Rival
from .scoring import RowLosses, row_losses
from .templates import choose
from .verification import Verification, add_adapter, largest_change, plain_peft

CHECKED_ROWS = 8
"""Training rows that the checks run on where nothing is held out."""
SAMPLES_PER_SET = 3
REPORT_EVERY_S = 1.0
BASE, TUNED = "base", "tuned"
OURS = "default"
"""What PEFT calls the adapter that is evaluated."""


@dataclass
class _SetResult:
    """What was measured on one held-out set."""

    name: str
    rows: list[dict[str, Any]]
    losses: dict[str, RowLosses]
    answered: list[int] = field(default_factory=list)
    answers: dict[str, Answers] = field(default_factory=dict)


class _Evaluation:
    """One evaluate request on its way: the loaded model, and how it is asked."""

    def __init__(self, request: EvaluateRequest, emit: Emit) -> None:
        self.request, self.emit = request, emit
        self.prepared_dir = Path(request.prepared_dir)
        self.sets = [name for name, rows in load_result(self.prepared_dir).eval_rows.items() if rows]
        self.tokenizer: Any = bases.load_tokenizer(self.prepared_dir / "tokenizer")
        self.warnings: list[str] = []
        self.verification = Verification(Path(request.adapter_dir), request.base, request.recipe)
        self.verification.files()
        self.dtype = request.serving_dtype or self._dtype()
        self.quantization = "none" if request.serving_dtype else request.recipe.quantization
        model, self.unquantized = bases.load_model(
            request.base,
            Path(request.cache_dir),
            request.hub,
            quantization=self.quantization,
            compute_dtype=self.dtype,
            device=request.device,
            emit=emit,
        )
        emit("phase", phase="checking the adapter", done=None, total=None)
        self.verification.layers(model)
        self.peft_model: PeftModel = self.verification.load(model)
        self.model: Any = self.peft_model.get_base_model()
        self.sides = [BASE, TUNED, *(rival.side for rival in request.rivals if self._loaded(rival))]

    def losses(self, name: str) -> dict[str, RowLosses]:
        """Loss of each row of a set, by side."""
        rows = PreparedSet.load(self.prepared_dir, name)

        def of(side: str) -> RowLosses:
            return self._on(side, lambda: self._losses(rows, f"loss of {side}, {name}"))

        return {side: of(side) for side in self.sides}

    def check_without_held_out_rows(self) -> None:
        """The checks on a few training rows; there is no loss of the trainer to compare with."""
        rows = _First(PreparedSet.load(self.prepared_dir, TRAIN), CHECKED_ROWS)
        self.verification.loss(self._losses(rows, "loss of a few training rows").mean, None, compute_dtype=self.dtype)
        self._check_effect(rows)
        self.warnings.append("there are no held-out rows, so base and tuned were not compared")

    def check(self, primary: RowLosses) -> None:
        """The checks of behaviour, on the set that the trainer measured too."""
        if self.request.serving_dtype:
            self.verification.served(primary.mean, self.request.trainer_eval_loss, self.request.serving_dtype)
        else:
            self.verification.loss(primary.mean, self.request.trainer_eval_loss, compute_dtype=self.dtype)
        self._check_effect(_First(PreparedSet.load(self.prepared_dir, self.sets[0]), CHECKED_ROWS))

    def answer(self, found: _SetResult) -> None:
        """Answers of every side to the same prompts of a set."""
        limit = self.request.max_rows if self.request.metrics else 0
        if found.name in self.request.whole_sets:
            limit = len(found.rows)
        if not limit or not found.rows:
            return
        found.answered = sorted(int(i) for i in permutation(len(found.rows), 0)[:limit])
        prompts = [found.rows[i]["prompt_tokens"] for i in found.answered]
        stop_tokens = self._stop_tokens()
        for side in self.sides:
            found.answers[side] = self._on(
                side,
                lambda side=side: answer(
                    self.model,
                    self.tokenizer,
                    prompts,
                    stop_tokens=stop_tokens,
                    max_new_tokens=self.request.max_new_tokens,
                    context_tokens=self.request.base.context_tokens,
                    device=self.request.device,
                    progress=self._progress(f"answers of {side}, {found.name}"),
                ),
            )
        unanswered = found.answers["tuned"].unanswered
        if unanswered:
            self.warnings.append(f"{found.name}: {unanswered} prompts fill the whole context and got no answer")

    def settings(self) -> dict[str, Any]:
        """How it was measured, for the record."""
        request = self.request
        return {
            "max_rows": request.max_rows,
            "max_new_tokens": request.max_new_tokens,
            "decoding": "greedy",
            "answer_batch_rows": BATCH_ROWS,
            "loss_batch_rows": request.recipe.micro_batch,
            "compute_dtype": self.dtype,
            "quantization": self.quantization,
            "stop_tokens": self._stop_tokens(),
            "versions": devices.versions(request.device),
        }

    def _dtype(self) -> str:
        """The trainer's compute dtype, unless this CPU would crawl in it."""
        wanted, able = self.request.recipe.compute_dtype, devices.compute_dtype(self.request.device)
        if self.request.device == "cpu" and wanted != "float32" and able == "float32":
            self.warnings.append(f"evaluated in float32: this CPU computes {wanted} too slowly")
            return able
        return wanted

    def _losses(self, rows: Any, phase: str) -> RowLosses:
        return row_losses(
            self.model,
            rows,
            batch_rows=self.request.recipe.micro_batch,
            pad_id=int(self.tokenizer.pad_token_id),
            device=self.request.device,
            progress=self._progress(phase),
        )

    def _check_effect(self, rows: Any) -> None:
        batch = pad_batch([rows[i] for i in range(len(rows))][:1], int(self.tokenizer.pad_token_id))
        inputs = {name: batch[name].to(self.request.device) for name in ("input_ids", "attention_mask")}
        change = largest_change(self.peft_model, lambda: self.model(**inputs, use_cache=False).logits)
        self.verification.effect(change)

    def _loaded(self, rival: Rival) -> bool:
        """Load a rival beside our adapter; one that can't be loaded is a warning, since ours is good without it."""
        self.emit("phase", phase=f"loading {rival.side}", done=None, total=None)
        try:
            add_adapter(self.peft_model, Path(rival.adapter_dir), rival.side)
        except Exception as error:  # noqa: BLE001  (whatever PEFT finds wrong with an adapter that is not ours)
            traceback.print_exc()  # into the job's log
            why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            self.warnings.append(f"{rival.side} could not be loaded beside it and was not measured ({why})")
            return False
        return True

    def _on(self, side: str, measure: Callable[[], Any]) -> Any:
        self.peft_model.set_adapter(OURS if side in (BASE, TUNED) else side)
        try:
            with self.peft_model.disable_adapter() if side == BASE else nullcontext():
                return measure()
        finally:
            self.peft_model.set_adapter(OURS)

    def _progress(self, phase: str) -> Callable[[int, int], None]:
        """Report a phase, at most once a second but for its end."""
        reported = 0.0

        def report(done: int, total: int) -> None:
            nonlocal reported
            if done == total or time.monotonic() - reported >= REPORT_EVERY_S:
                reported = time.monotonic()
                self.emit("phase", phase=phase, done=done, total=total)

        return report

    def _stop_tokens(self) -> list[int]:
        """What ends an answer: the end token of the template in force, and those that the base itself names."""
        return sorted({*load_settings(self.prepared_dir).get("stop_tokens", []), *_own_stop_tokens(self.model)})


@dataclass(frozen=True)
class _First:
    """The first rows of a set."""

    rows: PreparedSet
    limit: int

    def __len__(self) -> int:
        return min(self.limit, len(self.rows))

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.rows[index]


def evaluate(request: EvaluateRequest, emit: Emit) -> EvaluateResult:
    """Verify the written adapter, and measure it against its base.

    Args:
        request: What to measure; its ``out_dir`` is replaced: ``rows.<set>.jsonl`` for each held-out set (a line a
            row: prompt, reference; answer, exact match and loss of base and tuned), ``evaluation.json``.
        emit: Told of phases with their progress, in rows.

    Raises:
        VerificationError: The adapter failed a check; nothing is written.
        BaseModelError: The base can't be had here (any more).
        TrainingError: Memory ran out, or the device failed.
        DiskFullError: There is no space left for what was measured.
    """
    out = Path(request.out_dir).parent
    out.mkdir(parents=True, exist_ok=True)
    situation = Situation(request.device, out, recipe=request.recipe)
    with explained(situation):
        return _evaluate(request, emit, situation)


def _evaluate(request: EvaluateRequest, emit: Emit, situation: Situation) -> EvaluateResult:
    run = _Evaluation(request, emit)
    situation.doing = "evaluating"
    found: list[_SetResult] = []
    for name in run.sets:
        found.append(_SetResult(name, list(eval_rows(run.prepared_dir, name)), run.losses(name)))
        if len(found) == 1:
            run.check(found[0].losses["tuned"])
    if not found:
        run.check_without_held_out_rows()
    sets: dict[str, Any] = {}
    for result in found:
        _answer_or_warn(run, result)
        sets[result.name] = _measured(result, request.metrics, run.warnings)
    first = next(iter(sets.values()), {side: {} for side in run.sides})
    config = json.loads((Path(request.adapter_dir) / CONFIG).read_text(encoding="utf-8"))
    result = EvaluateResult(
        metrics={**{side: first[side] for side in run.sides}, "sets": sets},
        samples=[sample for each in found for sample in _samples(each)],
        checks=run.verification.checks,
        servable=servable(config),
        unquantized_layers=run.unquantized,
        warnings=[*run.verification.warnings, *run.warnings],
    )
    for warning in result.warnings:
        emit("note", level="warning", message=warning)
    _write(Path(request.out_dir), result, found, run)
    return result


def generate(request: GenerateRequest, emit: Emit) -> GenerateResult:
    """Answer prompts with an adapter, or with the bare base, each as one user message in the chat template in force.

    Raises:
        StorageError: ``adapter_dir`` holds no adapter.
        BaseModelError: The base can't be had here.
        TrainingError: Memory ran out, or the device failed.
    """
    situation = Situation(request.device)
    with explained(situation):
        return _generate(request, emit, situation)


def _generate(request: GenerateRequest, emit: Emit, situation: Situation) -> GenerateResult:
    cache, device = Path(request.cache_dir), request.device
    folder = Path(request.adapter_dir) if request.adapter_dir else None
    own_tokenizer = folder is not None and (folder / "tokenizer_config.json").is_file()
    tokenizer_folder = folder if folder and own_tokenizer else bases.folder(request.base, cache, request.hub, emit)
    template = choose(bases.load_tokenizer(tokenizer_folder))
    model: Any
    model, _ = bases.load_model(
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
    before = [{"role": "system", "content": request.system}] if request.system else []
    texts = [
        template.render([*before, {"role": "user", "content": prompt}], generation_prompt=True)
        for prompt in request.prompts
    ]
    tokenizer: Any = template.tokenizer
    found = answer(
        model,
        tokenizer,
        [tokenizer(each, add_special_tokens=False)["input_ids"] for each in texts],
        stop_tokens=sorted({*template.stop_tokens(), *_own_stop_tokens(model)}),
        max_new_tokens=request.max_new_tokens,
        context_tokens=request.base.context_tokens,
        device=device,
        temperature=request.temperature,
        progress=lambda done, total: emit("phase", phase="answering", done=done, total=total),
    )
    return GenerateResult(answers=found.texts)


def _own_stop_tokens(model: Any) -> list[int]:
    """The stop tokens that the base's generation_config names (Llama 3 has three)."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return [own] if isinstance(own, int) else list(own or [])


def _answer_or_warn(run: _Evaluation, found: _SetResult) -> None:
    try:
        run.answer(found)
    except CeloraError:
        raise
    except Exception as error:
        if kind_of(error, run.request.device) is DeviceError:
            raise  # nothing more can be computed in this process, and the worker has to know
        traceback.print_exc()  # into the job's log; the adapter is good, and answers can be measured again alone
        found.answers, found.answered = {}, []
        run.warnings.append(
            f"{found.name}: no answers were measured ({type(error).__name__}: {(str(error).splitlines() or [''])[0]}); "
            "`celora evaluate` measures again"
        )


def _measured(found: _SetResult, wanted: list[str], warnings: list[str]) -> dict[str, Any]:
    """Metrics of one set, by side."""
    measured: dict[str, Any] = {"rows": len(found.rows), "answered": len(found.answered)}
    references = [found.rows[i]["reference"] for i in found.answered]
    for side in found.losses:
        loss = found.losses[side].mean
        numbers = {"eval_loss": loss, "perplexity": text.perplexity(loss)}
        given = found.answers.get(side)
        if given is not None:
            texts, failures = text.text_metrics(wanted, references, given.texts)
            numbers |= texts
            numbers["tokens_per_s"] = given.tokens / given.seconds if given.seconds else 0.0
            warnings += [f"{found.name}, {side}: {failure}" for failure in failures]
        measured[side] = numbers
    return measured


def _samples(found: _SetResult) -> list[dict[str, str]]:
    return [
        {
            "set": found.name,
            "prompt": str(found.rows[i]["prompt"]),
            "reference": str(found.rows[i]["reference"]),
            **{side: found.answers[side].texts[n] for side in found.losses},
        }
        for n, i in enumerate(found.answered[:SAMPLES_PER_SET])
    ]


def _write(out_dir: Path, result: EvaluateResult, found: list[_SetResult], run: _Evaluation) -> None:
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    staged = out_dir.parent / f".staged-{uuid4().hex}"  # (not mkdtemp: others must be able to read it)
    staged.mkdir()
    try:
        for each in found:
            with (staged / f"rows.{each.name}.jsonl").open("w", encoding="utf-8") as file:
                texts = {side: given.texts for side, given in each.answers.items()}
                made = lines(each.rows, each.losses, each.answered, texts, run.request.metrics)
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in made)
        facts = {**result.model_dump(mode="json"), "settings": run.settings()}
        (staged / "evaluation.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8")
        commit(staged, out_dir, kind="evaluation")
    finally:
        shutil.rmtree(staged, ignore_errors=True)
