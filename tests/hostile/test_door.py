"""The HTTP API over a real socket: bad bodies, names, numbers and cursors are refused, and nothing is left behind.

The routes and their parameters are those of the description of the API, so a new route is tested without an entry here.
"""

import gzip
import http.client
import json
import re
import socket
from contextlib import closing
from functools import cache
from urllib.parse import quote, urlsplit

import pytest
from served_api import answer_on, exchange, request, serving
from sqlalchemy import func, select
from two_tenants import OURS, THEIRS, rows_of

from celora.api import body
from celora.api.app import create_app
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.spec import JobSpec
from celora.models.tables import File, Job
from celora.services.openai import files
from celora.services.openai.job_form import RESERVED
from celora.services.tenants import keys
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts
from celora.storage.incoming import IncomingFile
from celora.workers.node.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
PARAMETER = re.compile(r"\{(\w+)(?::path)?\}")
OURS_BY_NAME = {
    "job_id": f"job-{OURS}", "file_id": f"file-{OURS}", "upload_id": f"upload-{OURS}", "name": "bot", "tenant": OURS,
    "model": "smollm2-135m-instruct", "key_id": f"key-{OURS}", "worker": "w", "verb": "drain",
}  # fmt: skip
ROWS = b'{"prompt": "one", "completion": "1"}\n'
STRICTER = pytest.mark.parametrize("database", ["postgres"], indirect=True)
"""For long tables: PostgreSQL refuses values that SQLite takes."""


@cache
def operations():
    """Every operation as method, path and description; the probes and the description itself aside."""
    paths = create_app().openapi()["paths"]
    return [
        (method.upper(), path, described)
        for path, methods in sorted(paths.items())
        for method, described in sorted(methods.items())
        if not path.startswith(("/healthz", "/readyz"))
    ]


def filled(path, values):
    return PARAMETER.sub(lambda found: quote(values.get(found[1], "none"), safe=""), path)


def names(described, place):
    return [one["name"] for one in described.get("parameters", []) if one["in"] == place]


