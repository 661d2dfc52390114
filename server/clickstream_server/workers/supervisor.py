"""The supervisor has the port, the embedded MongoDB, the page and the metrics; the workers that it keeps serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from clickstream_server.app import Running, connected_dao, page_beside
from clickstream_server.config import OFF, Settings
from clickstream_server.embedded import database_of_settings
from clickstream_server.listening import HEALTH_LISTEN, local_address, refuse_exposure
from clickstream_server.observe.observing import metrics_beside, observing
from clickstream_server.process import ending
from clickstream_server.security.gate import Gate
from clickstream_server.security.opened import Security
from clickstream_server.storage.mongo.driver import without_credentials
from clickstream_server.workers.crew import Crew
from clickstream_server.workers.port import reserved, with_port


async def until(stop: asyncio.Event, settings: Settings, announce: Callable[[Running], None]) -> None:
    """Serve with `settings.workers` processes until `stop` is set; `announce(running)` is called once all serve.

    Raises StartFailure if they cannot serve, or some had to be killed at the end.
    """
    security = Security.opened(settings)
    refuse_exposure(settings)
    async with AsyncExitStack() as stack:
        if settings.health_listen:
            health_port = stack.enter_context(reserved(settings.health_listen, HEALTH_LISTEN))
            settings = settings.model_copy(update={"health_listen": with_port(settings.health_listen, health_port)})
        port = stack.enter_context(reserved(settings.listen))
        observed = await stack.enter_async_context(observing(settings.model_copy(update={"traces": "off"})))
        workers = observed.workers()
        crew = Crew(settings.workers, workers, drain_s=settings.drain_s)
        observed.look_at_state(serving=lambda: crew.serves, draining=lambda: crew.stopping)
        metrics = await stack.enter_async_context(metrics_beside(settings, workers.collect))
        await stack.enter_async_context(ending(crew.stop, crew.kill))
        crew.spawn()  # they load their parts while MongoDB starts
        uri, data_dir = await stack.enter_async_context(database_of_settings(settings))
        await stack.enter_async_context(ending(crew.stop, crew.kill))  # before the database
        address, storage = local_address(settings.listen, port), without_credentials(uri)
        gate = Gate(security.tokens, refused=observed.auth_refused)
        page = await stack.enter_async_context(_page(settings, uri, gate, address, storage))
        await stack.enter_async_context(security.watched())
        listen = with_port(settings.listen, port)
        await crew.serve(
            settings.model_copy(update={"workers": 1, "listen": listen, "mongodb_uri": uri, "ui_listen": OFF})
        )
        announce(
            Running(
                address=address,
                storage=storage,
                embedded_data_dir=data_dir,
                page=page,
                metrics=metrics,
                tls=settings.tls_cert is not None,
                tokens=gate.asks,
            )
        )
        await crew.wait(stop)


@asynccontextmanager
async def _page(settings: Settings, uri: str, gate: Gate, address: str, storage: str) -> AsyncIterator[str]:
    """The page with a connection of its own to the database, if there is to be a page. It only reads."""
    if not settings.ui_shown:
        yield ""
        return
    async with connected_dao(uri, settings) as (dao, _), page_beside(settings, dao, gate, address, storage) as page:
        yield page
