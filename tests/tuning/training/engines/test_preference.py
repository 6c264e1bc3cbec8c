"""Training from preferences equals plain scripts of TRL, and resumes to the bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from celora.tuning.failures import Situation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT asks by the old name
    pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'"),  # ORPO, which is pinned
]

PAIRS, WORDS = 8, 96


def write_set(folder, name, rows, *, labels=True):
    np.save(folder / f"{name}.tokens.npy", np.concatenate([row[0] for row in rows]).astype(np.int32))
    np.save(folder / f"{name}.mask.npy", np.concatenate([row[1] for row in rows]).astype(np.uint8))
    np.save(folder / f"{name}.offsets.npy", np.cumsum([0, *(len(row[0]) for row in rows)]).astype(np.int64))
    if labels:
        np.save(folder / f"{name}.labels.npy", np.array([1, 0] * (len(rows) // 2), dtype=np.uint8))


def pair(rng):
    """A prompt, the words that follow its words, and other words."""
    prompt = rng.integers(3, WORDS - 1, rng.integers(3, 9))
    return prompt, prompt + 1, rng.integers(3, WORDS - 1, rng.integers(2, 12))


def made_pairs(count, *, seed):
    rng = np.random.default_rng(seed)
    return [pair(rng) for _ in range(count)]


def as_row(prompt, answer):
    mask = np.concatenate([np.zeros(len(prompt)), np.ones(len(answer) + 1)])
    return np.concatenate([prompt, answer, [1]]), mask


def words(tokens):
    return " ".join(f"w{token}" for token in tokens)


@pytest.fixture(scope="session")
def prepared_pairs(make_prepared, tiny_base):
    """A prepared folder of pairs; held out are pairs too."""
    folder = make_prepared(tiny_base, seed=3)
    for name, count, seed in (("train", PAIRS, 5), ("eval.eval", 4, 6)):
        pairs = made_pairs(count, seed=seed)
        write_set(folder, name, [as_row(prompt, each) for prompt, *both in pairs for each in both])
    with (folder / "eval.eval.rows.jsonl").open("w") as file:
        for prompt, chosen, rejected in pairs:
            for answer, wanted in ((chosen, True), (rejected, False)):
                row = {"prompt_tokens": prompt.tolist(), "prompt": words(prompt), "reference": words(answer)}
                row |= {"answer_tokens": [*answer.tolist(), 1], "row_hash": words(answer), "line": 1, "wanted": wanted}
                file.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture
def preference_request(make_request, prepared_pairs):
    def make(**settings):
        settings = {"max_steps": 4, "dropout": 0.0, "micro_batch": 2, "accumulation": 2, **settings}
        return make_request(prepared=prepared_pairs, **settings)

    return make


def loaded(request, record):
    from celora.tuning.training.run import Run  # imports torch

    return Run(request, record, record.stop, Situation("cpu"))


def train(request, record):
    from celora.tuning.training.run import train as run

    return run(request, record, record.stop)


def losses(record):
    return [event["loss"] for event in record.of("progress")]


def adapter(folder):
    from safetensors.torch import load_file

    return load_file(Path(folder) / "adapter_model.safetensors")


def plain_base(base, **options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base.source, **options)


def on_nf4(make_trainer, args, lora, request, data):
    """A trainer of TRL on a base in 4 bits, whose adapter stays in fp32; TRL would cast it to bf16."""
    import torch
    from peft import get_peft_model
    from transformers import BitsAndBytesConfig, set_seed

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = plain_base(request.base, quantization_config=nf4, dtype=torch.float32)
    set_seed(request.seed)
    model = get_peft_model(base, lora)
    adapter = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    trainer = make_trainer(model=model, args=args, **data)
    for name, weight in trainer.model.named_parameters():
        if name in adapter:
            weight.data = adapter[name]
    return trainer


def plain(request, out, order):
    """Trains by TRL's own trainer on texts, in the given order of pairs or answers; returns losses and adapter."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model_state_dict
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    recipe, pairs = request.resolved, made_pairs(PAIRS, seed=5)
    configs = {"dpo": (DPOConfig, DPOTrainer), "kto": (KTOConfig, KTOTrainer), "orpo": (ORPOConfig, ORPOTrainer)}
    make_config, make_trainer = configs[recipe.method]
    options = {"beta": recipe.beta}
    if recipe.method == "dpo":
        options |= {"loss_type": list(recipe.losses), "loss_weights": list(recipe.losses.values())}
        options |= {"label_smoothing": recipe.label_smoothing}
    if recipe.method == "kto":
        options |= {"loss_type": next(iter(recipe.losses)), "desirable_weight": recipe.desirable_weight}
        both = [(p, answer, good) for p, c, r in pairs for answer, good in ((c, True), (r, False))]
        rows = [{"prompt": f"{words(p)} ", "completion": words(answer), "label": good} for p, answer, good in both]
    else:
        rows = [{"prompt": f"{words(p)} ", "chosen": words(c), "rejected": words(r)} for p, c, r in pairs]
    args = make_config(
        output_dir=str(out),
        seed=request.seed,
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=recipe.accumulation,
        max_steps=recipe.max_steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=0,
        optim="adamw_torch",
        activation_checkpointing=False,
        train_sampling_strategy="sequential",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        max_length=64,
        **options,
    )
    passes = []

    class Plain(make_trainer):
        def training_step(self, *given, **named):
            loss = super().training_step(*given, **named)
            passes.append(float(loss))
            return loss

    lora = LoraConfig(
        r=recipe.rank,
        lora_alpha=int(recipe.alpha),
        lora_dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    data = {
        "train_dataset": Dataset.from_list([rows[i] for i in order]),
        "processing_class": AutoTokenizer.from_pretrained(request.base.source),
    }
    if recipe.quantization == "nf4":
        trainer = on_nf4(Plain, args, lora, request, data)
    else:
        trainer = Plain(model=plain_base(request.base), args=args, peft_config=lora, **data)
    trainer.train()
    size = recipe.accumulation
    steps = [sum(passes[i : i + size]) for i in range(0, len(passes), size)]
    weights = get_peft_model_state_dict(trainer.model)
    return steps, {name: weight.detach().to(torch.float32) for name, weight in weights.items()}


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "dpo"},
        {"method": "dpo", "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3], "beta": 0.5},
        {"method": "kto", "desirable_weight": 1.2},
        {"method": "orpo"},
        {"method": "dpo", "quantization": "nf4"},
        {"method": "kto", "quantization": "nf4"},
        {"method": "orpo", "quantization": "nf4"},
    ],
    ids=lambda one: "-".join([one["method"], *one.get("loss_type", []), one.get("quantization", "fp32")]),
)
def test_losses_and_weights_are_those_of_a_plain_script_of_trl(preference_request, recorder, tmp_path, settings):
    import torch

    request, record = preference_request(warmup_steps=0, **settings), recorder()
    run = loaded(request, record)
    batches = run.engine._trainer.batches
    order = [i for step in range(batches.steps_per_epoch) for batch in batches.window(step) for i in batch]
    second = [i for step in range(2, 4) for batch in batches.window(step) for i in batch]
    run.close()
    result = train(request, record)
    steps, weights = plain(request, tmp_path / "plain", order if settings["method"] == "kto" else order + second)
    wanted = 4 if settings["method"] != "kto" else min(4, len(steps))
    assert losses(record)[:wanted] == pytest.approx(steps[:wanted], abs=1e-5)
    ours = adapter(result.adapter_dir)
    assert ours.keys() == weights.keys()
    assert all(torch.allclose(ours[name], weights[name], atol=1e-5, rtol=1e-4) for name in ours)
    config = json.loads((Path(result.adapter_dir) / "adapter_config.json").read_text())
    assert config["r"] == request.recipe.rank


