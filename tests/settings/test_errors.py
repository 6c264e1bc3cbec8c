import pytest

from celora.settings import errors


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
