from string import ascii_letters as letters

import pytest

from celora.settings import secret_patterns
from celora.settings.redaction import MASK, Redactor
from celora.tuning.prepare.privacy import find

SHORTEST = {
    "hub": "hf_" + letters[:20],
    "hosted": "sk-" + letters[:20],
    "project": "sk-proj-" + letters[:10] + "_" + letters[:10],
    "AWS": "ASIA" + "A1B2" * 4,
    "GitHub": "ghp_" + letters[:36],
    "Google": "AIza" + letters[:35],
}


@pytest.mark.parametrize("token", SHORTEST.values(), ids=SHORTEST)
def test_logs_and_datasets_recognise_the_same_tokens(token):
    assert secret_patterns.TOKEN.fullmatch(token)
    assert Redactor().text(f"my {token}.") == f"my {MASK}."
    assert [kind for kind, _, _ in find(f"my {token}.")] == ["api key"]


def test_a_private_key_whose_end_was_cut_is_one_to_the_end():
    text = "-----BEGIN RSA PRIVATE KEY-----\nabc\ndef"
    assert secret_patterns.PRIVATE_KEY.search(text)[0] == text
    assert secret_patterns.SECRET.sub("", f"{text}\n-----END RSA PRIVATE KEY----- x") == " x"


def test_a_word_that_ends_like_the_beginning_of_a_token_is_none():
    assert not secret_patterns.SECRET.search("xhf_" + letters[:20])
