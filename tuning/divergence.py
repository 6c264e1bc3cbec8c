"""Tells a run whose loss has run away from one that is only noisy; pure, and its state goes into the checkpoint.

A run has diverged when practically every one of its last 20 steps lost more than practically every one of its first 20
(one step of each side may fall out of line), by at least half a nat a token: the adapter has made the base worse than
it was without one. No shape of noise is assumed. If the steps of a run that learns nothing were drawn from one
distribution, of whatever shape, the ranks alone would look like this once in 340 million windows (401 of the C(40, 20)
ways to deal 40 ranks into two halves), and a run that learns is further away still. A factor over the best median, the
usual rule, either fires on data whose rows are of two kinds or misses a run that went from 2 nats to 5.

A learning rate that is far too high destroys the adapter within those first 20 steps. So the first three steps, when
the adapter has hardly moved, count alone as well: from 20 steps in a row that are worse than both of these and than
guessing every token with the same chance (ln of the vocabulary), there is no way back in practice.
"""

from dataclasses import dataclass, field

WINDOW = 20
UNTOUCHED = 3
MARGIN_NATS = 0.5
"""A loss that is higher by this makes each token 1.65 times less likely."""


@dataclass
class LossWatch:
    """The first and the last losses of a run.

    Attributes:
        guess_nats: Loss of guessing each token of the vocabulary with the same chance; None leaves that rule out.
        first: Losses of the first steps, nats a trained token.
        last: Losses of the last steps.
    """

    guess_nats: float | None = None
    first: list[float] = field(default_factory=list[float])
    last: list[float] = field(default_factory=list[float])

    def add(self, loss: float) -> bool:
        """Count one step's loss; whether the run has diverged with it."""
        if len(self.first) < WINDOW:
            self.first.append(loss)
        self.last = [*self.last[1 - WINDOW :], loss]
        return len(self.last) == WINDOW and self.now > self.limit + MARGIN_NATS

    @property
    def now(self) -> float:
        """What the last steps lost at least, the best of them left out."""
        return sorted(self.last)[1]

    @property
    def limit(self) -> float:
        """What the run lost at most when it began, by the stricter of the two rules."""
        beginning = sorted(self.first)[-2]
        if self.guess_nats is None:
            return beginning
        return min(beginning, max(self.guess_nats, *self.first[:UNTOUCHED]))
