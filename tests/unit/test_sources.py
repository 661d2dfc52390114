"""Files as lines: what compression allows, and how the form of the rows is recognised."""

from __future__ import annotations

import gzip
import json
from codecs import BOM_UTF8 as BOM
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from clickstream_server.bulk.sources import Format, Generated, opened

PIECE_BYTES = 64 * 1024
"""So much of a file is read at once; the first four bytes are looked at before."""

ONE, TWO = gzip.compress(b"one\n", mtime=0), gzip.compress(b"two\n", mtime=0)


def read(content: bytes) -> tuple[list[bytes], str | None]:
    """The lines of a file, and what is wrong with it."""
    with opened(Generated("a", content), lambda _: None, Format.SESSIONS) as source:
        lines = list(iter(source.lines.readline, b""))
        return lines, source.lines.fault


def recognised(*rows: Any) -> Format:
    content = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    with opened(Generated("a", content), lambda _: None) as source:
        return source.format


@pytest.mark.parametrize("until", [4 + PIECE_BYTES, 4 + 3 * PIECE_BYTES, 100, 4 + PIECE_BYTES + 1])
def test_what_follows_padding_is_read(until: int) -> None:
    """Behind zeros, however many, another member is read; what is none is told."""
    padded = ONE.ljust(until, b"\0")

    assert ([b"one\n"], None) == read(padded)
    assert ([b"one\n", b"two\n"], None) == read(padded + TWO)
    assert ([b"one\n"], "the compressed data is damaged from here on") == read(padded + b"two\n")
    assert ([b"one\n"], "the compressed data ends too early: the file is cut off") == read(padded + TWO[:9])


@pytest.mark.parametrize("window_log", [27, 28])
def test_zstd_may_look_back_far(window_log: int) -> None:
    """What `zstd --long` has packed is read, however far that looks back."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, chain_log=6, hash_log=6)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # which says no size in its header

    assert ([b"one\n"], None) == read(packer.compress(b"one\n") + packer.flush())


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"o", b"one\n", b"\r\n\none\ntwo", b"\xef\xbb", b"\xbb\xbf\xef\xbb\xbf\n"]
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_a_byte_order_mark_is_no_part_of_the_lines(pack: Callable[[bytes], bytes], content: bytes) -> None:
    """A file that begins with one, packed or not, has the lines that it has without; anywhere else it stays."""
    expected = content.splitlines(keepends=True), None

    assert expected == read(pack(content))
    assert expected == read(pack(BOM + content))


@pytest.mark.parametrize(
    "row",
    [
        {"query_id": "q", "action_name": "click", "session_id": "visit"},
        {"query_id": "q", "user_query": "lamp", "session_id": "visit"},
        {"query_id": "q", "user_query": "lamp", "session": "visit"},
    ],
)
def test_a_log_is_recognised_whatever_else_its_rows_hold(row: dict[str, Any]) -> None:
    """A row of a search log that names a visit is no session."""
    assert Format.UBI == recognised(row)


@pytest.mark.parametrize(
    "row", [{"session": {}}, {"session": "s", "events": []}, {"session_id": "s"}, {"trailer": {}}, {"query": 1}, {}]
)
def test_anything_else_is_taken_for_sessions(row: dict[str, Any]) -> None:
    """Rows that are none of a log are taken for sessions, and refused as such if they are none."""
    assert Format.SESSIONS == recognised(row)
