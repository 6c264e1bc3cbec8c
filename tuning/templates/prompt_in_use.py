"""Puts a row's last answer after the exact prompt that users will send.

Some templates give an answer another beginning than their generation prompt has: Nemotron's prompt opens a thought on a
line of its own and its rows close it at once, DeepSeek-R1's prompt opens one that its rows do not have. A model that is
trained on such rows never sees the prompt in use. Here the answer is put after that prompt, and an opened thought gets
the row's own thoughts, or none, and its end.
"""

import os.path

from .trained_words import THINK_BEGIN, THINK_END

_LONGEST_OPENING = 64
"""Characters of a generation prompt that a row may write differently; a larger difference is another conversation."""


def behind_prompt(text: str, prompt: str, thoughts: str) -> str | None:
    r"""Return the row's text with its last answer after the prompt in use; None if the two texts differ too much.

    Args:
        text: The row as the template renders it; it does not begin with the prompt.
        prompt: The conversation before the answer, with the generation prompt.
        thoughts: The thoughts of the answer.

    Example:
        The text ``<user>Q<bot>A<end>`` after ``<user>Q<bot><think>\n`` is
        ``<user>Q<bot><think>\n\n</think>\n\nA<end>``.
    """
    shared = len(os.path.commonprefix([text, prompt]))  # noqa: RUF071  (character by character is intended)
    left, rest = prompt[shared:], text[shared:]
    if len(left) > _LONGEST_OPENING:
        return None
    if not left.strip():
        return prompt + rest
    if left.strip() == THINK_BEGIN and THINK_END not in rest:
        return f"{prompt}{thoughts}\n{THINK_END}\n\n{rest.lstrip()}"
    return None
