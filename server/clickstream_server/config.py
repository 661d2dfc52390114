"""Settings: read once from flags and environment variables, then frozen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from clickstream.access import is_loopback
from clickstream.values import JSON_DEPTH_MAX, MESSAGE_BYTES_LEAST, MESSAGE_BYTES_MOST
from clickstream_server.bounds import Bounds
from clickstream_server.failures import StartFailure
from clickstream_server.limits import ID_CHARS_MOST, Limits
from clickstream_server.observe.logs import LogFormat
from clickstream_server.storage.mongo.driver import DriverName
from clickstream_server.storage.mongo.options import MongoOptions, ReadConcernName, check_write_concern

ENV_PREFIX = "CLICKSTREAM_"
CLIENT_VARIABLES = frozenset(
    ENV_PREFIX + name
    for name in (
        "TARGET",
        "TLS",
        "TLS_CA",
        "TLS_CLIENT_CERT",
        "TLS_CLIENT_KEY",
        "TOKEN",
        "TOKEN_FILE",
        "TOKEN_IN_CLEAR",
    )
)
"""What the other commands read; no setting of the server, and no misspelling of one."""
OFF = "off"
WORKERS_MAX = 64
_EASILY_MISTAKEN = {"TOKEN_FILE": "tokens_file", "TLS": "tls_cert", "TLS_CA": "tls_client_ca"}
_OFF_WHEN_EMPTY = "ui_listen"
_DEFAULTS = Limits()
_MONGO = MongoOptions()
_BOUNDS = Bounds()
_STORABLE_BYTES = 2 * 1024 * 1024
"""As JSON. In BSON `1,` takes up to 13 bytes, and MongoDB takes documents of 16 MiB."""


def default_data_dir() -> Path:
    """Where data of the user's programs lies by convention (the XDG base directory specification)."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "clickstream"


class Settings(BaseModel):
    """Every setting: a flag `--name-of-it` of `clickstream serve`, or `CLICKSTREAM_NAME_OF_IT`; a flag comes first."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)  # workers get them as JSON

    listen: str = Field("127.0.0.1:50051", description="address and port to serve on; port 0 takes a free one")
    workers: int = Field(1, ge=1, le=WORKERS_MAX, description="processes that serve, all on the one port")
    insecure: bool = Field(default=False, description="serve other machines also without TLS or tokens, and warn")
    tls_cert: Path | None = Field(
        None, description="the server's certificate, in PEM form; with it, clients must use TLS"
    )
    tls_key: Path | None = Field(None, description="the certificate's key, in PEM form")
    tls_client_ca: Path | None = Field(
        None, description="authorities in PEM form; with it, clients must show a certificate of theirs (mutual TLS)"
    )
    tokens_file: Path | None = Field(None, description="who may call: the file that `clickstream token new` writes to")
    mongodb_uri: str = Field("", description="a replica set or sharded cluster; empty starts the embedded MongoDB")
    mongodb_database: str = Field("clickstream", description="the database's name")
    mongodb_driver: DriverName = Field("motor", description=" or ".join(get_args(DriverName)))
    mongodb_max_pool_size: int = Field(_MONGO.max_pool_size, ge=1, description="connections to MongoDB at most")
    mongodb_min_pool_size: int = Field(_MONGO.min_pool_size, ge=0, description="connections to MongoDB that are kept")
    mongodb_write_concern: str = Field(
        _MONGO.write_concern, description="majority, or the name of a write concern of the replica set that includes it"
    )
    mongodb_read_concern: ReadConcernName = Field(
        _MONGO.read_concern, description=" or ".join(get_args(ReadConcernName))
    )
    data_dir: Path = Field(default_factory=default_data_dir, description="where the embedded MongoDB keeps its data")
    mongod: str = Field("", description="the mongod program to embed; empty looks on PATH, then in the wheel")
    storage_timeout_s: float = Field(10.0, gt=0, le=3600, description="seconds that one step in the database may take")
    drain_s: float = Field(
        20.0, ge=0, le=3600, description="seconds that running calls may take after a stop was asked for"
    )
    ui_listen: str = Field(
        "127.0.0.1:50052", description="loopback address and port of the page to look at; `off`: no page"
    )
    health_listen: str = Field(
        "", description="one more address and port for health checks, without TLS and tokens; empty: none"
    )
    calls_max: int = Field(_BOUNDS.calls_max, ge=1, description="unary calls, in flight at once")
    streams_max: int = Field(_BOUNDS.streams_max, ge=1, description="streams that are open at once")
    request_bytes_max: int = Field(
        _BOUNDS.request_bytes_max,
        ge=1,
        description="bytes of the requests of unary calls, in flight at once; as many of those of readers and exports",
    )
    queue_s_max: float = Field(
        _BOUNDS.queue_s_max,
        ge=0,
        description="seconds that calls may be slowed down by a queue before some are refused",
    )
    log_level: str = Field("warning", description="debug, info, warning or error")
    log_format: LogFormat = Field("text", description=" or ".join(get_args(LogFormat)))
    slow_call_s: float = Field(1.0, gt=0, description="seconds after which a call is logged as slow")
    metrics_listen: str = Field(
        OFF, description="address and port that Prometheus asks, such as 127.0.0.1:9464; `off`: no metrics"
    )
    traces: Literal["off", "otlp"] = Field(
        "off", description="`otlp` sends traces as the variables of OpenTelemetry say; `off`: none"
    )
    channelz: bool = Field(False, description="serve gRPC's account of connections, for debugging: true or false")
    id_chars_max: int = Field(_DEFAULTS.id_chars_max, ge=1, le=ID_CHARS_MOST, description="characters of an id")
    event_type_chars_max: int = Field(_DEFAULTS.event_type_chars_max, ge=1, description="characters of an event_type")
    search_results_max: int = Field(_DEFAULTS.search_results_max, ge=0, description="search results of a session")
    events_per_call_max: int = Field(_DEFAULTS.events_per_call_max, ge=1, description="events of one PushEvents")
    meta_bytes_max: int = Field(
        _DEFAULTS.meta_bytes_max, ge=2, le=_STORABLE_BYTES, description="bytes of one meta object as JSON"
    )
    json_depth_max: int = Field(
        _DEFAULTS.json_depth_max, ge=1, le=JSON_DEPTH_MAX, description="levels of objects and lists in JSON, 32 at most"
    )
    session_bytes_max: int = Field(
        _DEFAULTS.session_bytes_max, ge=2, le=_STORABLE_BYTES, description="bytes of one session as JSON, 2 MiB at most"
    )
    message_bytes_max: int = Field(
        _DEFAULTS.message_bytes_max,
        ge=MESSAGE_BYTES_LEAST,
        le=MESSAGE_BYTES_MOST,
        description="bytes of a message, in either direction",
    )
    future_s_max: float = Field(_DEFAULTS.future_s_max, ge=0, description="seconds that created_at may lie ahead")
    age_s_max: float | None = Field(
        _DEFAULTS.age_s_max, gt=0, description="seconds that created_at may lie back; unset: any"
    )

    @field_validator("metrics_listen")
    @classmethod
    def _address_or_off(cls, listen: str) -> str:
        return OFF if listen.lower() == OFF else cls._address_and_port(listen)

    @field_validator("listen")
    @classmethod
    def _address_and_port(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ValueError("must be an address and a port, such as 127.0.0.1:50051")
        return listen

    @field_validator("health_listen")
    @classmethod
    def _address_and_port_or_none(cls, listen: str) -> str:
        return cls._address_and_port(listen) if listen else listen

    @field_validator("ui_listen")
    @classmethod
    def _loopback_or_off(cls, listen: str) -> str:
        if listen.lower() in {"", OFF}:
            return OFF
        if not is_loopback(cls._address_and_port(listen).rpartition(":")[0]):
            raise ValueError(
                "must be a loopback address such as 127.0.0.1:50052, or off: "
                "the page has no TLS, and shows what people searched; to look from elsewhere, forward the port to you"
            )
        return listen

    @field_validator("mongodb_uri")
    @classmethod
    def _mongodb_scheme(cls, uri: str) -> str:
        if uri and not uri.startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("must begin with mongodb:// or mongodb+srv://")
        return uri

    @field_validator("mongodb_database")
    @classmethod
    def _name_of_a_database(cls, name: str) -> str:
        """As MongoDB has it on any system; see «Naming Restrictions» in its manual."""
        if len(name.encode()) > 63:
            raise ValueError("must have 63 bytes in UTF-8 at most")
        if not name or set(name) & set('/\\. "$*<>:|?\0'):
            raise ValueError('must not be empty or have a space, a NUL or any of /\\."$*<>:|?')
        return name

    @field_validator("mongodb_write_concern")
    @classmethod
    def _durable(cls, concern: str) -> str:
        check_write_concern(concern)
        return concern

    @field_validator("mongodb_min_pool_size")
    @classmethod
    def _not_above_the_maximum(cls, size: int, info: ValidationInfo) -> int:
        if size > (most := info.data.get("mongodb_max_pool_size", size)):
            raise ValueError(f"must not be larger than mongodb_max_pool_size, which is {most}")
        return size

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, level: str) -> str:
        if level.lower() not in {"debug", "info", "warning", "error"}:
            raise ValueError("must be debug, info, warning or error")
        return level.lower()

    @property
    def mongo_options(self) -> MongoOptions:
        """The options of the connection, and which of them were set."""
        prefix = "mongodb_"
        values = {name: getattr(self, prefix + name) for name in MongoOptions.__dataclass_fields__ if name != "given"}
        given = frozenset(name for name in values if prefix + name in self.model_fields_set)
        return MongoOptions(**values, given=given)

    @property
    def ui_asked_for(self) -> bool:
        """Whether the page's address was given, rather than left at its default."""
        return "ui_listen" in self.model_fields_set

    @property
    def ui_shown(self) -> bool:
        """Whether there is to be a page: by default, beside a server on loopback only."""
        if self.ui_listen == OFF:
            return False
        return self.ui_asked_for or is_loopback(self.listen.rpartition(":")[0])

    @property
    def metrics_shown(self) -> bool:
        """Whether anything is to be counted."""
        return self.metrics_listen != OFF

    @property
    def bounds(self) -> Bounds:
        """What the server takes on at once."""
        return Bounds(**{name: getattr(self, name) for name in Bounds.__dataclass_fields__})

    @property
    def limits(self) -> Limits:
        """The contract's limits as the storage takes them."""
        return Limits(**{name: getattr(self, name) for name in Limits.__dataclass_fields__})


