"""The greedy answers that a loss pass has shown are those that decoding writes."""

import pytest

from celora.tuning.evaluation.confirmed import confirmed, confirmed_answers

STOP = 1
PROMPT, ANSWER = [5, 6], [7, 8, STOP]
TOKENS, MASK = [*PROMPT, *ANSWER], [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, ANSWER),
        ({"followed": 2}, None),  # the model does not end there
        ({"followed": 0}, None),
        ({"room": 2, "followed": 2}, [7, 8]),  # cut, as decoding is
        ({"room": 9}, ANSWER),
        ({"stop_tokens": {8}}, [7, 8]),
        ({"stop_tokens": {8}, "followed": 2}, [7, 8]),
        ({"stop_tokens": {9}}, None),  # decoding would go on behind the reference
        ({"stop_tokens": {9}, "room": 3}, ANSWER),
        ({"prompt": [5]}, None),  # the reference's first token carries no loss
        ({"prompt": [4, 6]}, None),
        ({"mask": [0, 1, 1, 1, 1], "followed": 4}, None),  # a turn before the prompt's end is trained too
        ({"mask": [0, 0, 1, 0, 1], "followed": 2}, None),
        ({"tokens": [*TOKENS, 3], "mask": [*MASK, 0]}, ANSWER),  # a line break behind the stop token
    ],
)
def test_an_answer_is_shown_where_each_of_its_tokens_is(change, shown):
    facts = {"prompt": PROMPT, "tokens": TOKENS, "mask": MASK, "followed": 3, "stop_tokens": {STOP}, "room": 5}
    assert confirmed(**facts | change) == shown


def test_no_answer_is_taken_where_decoding_might_have_less_room_than_asked_for():
    known = {"prompts": [PROMPT, [5, 6, 9]], "rows": [(TOKENS, MASK), (TOKENS, MASK)], "followed": [3, 3]}
    assert confirmed_answers(**known, stop_tokens={STOP}, max_new_tokens=5, context_tokens=8) == {0: ANSWER}
    assert confirmed_answers(**known, stop_tokens={STOP}, max_new_tokens=5, context_tokens=7) == {}
    assert confirmed_answers([], [], [], stop_tokens={STOP}, max_new_tokens=5, context_tokens=7) == {}
