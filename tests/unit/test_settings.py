"""Settings as they are given, and as workers get them."""

from __future__ import annotations

import pytest

from clickstream_server.config import Settings, load_settings
from clickstream_server.failures import StartFailure
from clickstream_server.limits import ID_CHARS_MOST

SECONDS = [name for name, field in Settings.model_fields.items() if field.annotation in {float, float | None}]


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", ["inf", "Infinity", "-inf", "nan", "1e999"])
def test_seconds_are_a_number(name: str, value: str) -> None:
    """Every setting of seconds refuses what is no finite number, which JSON cannot tell workers, by its name."""
    with pytest.raises(StartFailure, match=f"CLICKSTREAM_{name.upper()} .*finite number"):
        load_settings({}, {f"CLICKSTREAM_{name.upper()}": value})


def test_workers_get_the_settings_as_they_are() -> None:
    """Seconds at the ends of what is allowed are the same for workers."""
    given = {"future_s_max": "1e308", "queue_s_max": "0", "slow_call_s": "5e-324", "age_s_max": "1e308"}
    settings = load_settings(given, {})

    assert settings == Settings.model_validate_json(settings.model_dump_json(exclude_unset=True))
    assert given.keys() < set(SECONDS)


@pytest.mark.parametrize("name", ["mongodb_uri", "tokens_file", "health_listen", "age_s_max"])
def test_an_empty_flag_counts(name: str) -> None:
    """A flag that is given as nothing has its default, whatever the variable says; an empty variable has it as well."""
    variable = f"CLICKSTREAM_{name.upper()}"
    elsewhere = {"mongodb_uri": "mongodb://elsewhere", "age_s_max": "5"}.get(name, "127.0.0.1:1")

    assert str(getattr(load_settings({name: None}, {variable: elsewhere}), name)) in {elsewhere, f"{elsewhere}.0"}
    for flag, said in (("", elsewhere), ("", ""), (None, "")):
        assert Settings() == load_settings({name: flag}, {variable: said})


@pytest.mark.parametrize("name", ["listen", "ui_listen", "health_listen", "metrics_listen"])
@pytest.mark.parametrize("value", ["127.0.0.1:²", "127.0.0.1:\u0665", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:"])
def test_a_port_is_a_number_that_ports_have(name: str, value: str) -> None:
    """What is no port is refused with an example of one."""
    with pytest.raises(StartFailure, match=r"must be an address and a port, such as 127\.0\.0\.1:50051"):
        load_settings({name: value}, {})


def test_a_databases_name_is_short_as_mongodb_counts() -> None:
    """MongoDB takes 63 bytes, which are fewer characters where these are not ASCII."""
    assert "ä" * 31 == load_settings({"mongodb_database": "ä" * 31}, {}).mongodb_database
    with pytest.raises(StartFailure, match=r"CLICKSTREAM_MONGODB_DATABASE .*63 bytes"):
        load_settings({"mongodb_database": "ä" * 32}, {})


@pytest.mark.parametrize("name", ["a b", "a/b", "a.b", "$a", "a\\b", 'a"', "a*", "<a", "a>", "a:", "a|", "a?", "a\0"])
def test_a_databases_name_is_told_in_words(name: str) -> None:
    """What MongoDB does not take in a name is said in words, not as a pattern."""
    with pytest.raises(StartFailure, match=r"CLICKSTREAM_MONGODB_DATABASE .*must not be empty or have a space, a NUL"):
        load_settings({"mongodb_database": name}, {})


def test_ids_may_be_as_wide_as_a_thousand_fit_into_a_command() -> None:
    """More characters than that are refused, by the setting's name."""
    assert ID_CHARS_MOST == load_settings({"id_chars_max": str(ID_CHARS_MOST)}, {}).id_chars_max
    with pytest.raises(StartFailure, match=r"CLICKSTREAM_ID_CHARS_MAX .*1024"):
        load_settings({"id_chars_max": str(ID_CHARS_MOST + 1)}, {})
