"""Delivers the notices that are due: claims them, sends them outside of any transaction, and records each result.

A sender that is killed between the send and the record leaves a claim that runs out, and the delivery is made again:
each is made at least once.
"""

import logging
import time

from ...models.database import Database
from ...models.notifications.deliveries import claim_due, queue_waiting, record_try
from ...models.scope.scope import Scope
from ...settings.failpoints import hit
from ...settings.settings import Settings
from ..notifications.sending import DEADLINE_S, Act, carry_out, prepare

logger = logging.getLogger(__name__)

LOCK = "notify"
AT_ONCE = 16
CLAIM_S = 2 * DEADLINE_S
ROUND_S = 20.0
"""Seconds after which a round begins no further batch."""


def send_notifications(database: Database, settings: Settings) -> int:
    """Deliver what is due, batch by batch, and return the number of tries."""
    with database.transaction(Scope.everything) as session:
        if database.advisory_lock(session, LOCK):
            queue_waiting(session)
    ends, count = time.monotonic() + ROUND_S, 0
    while time.monotonic() < ends and (made := _send_batch(database, settings)):
        count += made
    return count


def _send_batch(database: Database, settings: Settings) -> int:
    batch = _claim_batch(database, settings)
    if not batch:
        return 0
    hit("notify.claimed")
    results = carry_out([act for _, act in batch])
    hit("notify.sent")
    for (delivery_id, _), result in zip(batch, results, strict=True):
        with database.transaction(Scope.everything) as session:
            record_try(session, delivery_id, result)
        if result.fault:
            logger.warning("delivery %d failed: %s", delivery_id, result.fault)
    return len(batch)


def _claim_batch(database: Database, settings: Settings) -> list[tuple[int, Act]]:
    with database.transaction(Scope.everything) as session:
        if not database.advisory_lock(session, LOCK):
            return []  # another round claims now
        due = claim_due(session, most=AT_ONCE, for_s=CLAIM_S)
        return [(delivery.id, prepare(session, delivery, receiver, settings)) for delivery, receiver in due]
