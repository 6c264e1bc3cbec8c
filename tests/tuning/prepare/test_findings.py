import numpy as np
import pytest

from celora.tuning.prepare import findings
from celora.tuning.prepare.findings import Notes, repeats
from celora.tuning.rows.row import Row


def take_notes(rows):
    notes = Notes()
    for row in rows:
        notes.add(row)
    return notes


def row(prompt, answer, line=1, **fields):
    return Row([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], [0, 1], line, **fields)


def rows(*pairs):
    return [row(prompt, answer, line) for line, (prompt, answer) in enumerate(pairs, 1)]


def test_repeats_are_told_apart_from_rows_that_only_look_alike():
    given = rows(("Hi", "Yes"), ("Hi", "No"), ("Hi", "Yes"), ("  hi ", "YES"), ("\uff28i", "yes\n"), ("Hello", "Yes"))
    notes = take_notes(given)
    found = repeats(notes)
    assert (found.exact, found.normalised, found.near, found.total) == (1, 2, 0, 3)
    assert found.of.tolist() == [-1, -1, 0, 0, 0, -1]
    assert findings.repeats_facts(notes, found, dropped=True) == {
        "exact": 1,
        "normalised": 2,
        "near": 0,
        "dropped": 3,
        "lines": [{"line": 3, "repeats": 1}, {"line": 4, "repeats": 1}, {"line": 5, "repeats": 1}],
    }
    assert findings.repeats_facts(notes, found, dropped=False)["dropped"] == 0


def test_however_many_rows_are_named_a_list_stops_and_the_numbers_go_on():
    many = 3 * findings.SHOWN_LINES
    mails = " ".join(f"a{number}@example.org" for number in range(1000))
    given = [row(f"question {number // 2}", f"{number % 2} {mails}", line=number + 1) for number in range(many)]
    given += [row("question 0", f"0 {mails}", line=many + 1)] * many
    notes = take_notes(given)
    told = findings.repeats_facts(notes, repeats(notes), dropped=True)
    assert (told["exact"], told["dropped"], len(told["lines"])) == (many, many, findings.SHOWN_LINES)
    assert notes.sensitive == {"e-mail": 2 * many}
    assert len(notes.sensitive_lines["e-mail"]) == findings.SHOWN_LINES
    contested = findings.conflict_facts(notes)
    assert contested["prompts"] == many / 2
    assert len(contested["lines"]) == findings.SHOWN_LINES


def test_the_same_words_with_other_tools_or_in_another_role_are_no_repeats():
    tool = {"type": "function", "function": {"name": "stock"}}
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "function": {"name": "a", "arguments": "{}"}}],
    }
    other = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "function": {"name": "b", "arguments": "{}"}}],
    }
    asked = {"role": "user", "content": "x"}
    given = [row("x", "y"), row("x", "y", tools=[tool]), Row([asked, call], [0, 1], 3), Row([asked, other], [0, 1], 4)]
    assert repeats(take_notes(given)).total == 0


def test_no_rows_at_all_have_no_repeats():
    notes = Notes()
    assert repeats(notes).total == 0
    assert findings.conflict_facts(notes) == {"prompts": 0, "rows": 0, "lines": []}
    assert findings.label_facts(notes) is None


def test_near_duplicates_share_most_runs_of_words():
    words = [f"word{number}" for number in range(60)]
    changed = [*words[:-1], "other"]
    given = rows((" ".join(words), "yes"), ("quite something else", "no"), (" ".join(changed), "yes"))
    assert repeats(take_notes(given), given).total == 0
    found = repeats(take_notes(given), given, near=0.6)
    assert (found.exact, found.normalised, found.near) == (0, 0, 1)
    assert found.of.tolist() == [-1, -1, 0]


def test_runs_of_words_cross_messages_and_short_rows_are_one_run():
    assert findings.shingles(row("one TWO three", "four")) == ["one two three four"]
    assert findings.shingles(row("one two three", "four five six")) == [
        "one two three four five",
        "two three four five six",
    ]


