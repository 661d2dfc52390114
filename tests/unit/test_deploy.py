"""The files of deploy/ against the code: an orchestrator takes a misspelt name or a port that is off without a word."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clickstream_server.app import SERVICES
from clickstream_server.config import ENV_PREFIX, Settings
from clickstream_server.health import LIVENESS
from clickstream_server.storage.mongo.driver import CLOSE_S_MAX

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
LAST_ANSWERS_S = 3
"""What `app._stop` takes beside `drain_s`."""
LEAVE_S = 3 * CLOSE_S_MAX + 1
"""What the last group commit, the readers, the connection and the driver's own tasks take of a database that hangs."""
SPANS_S = 3
"""What a collector of traces takes that hangs."""


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifests() -> list[dict[str, Any]]:
    """What `kubectl apply -k` applies."""
    [kustomization] = documents(KUBERNETES / "kustomization.yaml")
    return [document for name in kustomization["resources"] for document in documents(KUBERNETES / name)]


def manifest(kind: str) -> dict[str, Any]:
    [found] = [document for document in manifests() if document["kind"] == kind]
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("Deployment")["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    [found] = pod()["containers"]
    return found


def image_environment() -> dict[str, str]:
    """What the image sets of the server's settings."""
    return dict(re.findall(rf"({ENV_PREFIX}\w+)=(\S+)", (DEPLOY / "Dockerfile").read_text()))


def pod_environment() -> dict[str, str]:
    return image_environment() | {entry["name"]: entry.get("value", "") for entry in container()["env"]}


def compose() -> dict[str, Any]:
    [found] = documents(DEPLOY / "compose.yaml")
    return found


def server() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]["clickstream"]
    return found


def ports_of(environment: dict[str, str]) -> dict[str, int]:
    """The ports that this environment has the server listen on, by setting."""
    return {
        name.removeprefix(ENV_PREFIX).lower(): int(value.rpartition(":")[2])
        for name, value in environment.items()
        if name.endswith("LISTEN") and value != "off"
    }


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text.removesuffix("s"))


def default(name: str) -> float:
    found: float = Settings.model_fields[name].default
    return found


def test_every_variable_is_a_setting() -> None:
    """Every CLICKSTREAM_ variable in deploy/ is a setting of the server."""
    texts = [path.read_text() for path in DEPLOY.rglob("*") if path.suffix in {".yaml", ""} and path.is_file()]
    used = {name.lower() for text in texts for name in re.findall(rf"{ENV_PREFIX}([A-Z_]+)", text)}

    assert {"mongodb_uri", "listen"} <= used
    assert set() == used - Settings.model_fields.keys()


@pytest.mark.parametrize("environment", [image_environment(), pod_environment()], ids=["image", "pod"])
def test_servers_listen_where_others_reach_them(environment: dict[str, str]) -> None:
    """In a container, loopback reaches nobody."""
    listens = [value for name, value in environment.items() if name.endswith("LISTEN") and value != "off"]

    assert ["0.0.0.0"] * len(listens) == [value.rpartition(":")[0] for value in listens]


def test_the_images_ports_are_those_it_listens_on() -> None:
    """What the Dockerfile exposes, and what its health check asks, is what it has the server listen on."""
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    ports = ports_of(image_environment())
    exposed = re.search(r"^EXPOSE (.*)$", dockerfile, re.MULTILINE)
    asked = re.search(r'"--target", "127\.0\.0\.1:(\d+)"', dockerfile)

    assert exposed is not None
    assert asked is not None
    assert {str(port) for port in ports.values()} == set(exposed[1].split())
    assert ports["health_listen"] == int(asked[1])


def test_the_image_asks_whether_it_lives() -> None:
    """Who restarts a container that is unhealthy, as Swarm does, does not do so because MongoDB is away."""
    asked = re.search(
        r'^ +CMD \["clickstream", "ping", .*"--service", "([^"]+)"', (DEPLOY / "Dockerfile").read_text(), re.MULTILINE
    )

    assert asked is not None
    assert LIVENESS == asked[1]


