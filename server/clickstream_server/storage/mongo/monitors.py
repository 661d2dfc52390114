"""The driver's own reports of commands and connections, passed on to the observer in the service's terms."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from pymongo.monitoring import CommandListener, ConnectionPoolListener

from clickstream_server.storage.observer import Command, StorageObserver

_collection: ContextVar[str] = ContextVar("clickstream_mongodb_collection", default="")
"""Of the command that runs now. What ends a command is reported where it began, and only the beginning tells it."""


def monitors(observer: StorageObserver) -> list[Any]:
    """What the driver is to report to, so that the observer learns of it."""
    return [_Commands(observer), _Pool(observer)]


def _server(address: tuple[str, int | None]) -> str:
    host, port = address
    return f"{host}:{port}" if port else host


class _Commands(CommandListener):
    def __init__(self, observer: StorageObserver) -> None:
        self._observer = observer

    def started(self, event: Any) -> None:
        collection = event.command.get(event.command_name)
        if event.command_name == "getMore":
            collection = event.command.get("collection")
        _collection.set(collection if isinstance(collection, str) else "")

    def succeeded(self, event: Any) -> None:
        self._tell(event, "")

    def failed(self, event: Any) -> None:
        failure = event.failure
        self._tell(event, str(failure.get("code") or failure.get("errtype") or "unknown"))

    def _tell(self, event: Any, error: str) -> None:
        self._observer.command(
            Command(
                name=event.command_name,
                database=event.database_name,
                collection=_collection.get(),
                server=_server(event.connection_id),
                duration_s=event.duration_micros / 1_000_000,
                error=error,
            )
        )


class _Pool(ConnectionPoolListener):
    def __init__(self, observer: StorageObserver) -> None:
        self._observer = observer

    def connection_created(self, event: Any) -> None:
        self._observer.connections(_server(event.address), 1)

    def connection_closed(self, event: Any) -> None:
        self._observer.connections(_server(event.address), -1)

    def connection_check_out_started(self, event: Any) -> None:
        self._observer.checkout_waits(_server(event.address))

    def connection_checked_out(self, event: Any) -> None:
        self._observer.checkout_done(_server(event.address), event.duration)

    def connection_check_out_failed(self, event: Any) -> None:
        self._observer.checkout_failed(_server(event.address), event.reason)

    def connection_checked_in(self, event: Any) -> None:
        self._observer.checked_in(_server(event.address))

    def connection_ready(self, event: Any) -> None:
        """Of no interest: it is told again as checked out."""

    def pool_created(self, event: Any) -> None:
        """Of no interest."""

    def pool_ready(self, event: Any) -> None:
        """Of no interest."""

    def pool_cleared(self, event: Any) -> None:
        """Of no interest: each of its connections is told as closed."""

    def pool_closed(self, event: Any) -> None:
        """Of no interest: as with `pool_cleared`."""
