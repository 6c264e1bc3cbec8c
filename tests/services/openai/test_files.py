"""Files of tenants: two files over one content, names that are shown, content in parts."""

import pytest

from celora.errors import NotFoundError, RequestError, StorageError, TenantLimitError
from celora.services.openai import files
from celora.services.tenants import limits
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts

ROWS = b'{"prompt": "one", "completion": "1"}\n{"prompt": "two", "completion": "2"}\n'


def test_the_same_content_twice_is_two_files_over_one_copy(file):
    one, other = file(), file(tenant="team-b")
    assert one.id != other.id
    assert one.uri == other.uri
    artifacts = Artifacts(get_settings().artifacts)
    assert len(artifacts.names(artifacts.uri("datasets"))) == 1


def test_a_file_is_its_tenants_alone(file):
    one = file()
    assert files.find("default", one.id) == one
    assert files.page("team-b", after=None, limit=10, order="desc", purpose=None) == ([], False)
    for call in (files.find, files.delete, lambda *names: files.content(*names, get_settings())):
        with pytest.raises(RequestError, match="there is no file"):
            call("team-b", one.id)


def test_the_content_comes_back_in_parts(file):
    _, parts = files.content("default", file().id, get_settings())
    assert b"".join(parts) == ROWS


@pytest.mark.parametrize(
    ("given", "shown"),
    [("../../etc/passwd", "passwd"), ("C:\\data\\rows.csv", "rows.csv"), ("a\x00b\n.jsonl", "ab.jsonl"), ("", "file"),
     ("é" * 300, "é" * 255)],
)  # fmt: skip
def test_a_name_is_shown_and_leads_nowhere(file, given, shown):
    assert file(filename=given).filename == shown


def test_a_content_that_a_sweep_just_removed_is_no_file(stored):
    content = stored()
    Artifacts(get_settings().artifacts).remove(content.uri)
    with pytest.raises(StorageError, match="again"):
        files.create("default", content, get_settings(), filename="a")
    assert files.page("default", after=None, limit=10, order="desc", purpose=None) == ([], False)


def test_ids_sort_by_time():
    made = [files.new_id("file") for _ in range(3)]
    assert len(set(made)) == 3
    assert [one[:17] for one in made] == sorted(one[:17] for one in made)


def test_a_file_beyond_the_storage_limit_is_refused_and_its_content_removed(file, stored, monkeypatch):
    monkeypatch.setattr(limits, "request_tick", lambda: None)
    limits.set_tenant("acme", {"storage_bytes": len(ROWS)})
    file(tenant="acme")
    content = stored(ROWS + b'{"prompt": "three", "completion": "3"}\n')
    with pytest.raises(TenantLimitError, match="have no room"):
        files.create("acme", content, get_settings(), filename="b")
    artifacts = Artifacts(get_settings().artifacts)
    assert not artifacts.exists(content.uri)
    with pytest.raises(TenantLimitError):
        file(tenant="acme")
    assert artifacts.exists(stored().uri)  # the first file has that content
    file(tenant="other", content=ROWS * 3)


def test_an_operator_can_take_no_file_of_a_tenant_that_does_not_exist(stored, monkeypatch):
    monkeypatch.setenv("CELORA_KNOWN_TENANTS_ONLY", "true")
    get_settings.cache_clear()
    content = stored()
    with pytest.raises(NotFoundError, match="no tenant nobody"):
        files.create("nobody", content, get_settings(), filename="a")
    assert not Artifacts(get_settings().artifacts).exists(content.uri)
