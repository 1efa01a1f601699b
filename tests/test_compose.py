"""The images and docker-compose.yml, as far as they can be tried without Docker: what they name exists, and
every command of ours starts and answers here, against real servers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:\?|:-)?([^}]*)\}")


def example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def fill(text: str, values: dict[str, str]) -> str:
    """Compose's interpolation, the three forms that are used here; $$ is a dollar."""
    return VARIABLE.sub(lambda m: values.get(m[1]) or (m[3] if m[2] == ":-" else ""), text).replace("$$", "$")


def stage(name: str) -> str:
    """A stage of the Dockerfile, with the stages it is made from."""
    found = re.search(rf"^FROM (\S+) AS {name}$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S)
    assert found, f"the Dockerfile has no stage {name}"
    return (stage(found[1]) if f"AS {found[1]}\n" in DOCKERFILE else "") + found[2]


class TestCompose:
    def test_the_parts_of_an_installation(self) -> None:
        assert set(SERVICES) == {"prepare", "web", "control", "worker", "worker-cpu", "postgres", "redis"}
        for name in ("web", "control", "worker", "worker-cpu", "postgres", "redis"):
            assert SERVICES[name]["healthcheck"]["test"], name
        for name in ("control", "worker", "worker-cpu"):
            assert SERVICES[name]["stop_grace_period"] == "90s"
            assert SERVICES[name]["environment"]["KDWEB_PROCESS"] == "worker"
        reserved = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"][0]
        assert (reserved["driver"], reserved["capabilities"]) == ("nvidia", ["gpu"])

    def test_every_variable_is_in_the_example_and_the_other_way_round(self) -> None:
        used = {match[0] for match in VARIABLE.findall((ROOT / "docker-compose.yml").read_text())}
        assert used == set(example()) - {"COMPOSE_PROFILES"}

    def test_every_variable_of_the_settings_is_in_the_example(self) -> None:
        source = "".join(path.read_text() for path in (ROOT / "kdweb").glob("*.py"))
        named = set(re.findall(r'"(KDWEB_[A-Z_]+)"', source)) - {"KDWEB_REDIS_URL_FILE"}
        documented = set(re.findall(r"^#?(KDWEB_[A-Z_]+)=", (ROOT / ".env.example").read_text(), re.M))
        assert named <= documented

    def test_passwords_are_demanded(self) -> None:
        text = (ROOT / "docker-compose.yml").read_text()
        for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD"):
            assert example()[name] == ""  # nobody runs with the example's
            assert not re.search(rf"\$\{{{name}(?!:\?)", text)

    def test_volumes_and_dependencies_exist(self) -> None:
        for name, service in SERVICES.items():
            for volume in service.get("volumes", []):
                assert volume.split(":")[0] in COMPOSE["volumes"], name
            for other in service.get("depends_on", {}):
                assert other in SERVICES, name

    def test_the_database_and_the_broker_are_not_published(self) -> None:
        assert [name for name, service in SERVICES.items() if "ports" in service] == ["web"]


class TestDockerfile:
    def test_the_targets_of_compose_exist(self) -> None:
        for name in OURS:
            assert stage(SERVICES[name]["build"]["target"])

    def test_what_is_copied_exists_and_is_let_through(self) -> None:
        let_through = (ROOT / ".dockerignore").read_text()
        for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.M):
            for source in line.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}\n" in let_through

    def test_every_package_of_ours_is_in_both_images(self) -> None:
        for folder in ("kdweb", "experiments", "worker", "templates"):
            for name in ("web", "worker"):
                assert f"COPY {folder} {folder}" in stage(name)

    def test_the_web_has_no_torch_and_nobody_is_root(self) -> None:
        assert "worker.txt" not in re.sub(r"^RUN python -c.*$", "", stage("web"), flags=re.M)
        assert "-r /tmp/worker.txt" in stage("worker")
        for name in ("web", "worker"):
            assert "USER kdweb" in stage(name)

    def test_the_list_of_packages_is_read_from_pyproject(self, tmp_path: Path) -> None:
        line = re.search(r'python -c "(import tomllib.*?)"\s+&&', DOCKERFILE, re.S)
        assert line
        subprocess.run([sys.executable, "-c", line[1].replace("/tmp", str(tmp_path))], cwd=ROOT, check=True)
        web, worker = (tmp_path / "web.txt").read_text(), (tmp_path / "worker.txt").read_text()
        assert "django==" in web
        assert "torch==" in worker
        assert "torch==" not in web

    def test_the_health_check_of_the_image_is_that_of_compose(self) -> None:
        found = re.search(r"HEALTHCHECK .*CMD (\[.*\])", DOCKERFILE)
        assert found
        assert yaml.safe_load(found[1]) == SERVICES["web"]["healthcheck"]["test"][1:]


