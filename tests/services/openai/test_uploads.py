"""Uploads in parts: joined once, checked by MD5, and removed when nothing needs them."""

import hashlib

import pytest

from celora.errors import RequestError, TenantLimitError
from celora.services.openai import files, uploads
from celora.services.tenants import limits
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts
from celora.storage.incoming import IncomingFile

ONE, TWO = b'{"prompt": "one", "completion": "1"}\n', b'{"prompt": "two", "completion": "2"}\n'


@pytest.fixture
def upload(installation):
    def begin(size_bytes=74, tenant="default"):
        return uploads.create(
            tenant, get_settings(), filename="rows.jsonl", purpose="fine-tune", size_bytes=size_bytes, expires_s=None
        ).id

    return begin


def add(upload_id, content, tenant="default"):
    with IncomingFile(Artifacts(get_settings().artifacts)) as incoming:
        incoming.write(content)
        return uploads.add_part(tenant, upload_id, incoming, get_settings()).id


def complete(upload_id, *parts, **options):
    return uploads.complete("default", upload_id, parts, get_settings(), **options)


def parts_left():
    artifacts = Artifacts(get_settings().artifacts)
    return artifacts.list_files(artifacts.uri(uploads.FOLDER))


def test_parts_become_one_file_in_the_given_order(upload, installation):
    made = upload()
    two, one = add(made, TWO), add(made, ONE)
    done = complete(made, one, two, md5=hashlib.md5(ONE + TWO).hexdigest())  # noqa: S324  (the client's check)
    assert (done.status, done.file.status, done.file.filename) == ("completed", "uploaded", "rows.jsonl")
    assert b"".join(files.content("default", done.file.id, get_settings())[1]) == ONE + TWO
    assert len(parts_left()) == 2
    assert uploads.sweep_uploads(installation, Artifacts(get_settings().artifacts)) == 2
    assert parts_left() == []


def test_a_completion_that_is_repeated_makes_no_second_file(upload, monkeypatch):
    made = upload(len(ONE))
    one = add(made, ONE)
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "_end", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            complete(made, one)
    uploads._end("default", made, "pending")  # the claim has lapsed
    assert complete(made, one).file.id == uploads.file_id_of(made) == complete(made, one).file.id
    found, _ = files.page("default", after=None, limit=9, order="asc", purpose=None)
    assert [file.id for file in found] == [uploads.file_id_of(made)]


def test_a_wrong_md5_leaves_the_upload_pending_and_no_file(upload):
    made = upload(len(ONE))
    one = add(made, ONE)
    with pytest.raises(RequestError) as caught:
        complete(made, one, md5="0" * 32)
    assert caught.value.param == "md5"
    assert files.page("default", after=None, limit=9, order="asc", purpose=None) == ([], False)
    assert complete(made, one).status == "completed"


def test_a_cancelled_upload_takes_no_part_and_loses_its_parts(upload, installation):
    made = upload()
    add(made, ONE)
    assert uploads.cancel("default", made).status == uploads.cancel("default", made).status == "cancelled"
    with pytest.raises(RequestError, match="cancelled"):
        add(made, TWO)
    uploads.sweep_uploads(installation, Artifacts(get_settings().artifacts))
    assert parts_left() == []


def test_an_upload_is_its_tenants_alone(upload):
    made = upload()
    for act in (lambda: add(made, ONE, "team-b"), lambda: uploads.cancel("team-b", made),
                lambda: uploads.require_pending("team-b", made)):  # fmt: skip
        with pytest.raises(RequestError) as caught:
            act()
        assert caught.value.status == 404
    assert parts_left() == []


def test_a_file_above_the_limit_is_refused_when_it_is_announced(upload):
    with pytest.raises(RequestError, match="the largest file"):
        upload(get_settings().upload_bytes + 1)


def test_an_upload_beyond_the_storage_limit_does_not_begin(upload, monkeypatch):
    monkeypatch.setattr(limits, "request_tick", lambda: None)
    limits.set_tenant("acme", {"storage_bytes": 100})
    with pytest.raises(TenantLimitError, match="have no room"):
        upload(size_bytes=101, tenant="acme")
    assert upload(size_bytes=100, tenant="acme")
