"""Templates run in the sandbox, and their own refusals are passed on."""

import pytest
from chat_families import (
    MISTRAL,
    row,
)

from celora.errors import BaseModelError
from celora.tuning.templates.template_choice import choose
from celora.tuning.templates.tokenizer_calls import TemplateRefusalError


def test_a_row_that_the_template_refuses_is_refused_in_the_templates_words(tokenizer_with):
    template = choose(tokenizer_with(MISTRAL))
    with pytest.raises(TemplateRefusalError, match="roles must alternate"):
        template.rendered(row(("user", "a"), ("user", "b"), ("assistant", "c")), completion_only=True)


def test_the_template_runs_in_a_sandbox(tokenizer_with):
    with pytest.raises(BaseModelError, match="unsafe"):
        choose(tokenizer_with("{{ messages.__class__.__mro__ }}"))
