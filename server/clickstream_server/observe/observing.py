"""All that observes one server process, put together from the settings. Used by app.py."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from clickstream.models import WriteOutcome
from clickstream.v1 import clickstream_service_pb2, transfer_service_pb2
from clickstream_server.call_record import CallRecord
from clickstream_server.config import Settings
from clickstream_server.failures import StartFailure
from clickstream_server.interceptors.observe import Observe
from clickstream_server.observe.calls import CallLog
from clickstream_server.observe.exposition import Family, Workers, snapshot, told
from clickstream_server.process import ending
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.observer import NOBODY, Command, Gathered, Kind, StorageObserver, Way
from clickstream_server.waiting import in_thread

if TYPE_CHECKING:  # each is a library to import, for those who asked for it
    from clickstream_server.observe.metrics import ServerMetrics
    from clickstream_server.observe.tracing import Tracing

_STOP_S = 3.0
"""How long the last spans may take on their way at the end."""


class Observing:
    """What observes a server. `interceptor` is for its calls and `storage` for its storage."""

    def __init__(self, settings: Settings, metrics: ServerMetrics | None, tracing: Tracing | None) -> None:
        self._metrics = metrics
        self._tracing = tracing
        counts = None if metrics is None else metrics.rpcs
        self.interceptor = Observe(CallLog(settings.slow_call_s), counts, tracing)
        observers: list[StorageObserver] = [] if metrics is None else [metrics.storage]
        observers += [] if tracing is None else [tracing]
        self.storage = NOBODY if not observers else observers[0] if len(observers) == 1 else _Several(observers)

    @property
    def auth_refused(self) -> Callable[[str, str], None]:
        """To be called with the reason and the token's name ("": unknown) of each call that is not let in."""
        return _nothing if self._metrics is None else self._metrics.auth_refused

    @property
    def limiter_refused(self) -> Callable[[str], None]:
        """To be called for each call that is refused for want of room, with what there is too much of."""
        return _nothing if self._metrics is None else self._metrics.limiter_refused

    def look_at(
        self,
        dao: MongoClickstreamDao,
        *,
        serving: Callable[[], bool],
        draining: Callable[[], bool],
        certificate_expires_at: Callable[[], int],
    ) -> None:
        """Tell from now on how these are whenever somebody asks for the metrics."""
        if self._metrics is None:
            return
        self._metrics.workers.set(1)
        self.look_at_state(serving=serving, draining=draining)
        for name, text, read in (
            (
                "clickstream_tls_certificate_expires_timestamp_seconds",
                "When the server's certificate expires, since unix epoch in seconds; 0 without TLS.",
                certificate_expires_at,
            ),
            ("clickstream_group_commit_queue_sessions", "Sessions that wait for their group.", lambda: dao.waiting[0]),
            ("clickstream_group_commit_queue_bytes", "Bytes that they hold.", lambda: dao.waiting[1]),
            ("clickstream_followers", "Streams that follow a batch.", lambda: len(dao.lags())),
            (
                "clickstream_follower_lag_sessions",
                "Sessions that the stream furthest behind its batch has not taken yet.",
                lambda: max((lag.numbers for lag in dao.lags()), default=0),
            ),
            (
                "clickstream_follower_lag_seconds",
                "For how long the stream that is longest behind has been so.",
                lambda: max((lag.seconds for lag in dao.lags()), default=0),
            ),
        ):
            self._metrics.look_at(name, text, read)

    def look_at_state(self, *, serving: Callable[[], bool], draining: Callable[[], bool]) -> None:
        """Tell from now on whether calls are taken: of a supervisor, too, or nobody tells while no worker serves."""
        if self._metrics is None:
            return
        for name, text, read in (
            ("clickstream_health_serving", "1 while the database takes calls, as health has it.", serving),
            ("clickstream_draining", "1 once the server stops: new calls are refused.", draining),
        ):
            self._metrics.look_at(name, text, read)

    def counted(self) -> list[Family]:
        """All that was counted so far, as plain data: see `exposition`. Empty without metrics."""
        return [] if self._metrics is None else snapshot(self._metrics.registry)

    def told(self) -> bytes:
        """All that was counted so far, as a line for another process."""
        return told(self.counted())

    def workers(self) -> Workers:
        """What adds up what the workers of this process have counted, and what it has counted itself."""
        return Workers(self.counted, _nothing if self._metrics is None else self._metrics.restarts.inc)


@asynccontextmanager
async def metrics_beside(settings: Settings, collect: Callable[[], list[Family]]) -> AsyncIterator[str]:
    """Answer Prometheus with this inside of the context, if it is to be; yields the address, or nothing."""
    if not settings.metrics_shown:
        yield ""
        return
    from clickstream_server.observe.endpoint import metrics_served

    async with metrics_served(settings.metrics_listen, collect) as address:
        yield address


@asynccontextmanager
async def observing(settings: Settings) -> AsyncIterator[Observing]:
    """Observe as the settings ask for it, for as long as the context lasts. Raises StartFailure."""
    metrics = _metrics(settings) if settings.metrics_shown else None
    tracing = _tracing() if settings.traces == "otlp" else None
    # Stopped at once, it waits for no collector.
    async with ending(partial(_last_sent, tracing), partial(asyncio.sleep, 0)):
        yield Observing(settings, metrics, tracing)


async def _last_sent(tracing: Tracing | None) -> None:
    if tracing is not None:
        # In a thread that nobody waits for: asyncio's own are joined when the event loop ends, without a bound.
        await asyncio.wait([asyncio.ensure_future(in_thread(tracing.close))], timeout=_STOP_S)


def _metrics(settings: Settings) -> ServerMetrics:
    from clickstream_server.observe.metrics import ServerMetrics

    packages = ("grpcio", "protobuf", "pymongo", "motor")
    build = {
        "version": version("clickstream"),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "driver": settings.mongodb_driver,
    }
    metrics = ServerMetrics(build)
    for described in (clickstream_service_pb2.DESCRIPTOR, transfer_service_pb2.DESCRIPTOR):
        for service in described.services_by_name.values():
            for method in service.methods:
                metrics.rpcs.of(
                    f"{service.full_name}/{method.name}",
                    streams=method.server_streaming,
                    receives=method.client_streaming,
                )
    return metrics


def _tracing() -> Tracing:
    try:
        from clickstream_server.observe.tracing import Tracing, otlp_exporter

        return Tracing(otlp_exporter(os.environ))
    except ImportError as error:
        raise StartFailure(
            "CLICKSTREAM_TRACES: OpenTelemetry is not installed; it is the extra [otel], see docs/observability.md"
        ) from error
    except Exception as error:  # what OpenTelemetry raises has no class in common
        raise StartFailure(
            f"CLICKSTREAM_TRACES: the variables of OpenTelemetry (OTEL_...) cannot be followed: {error}"
        ) from error


class _Several(StorageObserver):
    """Tells each of several observers."""

    def __init__(self, observers: Sequence[StorageObserver]) -> None:
        self._observers = observers

    @contextmanager
    def group(self, work: Gathered, calls: Sequence[CallRecord | None]) -> Iterator[None]:
        with ExitStack() as stack:
            for observer in self._observers:
                stack.enter_context(observer.group(work, calls))
            yield

    def transaction_again(self) -> None:
        for observer in self._observers:
            observer.transaction_again()

    def stored(self, kind: Kind, way: Way, outcome: WriteOutcome, count: int) -> None:
        for observer in self._observers:
            observer.stored(kind, way, outcome, count)

    def command(self, command: Command) -> None:
        for observer in self._observers:
            observer.command(command)

    def connections(self, server: str, change: int) -> None:
        for observer in self._observers:
            observer.connections(server, change)

    def checkout_waits(self, server: str) -> None:
        for observer in self._observers:
            observer.checkout_waits(server)

    def checkout_done(self, server: str, duration_s: float) -> None:
        for observer in self._observers:
            observer.checkout_done(server, duration_s)

    def checkout_failed(self, server: str, reason: str) -> None:
        for observer in self._observers:
            observer.checkout_failed(server, reason)

    def checked_in(self, server: str) -> None:
        for observer in self._observers:
            observer.checked_in(server)


def _nothing(*_told: str) -> None:
    """Nobody counts."""
