"""The same rows give the same tokens, masks and faults in every container that holds them."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_families import byte_level
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from celora.errors import DataError
from celora.tuning.files.faults import BadLine
from celora.tuning.files.readers import container
from celora.tuning.prepare.encode import Encoder
from celora.tuning.prepare.row_store import stored
from celora.tuning.rows.row_reader import rows as reader
from celora.tuning.templates.template_choice import choose

TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{% for call in m['tool_calls'] or [] %}"
    "{{ '<call>' + call['function']['name'] + ' ' + (call['function']['arguments'] | tojson) + '</call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Text that readers of lines, cells and JSON treat in special ways; NUL and half characters are refused everywhere.
TRICKY = [
    "\n",
    "\r\n",
    "\u2028",
    "\u0085",
    '"',
    '""',
    ",",
    ";",
    "\t",
    "|",
    "\\n",
    "\\",
    "{",
    "[",
    "NaN",
    "ä",
    "\U0001f600",
]
WORDS = st.lists(st.one_of(st.sampled_from(TRICKY), st.text("ab cé", max_size=4)), max_size=4).map("".join)
SAID = WORDS.map(lambda words: f"x{words}x")


def flat_rows():
    """Pairs whose answers are sometimes empty or null, with columns that are harmless, unknown or absent."""
    row = st.fixed_dictionaries(
        {"prompt": SAID, "completion": st.one_of(SAID, SAID, SAID, st.sampled_from(["", " ", None]))},
        optional={"system": SAID, "id": SAID, "mood": SAID},
    )
    return st.lists(row, min_size=1, max_size=6)


def tool(title, description):
    parameters = {"type": "object", "title": title}
    return {"type": "function", "function": {"name": "stock", "description": description, "parameters": parameters}}


def chat_rows():
    """Conversations with weights, tools, calls and nulls; the last message is sometimes a user's, which is a fault."""
    title, place = st.one_of(st.none(), SAID), st.one_of(st.none(), SAID)  # a Parquet file has one order of keys
    tools = st.lists(st.tuples(title, title).map(lambda drawn: tool(*drawn)), max_size=1)
    given_to = st.tuples(SAID, place).map(lambda drawn: {"item": drawn[0], "place": drawn[1]})

    def turns(draws):
        said, weight, arguments, ends = draws
        user, answer = {"role": "user", "content": said[0]}, {"role": "assistant", "content": said[1], "weight": weight}
        calls = [{"id": "c1", "type": "function", "function": {"name": "stock", "arguments": arguments}}]
        called = [
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": said[2], "tool_call_id": "c1"},
        ]
        return [user, answer, user, *(called if arguments else []), {"role": "assistant", "content": said[3]}, *ends]

    ends = st.sampled_from([[], [], [], [{"role": "user", "content": "and?"}]])
    talk = st.tuples(st.lists(SAID, min_size=4, max_size=4), st.sampled_from([0, 1, None]), st.none() | given_to, ends)
    row = st.fixed_dictionaries({"messages": talk.map(turns), "tools": tools}, optional={"id": SAID, "mood": SAID})
    return st.lists(row, min_size=1, max_size=5)


def lines(rows, *, end="\n", start=""):
    return (start + "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)).encode()


def as_csv(rows, delimiter=",", start=""):
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return (start + out.getvalue()).encode()


def as_parquet(rows):
    sink = pa.BufferOutputStream()
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), sink)
    return sink.getvalue().to_pybytes()


def nested(rows):
    """Each container of the rows: its files by name."""
    half = len(rows) // 2
    text = lines(rows)
    parts = {"ds/a.jsonl": lines(rows[:half]), "ds/b.json": json.dumps(rows[half:], indent=1).encode()}
    found = {
        "rows.jsonl": text,
        "rows.ndjson": lines(rows, end="\r\n", start="\ufeff"),
        "rows.jsonl.gz": gzip.compress(text),
        "lines.json": text,
        "rows.json": json.dumps(rows).encode(),
        "pretty.json": ("\ufeff" + json.dumps(rows, indent=2, ensure_ascii=False)).encode(),
        "rows.parquet": as_parquet(rows),
        "rows.parquet.gz": gzip.compress(as_parquet(rows)),
    }
    return {name: {name: content} for name, content in found.items()} | ({"ds": parts} if half else {})


