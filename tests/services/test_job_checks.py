"""What is refused at the door of an installation, and what is added to a spec there."""

import pytest

from celora.errors import BaseModelError, DataError, SettingsError
from celora.services.job_checks import absolute_base, check_id, check_spec
from celora.settings.settings import get_settings
from celora.tuning.recipe import TEMPLATES
from celora.tuning.templates.builtin import NAMED
from celora.tuning.templates.training_form import TRAINING

SPEC = {"base_model": "smollm2-135m-instruct", "dataset": "faq"}


def settings_with(monkeypatch, **values):
    for name, value in values.items():
        monkeypatch.setenv(f"CELORA_{name.upper()}", value)
    get_settings.cache_clear()
    return get_settings()


def test_a_seed_is_chosen_where_none_was_given(home):
    assert check_spec(SPEC | {"seed": 7}, get_settings()).seed == 7
    seeds = {check_spec(SPEC, get_settings()).seed for _ in range(20)}
    assert None not in seeds
    assert len(seeds) > 1


def test_an_unknown_template_is_refused_with_the_known_ones(home):
    with pytest.raises(SettingsError, match="no template 'llama9'") as refused:
        check_spec(SPEC | {"template": "llama9"}, get_settings())
    assert "alpaca, chatml, training" in refused.value.hint
    assert (*NAMED, TRAINING) == TEMPLATES
    for name in (*TEMPLATES, None):
        assert check_spec(SPEC | {"template": name}, get_settings()).template == name


def test_an_unknown_gpu_type_is_refused_with_the_known_ones(home):
    with pytest.raises(SettingsError, match=r"no GPU type 'h1000'.*Use auto or one of .*h100"):
        check_spec(SPEC | {"gpu": "h1000"}, get_settings())


def test_a_base_model_that_the_operator_does_not_allow_is_refused(home, monkeypatch):
    settings = settings_with(monkeypatch, allowed_bases='["smollm2-*", "HuggingFaceTB/*"]')
    assert check_spec(SPEC, settings).base_model == SPEC["base_model"]
    with pytest.raises(BaseModelError, match="not allowed on this installation"):
        check_spec(SPEC | {"base_model": "gpt2"}, settings)


@pytest.mark.parametrize("name", ["a" * 400, "/" + "b" * 400, "~nobody-of-this-name/x", "c" * 300 + ".gguf"])
def test_a_base_whose_name_no_file_can_have_is_no_fault_of_celora(home, name):
    fields = absolute_base(SPEC | {"base_model": name})
    if name.startswith("~") or name.endswith(".gguf"):
        with pytest.raises(BaseModelError, match="relative path"):
            check_spec(fields, get_settings())
    else:
        assert check_spec(fields, get_settings()).base_model == name


@pytest.mark.parametrize("name", ["base", "model.gguf"])
def test_a_local_base_lies_below_the_allowed_folders_as_a_dataset_does(home, monkeypatch, name):
    (home / "allowed").mkdir()
    (home / "allowed" / "link").symlink_to(home / "outside")
    settings = settings_with(monkeypatch, allowed_roots=f'["{home}/allowed"]')
    check_spec(SPEC | {"base_model": f"{home}/allowed/{name}"}, settings)
    for outside in (f"{home}/outside/{name}", f"{home}/allowed/../outside/{name}", f"{home}/allowed/link/{name}"):
        with pytest.raises(BaseModelError, match="lies outside the allowed folders"):
            check_spec(SPEC | {"base_model": outside}, settings)


@pytest.mark.parametrize(
    "fields",
    [
        {"dataset": "/etc/passwd"},
        {"eval_dataset": "/etc/passwd"},
        {"eval_dataset": {"one": "faq", "two": "/etc/passwd"}},
        {"champion": "bot", "eval_dataset": "faq", "gate": {"must_pass": "/etc/passwd"}},
    ],
)
def test_every_dataset_of_a_job_must_lie_in_an_allowed_folder(home, monkeypatch, fields):
    settings = settings_with(monkeypatch, allowed_roots=f'["{home}"]')
    with pytest.raises(DataError, match="/etc/passwd"):
        check_spec(SPEC | fields, settings)


def test_a_name_an_artifact_and_an_allowed_file_are_taken(home, monkeypatch):
    settings = settings_with(monkeypatch, allowed_roots=f'["{home}"]')
    (home / "rows.jsonl").write_text("{}", encoding="utf-8")
    for source in ("faq@3", f"{settings.artifacts}/datasets/ab/data.jsonl", str(home / "rows.jsonl")):
        assert check_spec(SPEC | {"dataset": source}, settings).dataset == source


def test_a_remote_dataset_needs_an_allowed_scheme(home):
    with pytest.raises(DataError, match="https"):
        check_spec(SPEC | {"dataset": "https://example.org/rows.jsonl"}, get_settings())


@pytest.mark.parametrize("job_id", ["order-bot_1", "a", "x" * 64])
def test_an_id_of_letters_digits_and_dashes_is_taken(job_id):
    assert check_id(job_id) == job_id


@pytest.mark.parametrize("job_id", ["", "x" * 65, "a/b", "..", "a b", "ä", "a\n"])
def test_any_other_id_is_refused(job_id):
    with pytest.raises(SettingsError, match="cannot be a job id"):
        check_id(job_id)


@pytest.mark.parametrize("source", ["../models/mine", "./mine", "~/mine", "mine.gguf", "models/base/mine"])
def test_a_relative_path_of_a_base_is_refused(home, source):
    with pytest.raises(BaseModelError, match="relative path"):
        check_spec(SPEC | {"base_model": source}, get_settings())


def test_a_base_that_lies_where_the_caller_runs_gets_its_whole_path(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "mine.gguf").touch()
    for source in ("models/mine", "./models/mine", "models/../models/mine", "mine.gguf"):
        absolute = absolute_base(SPEC | {"base_model": source})["base_model"]
        assert absolute.startswith(str(tmp_path))
        check_spec(SPEC | {"base_model": absolute}, get_settings())
    for source in ("smollm2-135m-instruct", "owner/name", "models/none", "/models/none"):
        assert absolute_base({"base_model": source}) == {"base_model": source}
