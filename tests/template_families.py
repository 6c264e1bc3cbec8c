"""The templates of families that the installed TRL ships, tokenizers with their control tokens, rows of every kind."""

import importlib.util
import json
import re
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from celora.tuning.rows.row import Row

TEMPLATES = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
BAR = "\uff5c"
"""DeepSeek's full-width bar."""
CONTROL = re.compile(
    rf"<\|[A-Za-z_0-9/]+\|>|<{BAR}[^{BAR}<>]+{BAR}>|<\|[a-z_]+>|<[a-z_]+\|>"
    r"|<(?:start|end)_of_(?:turn|utterance)>|\[/?[A-Z_]{3,}\]"
)
ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|return|>", "<|end|>", f"<{BAR}end▁of▁sentence{BAR}>"),
    *("<|END_OF_TURN_TOKEN|>", "<turn|>", "<|eot|>"),
)


def shipped_templates():
    """The names of the templates that TRL compares a base's with; their training forms are no base's own."""
    return sorted(path.stem for path in TEMPLATES.glob("*.jinja") if not path.stem.endswith("_training"))


def shipped(name):
    """The text of one of them."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def tokenizer_for(template, *, eos=None, plain=()):
    """A tokenizer of bytes that knows the control tokens of a template; those of ``plain`` are no special ones."""
    control = sorted(set(CONTROL.findall(template)))
    end = eos or next((end for end in ENDS if end in control), "</s>")
    words = list(dict.fromkeys(["<pad>", "<s>", end, *control]))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate([*words, *letters, "ĊĊ", "th", "in", "Ġt"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ"), ("t", "h"), ("i", "n"), ("Ġ", "t")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = [AddedToken(word, special=True, normalized=False) for word in words if word not in plain]
    inner.add_special_tokens(special)
    inner.add_tokens([AddedToken(word, special=False, normalized=False) for word in plain])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token=end, pad_token="<pad>")
    tokenizer.chat_template = template
    return tokenizer


KIMI = (  # a call is named by its id alone: functions.weather:0
    "{% if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|>{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_assistant|>assistant<|im_middle|>"
    "{% if loop.last %}<think>{{ m.reasoning_content or '' }}</think>{% endif %}{{ m.content or '' }}"
    "{% if m.tool_calls %}<|tool_calls_section_begin|>{% for c in m.tool_calls %}<|tool_call_begin|>{{ c.id }}"
    "<|tool_call_argument_begin|>{{ c.function.arguments | tojson }}<|tool_call_end|>{% endfor %}"
    "<|tool_calls_section_end|>{% endif %}<|im_end|>{% elif m.role == 'tool' %}"
    "<|im_system|>tool<|im_middle|>## Return of {{ m.tool_call_id }}\n{{ m.content }}<|im_end|>"
    "{% else %}<|im_{{ m.role }}|>{{ m.role }}<|im_middle|>{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    "{# <|im_user|> #}{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}"
)
FUNCTIONARY = (  # an answer names its receiver: all, or a function
    "{% if tools %}<|start_header_id|>system<|end_header_id|>\n\nnamespace functions {{ tools | tojson }}<|eot_id|>"
    "{% endif %}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'assistant' %}{% if m.content %}>>>all\n{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}>>>{{ c.function.name }}\n{{ c.function.arguments | tojson }}{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n>>>{% endif %}"
)
MINICPM = (  # calls as lines of Python, before the words
    "{% if tools %}<|im_start|>system\n# Functions\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}<|tool_call_start|>\n```python\n"
    "{% for c in m.tool_calls %}{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}="
    "{{ v | tojson }}{% if not loop.last %}, {% endif %}{% endfor %})\n{% endfor %}```\n<|tool_call_end|>\n{% endif %}"
    "{{ m.content or '' }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = (  # tools before the last question; ids of nine letters; a call without content
    "{% set asked = messages | selectattr('role', 'equalto', 'user') | list | length %}{% set at = namespace(user=0) %}"
    "<s>{% for m in messages %}{% if m.role == 'user' %}{% set at.user = at.user + 1 %}"
    "{% if tools and at.user == asked %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}{% if c.id | length != 9 %}"
    "{{ raise_exception('ids have nine letters') }}{% endif %}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]</s>"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS] "
    '{"content": {{ m.content | tojson }}, "call_id": "{{ m.tool_call_id }}"}'
    "[/TOOL_RESULTS]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
OWN = {"kimi": KIMI, "functionary": FUNCTIONARY, "minicpm": MINICPM, "mistral": MISTRAL}
"""Families that TRL does not ship, reduced to the scaffold that they write around answers and calls."""


def template_text(name):
    """The template of a family, of TRL or of ours."""
    return OWN.get(name) or shipped(name)


NO_TEXT_CONTENT = {"idefics3", "llava_next", "smolvlm"}
"""Templates that take lists of parts alone, which no text row is."""
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "A city"},
                "days": {"type": "integer", "description": "Days"},
            },
        },
    },
}


def user(words):
    return {"role": "user", "content": words}


def said(words, *arguments, **more):
    calls = [
        {"id": f"call_{n}", "type": "function", "function": {"name": "weather", "arguments": json.dumps(each)}}
        for n, each in enumerate(arguments)
    ]
    return {"role": "assistant", "content": words} | ({"tool_calls": calls} if calls else {}) | more


def thought(words):
    return dict.fromkeys(("reasoning_content", "thinking"), words)


RESULT = {"role": "tool", "tool_call_id": "call_0", "name": "weather", "content": "sunny"}
LIMA, ROME = {"city": "Lima", "days": 2}, {"city": "Rome"}
ROWS = {
    "plain": [user("Capital of Peru?"), said("Lima.")],
    "system": [{"role": "system", "content": "Be brief."}, user("Capital of Peru?"), said("Lima.")],
    "two turns": [user("Capital of Peru?"), said("Lima."), user("Of Chile?"), said("Santiago.")],
    "thought": [user("2+2?"), said("4", **thought("two and two"))],
    "two thoughts": [user("2+2?"), said("4", **thought("two")), user("+1?"), said("5", **thought("one more"))],
    "thought in words": [user("2+2?"), said("<think>\ntwo and two\n</think>\n\n4")],
    "white space": [user("Q"), said(" indented answer\n")],
    "call": [user("Weather in Lima?"), said("", LIMA)],
    "result": [user("Weather in Lima?"), said("", LIMA), RESULT, said("It is sunny.")],
    "two calls": [user("Lima and Rome?"), said("", LIMA, ROME)],
    "words and call": [user("Weather in Rome?"), said("I look.", ROME)],
}


def row(messages):
    calls = any("tool_calls" in message for message in messages)
    return Row(messages, [int(turn["role"] == "assistant") for turn in messages], 1, [WEATHER] if calls else [])
