"""Options out of the spec's fields: words of a command line become the fields of a job."""

import inspect

import pytest

from celora.cli.options import REPEATED, command, fields_of, value_of
from celora.errors import SettingsError
from celora.models.spec import JobSpec


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("rank", None, None),
        ("rank", "8", "8"),
        ("metrics", ["bleu,exact_match", " rouge_l "], ["bleu", "exact_match", "rouge_l"]),
        ("metrics", [",", ""], []),
        ("target_modules", ["full"], "full"),
        ("target_modules", ["q_proj,v_proj"], ["q_proj", "v_proj"]),
        ("target_modules", ["q_proj", "v_proj"], ["q_proj", "v_proj"]),
        ("eval_dataset", ["held.jsonl"], "held.jsonl"),
        ("eval_dataset", ["https://example.org/held.jsonl?a=b"], "https://example.org/held.jsonl?a=b"),
        ("eval_dataset", ["easy=held.jsonl"], {"easy": "held.jsonl"}),
        ("eval_dataset", ["easy=a.jsonl", "b/hard.jsonl"], {"easy": "a.jsonl", "hard": "b/hard.jsonl"}),
        ("columns", ["prompt=q", "completion=a=b"], {"prompt": "q", "completion": "a=b"}),
        ("metadata", ["team="], {"team": ""}),
        ("gate", ["metric=bleu", "must_not_regress=a, b"], {"metric": "bleu", "must_not_regress": ["a", "b"]}),
    ],
)
def test_the_text_of_an_option_becomes_a_value(name, given, value):
    assert value_of(name, given) == value


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("metadata", ["red"], "metadata: 'red' has no name"),
        ("columns", ["prompt=q", "prompt=x"], "columns: prompt is given twice"),
        ("gate", ["must_not_regress=a", "must_not_regress=b"], "gate: must_not_regress is given twice"),
        ("eval_dataset", ["a/held.jsonl", "b/held.jsonl"], "eval_dataset: held is given twice"),
        ("eval_dataset", ["held=a.jsonl", "b/held.jsonl"], "eval_dataset: held is given twice"),
    ],
)
def test_a_value_without_a_name_or_with_anothers_is_refused(name, given, words):
    with pytest.raises(SettingsError, match=words) as refused:
        value_of(name, given)
    assert f"--{name.replace('_', '-')} NAME=VALUE" in refused.value.hint


@pytest.mark.parametrize(
    ("words", "options", "loose", "fields"),
    [
        ([], {}, "", {}),
        ([], {"rank": "8", "epochs": None, "metrics": []}, "", {"rank": "8"}),
        (["job.yaml"], {}, "", {"rank": 4, "epochs": 2}),
        (["job.yaml"], {"rank": "8"}, "", {"rank": "8", "epochs": 2}),
        (["job.yml"], {}, "dataset", {"seed": 1}),
        (["rows.jsonl"], {}, "dataset", {"dataset": "rows.jsonl"}),
        (["--lr", "1e-3"], {}, "", {"lr": "1e-3"}),
        (["--learning-rat=1e-3", "--dry"], {}, "", {"learning_rat": "1e-3", "dry": "true"}),
        ([], {"base_model": "smollm2-135m-instruct"}, "", {"base_model": "smollm2-135m-instruct"}),
        ([], {"base_model": "models/mine"}, "", {"base_model": "{here}/models/mine"}),
    ],
)
def test_words_options_and_a_job_file_become_fields(tmp_path, words, options, loose, fields):
    (tmp_path / "job.yaml").write_text("rank: 4\nepochs: 2\n")
    (tmp_path / "job.yml").write_text("seed: 1\n")
    (tmp_path / "models" / "mine").mkdir(parents=True)
    wanted = {name: value.format(here=tmp_path) if isinstance(value, str) else value for name, value in fields.items()}
    assert fields_of(words, options, loose=loose) == wanted


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["a.yaml", "b.yaml"], "a.yaml, b.yaml are 2 job files"), (["none.yaml"], "none.yaml does not exist")],
)
def test_job_files_that_cannot_be_taken_are_refused(words, sentence):
    with pytest.raises(SettingsError, match=sentence):
        fields_of(words, {}, loose="")


def test_a_command_has_an_option_for_each_field_and_keeps_its_own():
    ran = []

    def run(words, **options):
        """Does something."""
        ran.append((words, options))

    made = command(run, {"words": (list[str], None), "wait": (bool, False)})
    parameters = inspect.signature(made).parameters
    assert set(parameters) == {"words", "wait", *JobSpec.model_fields}
    assert next(iter(parameters)) == "words"
    assert parameters["wait"].default is False
    assert made.__doc__ == "Does something."
    made(["job.yaml"], rank="8")
    assert ran == [(["job.yaml"], {"rank": "8"})]


def test_fields_of_several_values_may_be_repeated_and_no_others():
    parameters = inspect.signature(command(lambda words, **_: None, {"words": (list[str], None)})).parameters
    repeated = {name for name in JobSpec.model_fields if "list" in str(parameters[name].annotation.__origin__)}
    assert repeated == set(REPEATED)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dataset", "(required)"),
        ("rank", "(default: 16)"),
        ("completion_only", "(default: true)"),
        ("columns", "may be given several times, as NAME=VALUE"),
        ("metrics", "may be given several times"),
    ],
)
def test_the_help_of_an_option_tells_its_default(name, words):
    parameters = inspect.signature(command(lambda words, **_: None, {"words": (list[str], None)})).parameters
    (option,) = parameters[name].annotation.__metadata__
    assert words in option.help
    assert option.default == f"--{name.replace('_', '-')}"  # Typer takes its first word for a default until it parses
