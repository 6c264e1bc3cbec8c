import pytest

from celora import errors


@pytest.mark.parametrize("kind", [errors.DataError, errors.LimitError, errors.BaseModelError, errors.NonFiniteError])
def test_an_error_is_found_by_its_word(kind):
    assert errors.of_code(kind.code) is kind


def test_an_unknown_word_is_the_root_and_a_word_that_is_inherited_is_its_owners():
    class Narrower(errors.DataError):
        def __init__(self):
            super().__init__("always this")

    assert errors.of_code("bad_data") is errors.DataError
    assert errors.of_code("killed") is errors.CeloraError
    assert Narrower.code == "bad_data"


@pytest.mark.parametrize(
    ("word", "end"),
    [
        ("suport", "; did you mean support?"),
        ("SUPPORT", "; did you mean support?"),
        ("exact-match", "; did you mean exact_match?"),
        ("nothing like it", "."),
    ],
)
def test_a_sentence_about_an_unknown_name_ends_with_the_nearest_one(word, end):
    assert errors.did_you_mean(word, ["support", "exact_match"]) == end


def test_several_near_names_are_offered_and_the_other_end_is_the_caller_s():
    assert errors.did_you_mean("bott", ["bot", "boat", "x"], most=2, cutoff=0.5) == "; did you mean bot or boat?"
    assert errors.did_you_mean("zzz", [], otherwise="; none has registered.") == "; none has registered."
