"""What is stored under the keys of what is sent: enough of it to tell a retry from a conflict.

What is sent may be small where what is stored under the same keys is large. So memory is bounded by what is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from operator import itemgetter
from typing import Any, TypeVar

from bson import decode_iter

from clickstream_server.canonical import canonical_event, canonical_session, content_hash
from clickstream_server.storage.mongo.documents import Document, EventKey, event_key_of, of_hash_alone
from clickstream_server.storage.mongo.driver import CODEC, maybe_await
from clickstream_server.storage.mongo.parts import in_parts

K = TypeVar("K", bound=str | EventKey)

WHOLE_BYTES_AT_ONCE = 2 * 1024 * 1024
"""About so many bytes of documents are held whole at a time, or one document if that is larger."""
KEYS_AT_ONCE = 1_000
"""So many keys fit into 16 MiB, a command's or its answer's, however wide they are: two ids of `ID_CHARS_MOST`
characters, four bytes each."""
_HASH_AND_SIZE = {"content_hash": 1, "size": {"$bsonSize": "$$ROOT"}}


async def known_sessions(sessions: Any, sent: Iterable[Document], *, session: Any = None) -> dict[str, Document]:
    """What stands for those of these sessions that are stored; see `of_hash_alone`."""
    return await _known(sessions, sent, itemgetter("_id"), canonical_session, session)


async def known_events(events: Any, sent: Iterable[Document], *, session: Any = None) -> dict[EventKey, Document]:
    """As `known_sessions`, of events."""
    return await _known(events, sent, event_key_of, canonical_event, session)


async def _known(
    collection: Any,
    sent: Iterable[Document],
    key_of: Callable[[Document], K],
    canonical: Callable[[Document], bytes],
    session: Any,
) -> dict[K, Document]:
    """Only where the stored hash differs from that of what is sent, the document is read, to see how it reads now."""
    ids, hashes = {}, dict[K, set[bytes]]()
    for document in sent:
        ids[key := key_of(document)] = document["_id"]
        hashes.setdefault(key, set()).add(document["content_hash"])
    found, others, asked = dict[K, Document](), [], list(ids.values())
    for at in range(0, len(asked), KEYS_AT_ONCE):
        async for document in _documents(collection, asked[at : at + KEYS_AT_ONCE], session, _HASH_AND_SIZE):
            found[key := key_of(document)] = of_hash_alone(document["_id"], document["content_hash"])
            if hashes[key] != {document["content_hash"]}:
                others.append(document)
    for part in in_parts(others, itemgetter("size"), WHOLE_BYTES_AT_ONCE):
        async for document in _documents(collection, [other["_id"] for other in part], session):
            reads_as = content_hash(canonical(document))
            found[key_of(document)] = of_hash_alone(document["_id"], document["content_hash"], reads_as)
    return found


async def _documents(
    collection: Any, ids: list[Any], session: Any, projection: Document | None = None
) -> AsyncIterator[Document]:
    """Also for `in_one_thread`, where a cursor is no asynchronous one. What was read and yielded is not held on to."""
    cursor = collection.find_raw_batches({"_id": {"$in": ids}}, projection, session=session).batch_size(len(ids) + 1)
    while cursor.alive:
        for batch in await maybe_await(cursor.to_list(1)):
            for document in decode_iter(batch, CODEC):
                yield document
