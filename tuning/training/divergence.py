"""Distinguishes a diverged loss from a noisy one. The functions are pure; a checkpoint stores the state.

A run has diverged when practically every one of its last 20 steps lost more than practically every one of its first 20
(one step of each side may be an exception), by at least half a nat a token: the adapter has made the base worse than it
was without an adapter. The rule assumes no shape of noise. If the losses of a run that learns nothing were drawn from
one distribution of any shape, the ranks alone would look like this once in 340 million windows (401 of the C(40, 20)
ways to deal 40 ranks into two halves), and a run that learns is further away still. The usual rule, a factor over the
best median, either fires on data with two kinds of rows or misses a run that went from 2 nats to 5.

A learning rate that is far too high destroys the adapter within those first 20 steps. So a second rule uses the first
three steps alone, when the adapter has hardly changed. In practice no run recovers from 20 steps in a row that are
worse than these three steps and worse than guessing every token with the same chance (ln of the vocabulary).
"""

from dataclasses import dataclass, field

WINDOW = 20
UNTOUCHED = 3
MARGIN_NATS = 0.5
"""Least excess of the loss; half a nat makes each token 1.65 times less likely."""


@dataclass
class LossWatch:
    """Records the first and the last losses of a run.

    Attributes:
        guess_nats: Loss of guessing each token of the vocabulary with the same chance; None disables the second rule.
        first: Losses of the first steps, nats a trained token.
        last: Losses of the last steps.
    """

    guess_nats: float | None = None
    first: list[float] = field(default_factory=list[float])
    last: list[float] = field(default_factory=list[float])

    def add(self, loss: float) -> bool:
        """Count one step's loss; return whether the run has diverged."""
        if len(self.first) < WINDOW:
            self.first.append(loss)
        self.last = [*self.last[1 - WINDOW :], loss]
        return len(self.last) == WINDOW and self.now > self.limit + MARGIN_NATS

    @property
    def now(self) -> float:
        """Return the smallest loss of the last steps, without the best one."""
        return sorted(self.last)[1]

    @property
    def limit(self) -> float:
        """Return the largest loss at the beginning of the run, by the stricter of the two rules."""
        beginning = sorted(self.first)[-2]
        if self.guess_nats is None:
            return beginning
        return min(beginning, max(self.guess_nats, *self.first[:UNTOUCHED]))