def test_the_pods_ports_are_those_it_listens_on() -> None:
    """Container, services, probes and network policy name ports that the server listens on."""
    listens = ports_of(pod_environment())
    named = {port["name"]: port["containerPort"] for port in container()["ports"]}
    policy = manifest("NetworkPolicy")["spec"]["ingress"]

    assert set(listens.values()) == set(named.values())
    assert [(port["name"], named[port["name"]]) for port in manifest("Service")["spec"]["ports"]] == [
        (port["targetPort"], port["port"]) for port in manifest("Service")["spec"]["ports"]
    ]
    assert [listens["listen"], listens["metrics_listen"]] == [port["port"] for rule in policy for port in rule["ports"]]
    assert {listens["health_listen"]} == {probe["grpc"]["port"] for probe in probes().values()}


def probes() -> dict[str, Any]:
    return {name: container()[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}


def test_probes_ask_for_what_there_is() -> None:
    """Who restarts a pod asks whether it lives, who sends it calls whether it serves."""
    asked = {name: probe["grpc"].get("service", "") for name, probe in probes().items()}

    assert {"startup": LIVENESS, "liveness": LIVENESS, "readiness": ""} == asked
    assert LIVENESS not in SERVICES


def test_nobody_is_killed_while_draining() -> None:
    """Both orchestrators wait for longer than a stop takes: the drain, the last answers, and others that hang."""
    before = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    steps_s = [default("drain_s"), LAST_ANSWERS_S, LEAVE_S, SPANS_S]
    stop_s = sum(steps_s)
    told = re.search(r"More than all that a stop may take: (.*?\.)\n", _unwrapped("kubernetes/deployment.yaml"))

    assert told is not None
    assert [before, *steps_s] == list(map(int, re.findall(r"(\d+) s\b", told[1])))
    assert pod()["terminationGracePeriodSeconds"] > before + stop_s
    assert seconds(server()["stop_grace_period"]) > stop_s


def _unwrapped(name: str) -> str:
    """The file, with comments of several lines in one."""
    return re.sub(r"\n *# ", " ", (DEPLOY / name).read_text())


def test_everything_selects_the_pods() -> None:
    """Deployment, service, disruption budget and network policy choose pods by labels that the pods have."""
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        manifest("Deployment")["spec"]["selector"]["matchLabels"],
        manifest("Service")["spec"]["selector"],
        manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod()["topologySpreadConstraints"]),
    ]

    assert all(selector and selector.items() <= labels for selector in selectors)


def test_the_secrets_are_those_of_the_example() -> None:
    """Every secret and key that the deployment needs stands in the example, and no other."""
    example = {
        secret["metadata"]["name"]: set(secret["stringData"])
        for secret in documents(KUBERNETES / "secrets.example.yaml")
    }
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    folders = {
        mounts[volume["name"]]: volume["secret"]["secretName"] for volume in pod()["volumes"] if "secret" in volume
    }
    used: dict[str, set[str]] = {}
    for entry in container()["env"]:
        if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
            used.setdefault(reference["name"], set()).add(reference["key"])
        folder, _, file = entry.get("value", "").rpartition("/")
        if folder:
            used.setdefault(folders[folder], set()).add(file)

    assert example == used


def test_compose_hands_over_its_secrets() -> None:
    """The files that the server is told to read lie in the folder that it is given, and `prepare` makes them."""
    prepare = (DEPLOY / "compose" / "prepare").read_text()
    [(source, target, how)] = [volume.split(":") for volume in server()["volumes"]]
    read = [value for value in server()["environment"].values() if value.startswith("/")]

    assert ("./compose/secrets", "ro", 3) == (source, how, len(read))
    for path in read:
        folder, _, name = path.rpartition("/")
        assert target == folder
        assert f"secrets/{name}" in prepare


def test_compose_starts_things_in_order() -> None:
    """The server waits for the replica set, which waits for healthy members, which wait for their key."""
    services = compose()["services"]

    def waits(name: str) -> dict[str, str]:
        return {on: how["condition"] for on, how in services[name].get("depends_on", {}).items()}

    members = [f"mongo-{number}" for number in (1, 2, 3)]
    assert {"replica-set": "service_completed_successfully"} == waits("clickstream")
    assert dict.fromkeys(members, "service_healthy") == waits("replica-set")
    assert [{"keyfile": "service_completed_successfully"}] * 3 == [waits(member) for member in members]
    assert all(services[member]["healthcheck"]["test"] for member in members)
    assert members == re.findall(r"'(mongo-\d)'", (DEPLOY / "compose" / "replica-set.js").read_text())


def images() -> Iterator[str]:
    yield from re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    yield from {service["image"] for service in compose()["services"].values()} - {"clickstream"}


def test_foreign_images_are_pinned() -> None:
    """Every image that is not ours is an official one, at one version."""
    assert [] == [image for image in images() if not re.fullmatch(r"[a-z]+:\d+\.\d+\.\d+(-[a-z-]+)?", image)]


@pytest.mark.parametrize("place", ["kubernetes", "compose"])
def test_a_large_dry_run_has_room(place: str) -> None:
    """Though all else is read-only, there is somewhere to write: a dry run keeps its account in a temporary file."""
    if place == "kubernetes":
        [mount] = [mount for mount in container()["volumeMounts"] if not mount.get("readOnly")]
        assert ("/tmp", {"name": mount["name"], "emptyDir": {}}) == (
            mount["mountPath"],
            *(volume for volume in pod()["volumes"] if volume["name"] == mount["name"]),
        )
    else:
        assert ["/tmp"] == [mount.partition(":")[0] for mount in server()["tmpfs"]]


@pytest.mark.parametrize("place", ["kubernetes", "compose"])
def test_servers_get_no_more_than_they_need(place: str) -> None:
    """Not root, a read-only file system, no capabilities."""
    if place == "kubernetes":
        allowed = container()["securityContext"]
        assert (True, False, ["ALL"]) == (
            allowed["readOnlyRootFilesystem"],
            allowed["allowPrivilegeEscalation"],
            allowed["capabilities"]["drop"],
        )
        assert pod()["securityContext"]["runAsNonRoot"]
    else:
        assert (True, ["ALL"], ["no-new-privileges:true"]) == (
            server()["read_only"],
            server()["cap_drop"],
            server()["security_opt"],
        )
    user = re.search(r"^USER (\d+):(\d+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    assert "0" not in user.groups()
    assert {user[1]} == {str(pod()["securityContext"][name]) for name in ("runAsUser", "runAsGroup", "fsGroup")}


def test_prepare_can_be_run() -> None:
    """The script is executable as it stands in the repository."""
    assert (DEPLOY / "compose" / "prepare").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("fails", [True, False])
def test_prepare_says_why_there_is_no_certificate(tmp_path: Path, *, fails: bool) -> None:
    """Where openssl cannot make the certificate, the script ends with what it said; where it can, it says nothing."""
    folder = tmp_path / "deploy" / "compose"
    folder.mkdir(parents=True)
    script = shutil.copy(DEPLOY / "compose" / "prepare", folder)
    openssl = tmp_path / "openssl"
    makes = 'for name in key crt.new; do echo made >"secrets/tls.$name"; done'
    openssl.write_text(f"#!/bin/sh\necho 'req: Unrecognized flag addext' >&2\n{'exit 1' if fails else makes}\n")
    openssl.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run([script], env={"PATH": path}, capture_output=True, text=True, check=False)

    said = "req: Unrecognized flag addext\nprepare: openssl made no certificate; version 1.1.1 and newer do\n"
    assert ((1, said) if fails else (0, "")) == (done.returncode, done.stderr)
    assert fails is not (folder / "secrets" / "tls.crt").exists()
