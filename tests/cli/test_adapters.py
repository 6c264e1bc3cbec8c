import pytest

from celora.cli.open_record import record
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts
from celora.storage.manifest import write_manifest
from celora.tuning.adapters.usage import python_snippet
from celora.tuning.protocol import Base

BASE = Base(
    source="org/model",
    kind="hub",
    name="org/model",
    revision="c0ffee",
    parameters=1,
    context_tokens=64,
    model_type="llama",
)


@pytest.fixture
def published(job, tmp_path):
    """A job with a published folder, as ``publish`` leaves it."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "adapter_config.json").write_text("{}")
    write_manifest(folder)
    artifacts = Artifacts(get_settings().artifacts)
    uri = artifacts.uri("jobs", job, "attempt-1", "published")
    artifacts.put_folder(folder, uri)
    with record().session(Scope.everything) as session:
        row = session.get(Job, job)
        row.adapter_uri, row.base, row.name = uri, BASE.model_dump(), "model-x"
    return job


def test_pull_copies_the_folder_and_prints_the_lines_that_use_it(celora, published, tmp_path):
    result = celora("pull", published, "mine")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "mine" / "adapter_model.safetensors").read_bytes() == b"weights" * 1000
    printed = result.stdout.splitlines()
    assert printed[0] == str(tmp_path / "mine")
    assert printed[2:] == python_snippet(BASE, str(tmp_path / "mine")).splitlines()


def test_the_lines_are_five_and_are_python(celora, published):
    lines = celora("pull", published, "mine", "--json").json()["python"]
    compile("\n".join(lines), "usage", "exec")
    assert len(lines) == 5


def test_pull_is_json_for_programs(celora, published, tmp_path):
    told = celora("pull", published, "--json").json()
    assert told["folder"] == str(tmp_path / "model-x")
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {file["name"] for file in told["files"]}


def test_pull_leaves_a_folder_that_holds_something_alone(celora, published, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    result = celora("pull", published, "mine")
    assert result.exit_code == 64
    assert "is not empty" in result.stderr


def test_pull_deletes_only_the_folder_that_it_made(celora, published, tmp_path):
    for name in (".mine.part", ".mine-part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("the only copy")
    assert celora("pull", published, "mine").exit_code == 0
    assert (tmp_path / ".mine.part" / "thesis.txt").read_text() == "the only copy"
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".mine")} == {".mine.part", ".mine-part"}


def test_a_damaged_adapter_is_never_half_pulled(celora, published, tmp_path):
    artifacts = Artifacts(get_settings().artifacts)
    there = artifacts.local_path(artifacts.uri("jobs", published, "attempt-1", "published"))
    (there / "adapter_model.safetensors").write_bytes(b"cut")
    result = celora("pull", published, "mine")
    assert result.exit_code == 74
    assert "adapter_model.safetensors" in result.stderr
    assert [path.name for path in tmp_path.iterdir() if "mine" in path.name] == []


def test_a_job_that_published_nothing_is_a_sentence(celora, job):
    for words in (["pull", job], ["generate", job, "hello"]):
        result = celora(*words)
        assert result.exit_code == 66
        assert "has published no adapter" in result.stderr


def test_without_adapters_it_says_what_to_do(celora):
    assert "celora demo" in celora("adapters").stdout
    assert celora("adapters", "--json").json() == []
