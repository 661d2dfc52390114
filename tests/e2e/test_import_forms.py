"""Files that `clickstream import` cannot read: one line says what they are and what to do, and nothing goes in.

And what may stand before the rows of those that it can.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from clickstream import ClickstreamClient, Session
from harness import run_program

AGAIN = "python -m clickstream_server import -"
"""How the program is called here, which the line to try has to know."""
ROWS = [{"session": {"session_id": f"s{number}"}, "events": []} for number in range(3)]
ONE_LINE = "".join(f"{json.dumps(row)}\n" for row in ROWS).encode()
A_LINE_EACH = "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n"  # the last row of it would be good


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PAR1\0\0", "Parquet"),
        (ONE_LINE.decode().encode("utf-16"), "UTF-16"),
        (gzip.compress(ONE_LINE.decode().encode("utf-16")), "UTF-16"),
        (bz2.compress(ONE_LINE), f"bzip2 -dc FILE | {AGAIN}"),
        (lzma.compress(ONE_LINE), f"xz -dc FILE | {AGAIN}"),
        (b"PK\x03\x04", f"unzip -p FILE | {AGAIN}"),
        (json.dumps(ROWS).encode(), f"jq -c '.[]' FILE | {AGAIN}"),
        (b"\xef\xbb\xbf" + json.dumps(ROWS, indent=1).encode(), f"jq -c '.[]' FILE | {AGAIN}"),
        (b"\xef\xbb\xbf\n" + A_LINE_EACH.encode(), "jq -c '.[]'"),
        (A_LINE_EACH.encode(), "jq -c '.[]'"),
        (gzip.compress(A_LINE_EACH.replace("\n", "\r\n").encode()), "jq -c '.[]'"),
        (b"[]", "jq -c '.[]'"),
        ("\n".join(json.dumps(row, indent=4) for row in ROWS).encode(), f"jq -c . FILE | {AGAIN}"),
    ],
    ids=[
        *("parquet", "utf-16", "utf-16 in gzip", "bzip2", "xz", "zip"),
        *(
            "array",
            "pretty array",
            "array below a blank line",
            "array of lines",
            "array in gzip",
            "empty array",
            "pretty objects",
        ),
    ],
)
async def test_another_kind_of_file_is_one_error(
    client: ClickstreamClient, tmp_path: Path, content: bytes, what: str
) -> None:
    """What cannot be read is told in one line that says what to do, instead of a refusal for each line."""
    file = tmp_path / "a"
    file.write_bytes(content)

    code, out, complaints = await run_program("import", str(file), "--target", client.target)

    assert (1, "", 1) == (code, out, len(complaints.splitlines())), complaints
    assert what in complaints
    assert () == (await client.list_batches()).batches


async def test_a_log_as_an_array_is_one_error_to_replay(client: ClickstreamClient, tmp_path: Path) -> None:
    """`replay` knows what the rows are, and says as well what is wrong with the file as a whole."""
    file = tmp_path / "a"
    file.write_text(json.dumps([{"query_id": "q", "user_query": "lamp", "timestamp": 1_700_000_000_000}], indent=2))

    code, out, complaints = await run_program("replay", str(file), "--target", client.target)

    assert (1, "", 1) == (code, out, len(complaints.splitlines())), complaints
    assert "jq -c '.[]'" in complaints


@pytest.mark.parametrize("first", ["[2026-11-21] started\n", "[1, 2]\n", '{"session"\n', "{}\n"])
async def test_a_bad_first_row_is_only_a_bad_row(client: ClickstreamClient, tmp_path: Path, first: str) -> None:
    """A row that looks a little like another kind of file is refused, and the others go in."""
    file = tmp_path / "a"
    file.write_bytes(first.encode() + ONE_LINE)

    code, out, complaints = await run_program("import", str(file), "--target", client.target)

    assert (2, "") == (code, complaints)
    counts: dict[str, Any] = {" ".join(line.split()): line for line in out.splitlines()}
    assert "sessions 3 3 0 0 0" in counts


async def test_an_export_with_a_byte_order_mark_is_whole(client: ClickstreamClient, tmp_path: Path) -> None:
    """An export that an editor has put the mark before is still what was exported, also if that was nothing."""
    for name, sessions in (("none", 0), ("one", 1)):
        for number in range(sessions):
            await client.register_session(Session(session_id=f"s{number}"))
        file = tmp_path / name
        code, _, _ = await run_program("export", "--output", str(file), "--target", client.target)
        assert 0 == code
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())

        code, out, complaints = await run_program("import", str(file), "--target", client.target)

        assert (0, "") == (code, complaints)
        assert f"sessions {sessions} 0 {sessions} 0 0" in {" ".join(line.split()) for line in out.splitlines()}


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n\n", b"\n\n"])
async def test_a_refused_row_is_told_by_the_line_of_the_file_alone(
    client: ClickstreamClient, tmp_path: Path, start: bytes
) -> None:
    """Whatever stands before it, a broken row has its line in the file, no other number of a line, and its own text."""
    file, errors = tmp_path / "a", tmp_path / "errors"
    file.write_bytes(start + b'{"cut off\n' + ONE_LINE)

    await run_program("import", str(file), "--errors", str(errors), "--target", client.target)

    told = json.loads(errors.read_text())
    assert (1 + start.count(b"\n"), '{"cut off') == (told["line"], told["row"])
    assert "Invalid JSON: EOF while parsing a string at column 9" == told["message"]
