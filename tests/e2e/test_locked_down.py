"""What containers may do, what they show, and what the sandbox of a worker needs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from compose_control import OWN_SERVICES, SECRET_VALUES, SERVICES

if TYPE_CHECKING:
    from compose_control import Deployment

PROFILE = Path(__file__).parents[2] / "deploy" / "images" / "worker-seccomp.json"
TMP = "/tmp:mode=1777"  # noqa: S108 - of the container.
PROBE = "from qonduit_worker.sandbox import probe; found = probe(); print(found.tier, *found.missing, sep='\\n')"


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_is_root_or_may_write_to_its_image(deployment: Deployment, service: str) -> None:
    found = deployment.inspect(service)
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert not found["HostConfig"]["Privileged"]
    assert "no-new-privileges:true" in found["HostConfig"]["SecurityOpt"]
    assert found["HostConfig"]["Memory"] > 0
    assert deployment.execute(service, "id", "-u").stdout.strip() not in {"", "0"}
    assert "Read-only file system" in deployment.execute(service, "touch", "/usr/bin/new").stderr


def test_only_the_gateway_is_published_and_on_loopback(deployment: Deployment) -> None:
    published = {
        service: [
            at for bound in deployment.inspect(service)["NetworkSettings"]["Ports"].values() for at in bound or ()
        ]
        for service in SERVICES
    }
    ports = {(at["HostIp"], at["HostPort"]) for at in published.pop("gateway")}
    assert ports == {("127.0.0.1", str(deployment.port)), ("127.0.0.1", str(deployment.rest_port))}
    assert not any(published.values())


@pytest.mark.parametrize("service", ["gateway", "scheduler", "storage"])
def test_services_that_need_no_qiskit_have_none(deployment: Deployment, service: str) -> None:
    done = deployment.execute(service, "/opt/qonduit/bin/python", "-c", "import qiskit")
    assert "No module named 'qiskit'" in done.stderr


def test_the_image_of_workers_has_the_circuit_codec_in_c_and_compiled_python(deployment: Deployment) -> None:
    text = "import qonduit_circuit_codec._native, qonduit_worker.agent as agent; print(agent.__cached__)"
    compiled = deployment.execute("worker-1", "/opt/qonduit/bin/python", "-c", text).stdout.strip()
    assert deployment.execute("worker-1", "test", "-s", compiled).returncode == 0


@pytest.mark.parametrize("service", OWN_SERVICES)
def test_metrics_are_where_prometheus_looks(deployment: Deployment, service: str) -> None:
    fetch = f"from urllib.request import urlopen; print(urlopen('http://{service}:9100/metrics').read().decode())"
    assert "qonduit_build_info" in deployment.execute("scheduler", "/opt/qonduit/bin/python", "-c", fetch).stdout


def test_no_secret_shows_in_what_the_engine_tells_or_in_a_log(deployment: Deployment) -> None:
    told = deployment.run("docker", "inspect", *(deployment.container(service) for service in SERVICES))
    logged = deployment.logs()
    assert "/run/secrets/admin_token" in told, "where a secret is may be seen"
    assert "connected to RabbitMQ" in logged
    for name in SECRET_VALUES:
        assert deployment.secret(name) not in told, name
        assert deployment.secret(name) not in logged, name


def worker_image(
    deployment: Deployment, *command: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the worker's image by itself, locked down as compose.yaml does, with other security options."""
    locked = (
        "--read-only",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges:true",
        "--tmpfs",
        TMP,
    )
    image = ("--network", "none", "--volume", "/var/lib/qonduit", *options, "qonduit/worker:e2e")
    return subprocess.run(
        ["docker", "run", "--rm", *locked, *image, *command],
        env=deployment.environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_worker_refuses_a_container_as_it_comes_and_says_what_it_needs(deployment: Deployment) -> None:
    done = worker_image(deployment, options=("--env", "QONDUIT_WORKER_MINIMUM_TIER=B"))
    assert done.returncode == 1
    refusal = done.stdout + done.stderr
    assert "less than a whole sandbox of tier B" in refusal
    assert "clone, unshare, mount, umount2 and pivot_root" in refusal


def probe_with(deployment: Deployment, profile: Path, *options: str) -> list[str]:
    security = ("--security-opt", f"seccomp={profile}", "--security-opt", "apparmor=unconfined", *options)
    entry = ("--entrypoint", "/opt/qonduit/bin/python")
    done = worker_image(deployment, "-c", PROBE, options=(*security, *entry))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


UNMASKED = ("--security-opt", "systempaths=unconfined")


def test_the_profile_gives_everything_but_control_groups(deployment: Deployment) -> None:
    tier, *missing = probe_with(deployment, PROFILE, *UNMASKED)
    assert tier == "A"
    assert len(missing) == 3
    assert all("control group" in sentence for sentence in missing)


def test_with_masked_system_paths_programs_have_no_proc(deployment: Deployment) -> None:
    tier, *missing = probe_with(deployment, PROFILE)
    assert tier == "A"
    assert any("unmasked system paths" in sentence for sentence in missing)


@pytest.mark.parametrize("name", ["mount", "pivot_root", "sethostname", "umount2", "unshare"])
def test_the_profile_allows_for_the_sandbox_nothing_that_it_does_not_need(
    deployment: Deployment, tmp_path: Path, name: str
) -> None:
    profile = json.loads(PROFILE.read_text())
    (group,) = (group for group in profile["syscalls"] if name in group["names"])
    group["names"].remove(name)
    (tmp_path / "less.json").write_text(json.dumps(profile))
    tier, *missing = probe_with(deployment, tmp_path / "less.json", *UNMASKED)
    assert tier == "C", missing
