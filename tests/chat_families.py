"""Chat templates of four families and two awkward ones, tokenizers of two kinds, and masks made the slow way.

The templates are written for the tests after the models' own documentation.
"""

import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from celora.tuning.rows.row import Row
from celora.tuning.templates.tool_calls import short_id

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
