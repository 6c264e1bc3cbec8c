"""The trainer program of the chaos tests: celora's own, with a hash chain in the place of every model.

What it keeps is real: the program's loop, its signals and its watch on standard input, the protocol, the control of the
run, the checkpoints. What it replaces is what the three stages would do with torch. It starts in 0.2 s.

Environment: ``CHAOS_STEPS`` is the folder of the step logs, ``CHAOS_STEP_S`` the seconds a step takes,
``CHAOS_STAGE_S`` those that prepare and evaluate take. Some
bases cannot be trained, see ``misbehave``.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos import chain

from celora.errors import CeloraError, OutOfMemoryError, TrainingError, VerificationError
from celora.settings.failpoints import hit
from celora.storage.manifest import commit, file_sha256, verify_manifest
from celora.tuning.protocol import (
    Base,
    EvaluateRequest,
    EvaluateResult,
    PrepareRequest,
    PrepareResult,
    TrainRequest,
    TrainResult,
)
from celora.tuning.recipe import ResolvedRecipe
from celora.tuning.trainer import program, stages
from celora.tuning.training import checkpoint
from celora.tuning.training.control import RunControl
from celora.tuning.training.progress import Progress
from celora.tuning.training.saving import CheckpointPlace

WEIGHTS = "adapter_model.safetensors"
"""The name that publish expects; what lies in it is the chain's last hash."""


def prepare(request, emit):
    """Hash the rows, and write the little that train and publish read."""
    emit("phase", phase="reading rows", done=None, total=None)
    linger(request.base_model, "prepare")
    out = Path(request.out_dir)
    shutil.rmtree(out, ignore_errors=True)
    (out / "tokenizer").mkdir(parents=True)
    (out / "tokenizer" / "tokenizer.json").write_text("{}")
    result = PrepareResult(
        base=Base(
            source=request.base_model,
            kind="folder",
            name=request.base_model,
            revision="sha256:0",
            parameters=1000,
            context_tokens=64,
            model_type="chain",
        ),
        dataset_sha256=file_sha256(Path(request.dataset)),
        train_rows=10,
        eval_rows={"eval": 2},
        train_tokens=100,
        trained_tokens=50,
        max_length=64,
        template="own",
        memory_bytes=1,
        receipt={"ok": True},
    )
    (out / "prepared.json").write_text(result.model_dump_json())
    return result


def train(request, emit, stop):
    """Run the chain under the real control, from the start or from a checkpoint."""
    out = Path(request.out_dir)
    facts = json.loads((Path(request.prepared_dir) / "prepared.json").read_text())
    recipe = resolved(request)
    settings = {"seed": request.seed, "data_sha256": facts["dataset_sha256"], "planned_steps": recipe.max_steps}
    resume_from = Path(request.resume_from) if request.resume_from else None
    progress = Progress()
    if resume_from is not None:
        checkpoint.require_same_run(resume_from, verify_manifest(resume_from), settings)
        progress = Progress.read(resume_from)
    engine = chain.ChainEngine(
        chain.start_of(request.seed, facts["dataset_sha256"]),
        chain.step_log(os.environ["CHAOS_STEPS"], request.job, request.attempt),
        float(os.environ.get("CHAOS_STEP_S", "0.02")),
    )
    control = RunControl(
        engine,
        recipe=recipe,
        planned_steps=recipe.max_steps,
        emit=emit,
        stop=stop,
        place=CheckpointPlace(
            root=out / "checkpoints",
            attempt=request.attempt,
            settings=settings,
            versions={"chain": "1"},
            keep=request.keep_checkpoints,
            pinned=resume_from,
        ),
        progress=progress,
    )
    counts = {"trainable_parameters": 10, "total_parameters": 1000}
    emit(
        "started",
        resolved=recipe.model_dump(mode="json"),
        planned_steps=recipe.max_steps,
        resume_step=progress.step,
        unquantized_layers=[],
        **counts,
    )
    going = control.begin(resume_from)
    while going:
        going = control.advance()
    if control.outcome == "drained":
        emit("drained", step=progress.step)
        return None
    if progress.step != recipe.max_steps:
        raise TrainingError(f"the chain came back after {progress.step} of {recipe.max_steps} steps.")
    return TrainResult(
        resolved=recipe,
        steps=progress.step,
        planned_steps=recipe.max_steps,
        train_loss=1.0,
        eval_loss=engine.evaluate(),
        tokens=progress.tokens,
        train_s=progress.train_s,
        adapter_dir=str(write_adapter(engine, out, request.attempt)),
        **counts,
    )