@pytest.mark.parametrize("method", ["dpo", "kto", "orpo"])
def test_a_resumed_run_on_nf4_equals_the_uninterrupted_one_to_the_bit(preference_request, recorder, method):
    settings = {"method": method, "quantization": "nf4", "save_steps": 2, "eval_steps": 2}
    whole, first, rest = recorder(), recorder(), recorder()
    result = train(preference_request(out="whole", **settings), whole)
    begun = loaded(preference_request(out="first", **settings), first)
    begun.begin()
    for _ in range(3):  # the third step is lost
        begun.advance()
    begun.close()
    checkpoint = first.of("checkpoint")[0]["path"]
    again = train(preference_request(out="rest", request={"resume_from": checkpoint, "attempt": 2}, **settings), rest)
    assert losses(first)[:2] + losses(rest) == losses(whole)
    assert [event["eval_loss"] for event in rest.of("eval")] == [whole.of("eval")[-1]["eval_loss"]]
    ours, theirs = adapter(again.adapter_dir), adapter(result.adapter_dir)
    assert all(np.array_equal(ours[name].numpy(), theirs[name].numpy()) for name in theirs)
    assert again.exact


ALONE = """
import sys, threading
from celora.tuning.protocol import TrainRequest
from celora.tuning.training.run import train
train(TrainRequest.model_validate_json(sys.stdin.read()), lambda *_, **__: None, threading.Event())
"""


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(preference_request, recorder):
    from celora.tuning.training.checkpoint import committed

    settings = {"method": "kto", "save_steps": 2, "eval_steps": 4}
    killed = preference_request(out="killed", **settings)
    environment = {**os.environ, "CELORA_FAILPOINT": "step.done:kill@3"}
    command = [sys.executable, "-c", ALONE]
    done = subprocess.run(command, input=killed.model_dump_json(), env=environment, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    ((step, checkpoint),) = committed(Path(killed.out_dir) / "checkpoints")
    whole, rest = recorder(), recorder()
    result = train(preference_request(out="whole", **settings), whole)
    again = train(
        preference_request(out="rest", request={"resume_from": str(checkpoint), "attempt": 2}, **settings), rest
    )
    assert step == 2
    assert losses(rest) == losses(whole)[2:]
    ours, theirs = adapter(again.adapter_dir), adapter(result.adapter_dir)
    assert all(np.array_equal(ours[name].numpy(), theirs[name].numpy()) for name in theirs)


def test_the_base_keeps_no_head_of_trl_when_the_run_ends(preference_request, recorder):
    run = loaded(preference_request(method="dpo"), recorder())
    base = run.engine._model.get_base_model()
    assert list(run.engine._model.peft_config) == ["default"]
    assert "forward" in vars(base)
    run.close()
    assert "forward" not in vars(base)


def test_dpo_begins_at_the_loss_of_a_coin(preference_request, recorder):
    run = loaded(preference_request(method="dpo"), recorder())
    run.begin()
    assert run.engine.evaluate() == pytest.approx(np.log(2))
    assert run.engine.samples()
    run.close()


def test_the_measured_loss_is_the_one_that_the_trainer_computes(preference_request, recorder):
    """Every loss of DPO on one set: ours over log-probabilities, and TRL's over tokens."""
    import torch

    from celora.tuning.batches.pairs import PairBatches
    from celora.tuning.batches.preference_losses import Ratios, dpo_loss
    from celora.tuning.batches.prepared_set import PreparedSet
    from celora.tuning.recipe import LOSS_TYPES

    request = preference_request(method="dpo", label_smoothing=0.1)
    run = loaded(request, recorder())
    run.begin()
    run.advance()  # now the model differs from its reference
    trainer, rows = run.engine._trainer, PreparedSet.load(Path(request.prepared_dir), "eval")
    batches = PairBatches(rows, seed=0, micro_batch=4, accumulation=1, pad_id=0, form="dpo")
    batch = batches.collate(range(4))
    batch.pop("tokens")
    model = run.engine._scores(rows, lambda *_: None)
    run.engine.evaluate()
    ratios = model.logps - run.engine._reference.logps
    pairs = Ratios(
        chosen=ratios[::2],
        rejected=ratios[1::2],
        chosen_tokens=model.tokens[::2],
        rejected_tokens=model.tokens[1::2],
        chosen_nll=-model.logps[::2],
    )
    for name in LOSS_TYPES["dpo"]:
        trainer.loss_types, trainer.loss_weights = [name], [1.0]
        with torch.no_grad(), run.engine._state.installed():
            theirs = float(trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=4))
        recipe = request.recipe.model_copy(update={"loss_type": [name]})
        # In 32 bits on their side, in 64 on ours: some losses are large here, so the error is relative.
        assert dpo_loss(recipe, pairs) == pytest.approx(theirs, rel=1e-5, abs=1e-5), name
    run.close()


def test_a_micro_batch_of_another_size_takes_the_same_steps(preference_request, recorder):
    whole, parts = recorder(), recorder()
    train(preference_request(method="dpo", micro_batch=4, accumulation=1, out="whole"), whole)
    train(preference_request(method="dpo", micro_batch=1, accumulation=4, out="parts"), parts)
    assert losses(whole) == pytest.approx(losses(parts), abs=1e-5)


def test_a_stop_drains_after_a_checkpoint(preference_request, recorder):
    from celora.tuning.training.run import train as run

    record = recorder(on=lambda self, event, fields: self.stop.set() if event == "progress" else None)
    assert run(preference_request(method="kto"), record, record.stop) is None
    assert record.names[-2:] == ["checkpoint", "drained"]
    assert isinstance(record.stop, threading.Event)


def beside(prepared, folder):
    """A copy of a prepared folder with one more held-out set: plain answers that the adapter has to give."""
    shutil.copytree(prepared, folder)
    pairs = made_pairs(3, seed=9)
    write_set(folder, "eval.must_pass", [as_row(prompt, chosen) for prompt, chosen, _ in pairs], labels=False)
    with (folder / "eval.must_pass.rows.jsonl").open("w") as file:
        for prompt, chosen, _ in pairs:
            row = {"prompt_tokens": prompt.tolist(), "prompt": words(prompt), "reference": words(chosen), "line": 1}
            row |= {"answer_tokens": [*chosen.tolist(), 1], "row_hash": words(chosen)}
            file.write(json.dumps(row) + "\n")
    result = json.loads((folder / "prepared.json").read_text())
    result["eval_rows"]["must_pass"] = 3
    (folder / "prepared.json").write_text(json.dumps(result))
    return folder


