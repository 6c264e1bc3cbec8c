import json

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from celora.settings.errors import BaseModelError, SettingsError
from celora.tuning.formats import Row, read
from celora.tuning.templates import TemplateRefusalError, choose
from celora.tuning.tools import short_id

# Templates of four families and two awkward ones, written for these tests after the models' own documentation.
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{{ bos_token }}{% for m in turns %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + (system if loop.revindex0 <= 1 else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
THINKING = (  # only the last answer gets its (empty) think block, as Qwen 3 does
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% set words = m['content'].split('</think>')[-1] %}"
    "{{ '<|im_start|>assistant\n' + ('<think>\n\n</think>\n\n' if loop.last else '') }}"
    "{{ words.lstrip('\n') + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_GENERATION_PROMPT = (
    "{% for m in messages %}{{ m['role'] | upper + ': ' + m['content'] }}"
    "{{ '</s>' if m['role'] == 'assistant' else '\n' }}{% endfor %}"
)
# The same families with tools, each in its own manner.
CHATML_TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\nTools:' }}{% for t in tools %}{{ '\n' + (t | tojson) }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' and m.tool_calls %}"
    "{{ '<|im_start|>assistant' }}{% if m.content %}{{ '\n' + m.content }}{% endif %}"
    '{% for c in m.tool_calls %}{{ \'\n<tool_call>\n{"name": "\' + c.function.name + \'", "arguments": \' }}'
    "{{ (c.function.arguments | tojson) + '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif m.role == 'tool' %}"
    "{% if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3_TOOLS = (  # one call a turn; its words are left out
    "{{ bos_token }}{% for m in messages %}{% if loop.first and tools %}"
    "{{ '<|start_header_id|>user<|end_header_id|>\n\nFunctions: ' + (tools | tojson) + '\n\n' }}"
    "{{ m.content | trim + '<|eot_id|>' }}"
    "{% elif 'tool_calls' in m %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    '{{ \'<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "\' + m.tool_calls[0].function.name }}'
    "{{ '\", \"parameters\": ' + (m.tool_calls[0].function.arguments | tojson) + '}<|eot_id|>' }}"
    "{% else %}{% set role = 'ipython' if m.role == 'tool' else m.role %}"
    "{{ '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL_TOOLS = (  # tools before the last question only, ids of nine letters, no content where there is a call
    "{{ bos_token }}{% set asked = messages | selectattr('role', 'equalto', 'user') | list | length %}"
    "{% set at = namespace(user=0) %}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set at.user = at.user + 1 %}"
    "{% if tools and at.user == asked %}{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% elif m.content is not defined %}{{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}"
    "{% if c.id | length != 9 %}{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}"
    '{% endif %}{{ \'{"name": "\' + c.function.name + \'", "arguments": \' + (c.function.arguments | tojson) }}'
    "{{ ', \"id\": \"' + c.id + '\"}' + (', ' if not loop.last else '') }}{% endfor %}{{ ']' + eos_token }}"
    "{% elif m.role == 'tool' %}"
    "{{ '[TOOL_RESULTS] {\"content\": ' + m.content + ', \"call_id\": \"' + m.tool_call_id + '\"}[/TOOL_RESULTS]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
