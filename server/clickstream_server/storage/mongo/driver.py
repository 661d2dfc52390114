"""The few places where Motor and PyMongo Async differ. Everything else is written once for both.

Handles to clients, databases and collections are `Any` in this package: the two drivers share names, not types.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from inspect import isawaitable
from typing import Any, Literal, TypeVar

import pymongo
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, TypeDecoder, TypeRegistry
from bson.dbref import DBRef
from motor.core import AgnosticBase
from motor.frameworks.asyncio import run_on_executor
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from pymongo.errors import ConfigurationError, ConnectionFailure
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from clickstream_server.storage.mongo.monitors import monitors
from clickstream_server.storage.mongo.options import MongoOptions, driver_options
from clickstream_server.storage.mongo.renewal import Renewal
from clickstream_server.storage.mongo.waits import wait_without_tasks
from clickstream_server.storage.observer import NOBODY, StorageObserver

T = TypeVar("T")

DriverName = Literal["motor", "pymongo"]

APP_NAME = "clickstream"
"""What MongoDB calls our connections, in its log and among its operations."""
CLOSE_S_MAX = 2.0
"""How long each step of an end may wait for a database that may be gone."""
AT_ONCE_S = 0.05
"""How long it may where nobody wants to wait."""
_OWN_TASKS_S = 1.0
"""How much longer a client may take for the end of its own tasks."""
MAJORITY_READ = ReadConcern("majority")
MAJORITY_WRITE = WriteConcern("majority", j=True)
"""This survives the loss of a minority of the members."""


class _PlainObject(TypeDecoder):
    """An object that happens to have `$ref` and `$id` is a client's JSON and stays an object."""

    bson_type = DBRef

    def transform_bson(self, value: DBRef) -> dict[str, Any]:
        return dict(value.as_doc())


CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    type_registry=TypeRegistry([_PlainObject()]),
)
PLAIN_CODEC: CodecOptions[dict[str, Any]] = CODEC.with_options(type_registry=TypeRegistry())
"""For what holds no client's JSON and is changed by findAndModify, outside of transactions. With a decoder of types
PyMongo 4.20 does not make its second try of that after an error of the write concern, as a primary gives that steps
down: it raises an AttributeError.
"""


def connect(
    uri: str,
    driver: DriverName,
    options: MongoOptions | None = None,
    observer: StorageObserver = NOBODY,
    listeners: Sequence[Any] = (),
    **more: Any,
) -> Any:
    """A client of the chosen driver, with the promises' read and write concerns on all that is done through it.

    Nothing is sent before its first use. Raises ValueError or a ConfigurationError of the driver for a URI that cannot
    be used.
    """
    if driver == "pymongo":
        wait_without_tasks()
    client_class: Any = {"motor": AsyncIOMotorClient, "pymongo": AsyncMongoClient}[driver]
    chosen = driver_options(uri, options or MongoOptions())
    renewal = Renewal()
    chosen["event_listeners"] = [renewal, *listeners]
    if observer is not NOBODY:  # reports cost time
        chosen["event_listeners"] += monitors(observer)
    client = client_class(uri, tz_aware=True, uuidRepresentation="standard", appname=APP_NAME, **chosen, **more)
    renewal.client = unwrapped(client)
    return client


async def maybe_await(result: Any) -> Any:
    """What a call to the driver returned, awaited if this driver returns something to be awaited.

    `aggregate`, `watch`, `start_transaction` and `close` are awaited in PyMongo only, `start_session` in Motor only.
    """
    return await result if isawaitable(result) else result


def end_if_cancelled() -> None:
    """Raise CancelledError if this task was cancelled: until Python 3.12 PyMongo Async may swallow that.

    It waits with `asyncio.wait_for`, which forgets that it was cancelled if what it waits for comes at that moment.
    """
    if _is_cancelled():
        raise asyncio.CancelledError  # with a traceback that holds no task, or the task's result would hold it for long


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def unwrapped(handle: Any) -> Any:
    """A client, database, collection or cursor for `in_one_thread`: PyMongo's own, which blocks, inside of Motor's."""
    return handle.delegate if isinstance(handle, AgnosticBase) else handle


async def in_one_thread(client: Any, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of `work()`, which takes several steps with the database, on handles that are `unwrapped`.

    Motor hands each step to a thread; here one thread does them all. So that it is written once for both drivers,
    the work is a coroutine, in which nothing is awaited but through `maybe_await`.
    """
    if isinstance(client, AgnosticBase):
        loop = asyncio.get_running_loop()
        result: T = await run_on_executor(loop, _to_its_end, work)  # type: ignore[no-untyped-call]  # Motor's threads
        return result
    return await work()


def _to_its_end(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Nothing suspends it, since PyMongo's own handles return what they have, and nothing to be awaited."""
    running = work()
    try:
        running.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    running.close()
    raise AssertionError("the work waits for something that is not the database's")


async def close(client: Any, timeout_s: float = CLOSE_S_MAX) -> None:
    """Close a client, also if the server that it would take leave of does not answer within `timeout_s` seconds."""
    with pymongo.timeout(timeout_s):
        closing = client.close()
        if not isawaitable(closing):
            return
        # It waits for the client's own tasks as well, which have other bounds.
        task = asyncio.ensure_future(closing)
    try:
        done, _ = await asyncio.wait([task], timeout=timeout_s + _OWN_TASKS_S)
    finally:
        task.cancel()
    for closed in done:
        closed.result()


def members_of(client: Any) -> str:
    """What the driver last knew of each member: what keeps it away, else what it is."""
    found = unwrapped(client).topology_description.server_descriptions()
    return ", ".join(f"{host}:{port} {_state_of(server, host)}" for (host, port), server in sorted(found.items()))


def _state_of(server: Any, host: str) -> str:
    error = server.error
    if error is None:
        return f"is {server.server_type_name}"
    if isinstance(error, ConfigurationError):  # with `directConnection` also for what does not answer
        return "is no member of the replica set that the URI names, or does not answer"
    # What the network or TLS said while it was asked how it is: no calls, and so no documents, have to do with that.
    said = str(error).partition(" (configured timeouts")[0] if isinstance(error, ConnectionFailure) else ""
    return f"({said.partition(': ')[2] if said.startswith(host) else said or type(error).__name__})"


def database_of(client: Any, name: str) -> Any:
    """The database, with the client's read and write concerns."""
    return client.get_database(name, codec_options=CODEC, read_preference=ReadPreference.PRIMARY)


def without_credentials(uri: str) -> str:
    """The URI as it may be shown and logged: without user, password and options.

    The driver takes more than RFC 3986 has, a password with a bare `#` say. So nothing before an `@` is shown.
    """
    if not escaped(uri):
        return "the given URI"
    scheme, _, rest = uri.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def escaped(uri: str) -> bool:
    """Whether it is clear where user and password end: else what follows, which errors name, may be part of them."""
    before, at, _ = uri.partition("://")[2].rpartition("@")
    return not at or not {"/", "?"} & set(before)
