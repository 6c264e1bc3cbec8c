"""Call sequences of programs that were written for OpenAI's API; run by an interpreter that has their client alone.

Usage: ``python openai_calls.py BASE_URL KEY SEQUENCE``. Prints one JSON object. The sequences are those of OpenAI's
cookbook, LlamaIndex, DSPy and W&B, shortened; none knows anything of celora.
"""

import asyncio
import http.server
import json
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai

SAID = [{"role": "user", "content": "colour"}, {"role": "assistant", "content": "red"}]
ROWS = (json.dumps({"messages": SAID}) + "\n").encode() * 12
COLOURS = ("red", "blue", "green", "grey")
MODEL = "gpt-4o-mini"


def client_of(url, key, **options):
    return openai.OpenAI(base_url=url, api_key=key, **options)


def jobs(client):
    return client.fine_tuning.jobs


def upload(client):
    return client.files.create(file=("rows.jsonl", ROWS, "application/json"), purpose="fine-tune")


def caught(call):
    try:
        call()
    except openai.APIStatusError as error:
        return [type(error).__name__, error.code, error.param, bool(error.request_id), bool(error.message)]
    return None


def lists(client):
    """Files, jobs and models: pages that the client turns by itself, filters, deletion."""
    files = [upload(client).id for _ in range(3)]
    made = [
        jobs(client).create(model=MODEL, training_file=files[0], metadata={"n": str(n)}, hyperparameters={}).id
        for n in range(3)
    ]
    found = {
        "files": sorted(file.id for file in client.files.list(limit=2)) == sorted(files),
        "jobs": [job.id for job in jobs(client).list(limit=2)] == made[::-1],
        "label": [job.id for job in jobs(client).list(metadata={"n": "1"})] == made[1:2],
        "models": MODEL in [model.id for model in client.models.list()],
        "model": client.models.retrieve(MODEL).id,
        "content": client.files.content(files[0]).read() == ROWS,
        "deleted": client.files.delete(files[2]).deleted,
    }
    events = list(jobs(client).list_events(made[0], limit=1))
    return {**found, "events": [event.message for event in events], "job": made[0]}


def forms(client):
    """A job in each form of its settings, strictly validated; paused, resumed, cancelled."""
    file = upload(client).id
    given = [
        {"hyperparameters": {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 0.5}},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}}},
        {"suffix": "bot", "seed": 7, "validation_file": upload(client).id, "extra_body": {"celora": {"rank": 4}}},
    ]
    made = [jobs(client).create(model=MODEL, training_file=file, **fields) for fields in given]
    one = made[0].id
    states = [jobs(client).retrieve(one).status]
    if hasattr(jobs(client), "pause"):
        states += [jobs(client).pause(one).status, jobs(client).resume(one).status]
    states.append(jobs(client).cancel(one).status)
    return {
        "states": states,
        "models": [job.model for job in made],
        "tuned": [job.fine_tuned_model for job in made],
        "epochs": [job.hyperparameters.n_epochs for job in made],
        "seed": made[2].seed,
        "suffix": getattr(made[2], "user_provided_suffix", None),
    }


def refusals(client):
    """Each refusal as the class of the client that programs catch, with its code and parameter."""
    file = upload(client).id
    create = jobs(client).create
    return {
        "model": caught(lambda: create(model="nope", training_file=file)),
        "file": caught(lambda: create(model=MODEL, training_file="file-none")),
        "epochs": caught(lambda: create(model=MODEL, training_file=file, hyperparameters={"n_epochs": 99})),
        "job": caught(lambda: jobs(client).retrieve("ftjob-none")),
        "empty": caught(lambda: client.files.create(file=("a.jsonl", b""), purpose="fine-tune")),
        "purpose": caught(lambda: client.files.create(file=("a.jsonl", ROWS), purpose="batch")),
        "cursor": caught(lambda: jobs(client).list(after="nope")),
    }


def rows_on_disk():
    """A file of the rows, as programs open one."""
    path = Path(tempfile.mkdtemp()) / "train.jsonl"
    path.write_bytes(ROWS)
    return path