GEMMA_TOOLS = (  # a call and its results share the model's turn, as in Gemma 4
    "{{ bos_token }}{% for t in tools or [] %}"
    "{{ '<start_of_turn>system\ndeclaration:' + t.function.name + ' ' + t.function.description + '<end_of_turn>\n' }}"
    "{% endfor %}{% for m in messages %}"
    "{% if m.role != 'tool' %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{% if not (m.role == 'assistant' and loop.previtem.role == 'tool') %}"
    "{{ '<start_of_turn>' + role + '\n' }}{% endif %}{% endif %}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}{{ 'call:' + c.function.name + '{' }}"
    "{% for k, v in c.function.arguments.items() %}{{ k + ':' + v | string }}{% endfor %}{{ '}' }}{% endfor %}"
    "{% elif m.role == 'tool' %}{{ 'response:' + m.content + ';' }}"
    "{% else %}{{ m.content | trim + '<end_of_turn>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'tool' %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
WITH_TOOLS = {"chatml": CHATML_TOOLS, "llama-3": LLAMA3_TOOLS, "mistral": MISTRAL_TOOLS, "gemma": GEMMA_TOOLS}
FAMILIES = {"chatml": CHATML, "llama-3": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA}
END = {"chatml": "<|im_end|>", "llama-3": "<|eot_id|>", "mistral": "</s>", "gemma": "<end_of_turn>"}

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>"]
SPECIAL += ["<|eot_id|>", "<start_of_turn>", "<end_of_turn>"]
CORPUS = [
    "Below is an instruction that describes a task. Be kind. What is two plus two? It is four, I think. assistant user",
    "And three? Six, naïve as it is. Yes. No. ### Instruction: ### Response: system model\n\n [INST] [/INST]",
]


def byte_level():
    """A tokenizer in the manner of Llama 3 and Qwen."""
    inner = Tokenizer(models.BPE())
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    return inner


def sentencepiece_like():
    """A tokenizer in the manner of Llama 2, Mistral and Gemma: a space is a letter, and a text begins with one."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    letters = sorted(set("".join(CORPUS)) - {" ", "\n", "ï"} | {"▁"})
    special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    inner.train_from_iterator(
        [text.replace("\n", "") for text in CORPUS],
        trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=letters, show_progress=False),
    )
    state = json.loads(inner.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    inner = Tokenizer.from_str(json.dumps(state))
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return inner


@pytest.fixture(scope="module", params=[byte_level, sentencepiece_like])
def inner(request):
    return request.param()


@pytest.fixture
def tokenizer_with(inner):
    def tokenizer_with(template, **tokens):
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **tokens}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(inner.to_str()), extra_special_tokens=SPECIAL[3:], **names
        )
        tokenizer.chat_template = template
        return tokenizer

    return tokenizer_with


def row(*turns, weights=None, tools=()):
    messages = [turn if isinstance(turn, dict) else {"role": turn[0], "content": turn[1]} for turn in turns]
    return Row(messages, weights or [int(message["role"] == "assistant") for message in messages], 1, list(tools))


def trained_words(template, example, *, completion_only=True):
    """The parts of a row that carry loss, as text."""
    (one,) = template.encode([template.rendered(example, completion_only=completion_only)])
    parts, run = [], []
    for token, trained in [*zip(one.tokens.tolist(), one.mask.tolist(), strict=True), (0, 0)]:
        if trained:
            run.append(token)
        elif run:
            parts.append(template.tokenizer.decode(run, skip_special_tokens=False))
            run = []
    return parts


def written(messages, template):
    """Messages as a template's documentation wants them: arguments as objects; Mistral's without content, ids short."""
    told = json.loads(json.dumps(messages))
    mistral = "length 9" in template
    for message in told:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
            call["id"] = short_id(call["id"]) if mistral else call["id"]
        if mistral and message.get("tool_calls"):
            del message["content"]
        if mistral and "tool_call_id" in message:
            message["tool_call_id"] = short_id(message["tool_call_id"])
    return told


def turn_by_turn(tokenizer, example):
    """Tokens and mask made the slow way: the template rendered and tokenized anew for each turn's start and end."""

    def tokens(messages, **options):
        told = written(messages, tokenizer.chat_template)
        tools = example.tools or None
        return tokenizer.apply_chat_template(told, tools=tools, tokenize=True, return_dict=False, **options)

    whole = tokens(example.messages)
    mask = [0] * len(whole)
    for number, weight in enumerate(example.weights):
        if weight:
            start = tokens(example.messages[:number], add_generation_prompt=True)
            through = tokens(example.messages[: number + 1])
            assert whole[: len(start)] == start
            assert whole[: len(through)] == through
            mask[len(start) : len(through)] = [1] * (len(through) - len(start))
    return whole, mask


def without_white_tail(tokenizer, tokens, mask):
    """A template's white space behind an end token carries no loss."""
    mask = list(mask)
    for at in range(len(tokens) - 1, -1, -1):
        follows_end = at + 1 == len(tokens) or not mask[at + 1]
        if mask[at] and follows_end and not tokenizer.decode([tokens[at]]).strip():
            mask[at] = 0
    return mask


ONE_TURN = row(("user", "What is two plus two?"), ("assistant", "It is four, I think."))
MANY_TURNS = row(
    ("user", "What is two plus two?"),
    ("assistant", "It is four."),
    ("user", "And three? naïve"),
    ("assistant", "Six, naïve \U0001f600 as it is."),
    ("user", "Yes?"),
    ("assistant", "No."),
)
WEIGHED = row(*((m["role"], m["content"]) for m in MANY_TURNS.messages), weights=[0, 1, 0, 0, 0, 1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("example", [ONE_TURN, MANY_TURNS, WEIGHED], ids=["one turn", "many turns", "weighed"])
def test_the_mask_is_that_of_the_template_rendered_turn_by_turn(tokenizer_with, family, example):
    tokenizer = tokenizer_with(FAMILIES[family])
    template = choose(tokenizer)
    assert template.name == "own"
    rendered = template.rendered(example, completion_only=True)
    (one,) = template.encode([rendered])
    whole, mask = turn_by_turn(tokenizer, example)
    assert one.tokens.tolist() == whole
    assert one.mask.tolist() == without_white_tail(tokenizer, whole, mask)
    assert (rendered.marked_turns, rendered.prompt_differs) == (0, False)
    assert (one.tokens.dtype, one.mask.dtype) == ("int32", "uint8")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_on_the_answers_and_their_end_tokens_and_on_nothing_else(tokenizer_with, family):
    template = choose(tokenizer_with(FAMILIES[family]))
    answers = ["It is four.", "Six, naïve \U0001f600 as it is.", "No."]
    assert [words.lstrip() for words in trained_words(template, MANY_TURNS)] == [a + END[family] for a in answers]
    assert [words.lstrip() for words in trained_words(template, WEIGHED)] == [
        answers[0] + END[family],
        answers[2] + END[family],
    ]
    assert template.tokenizer.convert_ids_to_tokens(template.end_token) == END[family]
    assert template.end_token in template.stop_tokens()


@pytest.mark.parametrize("name", ["alpaca", "chatml"])
def test_the_named_templates_serve_a_base_without_one(tokenizer_with, name):
    tokenizer = tokenizer_with(None)
    template = choose(tokenizer, name)
    (one,) = template.encode([template.rendered(MANY_TURNS, completion_only=True)])
    whole, mask = turn_by_turn(tokenizer, MANY_TURNS)
    assert one.tokens.tolist() == whole
    assert one.mask.tolist() == without_white_tail(tokenizer, whole, mask)
    assert template.warnings == []
    assert template.system_role


def test_alpaca_is_the_default_and_begins_as_the_tokenizer_would(tokenizer_with, inner):
    tokenizer = tokenizer_with(None)
    template = choose(tokenizer)
    assert template.name == "alpaca"
    begins_with_bos = inner.encode("x").tokens[0] == "<s>"
    assert template.render(ONE_TURN.messages) == (
        ("<s>" if begins_with_bos else "")
        + "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nWhat is two plus two?\n\n### Response:\nIt is four, I think.</s>"
    )
    system = row(("system", "Be kind."), *((m["role"], m["content"]) for m in ONE_TURN.messages))
    assert "Be kind.\n\n### Instruction:\n" in template.render(system.messages)
    assert "Below" not in template.render(system.messages)


def test_loss_on_everything_where_it_is_asked_for(tokenizer_with):
    template = choose(tokenizer_with(CHATML))
    (one,) = template.encode([template.rendered(ONE_TURN, completion_only=False)])
    assert one.mask.all()


def test_the_prompt_is_everything_before_the_last_answer(tokenizer_with):
    template = choose(tokenizer_with(CHATML))
    assert template.prompt(MANY_TURNS).endswith("<|im_start|>user\nYes?<|im_end|>\n<|im_start|>assistant\n")
    assert "It is four." in template.prompt(MANY_TURNS)
    assert template.rendered(MANY_TURNS, completion_only=True).text.startswith(template.prompt(MANY_TURNS))


def test_system_text_goes_before_the_first_user_message_where_there_is_no_system_role(tokenizer_with):
    template = choose(tokenizer_with(GEMMA))
    assert not template.system_role
    example = row(("system", "Be kind."), ("user", "Yes?"), ("assistant", "No."))
    assert template.render(example.messages) == (
        "<s><start_of_turn>user\nBe kind.\n\nYes?<end_of_turn>\n<start_of_turn>model\nNo.<end_of_turn>\n"
    )
    assert example.messages[1]["content"] == "Yes?"
    assert trained_words(template, example) == ["No.<end_of_turn>"]


def test_turns_are_found_by_a_mark_where_a_template_moves_the_system_text(tokenizer_with):
    template = choose(tokenizer_with(MISTRAL))
    example = row(("system", "Be kind."), *((m["role"], m["content"]) for m in MANY_TURNS.messages))
    rendered = template.rendered(example, completion_only=True)
    assert (rendered.marked_turns, rendered.prompt_differs) == (2, False)
    assert [words.strip() for words in trained_words(template, example)] == [
        "It is four.</s>",
        "Six, naïve \U0001f600 as it is.</s>",
        "No.</s>",
    ]


def test_a_think_block_belongs_to_the_answer_only_where_the_template_writes_one(tokenizer_with):
    template = choose(tokenizer_with(THINKING))
    example = row(
        ("user", "What is two plus two?"),
        ("assistant", "<think>\nhm\n</think>\n\nIt is four."),
        ("user", "Yes?"),
        ("assistant", "No."),
    )
    rendered = template.rendered(example, completion_only=True)
    assert (rendered.marked_turns, rendered.prompt_differs) == (1, False)
    assert trained_words(template, example) == ["It is four.<|im_end|>", "<think>\n\n</think>\n\nNo.<|im_end|>"]


def test_an_answer_that_does_not_follow_the_generation_prompt_is_counted(tokenizer_with):
    opens_thought = "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    template = choose(tokenizer_with(CHATML + opens_thought))
    rendered = template.rendered(ONE_TURN, completion_only=True)
    assert (rendered.marked_turns, rendered.prompt_differs) == (1, True)
    assert trained_words(template, ONE_TURN) == ["It is four, I think.<|im_end|>"]


def test_a_missing_generation_prompt_is_added_and_told(tokenizer_with):
    template = choose(tokenizer_with(NO_GENERATION_PROMPT))
    assert template.prompt(ONE_TURN) == "USER: What is two plus two?\nASSISTANT: "
    assert "has no generation prompt" in template.warnings[0]
    assert [words.strip() for words in trained_words(template, ONE_TURN)] == ["It is four, I think.</s>"]


def test_a_template_without_an_end_token_is_told(tokenizer_with):
    template = choose(tokenizer_with(NO_GENERATION_PROMPT.replace("</s>", "\n")))
    assert "will not know when to stop" in template.warnings[0]
    assert template.end_token is None


def test_a_token_on_both_sides_of_the_border_carries_loss_if_it_holds_the_answers_words():
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "ab": 1, "a": 2, "b": 3, "</s>": 4, "x": 5}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] + ' a' }}"
        "{% else %}{{ m['content'] + ' </s>' }}{% endif %}{% endfor %}"
    )
    template = choose(tokenizer)
    (one,) = template.encode([template.rendered(row(("user", "x"), ("assistant", "b")), completion_only=True)])
    assert (one.tokens.tolist(), one.mask.tolist()) == ([5, 1, 4], [0, 1, 1])


