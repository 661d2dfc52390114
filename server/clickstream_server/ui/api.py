"""What the page asks for: JSON over GET, through the interface of the storage only. Every answer is bounded."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from aiohttp import web
from grpc import StatusCode

from clickstream.dao import ClickstreamDao
from clickstream.errors import BatchNotFound, ClickstreamError, InvalidField, MessageTooLarge, SessionNotFound
from clickstream.models import SessionPage
from clickstream_server.deadlines import deadline
from clickstream_server.interceptors.errors import internal_error
from clickstream_server.ui.forms import batch_fields, overview_fields, page_fields, session_fields
from clickstream_server.ui.guard import admit
from clickstream_server.ui.overview import BATCHES_SHOWN, Overview

SESSIONS_DEFAULT, SESSIONS_MAX = 25, 100
EVENTS_OF_BATCH_SESSION_MAX = 50
EVENTS_DEFAULT, EVENTS_MAX = 500, 1000
_NUMBER_DIGITS_MAX = 15
"""JavaScript's numbers are exact so far."""
_ANSWER_S_MAX = 5.0
_STATUS = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.RESOURCE_EXHAUSTED: 503,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 503,
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")


class PageApi:
    """The handlers. `address` and `storage` are shown: where the server and its database are."""

    def __init__(self, dao: ClickstreamDao, overview: Overview, *, address: str, storage: str) -> None:
        self._dao = dao
        self._overview = overview
        self._address = address
        self._storage = storage

    def add_routes(self, app: web.Application) -> None:
        handlers = {
            "overview": self.overview,
            "batches": self.batches,
            "batch": self.batch,
            "session": self.session,
        }
        app.add_routes([web.get(f"/api/{name}", found, allow_head=False) for name, found in handlers.items()])

    async def overview(self, _request: web.Request) -> web.Response:
        return _answer(overview_fields(await self._overview.look(), self._address, self._storage))

    async def batches(self, request: web.Request) -> web.Response:
        """Batches after those that the overview has: `page_token` says where to go on."""
        found = await self._dao.list_batches(page_size=BATCHES_SHOWN, page_token=request.query.get("page_token", ""))
        return _answer(
            {"batches": [batch_fields(batch) for batch in found.batches], "next_page_token": found.next_page_token}
        )

    async def batch(self, request: web.Request) -> web.Response:
        """A batch, and its sessions after `after_number`: `limit` at most, fewer where they are large. So of events."""
        batch_id = request.query.get("id", "")
        after_number = _number(request, "after_number", default=0, most=10**_NUMBER_DIGITS_MAX)
        limit = _number(request, "limit", default=SESSIONS_DEFAULT, most=SESSIONS_MAX, least=1)
        batch = await self._dao.get_batch(batch_id)
        if batch is None:
            raise BatchNotFound.by_id(batch_id)

        async def read(events_limit: int) -> SessionPage:
            pages = self._dao.get_batch_pages(
                batch_id, after_number=after_number, limit=limit, events_limit=events_limit
            )
            async with aclosing(pages):
                return await anext(pages)

        return _answer(page_fields(batch, await _as_many_as_fit(EVENTS_OF_BATCH_SESSION_MAX, read)))

    async def session(self, request: web.Request) -> web.Response:
        """A session with its earliest events: `events_limit` at most, fewer where they are large."""
        session_id = request.query.get("id", "")
        events_limit = _number(request, "events_limit", default=EVENTS_DEFAULT, most=EVENTS_MAX)
        found = await _as_many_as_fit(events_limit, lambda most: self._dao.get_session(session_id, events_limit=most))
        if found is None:
            raise SessionNotFound.by_id(session_id)
        return _answer(session_fields(found))


def _number(request: web.Request, name: str, *, default: int, most: int, least: int = 0) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= _NUMBER_DIGITS_MAX and least <= int(text) <= most):
        raise InvalidField.at(name, f"must be a whole number from {least} to {most}")
    return int(text)


async def _as_many_as_fit(most: int, read: Callable[[int], Awaitable[T]]) -> T:
    """What `read` finds with `most` events of each session, or with fewer where these are too large to be held."""
    while True:
        try:
            return await read(most)
        except MessageTooLarge:
            if not most:
                raise
        most //= 4  # few tries: each reads all that may be held


def _answer(found: dict[str, Any], status: int = 200) -> web.Response:
    text = json.dumps(found, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return web.Response(text=text, status=status, content_type="application/json")


@web.middleware
async def answering(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keep out who may not look; give errors the form that the page reads; keep within the time."""
    try:
        admit(request)
        with deadline(_ANSWER_S_MAX):
            return await handler(request)
    except ClickstreamError as error:
        return _error(error)
    except web.HTTPException:
        raise
    except Exception as error:
        return _error(internal_error(error, secrets.token_hex(8)))


def _error(error: ClickstreamError) -> web.Response:
    fields = {"reason": error.reason or error.code.name, "message": error.message}
    answer = _answer({"error": fields}, _STATUS.get(error.code, 500))
    if answer.status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer
