import time

import pytest

from celora.tuning.prepare.privacy import find, masked

CARD, IBAN = "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00"
TOKEN = "hf_" + "aB3dE5gH7jK9" * 3


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to ada.lovelace+books@mail.example.org.", "e-mail"),
        ("call +44 20 7946 0958 today", "phone"),
        ("call (415) 555-0132", "phone"),
        ("Telefon 030 1234 567", "phone"),
        (f"card {CARD}", "card"),
        ("card 5500005555555559", "card"),
        (f"account {IBAN}", "iban"),
        ("account GB82WEST12345698765432", "iban"),
        (f"token {TOKEN}", "api key"),
        ("key sk-proj-" + "a1B2c3D4" * 4, "api key"),
        ("id AKIAIOSFODNN7EXAMPLE", "api key"),
        ("ghp_" + "a1B2c3" * 6, "api key"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----", "private key"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEcut off", "private key"),
    ],
)
def test_what_looks_like_a_secret_or_a_person_is_found_by_kind(text, kind):
    assert [found for found, _, _ in find(text)] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "Natalia sold 48/2 = <<48/2=24>>24 clips in May, 48+24=72 altogether.",
        "1234567890123456 is no card, and 4111 1111 1111 1112 has a wrong check digit",
        "0000 0000 0000 0000",
        "GB83WEST12345698765432 has wrong check digits",
        "3.14159265358979323846 and 10,000,000,000",
        "on 2026-11-24 at 10:45:00, build 1.2.3-4567",
        "user@localhost, a @ b, @name",
        "the sk-learn library, hf_hub_download, risk-free-and-task-oriented",
        "",
    ],
)
def test_sums_dates_and_other_numbers_are_left_alone(text):
    assert find(text) == []


def test_a_mask_stands_where_it_was_and_nothing_of_it_is_left():
    text = f"I am ada@example.org, {CARD}, {IBAN}; {TOKEN}."
    assert masked(text) == "I am [e-mail masked], [card masked], [iban masked]; [api key masked]."
    assert masked("nothing here") == "nothing here"


def test_nothing_is_found_inside_something_else():
    text = "-----BEGIN PRIVATE KEY-----\nada@example.org\n-----END PRIVATE KEY----- then bob@example.org"
    assert [kind for kind, _, _ in find(text)] == ["private key", "e-mail"]


def test_the_cost_of_a_text_grows_in_proportion_to_what_is_found_in_it():
    """In CPU time of this thread; four times the text would cost sixteen times as much if each find met all others."""

    def cost_s(count):
        text = " ".join(f"user{number}@example.org 4111 1111 1111 1111" for number in range(count))
        begin = time.thread_time()
        assert len(find(text)) == 2 * count
        return time.thread_time() - begin

    ratios = [cost_s(16_000) / cost_s(4_000) for _ in range(3)]
    assert min(ratios) < 8


def test_kinds_that_overlap_count_once_and_stand_in_the_texts_order():
    text = "a@example.org, 4111 1111 1111 1111, b@example.org, " + "hf_" + "A" * 34 + "@example.org"
    assert [kind for kind, _, _ in find(text)] == ["e-mail", "card", "e-mail", "api key"]
