"""Use case: tell callbacks that jobs ended. The worker that sweeps sends what the outbox holds.

The receiver checks the signature over the time and the body, and keeps the ids that it has seen: one may come again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from domain.errors import LostError, SourceError
from domain.retry import RetryPolicy
from domain.states import DeliveryState
from storage import deliveries, sweeping
from worker.readers.patience import Patience, TimeUpError

if TYPE_CHECKING:
    from storage.deliveries import Sending
    from tasks.context import Context

logger = logging.getLogger(__name__)

AT_ONCE = 100
SENDERS = 8
SEND_SECONDS = 10.0
SIGNATURE, DELIVERY = "Nightowl-Signature", "Nightowl-Delivery"
GONE = 410
"""The answer by which a receiver wants no more of it."""


def sign(secret: str, body: bytes, *, at: int) -> str:
    """The header that proves sender and time: `t=<seconds since 1970>,v1=<HMAC-SHA256 of "t.body" in hex>`."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def deliver(context: Context, stop: threading.Event) -> int:
    """Send what is due. Returns how many attempts were made."""
    if context.settings.callback_secret is None:
        return 0
    policy = RetryPolicy(base_seconds=10.0, max_seconds=21_600.0)
    with context.database.write() as session:
        claimed = deliveries.claim(
            session, now=context.clock(), limit=AT_ONCE, delay=lambda attempts: _delay(policy, attempts)
        )
    if claimed:
        with ThreadPoolExecutor(SENDERS, thread_name_prefix="callback") as pool:
            list(pool.map(lambda sending: _attempt(context, sending, stop), claimed))
    return len(claimed)


def _delay(policy: RetryPolicy, attempts: int) -> timedelta:
    return timedelta(seconds=min(policy.base_seconds * 2.0 ** (attempts - 1), policy.max_seconds))


def _attempt(context: Context, sending: Sending, stop: threading.Event) -> None:
    try:
        state, error = _send(context, sending, stop)
    except LostError:
        return  # shutting down; it is due again at its time
    if state is DeliveryState.PENDING and sending.attempts >= context.settings.callback_attempts:
        state = DeliveryState.GIVEN_UP
    with context.database.write() as session:
        deliveries.settle(session, sending, state=state, error=error, now=context.clock())
    if error:
        logger.warning("callback %s, attempt %d: %s", state, sending.attempts, error, extra={"action": "callback"})


def _send(context: Context, sending: Sending, stop: threading.Event) -> tuple[DeliveryState, str | None]:
    """The state after one attempt, and why it is not delivered. Raises LostError."""
    from worker.readers import web

    settings = context.settings
    assert settings.callback_secret is not None
    body = json.dumps(sending.body, ensure_ascii=False).encode()
    at = int(context.clock().timestamp())
    headers = {
        "Content-Type": "application/json",
        SIGNATURE: sign(settings.callback_secret.get_secret_value(), body, at=at),
        DELIVERY: sending.id,
    }
    rules = web.Posting(private_hosts=settings.callback_private_hosts, connect_seconds=settings.limits.connect_seconds)
    try:
        status = web.post(sending.url, body, headers, rules, Patience.of(SEND_SECONDS, stop))
    except TimeUpError:
        return DeliveryState.PENDING, f"no answer within {SEND_SECONDS:.0f} s"
    except SourceError as error:
        return (DeliveryState.PENDING if error.retryable else DeliveryState.GIVEN_UP), error.message
    if 200 <= status < 300:
        return DeliveryState.DELIVERED, None
    return (DeliveryState.GIVEN_UP if status == GONE else DeliveryState.PENDING), f"the receiver answered {status}"


class Courier:
    """The thread that sends, in the worker that holds the sweep."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(self._context.settings.sweep_seconds):
            try:
                while self._holds() and deliver(self._context, self._closed) == AT_ONCE:
                    pass
            except SQLAlchemyError:
                logger.warning("callbacks cannot reach the database", exc_info=True, extra={"action": "callback"})

    def _holds(self) -> bool:
        with self._context.database.read() as session:
            return not self._closed.is_set() and sweeping.holds(session, holder=self._context.name)

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
