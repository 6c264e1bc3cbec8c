"""Prepares a delivery in the record's session, and carries out several at once outside of it, within a deadline.

Unusual: each delivery runs on a thread of its own, and nobody waits for the thread after the deadline, because a
resolver and a mail server cannot be interrupted. The delivery counts as failed then. If the thread still succeeds, the
next try is a repetition, which receivers must expect.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from sqlalchemy.orm import Session

from ...errors import CeloraError
from ...models.database import now
from ...models.notifications.deliveries import Try
from ...models.notifications.notices import Notice, new_event_id
from ...models.notifications.receivers import WEBHOOK
from ...models.tables import Delivery, Receiver
from ...settings.sealing import unseal
from ...settings.settings import Settings
from ..tenants.words import failure_of
from .channels import send_to_channel
from .messages import Message, event_of, message_of
from .posting import POST_S, post
from .signing import headers_of, secrets_of

logger = logging.getLogger(__name__)

DEADLINE_S = POST_S + 1.0
SAMPLE_JOB = "ftjob-sample"

Act = Callable[[], Try]
"""A try that needs no session any more."""


def prepare(session: Session, delivery: Delivery, receiver: Receiver, settings: Settings) -> Act:
    """Prepare a delivery; a fault of the preparation becomes the result of the try."""
    try:
        notice = Notice(delivery.notice)
        if receiver.kind == WEBHOOK:
            body = event_of(delivery.event_id, notice, delivery.subject, delivery.created_at)
            return _posting(receiver, delivery.event_id, body, settings, now(session))
        return _sending(receiver, message_of(session, delivery, receiver), settings)
    except CeloraError as error:
        logger.warning("delivery %s cannot be prepared: %s", delivery.id, error)
        return partial(Try, fault=str(failure_of(error)))
    except (KeyError, ValueError):  # a notice of a newer version; it must not stop the others
        return partial(Try, fault="this version does not know its kind")


def prepare_test(session: Session, receiver: Receiver, notice: Notice, settings: Settings) -> Act:
    """Prepare a sample of a notice for a receiver.

    Raises:
        SettingsError, UnavailableError: The secret cannot be read, or a part is not installed.
    """
    at = now(session)
    if receiver.kind == WEBHOOK:
        event_id = new_event_id()
        return _posting(receiver, event_id, event_of(event_id, notice, SAMPLE_JOB, at), settings, at)
    message = Message("a test of celora", f"This channel is notified of: {', '.join(receiver.notices)}.")
    return _sending(receiver, message, settings)


def carry_out(acts: Sequence[Act], *, within_s: float = DEADLINE_S) -> list[Try]:
    """Carry out tries side by side, and return their results in order; one that takes too long has failed."""
    done: queue.SimpleQueue[tuple[int, Try]] = queue.SimpleQueue()

    def run(place: int, act: Act) -> None:
        try:
            done.put((place, act()))
        except Exception as error:  # noqa: BLE001  (a fault of one must not stop the others)
            done.put((place, Try(fault=f"it failed ({type(error).__name__})")))

    late = Try(fault=f"it did not answer within {within_s:g} s", seconds=within_s)
    results, ends = [late] * len(acts), time.monotonic() + within_s
    for place, act in enumerate(acts):
        threading.Thread(target=run, args=(place, act), name="notification", daemon=True).start()
    for _ in acts:
        try:
            place, result = done.get(timeout=max(0.0, ends - time.monotonic()))
        except queue.Empty:
            break
        results[place] = result
    return results


def _posting(receiver: Receiver, event_id: str, body: bytes, settings: Settings, at: datetime) -> Act:
    headers = headers_of(event_id, at, body, secrets_of(receiver, settings, at))
    return partial(post, receiver.url, body, headers, settings.webhook_hosts)


def _sending(receiver: Receiver, message: Message, settings: Settings) -> Act:
    return partial(send_to_channel, unseal(receiver.sealed, settings), message.title, message.body)
