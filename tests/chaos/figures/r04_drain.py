"""R4: workers are asked to leave (SIGTERM, then SIGKILL after the grace, as Kubernetes does) in the middle of training.

Thirty times with the mini engine, then a few times with the product's own trainer and a real LoRA, whose adapter must
be, to the last bit, that of a run that nobody disturbed.
"""

import hashlib
import json
import statistics
import sys
import time
from pathlib import Path

from chaos.figure import figure
from chaos.installation import installation
from chaos.oracle import faults, redone

DRAINS, REAL_DRAINS = 30, 4
STEP_S, GRACE_S = 0.02, 20
P95_S = 2 * STEP_S + 2
REAL_STEPS = 60


@figure(
    "R4",
    "A drained worker's job loses nothing",
    f"{DRAINS} SIGTERMs to workers in training and {REAL_DRAINS} with a real LoRA: 0 steps redone, 0 attempts paid, "
    f"exit code 0 inside the grace ({GRACE_S} s), job given back p95 <= {P95_S:.2f} s, real adapter equal to the bit",
)
def drain(bench):
    numbers, missed = {}, []
    with installation(bench.folder / "mini", gpus=2, step_s=STEP_S) as cluster:
        ids, back, left = [], [], []
        while len(back) < DRAINS:
            if not ids or cluster.job(ids[-1])["status"] == "completed":
                ids += cluster.submit(1, steps=900, save_steps=300)
            if (seconds := drain_once(cluster, ids[-1], bench.dice.uniform(0.2, 1.5), missed)) is not None:
                back.append(seconds[0])
                left.append(seconds[1])
                bench.say(f"drain {len(back)}: given back in {seconds[0]:.2f} s, worker left in {seconds[1]:.2f} s")
        cluster.wait_final(ids, 120)
        missed += faults(cluster, ids)
        again = sum(sum(redone(cluster, job_id)) for job_id in ids)
        paid = sum(paid_attempts(cluster, job_id) for job_id in ids)
    back.sort()
    p95 = back[int(len(back) * 0.95)]
    missed += [f"{again} steps were done twice"] if again else []
    missed += [f"{paid} attempts were paid"] if paid else []
    missed += [f"given back after {p95:.2f} s at p95"] if p95 > P95_S else []
    numbers |= {
        "drains": len(back),
        "steps_redone": again,
        "attempts_paid": paid,
        "given_back_p50_s": round(statistics.median(back), 2),
        "given_back_p95_s": round(p95, 2),
        "worker_left_worst_s": round(max(left), 2),
    }
    real_numbers, real_missed = real(bench)
    return numbers | real_numbers, missed + real_missed


def drain_once(cluster, job_id, after_s, missed, start=None):
    """SIGTERM to the job's worker some seconds into its training; None if the job was done before.

    Returns:
        Seconds until the record had the job back, and until the worker was gone.
    """
    done = cluster.job(job_id)["step"]
    cluster.wait(lambda: trains_or_ended(cluster, job_id, done), 60, f"{job_id} trains")
    time.sleep(after_s)
    job = cluster.job(job_id)
    if job["status"] != "running" or job["stage"] != "train":
        return None
    name = job["worker_id"].split("@")[0]
    process, began = cluster.workers[name], time.monotonic()
    process.terminate()
    cluster.wait(lambda: cluster.job(job_id)["attempt"] > job["attempt"], GRACE_S + 5, f"{job_id} is given back")
    back_s = time.monotonic() - began
    code = process.wait(timeout=GRACE_S)
    left_s = time.monotonic() - began
    missed += [f"{name} left with exit code {code}"] if code else []
    missed += [f"{name} left only after {left_s:.1f} s"] if left_s > GRACE_S else []
    (start or cluster.start_worker)("gpu", name)
    return back_s, left_s


def trains_or_ended(cluster, job_id, done):
    """The job made a step beyond, or there will be none."""
    job = cluster.job(job_id)
    return job["status"] == "completed" or (
        job["stage"] == "train" and job["status"] == "running" and job["step"] > done
    )


def paid_attempts(cluster, job_id):
    """Attempts that ended otherwise than given back, the last one aside."""
    outcomes = [row["outcome"] for row in cluster.attempts(job_id)]
    return sum(outcome != "released" for outcome in outcomes[:-1])


def real(bench):
    """The same with the product's own trainer: a run without a drain and one with some, adapter against adapter."""
    missed = []
    base, rows = tiny_base(bench.folder / "base"), real_rows(bench.folder / "rows.jsonl")
    with installation(bench.folder / "real", gpus=0, settings={"CELORA_TRAINER_THREADS": "1"}) as cluster:

        def start(kind, name):
            options = {"control": ["-Q", "celora", "-c", "2"], "prep": ["-Q", "prep", "-c", "1"]}.get(
                kind, ["--gpu", name[-1]]
            )
            named = [] if kind == "gpu" else ["-n", f"{name}@%h"]
            command = [sys.executable, "-m", "celery", "-A", "celora.workers", "worker", *named, *options]
            cluster.launch(name, [*command, "--disable-prefetch", "-E", "--without-gossip", "--without-mingle"])

        for kind, name in (("control", "control"), ("prep", "prep"), ("gpu", "cpu-0"), ("gpu", "cpu-1")):
            start(kind, name)
        cluster.start_worker("beat", "beat")
        cluster.wait_registered()
        spec = {
            "base": str(base), "steps": REAL_STEPS, "save_steps": 1000, "dataset": str(rows), "micro_batch": 2,
            "effective_batch": 4, "rank": 4, "eval_fraction": 0.2, "eval_max_new_tokens": 8, "dropout": 0.05,
        }  # fmt: skip
        (calm,) = cluster.submit(1, **spec)
        cluster.wait_final([calm], 180)
        (drained,) = cluster.submit(1, **spec)
        drains = []
        while len(drains) < REAL_DRAINS and cluster.job(drained)["status"] != "completed":
            seconds = drain_once(cluster, drained, bench.dice.uniform(0, 0.3), missed, start)
            if seconds is not None:
                drains.append(seconds[1])
                bench.say(f"real drain {len(drains)}: worker left in {seconds[1]:.2f} s")
        cluster.wait_final([drained], 180)
        ended = [cluster.job(job_id) for job_id in (calm, drained)]
        missed += [f"{job['id']} is {job['status']}: {job['error']}" for job in ended if job["status"] != "completed"]
        hashes = [adapter_hash(job) for job in ended if job["status"] == "completed"]
        paid = paid_attempts(cluster, drained)
    missed += [f"only {len(drains)} real drains met the training"] if len(drains) < REAL_DRAINS else []
    missed += ["the drained run's adapter differs from the calm one's"] if len(set(hashes)) != 1 else []
    missed += [f"{paid} real attempts were paid"] if paid else []
    return {
        "real_drains": len(drains),
        "real_adapter_equal": len(set(hashes)) == 1,
        "real_worker_left_worst_s": round(max(drains, default=0), 2),
    }, missed


def adapter_hash(job):
    """Of the published weights."""
    folder = Path(job["adapter_uri"].removeprefix("file://"))
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def real_rows(path):
    """Forty-eight short instructions."""
    colours = ["red", "blue", "green", "grey"]
    rows = [
        {"instruction": f"colour of item {number}", "output": f"item {number} is {colours[number % 4]}"}
        for number in range(48)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tiny_base(folder):
    """A random Llama of 0.2 M parameters with a byte tokenizer and a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the colour of item number is red blue green"], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    wrapped.chat_template = (
        "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(wrapped), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, pad_token_id=3, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder
