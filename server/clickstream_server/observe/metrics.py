"""The server's metrics. Each is documented in docs/metrics.md; made in app.py and passed on, nothing is global."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any
from weakref import WeakSet

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from clickstream.models import WriteOutcome
from clickstream_server.call_record import CallRecord
from clickstream_server.storage.observer import Command, Gathered, Kind, StorageObserver, Way

LATENCY_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
GROUP_SESSIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OTHER = "other"
_NAMES_MAX = 100
"""So many different names of callers at most; then they are `other`. Each costs memory here and in Prometheus."""
_COMMANDS = frozenset(
    {
        *("abortTransaction", "aggregate", "commitTransaction", "count", "create", "createIndexes", "delete"),
        *("endSessions", "find", "findAndModify", "getMore", "hello", "insert", "killCursors", "killSessions"),
        *("listCollections", "listIndexes", "ping", "update"),
    }
)
"""What this server sends to MongoDB; anything else counts as `other`."""


class MethodMetrics:
    """The metrics of one RPC, found once, so that a call only adds to them. Used by one event loop."""

    __slots__ = (
        *("_ended", "_failed", "_method", "_ok", "_rpcs"),
        *("in_flight", "received", "receives", "sent", "sessions", "streams"),
    )

    def __init__(self, rpcs: RpcMetrics, method: str, *, streams: bool, receives: bool) -> None:
        self._rpcs = rpcs
        self._method = method
        self._ended: dict[tuple[str, str], Any] = {}
        self.streams, self.receives = streams, receives
        self.in_flight = rpcs.in_flight.labels(method)
        if streams:
            self.sent, self.received = rpcs.sent.labels(method), rpcs.received.labels(method)
            self.sessions = rpcs.sessions.labels(method)
        else:
            self._ok, self._failed = rpcs.duration.labels(method, "ok"), rpcs.duration.labels(method, "error")
        for code, reason in (("OK", ""), ("INTERNAL", "INTERNAL")):  # from 0, so that the first one is an increase
            self._count(code, reason)

    def ended(self, code: str, reason: str, duration_s: float) -> None:
        """A call has come to its end, with this status."""
        self.in_flight.dec()
        (self._ended.get((code, reason)) or self._count(code, reason)).inc()
        if not self.streams:
            (self._ok if code == "OK" else self._failed).observe(duration_s)

    def _count(self, code: str, reason: str) -> Any:
        found = self._ended[code, reason] = self._rpcs.ended.labels(self._method, code, reason)
        return found


class RpcMetrics:
    """What is counted of calls."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ended = Counter(
            "clickstream_rpc_requests", "Calls that have ended.", ["method", "code", "reason"], registry=registry
        )
        self.duration = Histogram(
            "clickstream_rpc_duration_seconds",
            "From a call's arrival to its answer; unary calls only.",
            ["method", "result"],
            buckets=LATENCY_S,
            registry=registry,
        )
        self.in_flight = Gauge("clickstream_rpc_in_flight", "Calls that run now.", ["method"], registry=registry)
        self.sent = Counter(
            "clickstream_stream_messages_sent", "Messages sent in streams.", ["method"], registry=registry
        )
        self.received = Counter(
            "clickstream_stream_messages_received", "Messages received in streams.", ["method"], registry=registry
        )
        self.sessions = Counter(
            "clickstream_stream_sessions_sent", "Sessions sent in streams.", ["method"], registry=registry
        )
        self._methods: dict[str, MethodMetrics] = {}

    def of(self, method: str, *, streams: bool, receives: bool = False) -> MethodMetrics:
        """Those of this RPC. `method`: as in `/clickstream.v1.ClickstreamService/GetBatch`; one that exists.

        `streams`: it answers with a stream; `receives`: it takes one.
        """
        name = method.removeprefix("/")
        found = self._methods.get(name)
        if found is None:
            found = self._methods[name] = MethodMetrics(self, name, streams=streams, receives=receives)
        return found

    def unknown(self) -> None:
        """Something was called that does not exist. Its name is the caller's, so it is no label."""
        self.ended.labels(OTHER, "UNIMPLEMENTED", "").inc()