def test_a_row_that_the_template_refuses_is_refused_in_the_templates_words(tokenizer_with):
    template = choose(tokenizer_with(MISTRAL))
    with pytest.raises(TemplateRefusalError, match="roles must alternate"):
        template.rendered(row(("user", "a"), ("user", "b"), ("assistant", "c")), completion_only=True)


def test_an_answer_that_the_template_rewrites_is_refused(tokenizer_with):
    counting = CHATML.replace("m['content'] + '<|im_end|>'", "m['content'] | replace('four', '4') + '<|im_end|>'")
    template = choose(tokenizer_with(counting + "{% if add_generation_prompt %}!{% endif %}"))
    with pytest.raises(TemplateRefusalError, match="message 2 is rewritten"):
        template.rendered(ONE_TURN, completion_only=True)


def test_the_template_runs_in_a_sandbox(tokenizer_with):
    with pytest.raises(BaseModelError, match="unsafe"):
        choose(tokenizer_with("{{ messages.__class__.__mro__ }}"))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('not today') }}", "not today"),
        ("{{ 'always the same' }}", "don't come out"),
        ("{% for m in messages %}{{ m['content'] }", "unexpected '}'"),
    ],
)
def test_a_template_that_cannot_hold_question_and_answer_is_refused(tokenizer_with, template, words):
    with pytest.raises(BaseModelError, match=words) as caught:
        choose(tokenizer_with(template))
    assert "alpaca or chatml" in caught.value.hint


