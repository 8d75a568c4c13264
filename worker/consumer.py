"""Celery's consumer, and what it must know of our messages: nobody needs them when their connection is lost."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer


class Consumer(CeleryConsumer):  # type: ignore[misc]  # Celery is untyped
    """Reconnects where Celery's own would end the worker."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Forget what was fetched over the lost connection; whoever waits for it is rung for again.

        kombu (5.7) closes a Redis channel twice here, the second time over a transport that has let go of its address.
        To put messages back then, or to acknowledge one later, is an AttributeError that ends the worker.
        """
        for channel in self.connection.transport.channels or ():
            channel.do_restore = False
            channel.basic_ack = channel.basic_reject = _do_nothing
        super().on_connection_error_after_connected(exc)


def _do_nothing(*_: Any, **__: Any) -> None:
    """The broker that was to be told is gone."""