@pytest.fixture
def record(database, home, monkeypatch):
    """A record of each kind with the rows of two tenants; no broker answers."""
    monkeypatch.setenv("CELORA_DATABASE_URL", database.url.render_as_string(hide_password=False))
    monkeypatch.setenv("CELORA_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    get_settings.cache_clear()
    with database.transaction(Scope.everything) as session:
        for tenant in (OURS, THEIRS):
            for row in rows_of(tenant):
                session.add(row)
                session.flush()
    return get_database()


@pytest.fixture
def key(record):
    return keys.create_key(OURS, scopes=["read", "submit", "admin"]).key


@pytest.fixture
def port(key):
    with serving() as url:
        yield urlsplit(url).port


@pytest.fixture
def ask(port, key):
    """Sends a request on a connection that stays, and returns its status and its body."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:

        def send(method, path, sent=None, **headers):
            connection.request(method, path, body=sent, headers={"authorization": f"Bearer {key}", **headers})
            answer = connection.getresponse()
            assert answer.headers["x-request-id"].startswith("req_")
            told = answer.read()
            if answer.status >= 400:
                assert set(json.loads(told)["error"]) == {"message", "type", "param", "code"}, (method, path)
            return answer.status, told

        yield send


def count(record, table):
    with record.session(Scope.everything) as session:
        return session.scalar(select(func.count()).select_from(table))


def contents():
    artifacts = Artifacts(get_settings().artifacts)
    return artifacts.list_files(artifacts.uri("datasets"))


BAD_JSON = {
    "malformed": b'{"model": ', "an array": b"[]", "a number": b"7", "null": b"null", "not UTF-8": b"\xff\xfe{}",
    "NaN": b'{"seed": NaN}', "a repeated key": b'{"model": "a", "model": "b"}', "NUL": b'{"model": "a\\u0000b"}',
    "depth 1e5": b'{"celora": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long number": b'{"seed": ' + b"9" * 9000 + b"}",
    "half of a pair": b'{"model": "\\ud800"}',
}  # fmt: skip


def test_every_route_that_reads_json_refuses_what_is_none(ask, record):
    before, faults = count(record, Job), []
    for method, path, described in operations():
        if "application/json" in described.get("requestBody", {}).get("content", {}):
            for kind, sent in BAD_JSON.items():
                status, told = ask(method, filled(path, OURS_BY_NAME), sent)
                if not 400 <= status < 500:
                    faults.append((method, path, kind, status, told))
    assert faults == []
    assert count(record, Job) == before


BAD_NAMES = ("a\0b", "..", "../../etc/passwd", "a" * 3000, "\u2028\U0001f600", "'--")


@STRICTER
@pytest.mark.parametrize("name", BAD_NAMES, ids=[ascii(name)[:12] for name in BAD_NAMES])
def test_a_name_that_nobody_has_is_refused_by_every_route(ask, name):
    faults = []
    for method, path, _ in operations():
        if "{" in path and path != "/v1/celora/admin/tenants/{tenant}":  # which makes a tenant of a new name
            status, told = ask(method, PARAMETER.sub(quote(name, safe=""), path), b"{}")
            if not 400 <= status < 500:
                faults.append((method, path, status, told))
    assert faults == []


BAD_VALUES = ("", "0", "-1", "1e9", str(2**31), str(2**62), "9" * 30, "x", "%00", "%FF", "a" * 3000,
              "ftevent-e999999999999999999", "ftevent-m999999999.999999999999999999",
              f"ftckpt-job-{OURS}-999999999")  # fmt: skip


@STRICTER
def test_no_value_of_a_query_is_a_fault_of_the_server(ask):
    faults = []
    for method, path, described in operations():
        for name in names(described, "query") if method == "GET" else []:
            for value in BAD_VALUES:
                status, told = ask(method, f"{filled(path, OURS_BY_NAME)}?{name}={value}")
                refused = 400 <= status < 500
                if not refused and (status != 200 or (name == "limit" and value in ("0", "-1"))):
                    faults.append((path, name, value, status, told))
    assert faults == []


def test_the_cursor_of_another_tenant_is_as_one_that_nobody_has(ask):
    theirs = {
        "/v1/files": f"file-{THEIRS}",
        "/v1/fine_tuning/jobs": f"job-{THEIRS}",
        "/v1/celora/jobs": f"job-{THEIRS}",
    }
    for path, cursor in theirs.items():
        (status, told), (nobodys, same) = ask("GET", f"{path}?after={cursor}"), ask("GET", f"{path}?after=none")
        assert (status, nobodys) == (400, 400)
        assert json.loads(told) == json.loads(same)
        assert json.loads(told)["error"]["code"] == "invalid_cursor"


ODD_VALUES = (None, True, 2**80, 1.5, "x" * 20_000, [[]], {"a": {"b": None}})
FIELDS = (
    "model", "training_file", "validation_file", "method", "method.type", "method.supervised",
    "method.supervised.hyperparameters", "method.dpo.hyperparameters.beta", "hyperparameters",
    "hyperparameters.n_epochs", "hyperparameters.batch_size", "hyperparameters.learning_rate_multiplier", "suffix",
    "seed", "metadata", "metadata.a", "integrations", "integrations.0", "integrations.0.wandb.project", "celora",
    *(f"celora.{name}" for name in JobSpec.model_fields if name not in RESERVED),
)  # fmt: skip


def with_field(fields, place, value):
    """Return a copy of the fields with a value at a dotted place; a number in the place makes a list."""
    first, _, rest = place.partition(".")
    if first.isdigit():
        return [with_field({}, rest, value) if rest else value]
    inner = with_field(fields.get(first) or {}, rest, value) if rest else value
    return {**fields, first: inner}


@STRICTER
def test_no_value_of_a_field_is_a_fault_of_the_server_and_only_accepted_jobs_are_kept(ask, record, valkey, monkeypatch):
    monkeypatch.setenv("CELORA_BROKER_URL", valkey)  # quicker than one that is away
    get_settings.cache_clear()
    with IncomingFile(Artifacts(get_settings().artifacts)) as incoming:
        incoming.write(ROWS)
        stored = incoming.commit(".jsonl")
    file = files.create(OURS, stored, get_settings(), filename="rows.jsonl")
    before, accepted, faults = count(record, Job), 0, []
    for place in FIELDS:
        for value in ODD_VALUES:
            fields = with_field({"model": "smollm2-135m-instruct", "training_file": file.id}, place, value)
            status, told = ask("POST", "/v1/fine_tuning/jobs", json.dumps(fields))
            accepted += status == 200
            if status != 200 and not 400 <= status < 500:
                faults.append((place, value, status, told))
    assert faults == []
    assert count(record, Job) == before + accepted


def part(name, filename=None, content=b"fine-tune"):
    named = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    return f"--b\r\ncontent-disposition: {named}\r\n\r\n".encode() + content + b"\r\n"


BAD_FORMS = {
    "no file": part("purpose") + b"--b--\r\n",
    "no purpose": part("file", "rows.jsonl", ROWS) + b"--b--\r\n",
    "an empty file": part("purpose") + part("file", "rows.jsonl", b"") + b"--b--\r\n",
    "two files": part("purpose") + part("file", "a", ROWS) + part("file", "b", ROWS) + b"--b--\r\n",
    "no end": part("purpose") + part("file", "rows.jsonl", ROWS),
    "no parts": b"--b--\r\n",
    "other bytes": b"\0" * 5000,
    "another purpose": part("purpose", content=b"vision") + part("file", "rows.jsonl", ROWS) + b"--b--\r\n",
    "a field of 1 MB": part("purpose", content=b"a" * 2**20) + part("file", "rows.jsonl", ROWS) + b"--b--\r\n",
    "many fields": b"".join(part(f"f{n}") for n in range(100)) + b"--b--\r\n",
    "a long head": b"--b\r\nx: " + b"a" * 2**17 + b"\r\n\r\n\r\n--b--\r\n",
    "NUL in a field": part("purpose", content=b"fine\0tune") + part("file", "rows.jsonl", ROWS) + b"--b--\r\n",
}
AS_FORM = {"content-type": "multipart/form-data; boundary=b"}


def test_a_bad_form_leaves_neither_a_row_nor_bytes(ask, record):
    before, faults = count(record, File), []
    for path in ("/v1/files", f"/v1/uploads/upload-{OURS}/parts"):
        for kind, form in BAD_FORMS.items():
            status, told = ask("POST", path, form, **AS_FORM)
            if not 400 <= status < 500:
                faults.append((path, kind, status, told))
        assert ask("POST", path, ROWS, **{"content-type": "multipart/form-data"})[0] == 400
        assert ask("POST", path, ROWS, **{"content-type": "application/json"})[0] == 400
    assert faults == []
    assert (count(record, File), contents()) == (before, [])


def test_a_name_with_nul_is_kept_without_it(ask):
    form = part("purpose") + part("file", "a\0b\u2028.jsonl", ROWS) + b"--b--\r\n"
    status, told = ask("POST", "/v1/files", form, **AS_FORM)
    assert (status, json.loads(told)["filename"]) == (200, "ab.jsonl")


def test_a_body_is_judged_by_its_head(port, key):
    bomb = gzip.compress(bytes(32 << 20))
    huge = str(10 * 2**30)
    for path in ("/v1/files", "/v1/fine_tuning/jobs", "/finetune", f"/v1/uploads/upload-{OURS}/parts"):
        asked = {"authorization": f"Bearer {key}", **AS_FORM}
        assert exchange(port, request("POST", path, bomb, content_encoding="gzip", **asked))[0] == 415
        assert exchange(port, request("POST", path, content_length=huge, **asked))[0] == 413
        assert exchange(port, request("POST", path, content_length="-1", **asked))[0] == 400
        asked["authorization"] = "Bearer wrong"
        assert exchange(port, request("POST", path, content_length=huge, **asked))[0] == 401


def test_a_slow_body_is_given_up_and_leaves_nothing(port, key, record, monkeypatch):
    monkeypatch.setattr(body, "JSON_S", 0.3)
    monkeypatch.setattr(body, "IDLE_S", 0.3)
    before = count(record, File)
    asked = {"authorization": f"Bearer {key}", "content_length": "3000000", **AS_FORM}
    begun = part("purpose") + part("file", "rows.jsonl", b"x" * (2 << 20))[:-2]
    for path, sent in (("/v1/files", begun), (f"/v1/uploads/upload-{OURS}/parts", begun[:100])):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(request("POST", path, **asked) + sent)
            status, _, told = answer_on(connection)
            assert (status, told["error"]["code"]) == (408, "request_timeout")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request("POST", "/v1/fine_tuning/jobs", **{**asked, "content_length": "100"}) + b"{")
        assert answer_on(connection)[0] == 408
    assert (count(record, File), contents()) == (before, [])


def test_without_the_broker_jobs_are_accepted(ask, record):
    form = part("purpose") + part("file", "rows.jsonl", ROWS) + b"--b--\r\n"
    file = json.loads(ask("POST", "/v1/files", form, **AS_FORM)[1])["id"]
    fields = json.dumps({"model": "smollm2-135m-instruct", "training_file": file})
    made = {json.loads(ask("POST", "/v1/fine_tuning/jobs", fields)[1])["id"] for _ in range(3)}
    with record.session(Scope.of(OURS)) as session:
        assert set(session.scalars(select(Job.id).where(Job.id.in_(made)))) == made


def test_without_the_record_every_route_says_when_to_come_again(record, key, monkeypatch):
    monkeypatch.setenv("CELORA_DATABASE_URL", f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    get_settings.cache_clear()
    faults = []
    with serving() as url:
        port = urlsplit(url).port
        for method, path, _ in operations():
            asked = request(method, filled(path, OURS_BY_NAME), b"{}", authorization=f"Bearer {key}")
            status, headers, told = exchange(port, asked)
            if (status, headers["retry-after"], told["error"]["code"]) != (503, "5", "unavailable"):
                faults.append((method, path, status, told))
    assert faults == []
