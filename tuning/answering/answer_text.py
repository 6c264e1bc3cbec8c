"""Releases an answer's text part by part while it grows, and finds the texts at which it has to end.

A part that was sent cannot be taken back. So three ends of a text wait: a character whose bytes are not complete, white
space (the text of an answer has none at its ends), and the beginning of a text that would end the answer.
"""

from collections.abc import Sequence

INCOMPLETE = "\ufffd"
"""The character that a tokenizer writes for bytes that form none yet."""


class AnswerText:
    """Holds the text of one answer.

    Args:
        stop: Texts at which the answer ends.

    Attributes:
        text: The text so far, without the text that ended it.
        stopped: True once one of the texts was found; nothing is released afterwards.

    Example:
        With ``stop=["END"]`` the texts ``Hi``, ``Hi E`` and ``Hi EN, you`` release ``Hi``, nothing, and `` EN, you``.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = [one for one in stop if one]
        self._released = 0
        self.text, self.stopped = "", False

    def grow(self, text: str) -> str:
        """Take the whole text so far, and return the part that may be sent now."""
        self._take(text)
        return self._release(len(self.text) if self.stopped else self._safe())

    def end(self, text: str) -> str:
        """Take the whole text of the ended answer, and return its last part."""
        self._take(text)
        return self._release(len(self.text))

    def _take(self, text: str) -> None:
        if self.stopped:
            return
        places = [place for one in self._stop if (place := text.find(one)) >= 0]
        self.stopped = bool(places)
        self.text = text[: min(places)] if places else text

    def _safe(self) -> int:
        """Return the length of the text that no later token can change."""
        length = len(self.text.rstrip(INCOMPLETE))
        held = [self._begun(one) for one in self._stop]
        return min([length, *(len(self.text) - size for size in held)])

    def _begun(self, stop: str) -> int:
        """Return how many characters at the end of the text may be the beginning of a stop text."""
        longest = min(len(stop) - 1, len(self.text))
        return next((size for size in range(longest, 0, -1) if self.text.endswith(stop[:size])), 0)

    def _release(self, upto: int) -> str:
        part = self.text[self._released : upto]
        self._released = max(self._released, upto)
        return part
