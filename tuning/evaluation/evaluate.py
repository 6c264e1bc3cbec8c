# pyright: basic
# (torch and transformers ship incomplete types)
"""``evaluate``: measures the adapter against its base and its rivals, on the same rows with the same prompts.

Evaluating is also the verification: the written adapter is loaded again through plain PEFT, onto a base that is loaded
afresh or was found unchanged after its last use (resident_base.py), and no number of an adapter that fails a check is
published. One model is in memory. The base is this model with the adapter switched off. A rival (the champion that this
adapter has to beat) is another adapter on the same base, switched on in place of ours. An earlier evaluation of the
same rows supplies the base's side where one exists (base_results.py), and an answer that the loss pass has already
determined is not decoded (confirmed.py).

Loss is measured over every held-out row, answers over at most ``max_rows`` of each set (always the same rows of a set,
so that jobs can be compared). An error while answers are measured is a warning; the adapter is valid without answers.
"""

import json
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import PeftModel

from ...errors import CeloraError, DeviceError
from .. import device as devices
from ..adapters.load import add_adapter
from ..adapters.package import CONFIG
from ..adapters.usage import servable
from ..bases import base as bases
from ..bases.generation import stop_tokens
from ..batches.loss import pad_batch
from ..batches.preference_scores import Scores, method_loss, score
from ..batches.prepared_set import TRAIN, PreparedSet, eval_rows, load_result, load_settings, permutation
from ..batches.row_losses import RowLosses, row_losses
from ..failures import Situation, explained, kind_of
from ..protocol import PART_S, WHOLE_DEVICE, Emit, EvaluateRequest, EvaluateResult, Rival, Turn
from ..templates.answer_form import AnswerForm, learn
from ..templates.template_choice import choose
from ..templates.tokenizer_calls import answer_text
from .base_results import BaseResult, BaseResults, key_of
from .confirmed import MARGINS, confirmed_answers
from .generate import BATCH_ROWS, Answers, answer, own_stop_tokens
from .measures import METRICS_VERSION
from .preferences import Preferences
from .readings import Reader, Reading
from .set_results import FirstRows, SetResult, set_metrics, set_samples, write_results
from .verification import Verification, largest_change

CHECKED_ROWS = 8
"""Number of training rows for the checks where no rows are held out."""
REPORT_EVERY_S = 1.0
BASE, TUNED = "base", "tuned"
REFERENCE = "ref"
"""PEFT's name of the adapter with which preferences are compared, as in training."""
OURS = "default"
"""PEFT's name of the evaluated adapter."""


