"""The HTTP API is killed in the middle of an upload and of a creation: no half file, no second job."""

import http.client
import json
import os
from contextlib import closing, contextmanager

import pytest
from served_api import as_command
from sqlalchemy import func, select
from waiting import until

from celora.models.scope.scope import Scope
from celora.models.tables import File, Job
from celora.services.openai import files
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts
from celora.storage.incoming import IncomingFile, remove_abandoned
from celora.workers.node.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROWS = b'{"prompt": "one", "completion": "1"}\n' * 4000
BOUNDARY = "a-boundary"
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--{BOUNDARY}\r\n'
    f'Content-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


@contextmanager
def api(failpoint=""):
    """Run an API of this home; yield its process and a maker of connections."""
    away = {"CELORA_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0", "CELORA_FAILPOINT": failpoint}
    with as_command({**os.environ, **away}) as (port, process):
        yield process, lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=120)


def count(record, table):
    with record.session(Scope.everything) as session:
        return session.scalar(select(func.count()).select_from(table))


def contents():
    artifacts = Artifacts(get_settings().artifacts)
    return artifacts.list_files(artifacts.uri("datasets"))


def post(connection, path, body, headers):
    with closing(connection):
        connection.request("POST", path, body=body, headers=headers)
        return json.loads(connection.getresponse().read())


@pytest.mark.parametrize("failpoint", ["", "file.stored:kill"])
def test_a_kill_in_an_upload_leaves_no_file(record, failpoint):
    with api(failpoint) as (process, connect), closing(connect()) as connection:
        connection.putrequest("POST", "/v1/files")
        connection.putheader("content-type", f"multipart/form-data; boundary={BOUNDARY}")
        connection.putheader("content-length", str(len(HEAD + ROWS + TAIL) + (0 if failpoint else 4 << 20)))
        connection.endheaders(HEAD + ROWS + (TAIL if failpoint else b"x" * (2 << 20)))
        if failpoint:
            process.wait(timeout=120)
        else:
            until(contents)
            process.kill()
    assert count(record, File) == 0
    left = remove_abandoned(Artifacts(get_settings().artifacts), older_than_s=-5)
    assert left == (0 if failpoint else 1)
    assert len(contents()) == (1 if failpoint else 0)  # a whole content without a file: the next equal upload uses it
    with api() as (_, connect):
        headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
        assert post(connect(), "/v1/files", HEAD + ROWS + TAIL, headers)["status"] == "uploaded"
    assert (count(record, File), len(contents())) == (1, 1)


@pytest.mark.parametrize(("failpoint", "made"), [("create.written:kill", 0), ("create.committed:kill", 1)])
def test_a_kill_in_a_creation_and_the_clients_repetition_make_one_job(record, failpoint, made):
    with IncomingFile(Artifacts(get_settings().artifacts)) as incoming:
        incoming.write(ROWS)
        stored = incoming.commit(".jsonl")
    file = files.create("default", stored, get_settings(), filename="rows.jsonl")
    body = json.dumps({"model": "smollm2-135m-instruct", "training_file": file.id})
    with api(failpoint) as (process, connect):
        with pytest.raises((http.client.HTTPException, OSError)):
            post(connect(), "/v1/fine_tuning/jobs", body, {})
        process.wait(timeout=120)
    assert count(record, Job) == made
    with api() as (_, connect):
        again = {"x-stainless-retry-count": "1"}
        found = {post(connect(), "/v1/fine_tuning/jobs", body, again)["id"] for _ in range(2)}
    assert (len(found), count(record, Job)) == (1, 1)
