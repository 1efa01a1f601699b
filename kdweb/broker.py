"""Kombu's Redis transport, safe against nonsense.

Kombu trusts whatever lies in the list that is the queue: an entry that is no message ends the whole worker,
and some are put back when it ends, so that they end the next one too. Here they are logged and dropped. What
was meant is in the database all the same, and the sweep sends it anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

log = logging.getLogger(__name__)


class Channel(redis.Channel):  # type: ignore[misc]
    """Reads and hands on as before; only what fails on the way is another matter."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (*self.connection_errors, *self.connection.channel_errors, Empty):
            raise
        except Exception as error:
            log.error(
                "Dropped an entry of the queue that is no message (%s: %s).", type(error).__name__, error
            )
            return True

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> Any:
        def careful(message: Any) -> Any:
            try:
                return callback(message)
            except (*self.connection_errors, *self.connection.channel_errors):
                raise
            except Exception as error:
                log.error("Dropped a message of another kind (%s: %s).", type(error).__name__, error)
                if not message.acknowledged:
                    message.reject()

        return super().basic_consume(queue, no_ack, careful, consumer_tag, **kwargs)


class Transport(redis.Transport):  # type: ignore[misc]
    Channel = Channel


def install() -> None:
    """From now on redis:// means this transport, in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
