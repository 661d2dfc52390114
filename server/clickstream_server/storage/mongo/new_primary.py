"""Reads that show every write that was acknowledged before, also where another primary was elected meanwhile.

A new primary has all that was acknowledged, but of the last of it it may not know yet that a majority has it, too. It
learns that once a write of its own has reached a majority, which may take seconds. Until then it reads as a majority's
what was so a little earlier: a session would not be known whose registration was acknowledged before. So what was read
from a primary that is new to us is read again once such a write is through.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pymongo.topology_description import TOPOLOGY_TYPE

from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.driver import maybe_await, unwrapped

T = TypeVar("T")


class UpToDate:
    """Makes reads that are up to date. One for all reads of a client, on a replica set.

    A sharded cluster does not tell of the elections in its shards: there a read is what it is.
    """

    def __init__(self, client: Any, database: Any) -> None:
        self._client = client
        self._batches = database[indexes.BATCHES]
        self._election: Any = None
        """The last one whose primary is known to have had a majority for a write of its own."""
        self._waiting = asyncio.Lock()

    async def begin(self) -> None:
        """Do at the start what the first read would have to do, and to be made again for."""
        await self._until_majority(self._last_election())

    async def read(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` returns, which is called again if it may have been told what is out of date."""
        while True:
            known = self._election  # as of before: what another call learns meanwhile says nothing of this read
            found = await read()
            # Looked at afterwards: the read may have waited for the primary to be elected.
            if (election := self._last_election()) == known:
                return found
            await self._until_majority(election)

    @asynccontextmanager
    async def snapshot(self, first: Callable[[Any], Awaitable[T]]) -> AsyncIterator[tuple[Any, T]]:
        """A snapshot session, and what `first(session)` has read in it. All that is read in it is of that moment."""
        while True:
            known = self._election
            async with await maybe_await(self._client.start_session(snapshot=True)) as session:
                found = await first(session)
                if (election := self._last_election()) == known:
                    yield session, found
                    return
            await self._until_majority(election)

    def _last_election(self) -> Any:
        """The last one that the driver has heard of. It reads from no primary before it has."""
        known = unwrapped(self._client).topology_description
        if known.topology_type == TOPOLOGY_TYPE.Single:  # with `directConnection` it looks at one member alone
            return next(iter(known.server_descriptions().values())).election_id
        return known.max_election_id

    async def _until_majority(self, election: Any) -> None:
        async with self._waiting:
            if election != self._election:
                # It changes nothing, and waits for a majority to have all that the primary has, as any write does.
                await self._batches.update_one({"_id": ""}, {"$set": {"updated_at": 0}})
                self._election = election
