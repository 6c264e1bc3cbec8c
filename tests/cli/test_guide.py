from celora.cli.guide import TABLES
from celora.models.spec import JobSpec
from celora.tuning.recipe import TARGET_PRESETS


def test_the_guide_has_a_table_for_each_question(celora):
    shown = celora("guide").stdout
    assert all(part["title"] in shown for part in TABLES.values())


def test_the_guide_is_json_for_programs(celora):
    assert set(celora("guide", "--json").json()) == {"rank", "target_modules", "learning_rate", "data"}


def test_the_guide_names_every_preset_and_our_own_defaults():
    assert [row[0] for row in TABLES["target_modules"]["rows"]] == list(TARGET_PRESETS)
    default = next(row for row in TABLES["rank"]["rows"] if "default" in row[2])
    assert default[:2] == [JobSpec.model_fields["rank"].default, JobSpec.model_fields["alpha"].default]
