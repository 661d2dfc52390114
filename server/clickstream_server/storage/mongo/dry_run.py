"""What a dry run would have stored so far, so that it reports what comes twice in it as the import would."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from hashlib import sha256

from clickstream.errors import Overloaded
from clickstream_server.storage.mongo.documents import Document, EventKey, event_key_of, of_hash_alone

KEYS_MAX = 20_000_000
"""So many sessions and events of a dry run are kept account of at most: about 1.5 GB of disk."""
_TABLE = """
PRAGMA journal_mode = OFF;
PRAGMA cache_size = -8192;
CREATE TABLE stored (key BLOB PRIMARY KEY, content_hash BLOB) WITHOUT ROWID;
"""


class DryRun:
    """Keys and hashes only, in an unnamed file that SQLite makes once they are many, so that memory stays bounded.

    To be closed. Raises Overloaded where there is no room for more.
    """

    def __init__(self, *, keys_max: int = KEYS_MAX) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_TABLE)
        self._left = keys_max

    def close(self) -> None:
        self._database.close()

    def sessions(self, session_ids: Iterable[str]) -> dict[str, Document]:
        """Those of these sessions that would have been stored, as documents of which the hash alone is known."""
        found = {session_id: self._hash_of(_key(session_id)) for session_id in set(session_ids)}
        return {session_id: of_hash_alone(session_id, hashed) for session_id, hashed in found.items() if hashed}

    def events(self, events: Iterable[Document]) -> dict[EventKey, Document]:
        """What would have been stored under the keys of these events."""
        found = {event_key_of(event): (event["_id"], self._hash_of(_key(*event_key_of(event)))) for event in events}
        return {key: of_hash_alone(event_id, hashed) for key, (event_id, hashed) in found.items() if hashed}

    def add(self, sessions: Iterable[Document] = (), events: Iterable[Document] = ()) -> None:
        """These would be stored now, in the place of what has the same key."""
        rows = [(_key(session["_id"]), session["content_hash"]) for session in sessions]
        rows += [(_key(*event_key_of(event)), event["content_hash"]) for event in events]
        self._left -= len(rows)
        if self._left < 0:
            raise Overloaded("the dry run has more sessions and events than are kept account of; try it in parts")
        try:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT OR REPLACE INTO stored VALUES (?, ?)", rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise _no_room() from error

    def _hash_of(self, key: bytes) -> bytes | None:
        try:
            found = self._database.execute("SELECT content_hash FROM stored WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise _no_room() from error
        return found[0] if found else None


def _key(*parts: str) -> bytes:
    """The key of a session, or of an event of it. Half a SHA-256 is enough to tell a few million apart."""
    return sha256("\0".join(parts).encode()).digest()[:16]


def _no_room() -> Overloaded:
    return Overloaded("the server has no room on its disk to keep account of this dry run; try it in parts")
