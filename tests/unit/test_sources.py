"""Files as lines: what compression allows."""

from __future__ import annotations

import gzip

import pytest

from clickstream_server.bulk.sources import Format, Generated, opened

PIECE_BYTES = 64 * 1024
"""So much of a file is read at once; the first four bytes are looked at before."""

ONE, TWO = gzip.compress(b"one\n", mtime=0), gzip.compress(b"two\n", mtime=0)


def read(content: bytes) -> tuple[list[bytes], str | None]:
    """The lines of a file, and what is wrong with it."""
    with opened(Generated("a", content), lambda _: None, Format.SESSIONS) as source:
        lines = list(iter(source.lines.readline, b""))
        return lines, source.lines.fault


@pytest.mark.parametrize("until", [4 + PIECE_BYTES, 4 + 3 * PIECE_BYTES, 100, 4 + PIECE_BYTES + 1])
def test_what_follows_padding_is_read(until: int) -> None:
    """Behind zeros, however many, another member is read; what is none is told."""
    padded = ONE.ljust(until, b"\0")

    assert ([b"one\n"], None) == read(padded)
    assert ([b"one\n", b"two\n"], None) == read(padded + TWO)
    assert ([b"one\n"], "the compressed data is damaged from here on") == read(padded + b"two\n")
    assert ([b"one\n"], "the compressed data ends too early: the file is cut off") == read(padded + TWO[:9])