def nulls(client):
    """A file that was opened, in parts too; settings that are null; a creation that is sent again."""
    path = rows_on_disk()
    with path.open("rb") as opened:
        file = client.files.create(file=opened, purpose="fine-tune")
    whole = client.uploads.upload_file_chunked(file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=100)
    begun = client.uploads.create(bytes=9, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    empty = {"validation_file": None, "suffix": None, "seed": None, "metadata": None, "integrations": None}
    settings = {"n_epochs": None, "batch_size": None, "learning_rate_multiplier": None}
    made = jobs(client).create(model=MODEL, training_file=whole.file.id, hyperparameters=settings, **empty)

    def sent(**headers):
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return jobs(client).create(model=MODEL, training_file=file.id, hyperparameters={}, extra_headers=given).id

    first = sent(idempotency_key="k")
    return {
        "name": file.filename,
        "parts": client.files.content(whole.file.id).read() == ROWS,
        "cancelled": client.uploads.cancel(begun.id).status,
        "epochs": made.hyperparameters.n_epochs,
        "same": [sent(idempotency_key="k") == first, sent(x_stainless_retry_count="1") == first],
        "other": sent() != first,
        "deleted": client.files.delete(file.id).deleted,
    }


def module(client):
    """The module as a client, and a client that takes everything from the environment."""
    openai.api_key, openai.base_url = client.api_key, str(client.base_url)
    file = openai.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
    made = openai.fine_tuning.jobs.create(model=MODEL, training_file=file.id)
    os.environ.update(OPENAI_API_KEY=client.api_key, OPENAI_BASE_URL=str(client.base_url), OPENAI_ORG_ID="org-old")
    return {"found": openai.OpenAI().fine_tuning.jobs.retrieve(made.id).id == made.id}


def quota(client):
    """A refusal by a limit of the tenant, which no client repeats."""
    return caught(lambda: upload(client))


def key(client):
    """A wrong key, and none of the tenant's rows through another tenant's key."""
    return {"models": caught(client.models.list), "upload": caught(lambda: upload(client))}


def asynchronous(client):
    """The same through the asynchronous client."""

    async def run():
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key=client.api_key) as own:
            file = await own.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
            job = await own.fine_tuning.jobs.create(model=MODEL, training_file=file.id)
            listed = own.fine_tuning.jobs.list(limit=1)
            return job.id == (await anext(aiter(listed))).id

    return {"found": asyncio.run(run())}


def finished(client):
    """Reads a job that has succeeded, as W&B and the cookbook do."""
    job = next(job for job in jobs(client).list() if job.status == "succeeded")
    events = list(jobs(client).list_events(job.id, limit=3))
    named = next(event.message for event in events if event.message.startswith("New fine-tuned model created: "))
    checkpoints = sorted(jobs(client).checkpoints.list(job.id).data, key=lambda one: one.step_number)
    table = client.files.content(job.result_files[0]).read().decode().splitlines()
    result = {
        "named": named.removeprefix("New fine-tuned model created: ") == job.fine_tuned_model,
        "first": events[0].message,
        "losses": [f"{one.metrics.train_loss:.4f}" for one in checkpoints],
        "cells": [[float(cell) for cell in line.split(",")] for line in table[1:]],
        "header": table[0],
        "owner": client.models.retrieve(job.fine_tuned_model).owned_by,
        "steps": [event.data["step"] for event in events if event.type == "metrics"],
    }
    result["ended"] = [caught(lambda: jobs(client).cancel(job.id))]
    return {**result, "deleted": client.models.delete(job.fine_tuned_model).deleted}


HOOK = "fine_tuning.job."


