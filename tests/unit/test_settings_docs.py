"""docs/settings.md, docs/errors.md and what clients are told of keepalive against the code."""

from __future__ import annotations

import re
from pathlib import Path

from clickstream.errors import BY_STATUS
from clickstream_server.config import ENV_PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def _rows(page: str) -> list[str]:
    """The rows of all tables, without heads and rules."""
    tables = re.findall(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", (DOCS / page).read_text(), re.MULTILINE)
    return [row for table in tables for row in table.splitlines()]


def _settings_row(name: str) -> str:
    field = Settings.model_fields[name]
    default = "see below" if field.default_factory else f"`{field.default}`" if field.default not in {None, ""} else ""
    return f"| `{ENV_PREFIX}{name.upper()}` | `--{name.replace('_', '-')}` | {default} | {field.description} |"


def test_every_setting_is_documented_as_it_is() -> None:
    """The tables of docs/settings.md have every setting, in the code's order, with its default and description."""
    assert [_settings_row(name) for name in Settings.model_fields] == _rows("settings.md")


def test_every_error_is_documented() -> None:
    """The table of docs/errors.md has every code and reason that the code has, and no other."""
    with_reason = {code for code, reason in BY_STATUS if reason}
    known = {(code.name, reason) for code, reason in BY_STATUS if reason or code not in with_reason}
    documented = [re.findall(r"`(\w+)`", "|".join(row.split("|")[1:3])) for row in _rows("errors.md")]

    assert sorted(known) == sorted((found[0], found[1] if len(found) > 1 else "") for found in documented)


def test_how_often_clients_may_ping_is_told() -> None:
    """The page of the examples says how often to ping, and the examples keep to it."""
    page = (ROOT / "examples" / "README.md").read_text()
    ours = re.search(r"keepalive pings every (\d+) seconds", page)

    assert ours is not None
    assert f"Time: {ours[1]} * time.Second" in (ROOT / "examples/go/internal/service/service.go").read_text()
