"""The pure heart of the group commit: what a group of calls comes to."""

from __future__ import annotations

import asyncio

from sent import document_of

from clickstream import Session, SessionNotFound, WriteOutcome
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.numbering import Intent, Plan, SessionWrite, WriteResult
from clickstream_server.storage.mongo.numbering import plan as plan_group

LOOP = asyncio.BaseEventLoop()
"""Never run: a call carries a future, and a future wants a loop."""
LOOP.close()
NOW = 1_700_000_000_000_000


def plan(group: list[SessionWrite], stored: dict[str, Document], batch_id: str, first_number: int, now: int) -> Plan:
    made = plan_group(group, stored, {}, collecting=batch_id, now=now)
    made.number(batch_id, first_number)
    return made


def call(session_id: str, query: str = "lamp", *, replace: bool = False) -> SessionWrite:
    session = Session(session_id=session_id, search_query=query)
    done: asyncio.Future[WriteResult] = asyncio.Future(loop=LOOP)
    return SessionWrite(
        document_of(session), content_bytes=100, intent=Intent.UPDATE if replace else Intent.REGISTER, done=done
    )


def stored(session_id: str, query: str, batch_id: str, number: int) -> dict[str, Document]:
    made = plan([call(session_id, query)], {}, batch_id, number, NOW)
    return made.sessions


def numbers(made: Plan) -> list[int]:
    return [result.stored["session_number"] for result in made.results() if isinstance(result, WriteResult)]


def outcomes(made: Plan) -> list[WriteOutcome | type]:
    return [result.outcome if isinstance(result, WriteResult) else type(result) for result in made.results()]


def test_new_sessions_are_numbered_in_the_order_of_their_calls() -> None:
    """New sessions get consecutive numbers from the first free one."""
    made = plan([call("a"), call("b"), call("c")], {}, "B", 7, NOW)

    assert [7, 8, 9] == numbers(made)
    assert 3 == made.used


def test_a_known_id_uses_up_no_number() -> None:
    """A registration of a known id, stored or earlier in the group, takes no number from those that follow."""
    made = plan([call("a"), call("b"), call("b"), call("c")], stored("a", "lamp", "B", 1), "B", 2, NOW)

    assert [1, 2, 2, 3] == numbers(made)
    assert 2 == made.used


def test_other_content_under_a_known_id_is_a_conflict() -> None:
    """Within a group, the second of two calls with one id and other content is told what the first one stored."""
    made = plan([call("a", "lamp"), call("a", "sofa")], {}, "B", 1, NOW)

    assert [WriteOutcome.INSERTED, WriteOutcome.CONFLICT] == outcomes(made)
    assert "lamp" == made.sessions["a"]["search_query"]


def test_an_update_moves_a_session_from_a_sealed_batch() -> None:
    """An update of a session in another batch takes a number, even if its content is the same."""
    made = plan([call("a", replace=True)], stored("a", "lamp", "OLD", 5), "B", 1, NOW)

    assert [1] == numbers(made)
    assert "B" == made.sessions["a"]["batch_id"]


def test_a_repeated_update_changes_nothing() -> None:
    """An update with the content that is stored in the collecting batch takes no number and writes nothing."""
    made = plan([call("a", replace=True)], stored("a", "lamp", "B", 5), "B", 9, NOW)

    assert [5] == numbers(made)
    assert {} == made.sessions


def test_an_update_of_an_unknown_session_fails_alone() -> None:
    """An update of an unknown id is an error of that call; the others get their numbers."""
    made = plan([call("a"), call("x", replace=True), call("b")], {}, "B", 1, NOW)

    assert [WriteOutcome.INSERTED, SessionNotFound, WriteOutcome.INSERTED] == outcomes(made)
    assert [1, 2] == numbers(made)
