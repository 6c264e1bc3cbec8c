"""A configuration with a size that no model has is refused; those of real models pass."""

import pytest

from celora.errors import BadBaseError
from celora.tuning.bases.config_limits import MOST, check_config

GOOD = {"model_type": "llama", "hidden_size": 16_384, "num_hidden_layers": 126, "vocab_size": 128_256, "head_dim": None}


def test_the_sizes_of_a_large_model_pass():
    check_config(GOOD, "config.json")
    check_config({"model_type": "gemma3", "text_config": GOOD}, "config.json")


@pytest.mark.parametrize("field", MOST)
@pytest.mark.parametrize("value", ["512", [1], True, 1.5, -1, 0, 2**62])
def test_a_size_that_no_model_has_is_refused_by_its_name(field, value):
    for config in ({**GOOD, field: value}, {"model_type": "gemma3", "text_config": {field: value}}):
        with pytest.raises(
            BadBaseError, match=rf"config\.json has a {field} (of -?[\d,]+; 1 to|that is no whole number)"
        ):
            check_config(config, "config.json")


@pytest.mark.parametrize("changes", [{"model_type": None}, {"model_type": ["llama"]}, {"text_config": "boo"}])
def test_a_part_of_the_wrong_type_is_refused(changes):
    with pytest.raises(BadBaseError, match=r"no model_type|no object"):
        check_config({**GOOD, **changes}, "config.json")
