"""deploy/make_secrets.sh makes what a stack needs once, renews what is gone, and says why where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "make_secrets.sh"


def make(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "QONDUIT_SECRETS": str(folder)}
    return subprocess.run([SCRIPT, *names], env=environment, capture_output=True, text=True, check=False)


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def is_trusted(folder: Path, certificate: str, *how: str) -> bool:
    command = ["openssl", "verify", "-CAfile", str(folder / "ca.pem"), *how, str(folder / certificate)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    made = make(tmp_path / "secrets", "qonduit.example.org", "192.0.2.7", "2001:db8::7")
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    return tmp_path / "secrets"


def test_certificates_are_for_the_names_that_were_given_and_no_other(folder: Path) -> None:
    assert is_trusted(folder, "gateway.pem", "-verify_hostname", "qonduit.example.org", "-purpose", "sslserver")
    assert all(is_trusted(folder, "gateway.pem", "-verify_ip", ip) for ip in ("127.0.0.1", "192.0.2.7", "2001:db8::7"))
    assert is_trusted(folder, "storage.pem", "-verify_hostname", "storage")
    assert not is_trusted(folder, "storage.pem", "-verify_hostname", "qonduit.example.org")


def test_nobody_else_enters_the_folder_and_the_key_of_the_ca_is_its_owners(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir() if path.stat().st_mode & 0o777 != 0o644} == {"ca.key"}
    assert (folder / "ca.key").stat().st_mode & 0o777 == 0o600


def test_what_is_there_stays_and_what_is_gone_is_made_anew(folder: Path) -> None:
    before = texts(folder)
    assert make(folder).returncode == 0
    assert texts(folder) == before
    (folder / "gateway.pem").unlink()
    (folder / "rabbitmq_password").unlink()
    assert make(folder).returncode == 0
    after = texts(folder)
    changed = {name for name, text in after.items() if text != before[name]}
    assert changed == {"gateway.pem", "gateway.key", "rabbitmq_password", "rabbitmq.conf", "amqp_url"}
    assert after["rabbitmq_password"].strip() in after["amqp_url"]
    assert is_trusted(folder, "gateway.pem", "-verify_hostname", "localhost")


def test_a_new_ca_signs_everything_anew(folder: Path) -> None:
    for name in ("ca.pem", "ca.key"):
        (folder / name).unlink()
    assert make(folder).returncode == 0
    assert all(is_trusted(folder, name) for name in ("gateway.pem", "storage.pem"))


def test_without_the_key_of_the_ca_it_says_what_to_do_and_changes_nothing(folder: Path) -> None:
    (folder / "ca.key").unlink()
    (folder / "gateway.pem").unlink()
    before = texts(folder)
    tried = make(folder)
    assert tried.returncode == 1
    assert "ca.key is missing" in tried.stderr
    assert "remove ca.pem" in tried.stderr
    assert texts(folder) == before


def test_a_name_that_cannot_be_is_told_and_changes_nothing(folder: Path) -> None:
    (folder / "gateway.pem").unlink()
    before = texts(folder)
    tried = make(folder, "192.0.2.777")
    assert tried.returncode == 1
    assert "192.0.2.777" in tried.stderr
    assert texts(folder) == before
