"""Answers Prometheus: `GET /metrics`, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

from aiohttp import web

from clickstream_server.failures import StartFailure
from clickstream_server.listening import why_not
from clickstream_server.observe.exposition import Family, written

_STOP_S = 1.0
_FRESH_S = 0.2
"""Who asks again within this gets the same answer: somebody who asks all the time must not cost more than that."""


@asynccontextmanager
async def metrics_served(listen: str, collect: Callable[[], list[Family]]) -> AsyncIterator[str]:
    """Serve what `collect` returns inside of the context; yield the address. Raises StartFailure."""
    answers = _Answers(collect)
    app = web.Application(client_max_size=0)
    app.router.add_get("/metrics", answers.answer)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_STOP_S)
    await runner.setup()
    try:
        yield await _listen(runner, listen)
    finally:
        await runner.cleanup()


class _Answers:
    def __init__(self, collect: Callable[[], list[Family]]) -> None:
        self._collect = collect
        self._families: list[Family] = []
        self._stale_at = 0.0

    async def answer(self, request: web.Request) -> web.Response:
        if monotonic() > self._stale_at:
            self._families = self._collect()
            self._stale_at = monotonic() + _FRESH_S
        body, content_type = written(self._families, request.headers)
        return web.Response(body=body, headers={"Content-Type": content_type, "X-Content-Type-Options": "nosniff"})


async def _listen(runner: web.AppRunner, listen: str) -> str:
    host, _, port = listen.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        await web.TCPSite(runner, host, int(port)).start()
    except OSError as error:
        raise StartFailure(f"cannot show metrics on {listen}: {why_not(error)} (CLICKSTREAM_METRICS_LISTEN)") from error
    bound_host, bound_port = runner.addresses[0][:2]
    return f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}/metrics"
