def test_a_secret_is_set_from_standard_input_and_never_shown(celora):
    assert celora("secret", "set", "HF_TOKEN", stdin="hf_very_secret\n").exit_code == 0
    listed = celora("secret", "list")
    assert listed.stdout == "HF_TOKEN\n"
    assert "hf_very_secret" not in listed.stdout + listed.stderr
    assert celora("secret", "list", "--json").json() == ["HF_TOKEN"]


def test_a_secret_is_removed(celora):
    celora("secret", "set", "HF_TOKEN", stdin="x")
    assert celora("secret", "remove", "HF_TOKEN").exit_code == 0
    assert celora("secret", "list", "--json").json() == []


def test_a_secret_that_is_not_there_is_a_sentence(celora):
    result = celora("secret", "remove", "HF_TOKEN")
    assert result.exit_code == 66
    assert "no secret named HF_TOKEN" in result.stderr


def test_an_empty_value_is_refused(celora):
    result = celora("secret", "set", "HF_TOKEN", stdin="")
    assert result.exit_code == 64
    assert "empty" in result.stderr
