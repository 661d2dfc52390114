"""New connections to a member of the replica set once it can be read again.

What a member said of itself when a connection was made counts for that connection for ever. PyMongo makes connections
to members that are just starting or recovering, too (with `directConnection` from the first), and those take no
sessions: transactions and snapshots on them would fail with a ConfigurationError for as long as the program runs.
"""

from __future__ import annotations

import asyncio
from inspect import isawaitable
from typing import Any

from pymongo.monitoring import (
    ServerClosedEvent,
    ServerDescriptionChangedEvent,
    ServerListener,
    ServerOpeningEvent,
)


class Renewal(ServerListener):
    """To be one of a client's listeners. `client`: PyMongo's own, to be set once it is made."""

    def __init__(self) -> None:
        self.client: Any = None
        self._tasks: set[asyncio.Future[None]] = set()

    def description_changed(self, event: ServerDescriptionChangedEvent) -> None:
        before, after = event.previous_description, event.new_description
        if before.is_server_type_known and not before.is_readable and after.is_readable:
            self._renew(event.server_address)

    def opened(self, event: ServerOpeningEvent) -> None:
        """Of no interest."""

    def closed(self, event: ServerClosedEvent) -> None:
        """Of no interest."""

    def _renew(self, address: tuple[str, int | None]) -> None:
        # Not public, but what the drivers do themselves after a network error, save that nobody has to wait.
        server = self.client._topology._servers.get(address)  # noqa: SLF001
        if server is None:
            return
        reset = server.pool.reset_without_pause()
        if isawaitable(
            reset
        ):  # PyMongo Async reports within its event loop, the blocking driver in a thread of its own
            task = asyncio.ensure_future(reset)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
