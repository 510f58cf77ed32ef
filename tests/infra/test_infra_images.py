"""The images are built from files that exist, at the tested versions, and do not run as root; the server asks for its
secrets instead of holding them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ["infra/docker/Dockerfile", "infra/mlflow/Dockerfile"]


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of each line, continued lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def copied(name: str) -> list[str]:
    """What the image takes from the repository."""
    words = [arguments.split() for instruction, arguments in instructions(name) if instruction == "COPY"]
    return [word for line in words for word in line[:-1] if not word.startswith("--")]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "infra/mlflow/compose.yaml").read_text(encoding="utf-8"))["services"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_copies_what_exists_and_is_not_ignored(name: str) -> None:
    kept = (ROOT / f"{name}.dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied(name)
    for source in copied(name):
        assert (ROOT / source).exists(), source
        assert f"!{source.rstrip('/')}" in kept, source


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_does_not_run_as_root(name: str) -> None:
    users = [arguments for instruction, arguments in instructions(name) if instruction == "USER"]
    assert users
    # A number, since Kubernetes cannot tell that a name is not root.
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_has_the_tested_versions(name: str) -> None:
    installs = [arguments for _, arguments in instructions(name) if "pip install" in arguments]
    assert installs
    for command in installs:
        named = re.search(r"--(?:constraint|requirement) (\S+)", command)
        assert named, command
        listed = ROOT / Path(named[1]).name
        assert listed.name == "constraints.txt" or "-c constraints.txt" in listed.read_text(encoding="utf-8")


def test_server_image_installs_only_pinned_packages() -> None:
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    command = next(arguments for _, arguments in instructions("infra/mlflow/Dockerfile") if "pip install" in arguments)
    packages = command.split("/tmp/constraints.txt")[1].split()
    assert packages
    assert all(re.search(rf"^{package}==", pinned, flags=re.MULTILINE) for package in packages)


def test_compose_waits_for_its_own_services_only(services: dict[str, Any]) -> None:
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for needed, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[needed]


def test_compose_holds_no_secret(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|BACKEND_STORE", name):
                assert re.search(r"\$\{[A-Z_]+", value), f"{name} must come from the env file"


def test_server_names_its_hosts_and_is_not_open_to_the_network(services: dict[str, Any]) -> None:
    server = services["mlflow"]
    flags = dict(word.removeprefix("--").split("=", 1) for word in server["command"] if "=" in word)
    for flag in ("allowed-hosts", "cors-allowed-origins"):
        assert flags[flag].startswith("${"), flag
        assert "*" not in flags[flag]
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert not [name for name, service in services.items() if name != "mlflow" and "ports" in service]


def test_server_flags_exist_in_the_tested_mlflow(services: dict[str, Any]) -> None:
    from mlflow.cli import server

    known = {name for option in server.params for name in option.opts + option.secondary_opts}
    given = {word.split("=")[0] for word in services["mlflow"]["command"] if word.startswith("--")}
    assert given <= known
    assert "MLFLOW_BACKEND_STORE_URI" in {option.envvar for option in server.params}


def test_server_image_is_built_from_its_dockerfile(services: dict[str, Any]) -> None:
    build = services["mlflow"]["build"]
    context = (ROOT / "infra/mlflow" / build["context"]).resolve()
    assert context == ROOT
    assert build["dockerfile"] in DOCKERFILES
