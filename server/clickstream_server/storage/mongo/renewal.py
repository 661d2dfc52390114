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
        self._unreadable: set[tuple[str, int | None]] = set()
        """Those that could not be read when they were last known. After an error PyMongo knows nothing of a member."""
        self._tasks: set[asyncio.Future[None]] = set()

    def description_changed(self, event: ServerDescriptionChangedEvent) -> None:
        address, now = event.server_address, event.new_description
        if now.is_readable and address in self._unreadable:
            self._unreadable.discard(address)
            self._renew(address)
        elif now.is_server_type_known and not now.is_readable:
            self._unreadable.add(address)

    def opened(self, event: ServerOpeningEvent) -> None:
        """Of no interest."""

    def closed(self, event: ServerClosedEvent) -> None:
        """Its connections are gone with it."""
        self._unreadable.discard(event.server_address)

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
