"""Finds the greedy answers that the loss pass has already determined, so that they are not decoded again.

The loss of a row is computed from the model's prediction at each token of the reference. Greedy decoding takes the
likeliest token at each position. As long as the likeliest token is the reference's own, both passes read the same
tokens and decoding writes the reference. A tuned model answers most of its held-out rows this way.

Unusual: a token must be the likeliest by a margin. The two passes multiply matrices of different shapes, so their
logits differ by rounding, and a tie could be decided differently.
"""

from collections.abc import Collection, Sequence

MARGINS = {"float32": 1e-2, "float16": 0.25, "bfloat16": 1.0}
"""Distance in logits between the likeliest token and the next one, by compute dtype; far above the rounding of logits
of about 30 (1e-5, 0.02, 0.13)."""


def confirmed_answers(
    prompts: Sequence[Sequence[int]],
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    followed: Sequence[int],
    *,
    stop_tokens: Collection[int],
    max_new_tokens: int,
    context_tokens: int,
) -> dict[int, list[int]]:
    """Return the answers that need no decoding, by index; no answers where a prompt leaves no room for a whole answer.

    Args:
        prompts: Token ids of each prompt.
        rows: The prepared row of each prompt: tokens, and for each whether it carries loss.
        followed: For each row, the tokens that the model predicts (RowLosses.followed).
        stop_tokens: Ids at which an answer ends.
        max_new_tokens: The largest length of an answer in tokens.
        context_tokens: The model's context in tokens.
    """
    if max(map(len, prompts), default=0) + max_new_tokens > context_tokens:
        return {}  # decoding truncates the answers of a batch to the room that its longest prompt leaves
    found: dict[int, list[int]] = {}
    for n, (prompt, (tokens, mask), count) in enumerate(zip(prompts, rows, followed, strict=True)):
        answer = confirmed(prompt, tokens, mask, count, stop_tokens=stop_tokens, room=max_new_tokens)
        if answer is not None:
            found[n] = answer
    return found


def confirmed(
    prompt: Sequence[int],
    tokens: Sequence[int],
    mask: Sequence[int],
    followed: int,
    *,
    stop_tokens: Collection[int],
    room: int,
) -> list[int] | None:
    """Return the tokens of a prompt's greedy answer where the loss pass has determined all of them, else None.

    Args:
        prompt: The prompt's tokens.
        tokens: The prepared row: the prompt and the reference.
        mask: For each token of the row, whether it carries loss.
        followed: Tokens at the start of those with loss that the model predicts by a margin (RowLosses.followed).
        stop_tokens: Ids at which an answer ends.
        room: The largest length of the answer in tokens.

    Example:
        prompt [5, 6], tokens [5, 6, 7, 1], mask [0, 0, 1, 1], followed 2, stop token 1 give [7, 1].
    """
    start = len(prompt)
    if list(tokens[:start]) != list(prompt) or any(mask[:start]):
        return None
    reference = [int(token) for token in tokens[start : start + room]]
    end = next((at + 1 for at, token in enumerate(reference) if token in stop_tokens), room)
    shown = end <= len(reference) and end <= followed and all(mask[start : start + end])
    return reference[:end] if shown else None