def resolved(request):
    """The recipe as it runs; every number that was open gets one, whatever the rules of real training say."""
    if request.resolved is not None:
        return request.resolved
    asked = request.recipe.model_dump() | {
        "micro_batch": 1,
        "accumulation": 1,
        "effective_batch": 1,
        "learning_rate": 1e-3,
        "max_length": 64,
        "gradient_checkpointing": False,
        "optimizer": "adamw",
        "compute_dtype": "float32",
        "eval_steps": 10**6,
    }
    return ResolvedRecipe.model_validate(asked)


def write_adapter(engine, out, attempt):
    """As ``tuning.training.run`` does it, with its failpoints."""
    staged, final = out / f".tmp-{attempt}-adapter", out / "adapter"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    engine.write_adapter(staged)
    hit("adapter.staged")
    commit(staged, final, step=engine.done, attempt=attempt)
    hit("adapter.committed")
    return final


def evaluate(request, emit):
    """Compare the weights with those of a run that nothing interrupted."""
    emit("phase", phase="walking the chain", done=None, total=None)
    linger(request.base.name, "evaluate")
    verify_manifest(Path(request.adapter_dir))
    facts = json.loads((Path(request.prepared_dir) / "prepared.json").read_text())
    weights = (Path(request.adapter_dir) / WEIGHTS).read_text()
    wanted = chain.expected(request.seed, facts["dataset_sha256"], request.recipe.max_steps)
    if weights != wanted:
        raise VerificationError(
            f"the chain ends in {weights[:12]} and not in {wanted[:12]}: a step was lost or redone."
        )
    Path(request.out_dir).mkdir(parents=True, exist_ok=True)
    (Path(request.out_dir) / "rows.eval.jsonl").write_text("{}\n")
    return EvaluateResult(
        metrics={"base": {"eval_loss": 1.0}, "tuned": {"eval_loss": 0.5}, "sets": {}},
        samples=[],
        checks=[{"name": "chain", "ok": True, "detail": hashlib.sha256(weights.encode()).hexdigest()}],
        servable={"vllm": False, "reason": "a hash chain"},
    )


def dispatch(request, events, stop):
    """In the place of the trainer program's own."""
    match request:
        case PrepareRequest():
            return prepare(request, events.emit)
        case TrainRequest():
            misbehave(request.base.name, stop)
            return train(request, events.emit, stop)
        case EvaluateRequest():
            return evaluate(request, events.emit)
    raise CeloraError(f"the mini trainer does not know {type(request).__name__}.")


def linger(base_model, stage):
    """Take as long as a stage without steps takes; ``chain:slow-prepare`` takes long enough to be met in it."""
    time.sleep(10 if base_model.endswith(f":slow-{stage}") else float(os.environ.get("CHAOS_STAGE_S", "0")))


def misbehave(base_model, stop):
    """Some bases cannot be trained: ``chain:crash``, ``chain:exit``, ``chain:memory``, ``chain:hang``."""
    match base_model.partition(":")[2]:
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(70)
        case "memory":
            raise OutOfMemoryError("the chain ran out of memory.")
        case "hang":
            stop.wait()


def main():
    assert callable(stages._dispatch), "the trainer program's own dispatch is gone: adapt this one"
    stages._dispatch = lambda request, events, stop, _load_model: dispatch(request, events, stop)
    return program.main()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