def flat(rows):
    return nested(rows) | {
        name: {name: content}
        for name, content in {
            "rows.csv": as_csv(rows),
            "rows.csv.gz": gzip.compress(as_csv(rows)),
            "semicolons.csv": as_csv(rows, ";", "\ufeff"),
            "rows.tsv": as_csv(rows, "\t"),
        }.items()
    }


@pytest.fixture(scope="module")
def template():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    return choose(tokenizer)


def found_in(path, template):
    """What is read from a container: its rows and faults in order, the counts, and the tokens with their masks."""
    reading = reader(path)
    sequence, good = [], []
    for example in reading.examples():
        if isinstance(example, BadLine):
            sequence.append((example.kind, example.path))
        else:
            sequence.append((example.messages, example.weights, example.tools))
            good.append(example)
    data = reading.data
    store, numbers = stored(good)
    encoder = Encoder(template, store, numbers, max_length=4000, completion_only=True, too_long="cut", held_out=True)
    piece = encoder.piece((0, len(good)))
    tokens, mask, lengths = (array.tolist() for array in piece.arrays)
    prompts = [{**json.loads(prompt), "line": 0} for prompt in piece.prompts]
    counts = (data.format, data.good, dict(data.bad.counts), dict(data.unknown_keys))
    return sequence, counts, tokens, mask, lengths, prompts, piece.facts.lost_turns


@pytest.fixture(scope="module")
def compare(tmp_path_factory, template):
    """Writes the rows in every container, and compares what is read with what the first one gives."""

    def compare(containers):
        folder = tmp_path_factory.mktemp("rows")
        seen = {}
        for name, files in containers.items():
            for file, content in files.items():
                (folder / file).parent.mkdir(exist_ok=True)
                (folder / file).write_bytes(content)
            seen[name] = found_in(folder / name, template)
        first = seen["rows.jsonl"]
        for name, found in seen.items():
            assert found == first, name
        assert len(first[2]) == len(first[3])
        return first

    return compare


GENERATED = settings(max_examples=12, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
"""No shrinking: an example writes and reads a dozen files, and its rows are few already."""


@GENERATED
@given(rows=flat_rows())
def test_flat_rows_are_the_same_in_every_container(compare, rows):
    compare(flat(rows))


@GENERATED
@given(rows=chat_rows())
def test_conversations_are_the_same_in_every_container(compare, rows):
    compare(nested(rows))


def test_the_comparison_sees_tokens_masks_and_faults(compare):
    sequence, counts, tokens, mask, lengths, prompts, lost = compare(
        flat([{"prompt": "a\nb", "completion": "c"}, {"prompt": "x", "completion": None, "mood": "m"}])
    )
    assert sequence[1] == ("empty", "completion")
    assert counts == ("prompt-completion", 1, {"empty": 1}, {"mood": 1})
    assert (lengths, len(prompts), lost) == ([len(tokens)], 1, [])
    assert 0 < sum(mask) < len(tokens)


@pytest.mark.parametrize(
    ("name", "start", "fix"),
    [
        ("rows.jsonl.zst", b"\x28\xb5\x2f\xfd", "zstd -d"),
        ("rows.jsonl.xz", b"\xfd7zXZ\0", "unxz"),
        ("rows.jsonl.bz2", b"BZh9", "bunzip2"),
        ("rows.zip", b"PK\x03\x04", "unzip"),
        ("rows.arrow", b"ARROW1\0\0", "export it as .parquet"),
    ],
)
def test_a_container_that_is_not_read_is_refused_with_the_way_to_one_that_is(tmp_path, name, start, fix):
    (tmp_path / name).write_bytes(start + b"\0" * 64)
    with pytest.raises(DataError) as caught:
        container(tmp_path / name)
    assert fix.lower() in caught.value.hint.lower()