def load_settings(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Settings from flags (None: not given) and the environment. Raises StartFailure with what is wrong.

    What is given as nothing has its default; a flag so, whatever the environment says.
    """
    said = {
        name: flags.get(name) if flags.get(name) is not None else environment.get(ENV_PREFIX + name.upper())
        for name in Settings.model_fields
    }
    given = {
        name: value
        for name, value in said.items()
        if value not in {None, ""} or (value == "" and name == _OFF_WHEN_EMPTY)
    }
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        message = first["msg"].removeprefix("Value error, ")
        raise StartFailure(f"{ENV_PREFIX}{name.upper()} (--{name.replace('_', '-')}): {message}") from error


def mistaken_settings(settings: Settings, environment: Mapping[str, str]) -> list[str]:
    """What to say of variables that are for clients, where the server's own of nearly the same name is not set."""
    return [
        f"{ENV_PREFIX}{theirs} is for clients, and the server has no {ENV_PREFIX}{ours.upper()}: did you mean that?"
        for theirs, ours in _EASILY_MISTAKEN.items()
        if environment.get(ENV_PREFIX + theirs) and getattr(settings, ours) is None
    ]


def unknown_settings(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none: misspelt, most likely."""
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES
    return sorted(name for name in environment if name.startswith(ENV_PREFIX) and name not in known)
