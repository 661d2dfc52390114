"""Of the URI of MongoDB, what is shown and logged: nothing of who may use it."""

from __future__ import annotations

import pytest

from clickstream_server.app import connected_dao
from clickstream_server.config import Settings
from clickstream_server.failures import StartFailure
from clickstream_server.storage.mongo.driver import connect, without_credentials


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://a:1,b:2/clicks?replicaSet=rs", "mongodb://a:1,b:2/clicks"),
        ("mongodb://user:sesame@host:1/clicks?w=majority", "mongodb://host:1/clicks"),
        ("mongodb+srv://user:sesame@host", "mongodb+srv://host"),
        ("mongodb://user:ses#ame@host/clicks", "mongodb://host/clicks"),
        ("mongodb://user:sesame#@host/clicks", "mongodb://host/clicks"),
        ("mongodb://us#er:sesame@[::1]:1", "mongodb://[::1]:1"),
        ("mongodb://user:1/?w=sesame@host", "the given URI"),
        ("mongodb://user:1/sesame&x=y@host", "the given URI"),
        ("mongodb://user:sesame@host/?appname=a@sesame", "the given URI"),
    ],
)
async def test_no_credentials_are_shown(uri: str, shown: str) -> None:
    """Of every URI that the driver takes, hosts and database are shown, and nothing that may be the password's."""
    await connect(uri, "pymongo").close()  # else it would not be shown at all

    assert shown == without_credentials(uri)


@pytest.mark.parametrize("password", ["ses/ame", "12/sesame", "ses?ame", "12?sesame=1", "12/?readPreference=sesame"])
async def test_no_error_holds_a_password(password: str) -> None:
    """A URI whose password is not escaped is refused with what to write instead, and with no part of the password."""
    with pytest.raises(StartFailure) as raised:
        async with connected_dao(f"mongodb://user:{password}@host/clicks", Settings()):
            pass

    assert "write / as %2F and ? as %3F" in str(raised.value)
    assert "ame" not in str(raised.value)


async def test_other_errors_are_the_drivers() -> None:
    """What is wrong beside user and password is named."""
    with pytest.raises(StartFailure, match='Bad database name "a b"'):
        async with connected_dao("mongodb://user:sesame@host/a%20b", Settings()):
            pass