@pytest.mark.server
class TestCommands:
    """Every command as compose runs it, but for the addresses."""

    @pytest.fixture
    def env(self, tmp_path: Path, redis_url: str, postgres_url: str) -> dict[str, str]:
        values = example() | {"POSTGRES_PASSWORD": "pw", "REDIS_PASSWORD": "pw"}
        given = {name: fill(str(value), values) for name, value in SERVICES["web"]["environment"].items()}
        assert given["KDWEB_REDIS_URL"] == "redis://:pw@redis:6379/0"
        assert given["KDWEB_DATABASE_URL"] == "postgres://kdweb:pw@postgres:5432/kdweb"
        given |= {
            "KDWEB_HOME": str(tmp_path),
            "KDWEB_REDIS_URL": redis_url,
            "KDWEB_DATABASE_URL": postgres_url,
        }
        clean = {name: v for name, v in os.environ.items() if not name.startswith(("KDWEB_", "DJANGO_"))}
        return clean | given | {"OMP_NUM_THREADS": "1"}

    def test_each_starts_answers_its_health_check_and_stops(
        self, env: dict[str, str], tmp_path: Path
    ) -> None:
        run(SERVICES["prepare"]["command"], env)
        run(["python", "manage.py", "collectstatic", "--noinput", "-v", "0"], env)
        web = yaml.safe_load(re.findall(r"^CMD (\[.*\])$", stage("web"), re.M)[-1])
        processes = {"web": start(web, env, tmp_path)}
        for name in ("control", "worker", "worker-cpu"):
            processes[name] = start(SERVICES[name]["command"], env | {"KDWEB_PROCESS": "worker"}, tmp_path)
        try:
            for name in processes:
                healthy(name, env, tmp_path)
        finally:
            for process in processes.values():
                process.terminate()
            codes = {name: process.wait(timeout=90) for name, process in processes.items()}
        assert codes == {"web": codes["web"], "control": 0, "worker": 0, "worker-cpu": 0}
        assert codes["web"] in (0, -15)  # uvicorn ends itself with the signal it was sent


def local(command: list[str]) -> list[str]:
    """The image's `python` is this one; port 8000 may be taken here."""
    return [sys.executable if word == "python" else word.replace("8000", PORT) for word in command]


PORT = str(20000 + os.getpid() % 20000)


def run(command: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(local(command), cwd=ROOT, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr


def start(command: list[str], env: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(local(command), cwd=ROOT, env=env, stdout=log, stderr=log)


def healthy(name: str, env: dict[str, str], folder: Path) -> None:
    """Repeats the service's own health check until it passes."""
    kind, *words = SERVICES[name]["healthcheck"]["test"]
    if kind == "CMD-SHELL":
        words = shlex.split(fill(words[0], {}).replace("$HOSTNAME", os.uname().nodename))
    deadline = time.monotonic() + 90
    while subprocess.run(local(words), cwd=ROOT, env=env, capture_output=True, timeout=60).returncode != 0:
        assert time.monotonic() < deadline, f"{name}:\n" + (folder / "log").read_text()[-4000:]
        time.sleep(1)