class Hooks(http.server.BaseHTTPRequestHandler):
    """A receiver that keeps what it got."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((body, dict(self.headers)))
        self.send_response(202)
        self.end_headers()

    def log_message(self, *args):
        pass


def webhooks(client):
    """An endpoint from its making to its deletion; each secret unwraps what it signed, and no other one does."""
    hooks = client.webhooks
    if not hasattr(hooks, "create"):
        return {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hooks)
    server.got = []
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def unwraps(*secrets):
        body, headers = server.got[-1]
        found = []
        for secret in secrets:
            try:
                found.append(hooks.unwrap(body, headers, secret=secret).type)
            except openai.InvalidWebhookSignatureError:
                found.append(None)
        return found

    types = [HOOK + end for end in ("succeeded", "failed", "cancelled")]
    made = hooks.create(name="ci", url=f"http://127.0.0.1:{server.server_port}/hook", event_types=types)
    tested = hooks.test(made.id, event_type=HOOK + "failed")
    once = unwraps(made.signing_secret, "whsec_bm9uZQ==")
    kept = hooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    hooks.test(made.id, event_type=HOOK + "succeeded")
    overlap = unwraps(made.signing_secret, kept.signing_secret)
    new = hooks.rotate_secret(made.id)
    hooks.test(made.id, event_type=HOOK + "cancelled")
    after = unwraps(made.signing_secret, kept.signing_secret, new.signing_secret)
    changed = hooks.update(made.id, name="new", event_types=types[:1])
    more = hooks.create(name="two", url=made.url, event_types=types)
    return {
        "types": hooks.event_types.list().data == types,
        "tested": [tested.status_code, tested.success, tested.webhook_endpoint_id == made.id],
        "unwrapped": [once, overlap, after],
        "changed": [changed.name, changed.event_types, hooks.retrieve(made.id) == changed],
        "listed": [one.id for one in hooks.list(limit=1)] == [more.id, made.id],
        "deleted": [hooks.delete(made.id).deleted, caught(lambda: hooks.retrieve(made.id))],
        "metadata": caught(lambda: hooks.create(name="x", url="https://169.254.169.254/", event_types=types)),
    }


QUICK = {"celora": {"rank": 4, "eval_max_new_tokens": 4}}
ENDS = ("succeeded", "failed", "cancelled")


def ended(client, job_id):
    """Poll a job as programs do, until it has ended."""
    while (job := jobs(client).retrieve(job_id)).status not in ENDS:
        time.sleep(0.5)
    return job


def said(number):
    """A question and its answer, another for each number."""
    return [{"role": "user", "content": f"colour {number}"}, {"role": "assistant", "content": COLOURS[number % 4]}]


def short(client):
    """One short job to its end, after its file was checked, as the cookbook does it."""
    lines = "".join(json.dumps({"messages": said(n)}) + "\n" for n in range(12)).encode()
    file = client.files.create(file=("rows.jsonl", lines), purpose="fine-tune")
    checked = client.files.wait_for_processing(file.id, poll_interval=0.5)
    made = jobs(client).create(
        model=MODEL, training_file=file.id, suffix="short", extra_body=QUICK,
        hyperparameters={"n_epochs": 1, "batch_size": 4},
    )  # fmt: skip
    job = ended(client, made.id)
    table = client.files.content(job.result_files[0]).read().decode() if job.result_files else str(job.error)
    return {
        "status": job.status,
        "file": checked.status,
        "model": job.fine_tuned_model,
        "checkpoints": [one.step_number for one in jobs(client).checkpoints.list(job.id)],
        "header": table.splitlines()[0],
        "last": [event.message for event in jobs(client).list_events(job.id, limit=2).data],
    }


def bad_rows(client):
    """A job whose file is bad: accepted at once, then failed, with the line."""
    file = client.files.create(file=("bad.jsonl", ROWS + b'{"prompt": "one"}\n'), purpose="fine-tune")
    job = ended(client, jobs(client).create(model=MODEL, training_file=file.id).id)
    checked = client.files.wait_for_processing(file.id, poll_interval=0.2)
    return {
        "status": job.status,
        "error": [job.error.code, job.error.param, "line 13" in job.error.message],
        "file": [checked.status, "line 13" in (checked.status_details or "")],
    }


def stopped(client):
    """A job that trains: paused with a checkpoint, resumed, cancelled; then its file is deleted."""
    lines = "".join(json.dumps({"messages": said(n)}) + "\n" for n in range(200)).encode()
    file = client.files.create(file=("rows.jsonl", lines), purpose="fine-tune").id
    settings = {"n_epochs": 50, "batch_size": 1}
    made = jobs(client).create(model=MODEL, training_file=file, hyperparameters=settings, extra_body=QUICK).id

    def reached(goal):
        while not goal(job := jobs(client).retrieve(made)) and job.status not in ENDS:
            time.sleep(0.2)
        return [job.status, job.celora["status"]]

    def measured():
        return [event.data["step"] for event in jobs(client).list_events(made) if event.type == "metrics"]

    training = reached(lambda job: job.status == "running" and measured())
    jobs(client).pause(made)
    paused, before = reached(lambda job: job.celora["status"] == "paused"), max(measured())
    jobs(client).resume(made)
    resumed = reached(lambda job: job.status == "running" and max(measured()) > before)
    cancelling = jobs(client).cancel(made).id
    return {
        "states": [training, paused, resumed],
        "end": ended(client, cancelling).status,
        "again": caught(lambda: jobs(client).cancel(made)),
        "deleted": client.files.delete(file).deleted,
    }


def trained(client):
    """A job with a validation file to its end; a preference job that goes on from its model; one from a checkpoint."""

    def file_of(rows):
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        return client.files.create(file=("rows.jsonl", lines), purpose="fine-tune").id

    rows = file_of({"messages": said(number)} for number in range(12))
    made = jobs(client).create(
        model=MODEL, training_file=rows, validation_file=file_of({"messages": said(n)} for n in range(12, 16)),
        suffix="bot", extra_body=QUICK, hyperparameters={"n_epochs": 2, "batch_size": 4},
    )  # fmt: skip
    first = ended(client, made.id)
    checkpoints = sorted(jobs(client).checkpoints.list(first.id).data, key=lambda one: one.step_number)
    messages = [event.message for event in jobs(client).list_events(first.id)]
    table = client.files.content(first.result_files[0]).read().decode().splitlines() if first.result_files else []
    worse = {"non_preferred_output": [{"role": "assistant", "content": "no"}]}
    pairs = file_of({"input": {"messages": said(n)[:1]}, "preferred_output": said(n)[1:], **worse} for n in range(12))
    method = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "beta": 0.2}}}
    second = jobs(client).create(model=first.fine_tuned_model, training_file=pairs, method=method, extra_body=QUICK)
    start = checkpoints[0].fine_tuned_model_checkpoint
    third = jobs(client).create(
        model=start, training_file=rows, hyperparameters={"n_epochs": 1, "batch_size": 4}, extra_body=QUICK
    )
    return {
        "states": [first.status, ended(client, second.id).status, ended(client, third.id).status],
        "errors": [job.error and job.error.message for job in (first, ended(client, second.id))],
        "model": first.fine_tuned_model,
        "tokens": first.trained_tokens,
        "steps": [one.step_number for one in checkpoints],
        "valid": [isinstance(one.metrics.full_valid_loss or one.metrics.valid_loss, float) for one in checkpoints],
        "first": messages[-1],
        "last": messages[:2],
        "header": table[:1],
        "lines": len(table) - 1,
        "beta": ended(client, second.id).method.dpo.hyperparameters.beta,
        "owners": [client.models.retrieve(ended(client, one.id).fine_tuned_model).owned_by for one in (second, third)],
    }


def chats(client):
    """A base, a trained model and its checkpoint, whole and streamed; then twenty clients at once, without retries."""
    tuned = next(model.id for model in client.models.list() if model.id.startswith("ft:"))
    models = ["tiny", tuned, f"{tuned}:ckpt-step-3"]

    def ask(model, content="the colour of item number 7", **options):
        said = [{"role": "user", "content": content}]
        options = {"temperature": 0, "max_tokens": 24, **options}
        return client.chat.completions.create(model=model, messages=said, **options)

    whole = [ask(model) for model in models]
    streams = [list(ask(model, stream=True, stream_options={"include_usage": True})) for model in models]
    told = [one.choices[0].message.content for one in whole]
    once = client.with_options(max_retries=0)
    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(lambda number: _said(once, models[number % 3]), range(20)))
    return {
        "whole": told,
        "streamed": [
            "".join(part.choices[0].delta.content or "" for part in parts if part.choices) for parts in streams
        ],
        "usage": [parts[-1].usage == one.usage for parts, one in zip(streams, whole, strict=True)],
        "together": together == [told[number % 3] for number in range(20)],
        "another": caught(lambda: ask("ft:tiny:team-b:bot:tail")),
        "tools": caught(lambda: ask("tiny", tools=[{"type": "function", "function": {"name": "f"}}])),
        "long": caught(lambda: ask("tiny", "word " * 10**6)),
    }


def _said(client, model):
    said = [{"role": "user", "content": "the colour of item number 7"}]
    found = client.chat.completions.create(model=model, messages=said, temperature=0, max_tokens=24)
    return found.choices[0].message.content


if __name__ == "__main__":
    url, secret, name, *strict = sys.argv[1:]
    made = client_of(url, secret, **({"_strict_response_validation": True} if strict else {}))
    sys.stdout.write(json.dumps(globals()[name](made)))
