"""TLS and mutual TLS between real servers and clients, with certificates of the tests' own."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from guarded import Guarded

from certificates import Authority, Pair, encrypted
from clickstream import (
    ClickstreamClient,
    MissingCredentials,
    Session,
    SessionEvent,
    SyncClickstreamClient,
    Tls,
    TokenFile,
    Unavailable,
)
from clickstream.datasets import BatchExamples
from clickstream.export import ExportFilter
from clickstream_server import app
from clickstream_server.config import Settings
from clickstream_server.failures import StartFailure
from harness import ServerProcess, eventually
from scraping import watched


@asynccontextmanager
async def served(mongodb_uri: str, database: str, pair: Pair, **settings: Any) -> AsyncIterator[str]:
    """The address of a server with this certificate."""
    chosen = {"listen": "127.0.0.1:0", "ui_listen": "off", "drain_s": 1.0, **settings}
    all_settings = Settings(
        mongodb_uri=mongodb_uri, mongodb_database=database, tls_cert=pair.cert, tls_key=pair.key, **chosen
    )
    async with app.running(all_settings) as running:
        yield running.address


async def failure(target: str, tls: Tls | bool) -> str:
    """The words that a call ends with."""
    async with ClickstreamClient(target, tls=tls, deadline_s=20) as client:
        with pytest.raises(Unavailable) as raised:
            await client.list_batches()
    return raised.value.message


async def served_with(target: str, ca: Path) -> bool:
    """Whether a new connection finds a server that this authority vouches for."""
    # Without a pool of its own, it would be the connection that another client has.
    async with grpc.aio.secure_channel(
        target, Tls(ca).credentials(), options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), 1)
        except TimeoutError:
            return False
    return True


async def test_calls_of_every_shape_work_over_tls(mongodb_uri: str, database: str, authority: Authority) -> None:
    """With TLS, unary calls and streams work as without, for either client."""
    async with served(mongodb_uri, database, authority.pair()) as target:
        async with ClickstreamClient(target, tls=Tls(authority.ca)) as client:
            await client.register_session(Session(session_id="s"))
            async with client.event_stream() as stream:
                await stream.send(SessionEvent(session_id="s", event_id="e", object_id="o"))
            batch = (await client.release_batch("r")).batch
            read = [found.session.session_id async for found in client.get_batch_sessions(batch.batch_id, follow=True)]
            exported = [page async for page in client.export_sessions(ExportFilter())]

        def work() -> list[str]:
            with SyncClickstreamClient(target, tls=Tls(authority.ca)) as sync:
                return [found.session.session_id for found in sync.get_batch_sessions(batch.batch_id)]

        assert ["s"] == read == await asyncio.to_thread(work)
    assert exported[-1].trailer is not None


async def test_a_pickled_client_keeps_its_tls_and_its_token(
    mongodb_uri: str, database: str, authority: Authority, tmp_path: Path
) -> None:
    """A copy of the synchronous client works as it does, also in a data set; no repr of either shows the token."""
    async with Guarded.started(
        mongodb_uri,
        database,
        tmp_path / "tokens",
        **dict(zip(("tls_cert", "tls_key"), vars(authority.pair()).values(), strict=True)),
    ) as guarded:
        token = guarded.tokens["admin"]
        file = tmp_path / "mine"
        file.write_text(token)

        def work() -> tuple[int, list[str]]:
            shown = []
            for given in (token, TokenFile(file)):
                with SyncClickstreamClient(guarded.address, token=given, tls=Tls(authority.ca)) as client:
                    client.register_session(Session(session_id="s", search_query="q"))
                    batch = client.release_batch("r").batch
                    with pickle.loads(pickle.dumps(client)) as copy:
                        examples = len(list(BatchExamples(copy, batch.batch_id)))
                        shown += [repr(copy), repr(vars(copy)), repr(copy.__reduce__())]
            return examples, shown

        examples, shown = await asyncio.to_thread(work)

    assert 1 == examples
    assert not any(token in text for text in shown)


async def test_wrong_ways_to_a_server_say_what_is_wrong(
    mongodb_uri: str, database: str, authority: Authority, tmp_path: Path
) -> None:
    """An unknown authority, a certificate that is out of date or for another name, TLS on one side: each is said."""
    other = Authority(tmp_path, "other")
    ours = Tls(authority.ca)
    async with served(mongodb_uri, database, authority.pair()) as target:
        untrusted = [await failure(target, tls) for tls in (Tls(other.ca), True)]
        plain = await failure(target, tls=False)
    async with served(mongodb_uri, database, authority.pair("old", age=-timedelta(hours=1))) as target:
        expired = await failure(target, ours)
    async with served(mongodb_uri, database, authority.pair("host", hosts=("clicks.example",))) as target:
        misnamed = await failure(target, ours)
    settings = Settings(listen="127.0.0.1:0", ui_listen="off", mongodb_uri=mongodb_uri, mongodb_database=database)
    async with app.running(settings) as running:
        without = await failure(running.address, ours)

    assert all(words.startswith("no authority that this client trusts vouches for the server") for words in untrusted)
    assert plain.startswith("the server closes the connection at once: if it has TLS, use TLS")
    assert expired.startswith("the server's certificate is out of date")
    assert misnamed.startswith("the server's certificate is not for the name it was called by")
    assert without.startswith("the server does not speak TLS")


async def test_a_certificate_that_clients_refuse_is_warned_of(
    mongodb_uri: str, database: str, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """A server whose certificate has expired serves, and warns; one with a good certificate does not warn."""
    async with served(mongodb_uri, database, authority.pair()):
        assert "clients will not trust" not in caplog.text
    async with served(mongodb_uri, database, authority.pair("old", age=-timedelta(hours=1))):
        assert "authority-old.pem: certificate has expired" in caplog.text


@pytest.mark.parametrize("age", [timedelta(days=3), -timedelta(hours=1)])
async def test_the_metrics_say_when_the_certificate_expires(
    mongodb_uri: str, database: str, authority: Authority, age: timedelta
) -> None:
    """What the certificate says of its end stands in the metrics, also once that has passed."""
    pair = authority.pair("dated", age=age)
    async with watched(mongodb_uri, database, tls_cert=pair.cert, tls_key=pair.key) as server:
        told = await server.sum("clickstream_tls_certificate_expires_timestamp_seconds")

    assert x509.load_pem_x509_certificate(pair.cert.read_bytes()).not_valid_after_utc.timestamp() == told


async def test_mutual_tls_lets_in_who_shows_a_certificate_of_its_authority(
    mongodb_uri: str, database: str, authority: Authority, tmp_path: Path
) -> None:
    """A client with a certificate of the client authority gets in; one of another authority, or none, does not."""
    clients, other = Authority(tmp_path, "clients"), Authority(tmp_path, "other")
    good, wrong = clients.pair("client"), other.pair("client")
    old = clients.pair("old", age=-timedelta(hours=1))
    async with served(mongodb_uri, database, authority.pair(), tls_client_ca=clients.ca) as target:
        async with ClickstreamClient(target, tls=Tls(authority.ca, good.cert, good.key)) as client:
            await client.list_batches()
        refused = [
            await failure(target, tls)
            for tls in (
                Tls(authority.ca),
                Tls(authority.ca, wrong.cert, wrong.key),
                Tls(authority.ca, old.cert, old.key),
                False,
            )
        ]

    assert all("show it a certificate of its authority" in words for words in refused)


async def test_mutual_tls_does_not_stand_in_for_a_token(
    mongodb_uri: str, database: str, authority: Authority, tmp_path: Path
) -> None:
    """With both, a certificate alone is not enough."""
    pair = authority.pair()
    async with Guarded.started(
        mongodb_uri, database, tmp_path / "tokens", tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=authority.ca
    ) as guarded:
        tls = Tls(authority.ca, pair.cert, pair.key)
        async with guarded.client("consumer", tls=tls) as client:
            await client.list_batches()
        async with ClickstreamClient(guarded.address, tls=tls) as client:
            with pytest.raises(MissingCredentials):
                await client.list_batches()


async def test_a_renewed_certificate_is_taken_without_a_restart(
    mongodb_uri: str, database: str, authority: Authority, tmp_path: Path
) -> None:
    """New connections get the renewed certificate; one that is up stays as it is."""
    other = Authority(tmp_path, "other")
    pair = authority.pair()
    async with (
        served(mongodb_uri, database, pair) as target,
        ClickstreamClient(target, tls=Tls(authority.ca)) as client,
    ):
        await client.list_batches()

        pair.replace(other.pair())

        async def renewed() -> bool:
            return await served_with(target, other.ca)

        await eventually(renewed, "new connections get the renewed certificate")
        assert not await served_with(target, authority.ca)
        await client.list_batches()


async def test_a_renewed_client_authority_is_taken_without_a_restart(
    mongodb_uri: str, database: str, authority: Authority, tmp_path: Path
) -> None:
    """Clients of an authority that was taken away are refused from then on."""
    other = Authority(tmp_path, "other")
    mine = authority.pair("client")
    client_ca = tmp_path / "clients.pem"
    client_ca.write_bytes(authority.ca.read_bytes())
    async with served(mongodb_uri, database, authority.pair(), tls_client_ca=client_ca) as target:

        async def answers() -> bool:
            options = [("grpc.use_local_subchannel_pool", 1)]
            credentials = Tls(authority.ca, mine.cert, mine.key).credentials()
            async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
                try:
                    await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
                except grpc.aio.AioRpcError:
                    return False
            return True

        assert await answers()
        client_ca.write_bytes(other.ca.read_bytes())

        async def refused() -> bool:
            return not await answers()

        await eventually(refused, "the client is refused")


@pytest.mark.parametrize("half", ["certificate", "key", "torn", "gone"])
async def test_a_renewal_that_does_not_fit_changes_nothing(  # noqa: PLR0917
    mongodb_uri: str, database: str, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, half: str
) -> None:
    """A new certificate with the old key, the reverse, half a file, none: the old pair stays, and the log says so."""
    other = Authority(tmp_path, "other")
    pair, new = authority.pair(), other.pair()
    if_whole = new.cert.read_bytes()
    async with served(mongodb_uri, database, pair) as target:
        match half:
            case "certificate":
                pair.cert.write_bytes(if_whole)
            case "key":
                pair.key.write_bytes(new.key.read_bytes())
            case "torn":
                pair.cert.write_bytes(if_whole[: len(if_whole) // 2])
            case _:
                pair.key.unlink()

        async def said() -> list[str]:
            ours = [record for record in caplog.records if record.name.startswith("clickstream_server")]
            return [record.getMessage() for record in ours if record.levelno == logging.ERROR]

        (line,) = await eventually(said, "it is logged")
        assert line.startswith("the renewed certificate is not used, the one from before stays: ")
        assert await served_with(target, authority.ca)

        pair.replace(new)

        async def renewed() -> bool:
            return await served_with(target, other.ca)

        await eventually(renewed, "the whole renewal is taken")
        assert 1 == len(await said())


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ({"tls_key": None}, "CLICKSTREAM_TLS_KEY missing"),
        ({"tls_cert": None}, "CLICKSTREAM_TLS_CERT missing"),
        ({"tls_cert": None, "tls_key": None}, "CLICKSTREAM_TLS_CERT and CLICKSTREAM_TLS_KEY missing"),
        ({"tls_cert": "gone.pem"}, "gone.pem cannot be read: No such file"),
        ({"tls_key": "other.key"}, "does not belong to the certificate"),
        ({"tls_cert": "empty"}, "are not a certificate and its key in PEM form"),
        ({"tls_key": "empty"}, "are not a certificate and its key in PEM form"),
        ({"tls_key": "encrypted"}, "is encrypted"),
        ({"tls_client_ca": "empty"}, "holds no certificates in PEM form"),
        ({"tls_client_ca": "server.key"}, "holds no certificates in PEM form"),
        ({"tls_client_ca": "folder"}, "folder cannot be read: Is a directory"),
    ],
)
async def test_files_that_cannot_be_used_keep_the_server_from_starting(
    authority: Authority, tmp_path: Path, spoilt: dict[str, str | None], words: str
) -> None:
    """Missing, empty, encrypted files and those that do not belong together: one line says which."""
    pair = authority.pair()
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "other.key").write_bytes(authority.pair("other").key.read_bytes())
    (tmp_path / "server.key").write_bytes(pair.key.read_bytes())
    (tmp_path / "encrypted").write_bytes(encrypted(pair.key))
    files: dict[str, Path | None] = {"tls_cert": pair.cert, "tls_key": pair.key, "tls_client_ca": authority.ca}
    files |= {name: file if file is None else tmp_path / file for name, file in spoilt.items()}
    settings = Settings(listen="127.0.0.1:0", ui_listen="off", data_dir=tmp_path / "data", **files)

    with pytest.raises(StartFailure) as raised:
        async with app.running(settings):
            pass

    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "None" not in str(raised.value), "what OpenSSL does not know is not told"
    assert not (tmp_path / "data").exists(), "it is found out before a database is started"


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        (Tls("gone.pem"), "gone.pem"),
        (Tls(client_cert="a"), "belong together"),
        (Tls(client_key="a"), "belong together"),
        (Tls(__file__), "holds no certificates"),
        (Tls(client_cert="gone.pem", client_key=__file__), "gone.pem"),
    ],
)
def test_a_client_is_told_at_once_of_files_that_cannot_be_used(tls: Tls, words: str) -> None:
    """Making a client with unusable files raises, rather than its first call."""
    with pytest.raises((ValueError, OSError), match=words):
        ClickstreamClient(tls=tls)


NOT_LET_IN = {
    "no certificate": "PEER_DID_NOT_RETURN_A_CERTIFICATE",
    "a certificate of another authority": "CERTIFICATE_VERIFY_FAILED",
    "no TLS": "WRONG_VERSION_NUMBER",
    "HTTP": "HTTP_REQUEST",
}
"""What docs/debugging.md says that is found in gRPC's own log, by what is wrong with a client."""


async def test_why_clients_get_no_connection_can_be_seen(
    mongodb_uri: str, database: str, authority: Authority, tmp_path: Path
) -> None:
    """With GRPC_VERBOSITY=INFO the server says of each handshake that failed what docs/debugging.md has for it."""
    pair, stranger = authority.pair(), Authority(tmp_path, "other").pair("stranger")
    server = await ServerProcess.start(
        environment={"GRPC_VERBOSITY": "INFO"},
        mongodb_uri=mongodb_uri,
        mongodb_database=database,
        tls_cert=pair.cert,
        tls_key=pair.key,
        tls_client_ca=authority.ca,
    )
    clients = {
        "no certificate": Tls(authority.ca),
        "a certificate of another authority": Tls(authority.ca, stranger.cert, stranger.key),
        "no TLS": False,
    }
    for wrong, tls in clients.items():
        await failure(server.address, tls)
        await server.says(NOT_LET_IN[wrong])
    host, _, port = server.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await server.says(NOT_LET_IN["HTTP"])
    writer.close()
    assert 0 == await server.stop()
    page = (Path(__file__).parents[2] / "docs" / "debugging.md").read_text()
    assert [] == [words for words in NOT_LET_IN.values() if f"`{words}`" not in page]