class _Evaluation:
    """One evaluate request in progress: the loaded model and the settings of its measurements."""

    def __init__(self, request: EvaluateRequest, emit: Emit, load_model: bases.LoadModel, turn: Turn) -> None:
        self.request, self.emit, self.turn = request, emit, turn
        self.prepared_dir = Path(request.prepared_dir)
        self.sets = [name for name, rows in load_result(self.prepared_dir).eval_rows.items() if rows]
        self.tokenizer: Any = bases.load_tokenizer(self.prepared_dir / "tokenizer")
        self.warnings: list[str] = []
        self.verification = Verification(Path(request.adapter_dir), request.base, request.recipe)
        self.verification.files()
        self.base_results = BaseResults(Path(request.cache_dir))
        self.dtype = request.serving_dtype or self._dtype()
        self.margin = MARGINS[self.dtype]
        self.quantization = "none" if request.serving_dtype else request.recipe.quantization
        model, self.unquantized = load_model(
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
        if request.reference:
            add_adapter(self.peft_model, Path(request.reference), REFERENCE)
        self.sides = [BASE, TUNED, *(rival.side for rival in request.rivals if self._loaded(rival))]

    def begin(self, name: str) -> SetResult:
        """Choose the rows of a set to answer, and look for the base's side of an earlier evaluation."""
        rows = list(eval_rows(self.prepared_dir, name))
        limit = self.request.max_rows if self.request.metrics else 0
        if name in self.request.whole_sets:
            limit = len(rows)
        asked = [i for i, row in enumerate(rows) if row.get("wanted", True)]
        found = SetResult(name, rows, sorted(asked[int(i)] for i in permutation(len(asked), 0)[:limit]))
        found.preferences = Preferences.of(rows, self.request.recipe.method, self.request.recipe.beta)
        found.key = self._key(found)
        stored = self.base_results.read(found.key)
        if stored and len(stored.losses.sums) == len(rows):
            found.stored = stored
            message = f"the base's losses and answers on {name} are those of an earlier evaluation of the same rows"
            self.emit("note", level="info", message=message)
        return found

    def measure_losses(self, found: SetResult) -> None:
        """Measure the loss of each row of a set, by side."""
        rows = PreparedSet.load(self.prepared_dir, found.name)
        for side in self.sides:
            phase = f"loss of {side}, {found.name}"
            if side == BASE and found.stored:
                found.losses[side] = found.stored.losses
                self._progress(phase)(len(rows), len(rows))
            else:
                found.losses[side] = self._on(side, lambda phase=phase: self._losses(rows, phase))
        found.reference = found.losses[BASE]
        if self.request.reference and found.preferences:
            phase = f"loss of the reference, {found.name}"
            found.reference = self._on(REFERENCE, lambda: self._losses(rows, phase))

    def method_loss(self, found: SetResult) -> float:
        """Return the loss that the trainer measured: of preferences, the method's own."""
        if found.preferences is None or found.reference is None:
            return found.losses[TUNED].mean
        rows, recipe = PreparedSet.load(self.prepared_dir, found.name), self.request.recipe

        def scores(answers: RowLosses, phase: str) -> Scores:
            return score(
                self.model,
                rows,
                recipe,
                pad_id=int(self.tokenizer.pad_token_id),
                device=self.request.device,
                progress=self._progress(phase),
                answers=answers,
            )

        phase = f"{recipe.method} loss of {found.name}"
        tuned, known = self._on(TUNED, lambda: scores(found.losses[TUNED], phase)), found.reference
        if recipe.method == "orpo":
            return method_loss(recipe, rows, tuned, None)
        side = REFERENCE if self.request.reference else BASE
        return method_loss(recipe, rows, tuned, self._on(side, lambda: scores(known, phase)))

    def check_without_held_out_rows(self) -> None:
        """Check the behaviour on a few training rows; the trainer has no loss to compare with."""
        rows = FirstRows(PreparedSet.load(self.prepared_dir, TRAIN), CHECKED_ROWS)
        self.verification.loss(self._losses(rows, "loss of a few training rows").mean, None, compute_dtype=self.dtype)
        self._check_effect(rows)
        self.warnings.append("there are no held-out rows, so base and tuned were not compared")

    def check(self, primary: SetResult) -> None:
        """Check the behaviour on the set that the trainer measured too."""
        loss, trainers = self.method_loss(primary), self.request.trainer_eval_loss
        if self.request.serving_dtype:
            self.verification.served(loss, trainers, self.request.serving_dtype)
        else:
            tokens = sum(primary.losses[TUNED].tokens) / max(1, len(primary.rows))
            summed = self.request.recipe.beta * tokens if primary.preferences else 1.0
            self.verification.loss(loss, trainers, compute_dtype=self.dtype, summed_tokens=summed)
        self._check_effect(FirstRows(PreparedSet.load(self.prepared_dir, self.sets[0]), CHECKED_ROWS))

    def answer(self, found: SetResult) -> None:
        """Generate every side's answers to the same prompts of a set."""
        if found.answered:
            rows = PreparedSet.load(self.prepared_dir, found.name)
            for side in self.sides:
                found.answers[side] = self._on(side, lambda side=side: self._answers(found, rows, side))
            self._read(found)
            unanswered = found.answers["tuned"].unanswered
            if unanswered:
                self.warnings.append(f"{found.name}: {unanswered} prompts fill the whole context and got no answer")
        if not found.stored:
            self.base_results.write(found.key, BaseResult(found.losses[BASE], found.answers.get(BASE)))

    def _answers(self, found: SetResult, rows: PreparedSet, side: str) -> Answers:
        """Return the active side's answers; an answer that the side's loss pass has determined is not decoded."""
        prompts, total = [found.rows[i]["prompt_tokens"] for i in found.answered], len(found.answered)
        report = self._progress(f"answers of {side}, {found.name}")
        if side == BASE and found.stored and found.stored.answers:
            report(total, total)
            return found.stored.answers
        limits = {
            "stop_tokens": self._stop_tokens(),
            "max_new_tokens": self.request.max_new_tokens,
            "context_tokens": self.request.base.context_tokens,
        }
        followed = [found.losses[side].followed[i] for i in found.answered]
        references = [(tokens.tolist(), mask.tolist()) for tokens, mask in (rows[i] for i in found.answered)]
        shown = confirmed_answers(prompts, references, followed, **limits)
        texts = {n: answer_text(self.tokenizer, ids, self._stop_tokens()) for n, ids in shown.items()}
        others = [n for n in range(total) if n not in texts]
        given = answer(
            self.model,
            self.tokenizer,
            [prompts[n] for n in others],
            **limits,
            device=self.request.device,
            progress=lambda done, _: report(done + len(shown), total),
        )
        texts |= dict(zip(others, given.texts, strict=True))
        written = shown | dict(zip(others, given.written, strict=True))
        if not others:
            report(total, total)
        ordered = [texts[n] for n in range(total)], [written[n] for n in range(total)]
        return Answers(ordered[0], given.tokens, given.seconds, given.unanswered, ordered[1])

    def _key(self, found: SetResult) -> str:
        """Return the key of the base's side, a digest of everything that determines its losses and answers."""
        request, tokenizer = self.request, self.prepared_dir / "tokenizer"
        files = [self.prepared_dir / f"eval.{found.name}.{part}.npy" for part in ("tokens", "mask", "offsets")]
        files += [self.prepared_dir / f"eval.{found.name}.rows.jsonl", *sorted(tokenizer.iterdir())]
        facts = {
            "base": request.base.model_dump(mode="json", exclude={"source"}),
            "settings": {name: value for name, value in self.settings().items() if name != "max_rows"},
            "answered": found.answered,
            "arithmetic": devices.arithmetic(request.device),
            "margin": self.margin,
            "tokenizers": version("tokenizers"),
        }
        if request.owner:
            facts["owner"] = request.owner
        return key_of(facts, files)

    def _read(self, found: SetResult) -> None:
        """Read references and answers in the same way."""
        rows = [found.rows[i] for i in found.answered]
        form = AnswerForm()
        if any("answer_tokens" in row for row in rows):  # (running text has no template, and may have none that works)
            form = learn(choose(self.tokenizer, stops=stop_tokens(self.prepared_dir / "tokenizer")))
        reader = Reader(self.tokenizer, form)
        found.references = [
            reader.read(row["answer_tokens"], tools=row.get("tools", False))
            if "answer_tokens" in row
            else Reading.plain(row["reference"])
            for row in rows
        ]
        for side, given in found.answers.items():
            found.readings[side] = [
                reader.read(tokens, tools=row.get("tools", False), plain="answer_tokens" not in row)
                for row, tokens in zip(rows, given.written, strict=True)
            ]

    def settings(self) -> dict[str, Any]:
        """Return the settings of the measurement for the record."""
        request = self.request
        return {
            "metrics_version": METRICS_VERSION,
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
        """Return the trainer's compute dtype, or float32 on a CPU that is too slow in the trainer's dtype."""
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
            margin=self.margin,
        )

    def _check_effect(self, rows: Any) -> None:
        batch = pad_batch([rows[i] for i in range(len(rows))][:1], int(self.tokenizer.pad_token_id))
        inputs = {name: batch[name].to(self.request.device) for name in ("input_ids", "attention_mask")}
        change = largest_change(self.peft_model, lambda: self.model(**inputs, use_cache=False).logits)
        self.verification.effect(change)

    def _loaded(self, rival: Rival) -> bool:
        """Load a rival beside our adapter; a failure is a warning, since our adapter is valid without the rival."""
        self.emit("phase", phase=f"loading {rival.side}", done=None, total=None)
        try:
            add_adapter(self.peft_model, Path(rival.adapter_dir), rival.side)
        except Exception as error:  # noqa: BLE001  (PEFT may raise anything over an adapter that is not ours)
            traceback.print_exc()  # into the job's log
            why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            self.warnings.append(f"{rival.side} could not be loaded beside it and was not measured ({why})")
            return False
        return True

    def _on(self, side: str, measure: Callable[[], Any]) -> Any:
        self.peft_model.set_adapter(OURS if side in (BASE, TUNED) else side)  # a rival's name, or the reference's
        try:
            with self.peft_model.disable_adapter() if side == BASE else nullcontext():
                return measure()
        finally:
            self.peft_model.set_adapter(OURS)

    def _progress(self, phase: str) -> Callable[[int, int], None]:
        """Return a function that ends a turn, and reports a phase at most once a second and always at its end."""
        reported = 0.0

        def report(done: int, total: int) -> None:
            nonlocal reported
            self.turn.over(PART_S)
            if done == total or time.monotonic() - reported >= REPORT_EVERY_S:
                reported = time.monotonic()
                self.emit("phase", phase=phase, done=done, total=total)

        return report

    def _stop_tokens(self) -> list[int]:
        """Return the ids that end an answer: the end token of the template in force and the base's own stop tokens."""
        return sorted({*load_settings(self.prepared_dir).get("stop_tokens", []), *own_stop_tokens(self.model)})


def evaluate(
    request: EvaluateRequest,
    emit: Emit,
    load_model: bases.LoadModel = bases.load_model,
    turn: Turn = WHOLE_DEVICE,
) -> EvaluateResult:
    """Verify the written adapter, and measure it against its base.

    Args:
        request: The adapter, the rows and the metrics. ``out_dir`` is replaced; it gets ``rows.<set>.jsonl`` for each
            held-out set (a line a row: prompt, reference; answer, exact match and loss of base and tuned) and
            ``evaluation.json``.
        emit: Receives the phases with their progress in rows.
        load_model: Loads the base, or returns the one that the process holds, unchanged since its load.
        turn: The evaluation's turn on its device, which ends between two batches.

    Raises:
        VerificationError: The adapter failed a check; nothing is written.
        BaseModelError: The base is not, or no longer, available here.
        TrainingError: Memory ran out, or the device failed.
        DiskFullError: The disk has no space for the results.
    """
    out = Path(request.out_dir).parent
    out.mkdir(parents=True, exist_ok=True)
    situation = Situation(request.device, out, recipe=request.recipe)
    with explained(situation):
        return _evaluate(_Evaluation(request, emit, load_model, turn), situation)


def _evaluate(run: _Evaluation, situation: Situation) -> EvaluateResult:
    request, emit = run.request, run.emit
    situation.doing = "evaluating"
    found: list[SetResult] = []
    for name in run.sets:
        found.append(run.begin(name))
        run.measure_losses(found[-1])
        if len(found) == 1:
            run.check(found[0])
    if not found:
        run.check_without_held_out_rows()
    sets: dict[str, Any] = {}
    for result in found:
        _answer_or_warn(run, result)
        sets[result.name] = set_metrics(result, request.metrics, run.warnings)
    first = next(iter(sets.values()), {side: {} for side in run.sides})
    config = json.loads((Path(request.adapter_dir) / CONFIG).read_text(encoding="utf-8"))
    result = EvaluateResult(
        metrics={**{side: first[side] for side in run.sides}, "sets": sets},
        samples=[sample for each in found for sample in set_samples(each)],
        checks=run.verification.checks,
        servable=servable(config, run.model.config.architectures or [type(run.model).__name__]),
        metrics_version=METRICS_VERSION,
        unquantized_layers=run.unquantized,
        warnings=[*run.verification.warnings, *run.warnings],
    )
    for warning in result.warnings:
        emit("note", level="warning", message=warning)
    write_results(Path(request.out_dir), result, found, request.metrics, run.settings())
    return result


def _answer_or_warn(run: _Evaluation, found: SetResult) -> None:
    try:
        run.answer(found)
    except CeloraError:
        raise
    except Exception as error:
        if kind_of(error, run.request.device) is DeviceError:
            raise  # this process can compute nothing more, and the worker must learn of the failure
        traceback.print_exc()  # into the job's log; the adapter is valid, and answers can be measured again alone
        found.answers, found.answered, found.readings, found.references = {}, [], {}, []
        run.warnings.append(
            f"{found.name}: no answers were measured ({type(error).__name__}: {(str(error).splitlines() or [''])[0]}); "
            "`celora evaluate` measures again"
        )