def test_unknown_names_and_missing_tokens_are_refused(tokenizer_with):
    with pytest.raises(SettingsError, match="'vicuna' is unknown"):
        choose(tokenizer_with(None), "vicuna")
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    bare = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")
    with pytest.raises(SettingsError, match=r"needs the tokens <\|im_start\|>"):
        choose(bare, "chatml")
    bare.eos_token = None
    with pytest.raises(BaseModelError, match="no end-of-text token"):
        choose(bare)


def test_a_named_template_in_place_of_the_bases_own_is_told(tokenizer_with):
    template = choose(tokenizer_with(CHATML), "alpaca")
    assert "has a chat template of its own" in template.warnings[0]
    assert "### Response:" in template.prompt(ONE_TURN)


def test_of_several_templates_the_default_is_taken(tokenizer_with):
    tokenizer = tokenizer_with({"default": CHATML, "tool_use": "{{ 'tools' }}"})
    assert choose(tokenizer).name == "own"
    assert tokenizer.chat_template == CHATML
    with pytest.raises(BaseModelError, match="none is called default"):
        choose(tokenizer_with({"rag": CHATML, "tool_use": CHATML}))


STOCK = {
    "type": "function",
    "function": {"name": "stock", "description": "What is left", "parameters": {"type": "object", "properties": {}}},
}


def called(number, item, name="stock"):
    call = {"id": f"call_{number}", "type": "function"}
    call["function"] = {"name": name, "arguments": json.dumps({"item": item})}
    answer = {"role": "tool", "content": f"result {item}", "tool_call_id": call["id"], "name": name}
    return {"role": "assistant", "content": "", "tool_calls": [call]}, answer


CALLS = row(("user", "And three?"), *called(1, 7), ("assistant", "It is four."), tools=[STOCK])
MANY_CALLS = row(
    ("user", "And three?"), *called(1, 7), ("assistant", "It is four."), ("user", "Yes?"), *called(2, 8),
    *called(3, 9), ("assistant", "No."), tools=[STOCK],
)  # fmt: skip
WEIGHED_CALLS = Row(MANY_CALLS.messages, [0, 0, 0, 1, 0, 1, 0, 0, 0, 1], 1, [STOCK])
LAST_IS_A_CALL = row(("user", "And three?"), called(1, 7)[0], tools=[STOCK])


@pytest.mark.parametrize("family", WITH_TOOLS)
@pytest.mark.parametrize(
    "example", [CALLS, MANY_CALLS, WEIGHED_CALLS, LAST_IS_A_CALL], ids=["one", "many", "weighed", "last"]
)
def test_the_mask_of_tool_calls_is_that_of_the_template_rendered_turn_by_turn(tokenizer_with, family, example):
    tokenizer = tokenizer_with(WITH_TOOLS[family])
    template = choose(tokenizer)
    rendered = template.rendered(example, completion_only=True)
    (one,) = template.encode([rendered])
    if rendered.marked_turns:  # Mistral moves the tools, so earlier turns are no beginning of the whole
        assert family == "mistral"
        whole = tokenizer.apply_chat_template(
            written(example.messages, MISTRAL_TOOLS), tools=[STOCK], tokenize=True, return_dict=False
        )
        assert one.tokens.tolist() == whole
        return
    whole, mask = turn_by_turn(tokenizer, example)
    assert one.tokens.tolist() == whole
    assert one.mask.tolist() == without_white_tail(tokenizer, whole, mask)


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_calls_carry_loss_and_tools_and_their_answers_do_not(tokenizer_with, family):
    template = choose(tokenizer_with(WITH_TOOLS[family]))
    assert template.tool_support.declares
    parts = [words.strip() for words in trained_words(template, MANY_CALLS)]
    assert len(parts) == 5
    assert [("stock" in words, "What is left" in words) for words in parts] == [
        (True, False), (False, False), (True, False), (True, False), (False, False),
    ]  # fmt: skip
    assert all(str(item) in words for item, words in zip((7, 8, 9), (parts[0], parts[2], parts[3]), strict=True))
    assert not any("result" in words for words in parts)
    assert [parts[1].removesuffix(END[family]), parts[4].removesuffix(END[family])] == ["It is four.", "No."]
    assert all(words.endswith(END[family]) for words in parts) == (family != "gemma")


def test_of_weighed_calls_only_the_weighed_carry_loss(tokenizer_with):
    template = choose(tokenizer_with(MISTRAL_TOOLS))
    parts = [words.strip() for words in trained_words(template, WEIGHED_CALLS)]
    assert [words.removesuffix("</s>")[:13] for words in parts] == ["It is four.", "[TOOL_CALLS] ", "No."]
    assert '"item": 8' in parts[1]


@pytest.mark.parametrize(
    ("family", "form"),
    [
        ("chatml", (True, False, False)),
        ("llama-3", (True, False, False)),
        ("mistral", (True, True, True)),
        ("gemma", (True, False, False)),
    ],
)
def test_the_form_of_calls_is_found_by_trying(tokenizer_with, family, form):
    found = choose(tokenizer_with(WITH_TOOLS[family])).tool_support.form
    assert (found.objects, found.no_content, found.short_ids) == form


def test_a_template_that_wants_arguments_as_text_gets_text(tokenizer_with):
    as_text = CHATML_TOOLS.replace("(c.function.arguments | tojson)", "c.function.arguments")
    template = choose(tokenizer_with(as_text))
    assert not template.tool_support.form.objects
    assert '"arguments": {"item": 7}}' in template.rendered(CALLS, completion_only=True).text


@pytest.mark.parametrize(
    ("template", "example", "words"),
    [
        (LLAMA3, CALLS, "no place for the row's tools"),
        (GEMMA, CALLS, "no place for the row's tools"),
        (LLAMA3, row(*CALLS.messages), "does not write tool calls"),
        (
            LLAMA3_TOOLS,
            row(("user", "a"), {**called(1, 7)[0], "content": "Let me look."}, called(1, 7)[1], ("assistant", "b")),
            "the words beside one",
        ),
        (
            LLAMA3_TOOLS,
            row(
                ("user", "a"),
                {**called(1, 7)[0], "tool_calls": called(1, 7)[0]["tool_calls"] + called(2, 8)[0]["tool_calls"]},
                called(1, 7)[1],
                called(2, 8)[1],
                ("assistant", "b"),
            ),
            "single tool-calls",
        ),
    ],
)
def test_tools_that_a_template_cannot_write_are_refused(tokenizer_with, template, example, words):
    with pytest.raises(TemplateRefusalError, match=words):
        choose(tokenizer_with(template)).rendered(example, completion_only=True)


def test_our_own_chatml_has_tools(tokenizer_with):
    tokenizer = tokenizer_with(None)
    template = choose(tokenizer, "chatml")
    for example in (CALLS, MANY_CALLS, WEIGHED_CALLS):
        (one,) = template.encode([template.rendered(example, completion_only=True)])
        whole, mask = turn_by_turn(tokenizer, example)
        assert one.tokens.tolist() == whole
        assert one.mask.tolist() == without_white_tail(tokenizer, whole, mask)
    system = row(("system", "Be kind."), *CALLS.messages, tools=[STOCK])
    assert template.render(system.messages, tools=system.tools).count("Be kind.") == 1
    assert trained_words(template, CALLS)[0] == (
        '<tool_call>\n{"name": "stock", "arguments": {"item": 7}}\n</tool_call><|im_end|>'
    )


def test_the_reference_of_an_answer_is_its_words_and_of_a_call_what_is_written(tokenizer_with):
    template = choose(tokenizer_with(CHATML_TOOLS))
    assert template.reference(CALLS) == "It is four."
    assert json.loads(template.reference(LAST_IS_A_CALL).split("\n")[1]) == {"name": "stock", "arguments": {"item": 7}}


@pytest.mark.parametrize("family", FAMILIES)
def test_running_text_is_not_rendered_and_all_of_it_carries_loss(tokenizer_with, inner, family):
    template = choose(tokenizer_with(FAMILIES[family]))
    example = Row([{"role": "assistant", "content": "It is four, I think."}], [1], 1, plain=True)
    begins = "<s>" if inner.encode("x").tokens[0] == "<s>" else ""
    rendered = template.rendered(example, completion_only=True)
    assert (rendered.text, rendered.spans) == (begins + "It is four, I think.</s>", None)
    (one,) = template.encode([rendered])
    assert one.mask.all()
    assert template.prompt(example) + template.reference(example) + "</s>" == rendered.text


ANSWERED = {"role": "assistant", "content": "It is four, I think."}
SAME_ROWS = {
    "chat": {"messages": [{"role": "user", "content": "Yes?"}, ANSWERED]},
    "prompt-completion": {"prompt": "Yes?", "completion": " It is four, I think."},
    "messages": {"prompt": [{"role": "user", "content": "Yes?"}], "completion": [ANSWERED]},
    "alpaca": {"instruction": "Yes?", "input": "", "output": "It is four, I think."},
    "sharegpt": {"conversations": [{"from": "human", "value": "Yes?"}, {"from": "gpt", "value": ANSWERED["content"]}]},
    "prompt-response": {"prompt": "Yes?", "response": "It is four, I think."},
    "question-answer": {"question": "Yes?", "answer": "It is four, I think."},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mask_is_right_in_every_format(tokenizer_with, tmp_path, family):
    tokenizer = tokenizer_with(FAMILIES[family])
    template = choose(tokenizer)
    for name, given in SAME_ROWS.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(given))
        (example,) = read(path).rows
        (one,) = template.encode([template.rendered(example, completion_only=True)])
        whole, mask = turn_by_turn(tokenizer, example)
        assert one.tokens.tolist() == whole, name
        assert one.mask.tolist() == without_white_tail(tokenizer, whole, mask), name
        assert trained_words(template, example)[0].strip() == "It is four, I think." + END[family]


def test_a_template_that_writes_the_date_is_told(tokenizer_with):
    template = choose(tokenizer_with("{{ strftime_now('%Y') }}" + CHATML))
    assert "the date of the day" in template.warnings[0]