@pytest.mark.parametrize("method", ["dpo", "kto", "orpo"])
def test_the_evaluation_finds_the_trainers_loss_and_the_rewards_of_both_answers(
    preference_request, recorder, tmp_path, method
):
    from celora.tuning.evaluation.evaluate import evaluate
    from celora.tuning.protocol import EvaluateRequest

    request = preference_request(method=method, max_steps=30, learning_rate=1e-2, eval_steps=30)
    result = train(request, recorder())
    request = request.model_copy(update={"prepared_dir": str(beside(Path(request.prepared_dir), tmp_path / "more"))})
    told = evaluate(
        EvaluateRequest(
            **request.model_dump(include={"job", "attempt", "cache_dir", "hub", "base", "prepared_dir", "threads"}),
            adapter_dir=result.adapter_dir,
            recipe=result.resolved,
            metrics=["exact_match"],
            max_new_tokens=4,
            whole_sets=["must_pass"],
            trainer_eval_loss=result.eval_loss,
            out_dir=str(tmp_path / "evaluation"),
        ),
        recorder(),
    )
    assert {"loss", "effect"} <= {check["name"] for check in told.checks if check["ok"]}
    base, tuned = told.metrics["base"], told.metrics["tuned"]
    assert (base["reward_accuracy"], base["reward_margin"]) == (0.0, 0.0)
    assert tuned["reward_accuracy"] > 0
    assert tuned["reward_margin"] > 0
    assert tuned["logps_wanted"] > base["logps_wanted"]
    assert tuned["eval_loss"] < base["eval_loss"]
    lines = [json.loads(line) for line in (tmp_path / "evaluation" / "rows.eval.jsonl").read_text().splitlines()]
    answered = [line for line in lines if line["tuned"] is not None]
    assert len(lines) == (8 if method == "kto" else 4)
    assert len(answered) == 4
    assert all(line["wanted"] for line in answered)
    assert [line["loss_tuned"] is None for line in lines] == [not line["wanted"] for line in lines]
    required = [
        json.loads(line) for line in (tmp_path / "evaluation" / "rows.must_pass.jsonl").read_text().splitlines()
    ]
    assert [line["exact_tuned"] in (True, False) for line in required] == [True] * 3
    assert "reward_accuracy" not in told.metrics["sets"]["must_pass"]["tuned"]
    rights = [line["reward_accuracy_tuned"] for line in lines]
    assert sum(rights) / len(rights) == pytest.approx(tuned["reward_accuracy"])


def test_training_goes_on_from_a_parent_which_is_then_the_reference(
    make_request, preference_request, recorder, tmp_path
):
    parent = train(make_request(max_steps=3, dropout=0.0, out="parent"), recorder()).adapter_dir
    places = {"start_from": parent, "reference": parent}
    fields = {"method": "dpo", "save_steps": 2, "eval_steps": 2}
    whole, first, rest = recorder(), recorder(), recorder()
    result = train(preference_request(out="whole", request=places, **fields), whole)
    assert losses(whole)[0] == pytest.approx(np.log(2), abs=1e-6)  # nothing has moved away from the reference yet
    begun = loaded(preference_request(out="first", request=places, **fields), first)
    assert sorted(begun.engine._model.peft_config) == ["default", "ref"]
    begun.begin()
    for _ in range(2):
        begun.advance()
    begun.close()
    again = {**places, "resume_from": first.of("checkpoint")[0]["path"], "attempt": 2}
    resumed = train(preference_request(out="rest", request=again, **fields), rest)
    assert losses(first) + losses(rest) == losses(whole)
    ours, theirs, parents = adapter(resumed.adapter_dir), adapter(result.adapter_dir), adapter(parent)
    assert all(np.array_equal(ours[name].numpy(), theirs[name].numpy()) for name in theirs)
    assert {path.name for path in Path(result.adapter_dir).iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "manifest.json",
    }  # fmt: skip  (and no reference)
    assert any(not np.array_equal(parents[name].numpy(), theirs[name].numpy()) for name in theirs)
