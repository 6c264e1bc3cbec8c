"""Every route, asked by one tenant with the ids of another: answered as ids that nobody has are, and nothing leaks.

The routes are found in the description of the application, so a new route is tested without an entry here; a parameter
of a new name fails until ``VALUES`` gives it a value. Bodies name the other's ids, too.
"""

import re
from functools import cache

import pytest
from two_tenants import OURS, THEIRS, new_job, rows_of

from celora.api.app import create_app
from celora.models import workers
from celora.models.queue import groups
from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables import Adapter, Champion, DataCheck, Delivery, Event, File, Job, Receiver, Schedule
from celora.models.tenants.limits import set_limits
from celora.services.rounds.dispatch import dispatch
from celora.services.tenants import keys
from celora.settings.settings import get_settings

NOBODY = "team-c"
"""As long as the names of the others."""
OPERATORS = ("/metrics", "/v1/celora/admin/")
"""Routes that a tenant's key may not use at all; ``test_a_tenants_key_reads_nothing_of_operators`` holds that."""
OPEN = ("/healthz", "/readyz")
"""Routes without a tenant."""
OF_THE_KEY = ("/v1/celora/key/rotate",)
"""Routes that take no id and end the key that asks."""


def values(who):
    job = f"job-{who}"
    return {
        "job_id": job, "file_id": f"file-{who}", "upload_id": f"upload-{who}",
        "check_id": f"check-{who}", "model": f"ft:m:{who}:s:tail",
        "name": f"only-{who}", "tenant": who, "key_id": f"key-{who}", "worker": "w", "verb": "drain",
        "endpoint_id": f"r-{who}",
        "delivery_id": str((OURS, THEIRS, NOBODY).index(who) + 900_001), "receiver": f"r-{who}",
        "after": job, "target": job, "one": "base", "other": job, "last_event_id": "0",
        "beginning": job[:-1], "named": f"only-{who}", "log": "001-train.log",
        "sha256": "1" * 64, "filename": "rows.jsonl",
    }  # fmt: skip


BODIES = {
    "/finetune": lambda who: {"base_model": f"ft:m:{who}:s:tail", "dataset_path": f"file-{who}"},
    "/v1/fine_tuning/jobs": lambda who: {"model": "smollm2-135m-instruct", "training_file": f"file-{who}"},
    "/v1/celora/checks": lambda who: {"model": f"ft:m:{who}:s:tail", "training_file": f"file-{who}"},
    "/v1/chat/completions": lambda who: {
        "model": f"ft:m:{who}:s:tail",
        "messages": [{"role": "user", "content": "hi"}],
    },
    "/v1/uploads": lambda _: {"bytes": 0},
    "/v1/uploads/{upload_id}/complete": lambda who: {"part_ids": [f"part-{who}"]},
    "/v1/webhook_endpoints": lambda _: {"name": ""},
    "/v1/webhook_endpoints/{endpoint_id}": lambda _: {"name": "mine"},
    "/v1/webhook_endpoints/{endpoint_id}/test": lambda _: {"event_type": "fine_tuning.job.failed"},
    "/v1/celora/champions/{name}/promote": lambda who: {"job": f"job-{who}"},
}
"""The bodies of the routes that have a required one; files come as an empty form."""


@cache
def description():
    return create_app().openapi()["paths"]


def routes(begins):
    """The routes whose path begins so, or those of tenants where none is given: method and path."""
    found = sorted((method.upper(), path) for path, methods in description().items() for method in methods)
    return [one for one in found if one[1].startswith(begins or "/")
            and (begins or not one[1].startswith((*OPERATORS, *OPEN, *OF_THE_KEY)))]  # fmt: skip


@pytest.fixture
def client(record, new_client):
    """A client of our tenant; both tenants have a row of each table, and names of their own."""
    with record.transaction(Scope.everything) as session:
        for tenant in (OURS, THEIRS):
            for row in rows_of(tenant):
                if isinstance(row, Champion):
                    row.name = f"only-{tenant}"
                if isinstance(row, Schedule):
                    row.name, row.spec = f"only-{tenant}", {"base_model": "tiny", "dataset": "rows"}
                if isinstance(row, Adapter):
                    row.model_id, row.uri = f"ft:m:{tenant}:s:tail", f"{get_settings().artifacts}/a"
                session.add(row)
                session.flush()
    key = keys.create_key(OURS).key
    return new_client(headers={"authorization": f"Bearer {key}"})


def ask(client, method, path, who):
    """Ask a route with the ids of ``who``; return the status and the text of the answer with its names replaced."""
    known, parameters = values(who), described(method, path)
    filled = re.sub(r"\{(\w+)(?::path)?\}", lambda found: known[found[1]], path)
    query = {name: known[name] for place, name in parameters if place == "query" and name in known}
    headers = {"content-type": "application/json"}
    body = BODIES[path](who) if path in BODIES else {}
    sent = {"json": body} if method == "POST" else {}
    answer = client.request(method, filled, params=query, headers=headers, **sent)
    return answer.status_code, answer.text.replace(who, "WHO")


def described(method, path):
    return [(one["in"], one["name"]) for one in description()[path][method.lower()].get("parameters", [])]


def test_anothers_ids_are_as_ids_that_nobody_has(client, record):
    before, faults = theirs(record), []
    for method, path in routes(None):
        asked = ask(client, method, path, THEIRS)
        if asked != ask(client, method, path, NOBODY) or asked[0] >= 500 or theirs(record) != before:
            faults.append((method, path, asked))
    assert faults == []


def test_no_answer_about_ones_own_holds_a_word_of_another(client):
    faults, answered = [], 0
    for method, path in routes(None):
        status, text = ask(client, method, path, OURS)
        answered += status == 200
        if status >= 500 or THEIRS in text:
            faults.append((method, path, status, text))
    assert faults == []
    assert answered > 20


def test_a_tenants_key_reads_nothing_of_operators(client):
    found = {(method, path): ask(client, method, path, OURS)[0] for method, path in routes(OPERATORS)}
    assert set(found.values()) == {403}, found


def test_no_route_answers_without_a_key(client, new_client):
    stranger = new_client()
    found = {(method, path): ask(stranger, method, path, OURS)[0] for method, path in routes(None) + routes(OPERATORS)}
    assert set(found.values()) == {401}, found


OPERATORS_NAMES = re.compile(rf"{THEIRS}|hall-7|rack-9|@|max_gpus_per_tenant|CELORA_|celery|`celora")


@pytest.mark.parametrize("exact", [2_000, 0])
def test_what_a_tenant_reads_of_the_queue_names_no_other_and_nothing_of_the_operator(
    client, record, monkeypatch, exact
):
    monkeypatch.setattr(groups, "EXACT", exact)  # 0: as in a long queue, of which the jobs are counted
    with record.transaction(Scope.everything) as session:
        for number, reserved_for in enumerate((None, THEIRS, THEIRS)):
            workers.register(session, f"l4-{number}@hall-7", host="hall-7", kind="gpu", gpu_type="l4", pid=1,
                             queues=["gpu.l4"], reserved_for=reserved_for, labels="rack-9", memory_bytes=2**34,
                             )  # fmt: skip
        set_limits(session, OURS, {"max_gpus": 1})
        for number, tenant in enumerate((THEIRS, OURS, THEIRS, OURS, THEIRS, OURS)):
            wanted = {"gpu": ("l4", "auto")[number % 2], "labels": "no-such" if number == 5 else ""}
            job_id = f"wait-{number}-{tenant}"
            session.add(new_job(tenant, job_id, status=Status.PENDING, stage=Stage.TRAIN, **wanted))
    dispatch(record, get_settings(), lambda _: None)
    waiting = [name for name in (f"wait-{number}-{OURS}" for number in (1, 3, 5)) if is_pending(record, name)]
    paths = ["/v1/celora/waiting", "/v1/celora/queue"]
    paths += [f"/v1/celora/jobs/{name}{part}" for name in waiting for part in ("", "/why")]
    assert len(waiting) >= 2
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        assert not OPERATORS_NAMES.search(answer.text), answer.text
    assert "other tenants" in client.get("/v1/celora/waiting").text


def is_pending(record, job_id):
    with record.session(Scope.everything) as session:
        return session.get_one(Job, job_id).status is Status.PENDING


def theirs(record):
    """The other tenant's rows that a request could change."""
    with record.session(Scope.of(THEIRS)) as session:
        return {
            "jobs": [(job.id, job.status, job.cancel_requested, job.paused) for job in session.query(Job)],
            "files": [(file.id, file.deleted_at) for file in session.query(File)],
            "models": [(one.id, one.deleted_at) for one in session.query(Adapter)],
            "champions": [(one.name, one.version) for one in session.query(Champion)],
            "schedules": [(one.name, one.paused) for one in session.query(Schedule)],
            "events": session.query(Event).count(),
            "checks": [one.id for one in session.query(DataCheck)],
            "receivers": [(one.id, one.name, one.sealed) for one in session.query(Receiver)],
            "deliveries": [(one.id, one.outcome, one.since) for one in session.query(Delivery)],
        }
