import pytest

from celora.settings.settings import get_settings
from celora.storage.manifest import commit


@pytest.fixture
def copies(home):
    """Two copies of one base model and one of another, as the cache holds them."""
    for form, key, name in (("converted", "a", "tiny"), ("quantized", "b", "tiny"), ("converted", "c", "other")):
        staged = get_settings().cache / form / f"{key}.staged"
        staged.mkdir(parents=True)
        (staged / "model.safetensors").write_bytes(b"x" * 1000)
        commit(
            staged, staged.with_name(key), name=name, kind="gguf", revision="sha256:00", source=f"/models/{name}.gguf"
        )
    fetched = get_settings().cache / "hub" / "models--org--model"
    (fetched / "snapshots" / "c0ffee").mkdir(parents=True)
    (fetched / "blobs").mkdir()
    (fetched / "blobs" / "1").write_bytes(b"y" * 500)
    (fetched / "snapshots" / "c0ffee" / "model.safetensors").symlink_to(fetched / "blobs" / "1")


@pytest.mark.usefixtures("copies")
@pytest.mark.parametrize("words", [["bases", "--json"], ["bases", "list", "--json"]])
def test_what_is_cached_is_listed_with_sizes(celora, words):
    told = celora(*words).json()
    assert [(base["name"], base["form"]) for base in told] == [
        ("org/model", "hub"), ("other", "converted"), ("tiny", "converted"), ("tiny", "quantized"),
    ]  # fmt: skip
    hub, other, *_ = told
    assert (hub["size_bytes"], hub["revision"]) == (500, "c0ffee")
    assert other["size_bytes"] > 1000


@pytest.mark.usefixtures("copies")
def test_every_copy_of_a_base_is_removed(celora):
    assert celora("bases", "remove", "tiny", "--json").json()["copies"] == 2
    assert {base["name"] for base in celora("bases", "--json").json()} == {"org/model", "other"}


def test_an_empty_cache_names_the_catalogue(celora):
    assert "smollm2-135m-instruct" in celora("bases").stdout


def test_removing_what_is_not_cached_is_a_sentence(celora):
    result = celora("bases", "remove", "nobody")
    assert result.exit_code == 66
    assert "no base model nobody is cached" in result.stderr


def test_an_unknown_base_is_a_sentence(celora):
    result = celora("bases", "add", "./nothing here")
    assert result.exit_code == 69
    assert result.stderr.count("\n") == 1


def test_a_base_that_is_not_allowed_is_refused(celora, monkeypatch):
    monkeypatch.setenv("CELORA_ALLOWED_BASES", '["acme/*"]')
    get_settings.cache_clear()
    result = celora("bases", "add", "smollm2-135m-instruct")
    assert result.exit_code == 69
    assert "acme/*" in result.stderr
