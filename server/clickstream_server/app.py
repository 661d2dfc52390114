"""The only place where the parts are put together: start, serve, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from pymongo.errors import ConfigurationError, InvalidURI

from clickstream.v1 import clickstream_service_pb2, transfer_service_pb2
from clickstream.v1.clickstream_service_pb2_grpc import add_ClickstreamServiceServicer_to_server
from clickstream.v1.transfer_service_pb2_grpc import add_TransferServiceServicer_to_server
from clickstream_server.accepting import Handlers, start
from clickstream_server.config import Settings
from clickstream_server.embedded import database_of_settings
from clickstream_server.failures import StartFailure
from clickstream_server.files import OpenFiles
from clickstream_server.health import HealthMonitor, health_served
from clickstream_server.interceptors import server_interceptors
from clickstream_server.interceptors.auth import Auth
from clickstream_server.interceptors.drain import Drain
from clickstream_server.interceptors.limiter import Limiter
from clickstream_server.listening import bind, local_address, refuse_exposure, server_options
from clickstream_server.observe.observing import metrics_beside, observing
from clickstream_server.process import ending
from clickstream_server.reflection import add_reflection
from clickstream_server.security.gate import Gate
from clickstream_server.security.opened import Security
from clickstream_server.servicer import ClickstreamServicer
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.driver import AT_ONCE_S, close, connect, escaped, without_credentials
from clickstream_server.storage.mongo.readiness import mended, until_usable
from clickstream_server.storage.observer import NOBODY, StorageObserver
from clickstream_server.transfer_servicer import TransferServicer

SERVICES = [
    clickstream_service_pb2.DESCRIPTOR.services_by_name["ClickstreamService"].full_name,
    transfer_service_pb2.DESCRIPTOR.services_by_name["TransferService"].full_name,
]
_CONNECT_S = 10.0
_TOLD_S = 0.5
"""How long callers may take to learn that they are refused."""
_LAST_ANSWERS_S = 2.0
"""How long clients may take for their last answers once all calls are done."""
_COLLECT_AGAIN_S = 0.5
_PAGE = "clickstream_server.ui.page"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that serves: where it listens, what it stores to, and what there is to say of its page ("": nothing).

    `metrics`: where Prometheus finds it; empty: nowhere. `counted` tells what was counted so far, as a line.
    `tls`: clients must use TLS. `tokens`: they must have tokens.
    """

    address: str
    storage: str
    embedded_data_dir: str | None
    page: str
    metrics: str = ""
    tls: bool = False
    tokens: bool = False
    counted: Callable[[], bytes] | None = None


@asynccontextmanager
async def running(settings: Settings, *, share_port: bool = False) -> AsyncIterator[Running]:
    """Serve inside the context; drain and stop at its end. Raises StartFailure.

    `share_port`: other processes of this service listen on the same port.
    """
    if settings.ui_shown:  # aiohttp takes 0.1 s to be imported: time enough while MongoDB starts or is asked
        _ = asyncio.get_running_loop().run_in_executor(None, import_module, _PAGE)
    async with AsyncExitStack() as stack:
        security = Security.opened(settings)
        if not share_port:  # the supervisor has looked
            refuse_exposure(settings)
        observed = await stack.enter_async_context(observing(settings))
        uri, data_dir = await stack.enter_async_context(database_of_settings(settings))
        dao, until_ready = await stack.enter_async_context(connected_dao(uri, settings, observed.storage))
        drain = Drain()
        health = HealthMonitor(dao.ping, SERVICES, why=dao.why_away)
        observed.look_at(
            dao,
            serving=lambda: health.serving,
            draining=lambda: drain.draining,
            certificate_expires_at=lambda: security.certificate_expires_at,
        )
        gate = Gate(security.tokens, refused=observed.auth_refused)
        auth = Auth(gate)
        limiter = Limiter(settings.bounds, refused=observed.limiter_refused)
        interceptors = server_interceptors(drain, auth, observed.interceptor, limiter, limits=settings.limits)
        options = server_options(message_bytes_max=settings.message_bytes_max, share_port=share_port)
        handlers = _handlers(dao, health, settings)
        server = grpc.aio.server(handlers=handlers.all, interceptors=interceptors, options=options)
        address = local_address(settings.listen, bind(server, settings.listen, security.credentials()))
        storage = without_credentials(uri)
        page = await stack.enter_async_context(page_beside(settings, dao, gate, address, storage))
        metrics = ""
        if not share_port:
            metrics = await stack.enter_async_context(metrics_beside(settings, observed.counted))
        health.begin()
        if settings.health_listen:
            # While the server drains, too; but what comes is read with the same care.
            around = server_interceptors(Drain(admits=True), auth, limiter=limiter)
            await stack.enter_async_context(
                health_served(settings.health_listen, health.servicer, around, share_port=share_port)
            )
        await stack.enter_async_context(security.watched(auth.look_again, OpenFiles().look))
        await start(server, handlers, interceptors)

        async def drained() -> None:
            await health.stop()
            limiter.stop()
            await _stop(server, drain, settings.drain_s)

        async def cut_off() -> None:
            _end_what_runs(drain, "at once")
            await _cut_off(server)
            await health.stop()  # before the database goes, of which it would complain

        async with ending(drained, cut_off):
            await until_ready()
            drain.admit()
            await health.start()
            await stack.enter_async_context(mended(dao))
            yield Running(
                address=address,
                storage=storage,
                embedded_data_dir=data_dir,
                page=page,
                metrics=metrics,
                tls=settings.tls_cert is not None,
                tokens=gate.asks,
                counted=observed.told if settings.metrics_shown else None,
            )


