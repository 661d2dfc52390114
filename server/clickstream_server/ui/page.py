"""Serves the page: a few static files and the JSON that they ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files

from aiohttp import web

from clickstream.dao import ClickstreamDao
from clickstream_server.config import Settings
from clickstream_server.failures import StartFailure
from clickstream_server.listening import why_not
from clickstream_server.security.gate import Gate
from clickstream_server.ui.api import PageApi, answering
from clickstream_server.ui.guard import GATE, harden
from clickstream_server.ui.overview import Overview

_PRELOADED = b'<link rel="preload" href="api/overview" as="fetch" crossorigin="anonymous">\n'
"""Makes the page quicker. Where tokens are asked for, it would only be refused: it carries none."""
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_STOP_S = 1.0
_REQUEST_LINE_BYTES_MAX = 16 * 1024
"""The longest id has 256 characters, each of 4 bytes at most, each of which is %XX."""


@asynccontextmanager
async def page_served(
    settings: Settings,
    dao: ClickstreamDao,
    ping: Callable[[float], Awaitable[None]],
    gate: Gate,
    *,
    address: str,
    storage: str,
) -> AsyncIterator[str]:
    """Serve the page inside of the context; yield what to say of it. Raises StartFailure."""
    api = PageApi(dao, Overview(dao, ping), address=address, storage=storage)
    runner = web.AppRunner(
        _application(api, gate),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=_STOP_S,
        max_line_size=_REQUEST_LINE_BYTES_MAX,
    )
    await runner.setup()
    try:
        yield await _listen(runner, settings)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, settings: Settings) -> str:
    host, _, port = settings.ui_listen.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        await web.TCPSite(runner, host, int(port)).start()
    except OSError as error:
        why = why_not(error)
        if settings.ui_asked_for:
            raise StartFailure(
                f"cannot show the page on {settings.ui_listen}: {why} (CLICKSTREAM_UI_LISTEN)"
            ) from error
        return f"none, as {settings.ui_listen} cannot be had: {why} (CLICKSTREAM_UI_LISTEN sets another)"
    bound_host, bound_port = runner.addresses[0][:2]
    return f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}"


def _application(api: PageApi, gate: Gate) -> web.Application:
    app = web.Application(middlewares=[answering], client_max_size=0)
    app[GATE] = gate
    app.on_response_prepare.append(harden)
    api.add_routes(app)
    for file in files(__package__).joinpath("static").iterdir():
        path = "/" if file.name == "index.html" else f"/{file.name}"
        content = file.read_bytes()
        if gate.asks:
            content = content.replace(_PRELOADED, b"")
        app.router.add_get(path, _file(content, file.name), allow_head=False)
    return app


def _file(content: bytes, name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    content_type = _TYPES[name[name.rindex(".") :]]

    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=content, content_type=content_type, charset="utf-8")

    return handle