class StorageMetrics(StorageObserver):
    """What is counted of the storage's work."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._group_size = Histogram(
            "clickstream_group_commit_sessions",
            "Calls that were committed together.",
            buckets=GROUP_SESSIONS,
            registry=registry,
        )
        self._group_time = Histogram(
            "clickstream_group_commit_duration_seconds",
            "A group's transaction, with its retries.",
            buckets=LATENCY_S,
            registry=registry,
        )
        self._group_failed = Counter(
            "clickstream_group_commit_failures", "Groups that could not be committed.", registry=registry
        )
        calls = Histogram(
            "clickstream_group_calls",
            "Calls that shared their work in the database.",
            ["work"],
            buckets=GROUP_SESSIONS,
            registry=registry,
        )
        self._group_calls = {work: calls.labels(work) for work in ("push", "get")}
        self._retries = Counter(
            "clickstream_transaction_retries",
            "Transactions that began again: another writer came first, or ids were known.",
            registry=registry,
        )
        written = Counter(
            "clickstream_writes",
            "Sessions and events that were asked to be stored, by what became of them.",
            ["kind", "way", "outcome"],
            registry=registry,
        )
        ways = [("session", "register"), ("session", "update"), ("session", "import")]
        ways += [("event", "push"), ("event", "stream"), ("event", "import")]
        self._written = {
            (kind, way, outcome): written.labels(kind, way, outcome.value.lower())
            for kind, way in ways
            for outcome in WriteOutcome
        }

    @contextmanager
    def group(self, work: Gathered, calls: Sequence[CallRecord | None]) -> Iterator[None]:
        if work != "register":
            self._group_calls[work].observe(len(calls))
            yield
            return
        began = perf_counter()
        try:
            yield
        except BaseException:
            self._group_failed.inc()
            raise
        finally:
            self._group_time.observe(perf_counter() - began)
            self._group_size.observe(len(calls))

    def transaction_again(self) -> None:
        self._retries.inc()

    def stored(self, kind: Kind, way: Way, outcome: WriteOutcome, count: int) -> None:
        self._written[kind, way, outcome].inc(count)


class _Pool:
    """The connections to one member of the database."""

    def __init__(self, metrics: MongoMetrics, server: str) -> None:
        self.open, self.in_use = metrics.open.labels(server), metrics.in_use.labels(server)
        self.created, self.wait = metrics.created.labels(server), metrics.wait.labels(server)
        # Who waits, not how many: of one whose wait is cut off by a timeout, the driver does not report the end.
        self.waiting: WeakSet[Any] = WeakSet()
        metrics.waiting.labels(server).set_function(lambda: len(self.waiting))


class MongoMetrics(StorageMetrics):
    """And of what goes to MongoDB."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self._duration = Histogram(
            "clickstream_mongodb_command_duration_seconds",
            "Commands to MongoDB, until their answer.",
            ["command"],
            buckets=LATENCY_S,
            registry=registry,
        )
        self._errors = Counter(
            "clickstream_mongodb_command_errors",
            "Commands that failed, by MongoDB's code or the driver's error.",
            ["command", "code"],
            registry=registry,
        )
        label = ["server"]
        self.open = Gauge(
            "clickstream_mongodb_pool_connections", "Open connections to MongoDB.", label, registry=registry
        )
        self.in_use = Gauge(
            "clickstream_mongodb_pool_in_use", "Connections that a step has now.", label, registry=registry
        )
        self.waiting = Gauge(
            "clickstream_mongodb_pool_waiting", "Steps that wait for a connection.", label, registry=registry
        )
        self.created = Counter(
            "clickstream_mongodb_pool_created", "Connections that were made.", label, registry=registry
        )
        self.wait = Histogram(
            "clickstream_mongodb_pool_wait_seconds",
            "How long steps waited for a connection.",
            label,
            buckets=LATENCY_S,
            registry=registry,
        )
        self._no_connection = Counter(
            "clickstream_mongodb_pool_failures",
            "Steps that got no connection.",
            ["server", "reason"],
            registry=registry,
        )
        self._commands = {name: self._duration.labels(name) for name in (*sorted(_COMMANDS), OTHER)}
        self._pools: dict[str, _Pool] = {}
        self._making = threading.Lock()

    def command(self, command: Command) -> None:
        name = command.name if command.name in _COMMANDS else OTHER
        self._commands[name].observe(command.duration_s)
        if command.error:
            self._errors.labels(name, command.error).inc()

    def _pool(self, server: str) -> _Pool:
        if found := self._pools.get(server):
            return found
        with self._making:
            if server not in self._pools:
                self._pools[server] = _Pool(self, server)
            return self._pools[server]

    def connections(self, server: str, change: int) -> None:
        pool = self._pool(server)
        pool.open.inc(change)
        if change > 0:
            pool.created.inc()

    def checkout_waits(self, server: str) -> None:
        self._pool(server).waiting.add(_whoever_runs())

    def checkout_done(self, server: str, duration_s: float) -> None:
        pool = self._pool(server)
        pool.waiting.discard(_whoever_runs())
        pool.wait.observe(duration_s)
        pool.in_use.inc()

    def checkout_failed(self, server: str, reason: str) -> None:
        self._pool(server).waiting.discard(_whoever_runs())
        self._no_connection.labels(server, reason).inc()

    def checked_in(self, server: str) -> None:
        self._pool(server).in_use.dec()


def _whoever_runs() -> Any:
    thread = threading.current_thread()
    return asyncio.current_task() if thread is threading.main_thread() else thread  # the second: Motor's


class ServerMetrics:
    """All metrics of one server process."""

    def __init__(self, build: dict[str, str]) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        self.rpcs = RpcMetrics(self.registry)
        self.storage = MongoMetrics(self.registry)
        self.workers = Gauge("clickstream_workers", "Processes that serve.", registry=self.registry)
        self.restarts = Counter(
            "clickstream_worker_restarts", "Workers that died and were started again.", registry=self.registry
        )
        self._auth_refusals = Counter(
            "clickstream_auth_refusals",
            "Calls that were not let in, by the name of their token, if it is known.",
            ["caller", "reason"],
            registry=self.registry,
        )
        self._limiter_refusals = Counter(
            "clickstream_limiter_refusals",
            "Calls that were refused because there was too much of something.",
            ["limit"],
            registry=self.registry,
        )
        self._callers: set[str] = set()
        Gauge(
            "clickstream_build_info", "Always 1; the labels are versions.", list(build), registry=self.registry
        ).labels(*build.values()).set(1)

    def auth_refused(self, reason: str, caller: str) -> None:
        """A call was not let in. `caller`: the name of its token; empty if it is not known."""
        if caller not in self._callers and len(self._callers) >= _NAMES_MAX:
            caller = OTHER
        self._callers.add(caller)
        self._auth_refusals.labels(caller, reason).inc()

    def limiter_refused(self, limit: str) -> None:
        """A call was refused, because there is too much of this."""
        self._limiter_refusals.labels(limit).inc()

    def look_at(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when somebody asks for it."""
        Gauge(name, text, registry=self.registry).set_function(read)
