import pytest

from celora.tuning.rows.row_reader import read


def said(row):
    return [(message["role"], message["content"]) for message in row.messages]


def test_white_space_around_a_question_and_an_answer_is_dropped(write):
    assert said(read(write({"prompt": " q ", "completion": " a\n"})).rows[0]) == [("user", "q"), ("assistant", "a")]


def test_alpacas_input_follows_the_instruction_and_its_history_comes_before(write):
    row = {"instruction": "Add.", "input": "2 2", "output": "4", "system": "Brief.", "history": [["q", "a"]]}
    assert said(read(write(row)).rows[0]) == [
        ("system", "Brief."), ("user", "q"), ("assistant", "a"), ("user", "Add.\n\n2 2"), ("assistant", "4")
    ]  # fmt: skip


def test_only_the_turns_of_a_completion_carry_loss(write):
    prompt = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
    row = read(write({"prompt": prompt, "completion": [{"role": "assistant", "content": "b"}]})).rows[0]
    assert row.weights == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("history", "path"), [("c", "history"), ([["c"]], "history[0]"), ([["c", 7]], "history[0][1]")]
)
def test_a_history_that_is_no_list_of_pairs_is_named(only_bad, history, path):
    assert only_bad({"instruction": "a", "output": "b", "history": history}).path == path


def test_running_text_is_kept_as_it_is(write):
    row = read(write({"text": " The valve opens.\n"})).rows[0]
    assert (row.plain, said(row)) == (True, [("assistant", " The valve opens.\n")])


def test_dolly_s_and_openorca_s_columns_are_read(write):
    dolly = {"instruction": "Which colour?", "context": "The sky is blue.", "response": "Blue.", "category": "qa"}
    assert said(read(write(dolly)).rows[0]) == [
        ("user", "Which colour?\n\nThe sky is blue."), ("assistant", "Blue.")
    ]  # fmt: skip
    orca = {"system_prompt": "Be brief.", "question": "q", "response": "a"}
    assert said(read(write(orca)).rows[0]) == [("system", "Be brief."), ("user", "q"), ("assistant", "a")]


def test_an_empty_prompt_is_refused_with_the_form_of_rows_without_one(only_bad):
    assert '{"text": …}' in only_bad({"prompt": "", "completion": "Our voice is warm."}).fix