def test_overlap_counts_rows_and_prompts_that_training_sees_too():
    train = take_notes(rows(("a", "1"), ("b", "2"), ("c", "3")))
    held_out = take_notes(rows(("a", "1"), ("B ", "2"), ("c", "another answer"), ("d", "4")))
    assert findings.overlap_facts(train, held_out) == {"exact": 1, "normalised": 1, "prompts": 1, "lines": [1, 2]}


def test_conflicts_are_prompts_with_several_answers():
    given = rows(("a", "1"), ("b", "2"), ("A", "1"), ("a", "3"), ("b", " 2"), ("c", "1"))
    assert findings.conflict_facts(take_notes(given)) == {"prompts": 1, "rows": 3, "lines": [[1, 4]]}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["spam"] * 90 + ["ham"] * 10, (2, "spam", 0.9, "ham", True)),
        (["spam"] * 50 + ["ham"] * 50, (2, "spam", 0.5, "ham", False)),
        (["yes"] * 20, (1, "yes", 1.0, "yes", True)),
    ],
)
def test_one_sided_labels_are_seen(answers, expected):
    notes = take_notes(row(f"text {number}", answer, number) for number, answer in enumerate(answers))
    facts = findings.label_facts(notes)
    distinct, top, share, rarest, one_sided = expected
    assert (facts["distinct"], facts["one_sided"]) == (distinct, one_sided)
    assert (facts["most"]["label"], facts["most"]["share"], facts["fewest"]["label"]) == (top, share, rarest)


@pytest.mark.parametrize(
    "answers", [[f"answer {n}" for n in range(100)], ["a long answer that is no label at all, " * 3] * 100, ["a", "b"]]
)
def test_answers_that_are_words_of_their_own_are_no_labels(answers):
    notes = take_notes(row(f"text {number}", answer, number) for number, answer in enumerate(answers))
    assert findings.label_facts(notes) is None


def test_labels_with_private_data_are_masked():
    notes = take_notes(row(f"text {number}", "ada@example.org", number) for number in range(20))
    assert findings.label_facts(notes)["most"]["label"] == "[e-mail masked]"


def test_private_data_is_counted_by_row_with_its_first_lines():
    given = [row("ada@example.org and bob@example.org", "+44 20 7946 0958", line) for line in range(1, 31)]
    facts = findings.sensitive_facts(take_notes([*given, row("nothing", "here", 31)]))
    assert {kind: found["rows"] for kind, found in facts.items()} == {"e-mail": 30, "phone": 30}
    assert facts["e-mail"]["lines"] == list(range(1, 21))


@pytest.mark.parametrize(
    ("given", "kind", "enough"),
    [
        ([row(f"q{n}", f"an answer of its own, number {n}", n) for n in range(99)], "answers", False),
        ([row(f"q{n}", f"an answer of its own, number {n}", n) for n in range(100)], "answers", True),
        ([row(f"q{n}", "spam" if n % 2 else "ham", n) for n in range(100)], "classification", True),
        ([row(f"q{n}", f'{{"answer": {n}}}', n) for n in range(100)], "structured output", False),
        ([Row(row("a", f"b{n}").messages * 2, [0, 1] * 2, n) for n in range(100)], "conversation", False),
    ],
)
def test_advice_on_size_depends_on_the_kind_of_task(given, kind, enough):
    notes = take_notes(given)
    task = findings.task_facts(notes, findings.label_facts(notes))
    assert (task["kind"], task["enough"], task["rows"]) == (kind, enough, len(given))


def test_plain_text_wants_many_rows():
    notes = take_notes([Row([{"role": "assistant", "content": "text"}], [1], 1, plain=True)])
    assert findings.task_facts(notes, None, plain_text=True)["kind"] == "continued pre-training"
    assert notes.prompts.tolist() == [0]


def test_a_hundred_thousand_rows_are_asked_in_no_time():
    notes = Notes()
    rng = np.random.default_rng(1)
    for column in (notes.exact, notes.normal, notes.prompts, notes.lines):
        column.frombytes(rng.integers(0, 50_000, 100_000).astype(np.int64).tobytes())
    found = repeats(notes)
    assert found.exact == 100_000 - len(set(notes.exact))
    assert (found.of[found.of >= 0] < np.flatnonzero(found.of >= 0)).all()
