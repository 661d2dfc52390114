"""Batches: reading, listing, releasing, changing the status. Each change is one atomic write to one document."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from pymongo import DESCENDING, ReturnDocument
from pymongo.errors import DuplicateKeyError

from clickstream.errors import (
    BatchAlreadyCollecting,
    BatchNotFound,
    BatchStatusMismatch,
    InvalidField,
    NoCollectingBatch,
)
from clickstream.models import BatchList, BatchRelease, SessionBatch, SessionBatchStatus
from clickstream_server.clock import now_micros
from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.documents import COLLECTING, Document, batch_from_document
from clickstream_server.storage.mongo.driver import PLAIN_CODEC
from clickstream_server.storage.mongo.new_primary import UpToDate
from clickstream_server.storage.mongo.transactions import past_abandoned

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000


class BatchStore:
    """The batches' collection."""

    def __init__(self, client: Any, database: Any, up_to_date: UpToDate) -> None:
        self._client = client
        self._up_to_date = up_to_date
        self._batches = database[indexes.BATCHES].with_options(codec_options=PLAIN_CODEC)

    async def get(self, batch_id: str) -> SessionBatch | None:
        return await self._up_to_date.read(lambda: self.get_in(None, batch_id))

    async def get_in(self, session: Any, batch_id: str) -> SessionBatch | None:
        """The batch as it is in this session's snapshot."""
        found: Document | None = await self._batches.find_one({"_id": batch_id}, session=session)
        return None if found is None else batch_from_document(found)

    async def collecting(self) -> SessionBatch:
        """The batch that collects. Raises NoCollectingBatch."""
        found: Document | None = await self._up_to_date.read(lambda: self._batches.find_one(COLLECTING))
        if found is None:
            raise NoCollectingBatch.now()
        return batch_from_document(found)

    async def list(self, statuses: Sequence[SessionBatchStatus], page_size: int, page_token: str) -> BatchList:
        """See `ClickstreamDao.list_batches`."""
        size = min(page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
        asked = sorted({status.value for status in statuses})
        query: Document = {"status": {"$in": asked}} if asked else {}
        if page_token:
            created_at, batch_id = _read_page_token(page_token, asked)
            query["$or"] = [
                {"created_at": {"$lt": created_at}},
                {"created_at": created_at, "_id": {"$lt": batch_id}},
            ]
        found = await self._up_to_date.read(lambda: self._newest(query, size + 1))
        token = _page_token(found[size - 1], asked) if len(found) > size else ""
        return BatchList(batches=tuple(map(batch_from_document, found[:size])), next_page_token=token)

    async def _newest(self, query: Document, most: int) -> Sequence[Document]:
        cursor = self._batches.find(query).sort([("created_at", DESCENDING), ("_id", DESCENDING)])
        return [document async for document in cursor.limit(most).batch_size(most)]

    async def release(self, release_id: str) -> BatchRelease:
        """See `ClickstreamDao.release_batch`."""
        if known := await self._released_under(release_id):
            return BatchRelease(batch=known, already_released=True)
        now = now_micros()
        change = {
            "status": SessionBatchStatus.RELEASED.value,
            "release_id": release_id,
            "released_at": now,
            "updated_at": now,
        }
        try:
            sealed: Document | None = await self._change(COLLECTING, {"$set": change})
        except DuplicateKeyError:
            sealed = None
        if sealed is not None:
            return BatchRelease(batch=batch_from_document(sealed), already_released=False)
        # Either nothing collects, or the same release ran at the same time and came first.
        if known := await self._released_under(release_id):
            return BatchRelease(batch=known, already_released=True)
        raise NoCollectingBatch.now()

    async def _released_under(self, release_id: str) -> SessionBatch | None:
        """The batch that this key released. A write that changes nothing, so that the answer is as durable as one."""
        found = await self._change({"release_id": release_id}, {"$set": {"release_id": release_id}})
        return None if found is None else batch_from_document(found)

    async def update_status(
        self, batch_id: str, status: SessionBatchStatus, expected: SessionBatchStatus | None
    ) -> SessionBatch:
        """See `ClickstreamDao.update_batch_status`."""
        query: Document = {"_id": batch_id, "status": {"$ne": status.value}}
        if expected is not None:
            query["$and"] = [{"status": expected.value}]
        change: Document = {"$set": {"status": status.value, "updated_at": now_micros()}}
        if status is SessionBatchStatus.COLLECTING:
            change["$unset"] = {"release_id": "", "released_at": ""}
        while True:
            try:
                changed = await self._change(query, change)
            except DuplicateKeyError as error:
                raise BatchAlreadyCollecting("another batch is collecting; release it first") from error
            if changed is not None:
                return batch_from_document(changed)
            batch = await self.get(batch_id)
            if batch is None:
                raise BatchNotFound.by_id(batch_id)
            if expected is not None and batch.status is not expected:
                raise BatchStatusMismatch(f"the batch's status is {batch.status}, not {expected}")
            if batch.status is status:
                return batch
            # It was changed between the two looks: look again.

    async def _change(self, query: Document, change: Document) -> Document | None:
        async with past_abandoned(self._client):
            changed: Document | None = await self._batches.find_one_and_update(
                query, change, return_document=ReturnDocument.AFTER
            )
        return changed


def _page_token(last: Document, statuses: Sequence[str]) -> str:
    return base64.urlsafe_b64encode(f"{','.join(statuses)}:{last['created_at']}:{last['_id']}".encode()).decode()


def _read_page_token(token: str, statuses: Sequence[str]) -> tuple[int, str]:
    """Where the list goes on. Raises InvalidField, also if it is a list of other statuses."""
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode()
        listed, created_at, batch_id = text.split(":", maxsplit=2)
        moment = int(created_at)
        if not batch_id or not -(2**63) <= moment < 2**63:
            raise ValueError(token)
    except (binascii.Error, ValueError) as error:
        raise InvalidField.at("page_token", "is not a token that this service gave out") from error
    if listed != ",".join(statuses):
        raise InvalidField.at("page_token", "belongs to a list of other statuses")
    return moment, batch_id