def _handlers(dao: MongoClickstreamDao, health: HealthMonitor, settings: Settings) -> Handlers:
    """All that is served, but the page."""
    handlers = Handlers()
    servicer, transfer = (
        kind(dao, message_bytes_max=settings.message_bytes_max) for kind in (ClickstreamServicer, TransferServicer)
    )
    add_ClickstreamServiceServicer_to_server(servicer, handlers)  # type: ignore[no-untyped-call]
    add_TransferServiceServicer_to_server(transfer, handlers)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, handlers)
    add_reflection(handlers, SERVICES)
    if settings.channelz:
        from grpc_channelz.v1 import channelz, channelz_pb2_grpc

        channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.aio.ChannelzServicer(), handlers)
    return handlers


@asynccontextmanager
async def page_beside(
    settings: Settings, dao: MongoClickstreamDao, gate: Gate, address: str, storage: str
) -> AsyncIterator[str]:
    """The page, if there is to be one, inside the context; yields what there is to say of it."""
    if not settings.ui_shown:
        yield ""
        return
    page_module = await asyncio.to_thread(import_module, _PAGE)
    async with page_module.page_served(settings, dao, dao.ping, gate, address=address, storage=storage) as page:
        yield page


async def _stop(server: grpc.aio.Server, drain: Drain, drain_s: float) -> None:
    """End the streams, and let calls that run finish within `drain_s` seconds; what runs on is ended then.

    Who does not take what is left to be sent is cut off soon after that: else one reader that hangs, or whose machine
    is gone, would hold up every stop for the whole time.
    """
    drain.drain()
    await drain.told(_TOLD_S)  # a call that comes while gRPC stops ends as CANCELLED, without a word of ours
    # gRPC would cut off what runs on without a word, neither to its client nor to us.
    stopping = asyncio.create_task(server.stop(drain_s + _LAST_ANSWERS_S))
    done = asyncio.create_task(drain.done())
    await asyncio.wait([stopping, done], timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
    done.cancel()
    _end_what_runs(drain, f"after {drain_s:g} s")
    await asyncio.wait([stopping], timeout=_LAST_ANSWERS_S)
    await _cut_off(server)
    await stopping


def _end_what_runs(drain: Drain, when: str) -> None:
    """End it, and say so: its callers do not know what became of it."""
    calls, streams = drain.cut_off()
    if calls or streams:
        _log.warning("cut off by the stop %s: calls=%d streams=%d", when, calls, streams)


async def _cut_off(server: grpc.aio.Server) -> None:
    """Cut off whatever still runs.

    gRPC waits until nothing holds such a call, which an error may have made a part of a cycle: without looking for
    cycles a stop took more than 30 seconds now and then.
    """
    stopping = asyncio.create_task(server.stop(0))
    while not stopping.done():
        gc.collect()
        await asyncio.wait([stopping], timeout=_COLLECT_AGAIN_S)
    await stopping


@asynccontextmanager
async def connected_dao(
    uri: str, settings: Settings, observer: StorageObserver = NOBODY
) -> AsyncIterator[tuple[MongoClickstreamDao, Callable[[], Awaitable[None]]]]:
    """The storage, and what must be awaited before its first use. Both raise StartFailure."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # an option that cannot be used is not to be passed over
            client = connect(
                uri,
                settings.mongodb_driver,
                settings.mongo_options,
                observer,
                serverSelectionTimeoutMS=int(_CONNECT_S * 1000),
            )
    except (ConfigurationError, InvalidURI, ValueError, UserWarning) as error:
        raise StartFailure(f"CLICKSTREAM_MONGODB_URI cannot be used: {_said(error, uri)}") from error
    async with ending(partial(close, client), partial(close, client, AT_ONCE_S)):
        dao = MongoClickstreamDao(
            client,
            settings.mongodb_database,
            limits=settings.limits,
            timeout_s=settings.storage_timeout_s,
            observer=observer,
        )
        async with ending(dao.close, partial(dao.close, AT_ONCE_S)):
            yield dao, partial(until_usable, client, dao, uri)


def _said(error: Exception, uri: str) -> str:
    """What the driver says, unless part of the password may stand in it, taken for the name of a database."""
    if escaped(uri):
        return str(error)
    return "in front of an @ there is a / or ?: in user and password write / as %2F and ? as %3F, elsewhere @ as %40"


async def until(
    stop: asyncio.Event, settings: Settings, announce: Callable[[Running], None], *, share_port: bool = False
) -> None:
    """Serve until `stop` is set; `announce(running)` is called once it serves."""
    async with running(settings, share_port=share_port) as found:
        announce(found)
        await stop.wait()
