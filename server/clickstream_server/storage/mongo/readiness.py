"""Whether the MongoDB that was named can be used: waited for while it is not there, refused where it never will do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from clickstream.errors import ClickstreamError
from clickstream_server.event_loop import cancelled
from clickstream_server.failures import StartFailure
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.driver import members_of, without_credentials
from clickstream_server.storage.mongo.errors import (
    UNKNOWN_CONCERN_CODES,
    UnexpectedDriverError,
    cause_of,
    domain_error,
    is_refused,
    named,
)

_ANSWER_S = 2.0
_LOOK_AGAIN_S = 0.5
_MEND_EVERY_S = 10.0
_WIRE_VERSION_MIN = 13
"""MongoDB 5.0, the first with snapshot reads outside of transactions."""
_log = logging.getLogger(__name__)


class _NotYet(Exception):
    """What may be different in a moment."""


async def until_usable(client: Any, dao: MongoClickstreamDao, uri: str) -> None:
    """Wait until the database takes calls, and make the collections and indexes that are missing.

    It is waited for without end, since whoever starts servers starts databases at the same time. Raises StartFailure
    for what waiting does not mend.
    """
    shown = without_credentials(uri)
    told = ""
    while True:
        try:
            await _check_topology(client, shown)
            await _open(dao, shown)
            return
        except _NotYet as reason:
            if told != (told := str(reason)):
                _log.warning("%s It is waited for.", reason)
        await asyncio.sleep(_LOOK_AGAIN_S)


@asynccontextmanager
async def mended(dao: MongoClickstreamDao) -> AsyncIterator[None]:
    """Inside the context, what somebody drops is made again: who drops the database to begin anew drops its indexes."""
    mending = asyncio.create_task(_keep_mending(dao))
    try:
        yield
    finally:
        await cancelled(mending)


async def _keep_mending(dao: MongoClickstreamDao) -> None:
    while True:
        await asyncio.sleep(_MEND_EVERY_S)
        try:
            await dao.mend()
        except ClickstreamError:
            pass  # health says so
        except UnexpectedDriverError as error:
            _log.error("what was dropped cannot be made again: %s", error.log_text)
        except Exception:
            _log.exception("looking for what was dropped failed; trying again")


async def _check_topology(client: Any, shown: str) -> None:
    try:
        with pymongo.timeout(_ANSWER_S):
            hello = await client.admin.command("hello")
    except PyMongoError as error:
        if is_refused(error) or (isinstance(error, OperationFailure) and domain_error(error) is None):
            raise StartFailure(
                f"the MongoDB at {shown} refuses us ({named(error)}): check user and password"
            ) from error
        raise _NotYet(
            f"no MongoDB answers at {shown}: is it up, is the URI right? What is known: {members_of(client)}."
        ) from error
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        if hello.get("isreplicaset"):
            raise _NotYet(f"the MongoDB at {shown} has no replica set yet: run rs.initiate() once.")
        raise StartFailure(
            f"the MongoDB at {shown} is a lone server without replication, which has no transactions: start it with "
            "--replSet and run rs.initiate() once (one member will do), or use a sharded cluster"
        )
    if hello.get("maxWireVersion", 0) < _WIRE_VERSION_MIN:
        raise StartFailure(f"the MongoDB at {shown} is older than 5.0: update it")


async def _open(dao: MongoClickstreamDao, shown: str) -> None:
    try:
        if foreign := await dao.foreign_collections():
            raise StartFailure(
                f"the database at {shown} holds another program's documents in {' and '.join(foreign)}: give us a "
                "database of our own (CLICKSTREAM_MONGODB_DATABASE)"
            )
        await dao.open()
    except UnexpectedDriverError as error:
        if error.code in UNKNOWN_CONCERN_CODES:
            raise StartFailure(
                f"the replica set at {shown} has no such write concern, or no members for it: see its "
                "settings.getLastErrorModes, or leave CLICKSTREAM_MONGODB_WRITE_CONCERN at majority"
            ) from error
        raise StartFailure(
            f"what we need cannot be made in the database at {shown}: {error.log_text}; are there collections of "
            "another program? Then give us a database of our own (CLICKSTREAM_MONGODB_DATABASE)"
        ) from error
    except ClickstreamError as error:
        if is_refused(error.__cause__):
            raise StartFailure(
                f"the MongoDB at {shown} does not let us make collections and indexes: {cause_of(error)}; "
                "the URI needs a user with the role readWrite on the database"
            ) from error
        raise _NotYet(f"the MongoDB at {shown} takes no writes: {error}.") from error
