from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, SecretStr, ValidationError
from qonduit_service_kit.settings import ServiceSettings


class DemoSettings(ServiceSettings, env_prefix="QONDUIT_DEMO_"):
    limit: int = Field(default=3, ge=1, description="A number.")
    api_token: SecretStr = Field(default=SecretStr(""), description="A secret.")


def test_settings_come_from_the_environment_of_their_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QONDUIT_DEMO_AMQP_URL", "amqp://me:hunter22@host:1234/v")
    monkeypatch.setenv("QONDUIT_DEMO_DATA_DIR", "/data")
    monkeypatch.setenv("QONDUIT_DEMO_READY_FILE", "")
    monkeypatch.setenv("QONDUIT_OTHER_LIMIT", "9")
    settings = DemoSettings()
    assert settings.amqp_url.get_secret_value() == "amqp://me:hunter22@host:1234/v"
    assert settings.data_dir == Path("/data")
    assert settings.ready_file is None
    assert settings.limit == 3


def test_what_is_printed_at_start_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QONDUIT_DEMO_AMQP_URL", "amqp://me:hunter22@host:1234/v")
    monkeypatch.setenv("QONDUIT_DEMO_API_TOKEN", "hunter22")
    described = DemoSettings().describe()
    assert described["amqp_url"] == "amqp://me:***@host:1234/v"
    assert described["api_token"] == "***"
    assert described["limit"] == "3"
    assert "hunter22" not in str(described)


@pytest.mark.parametrize(("name", "value"), [("LIMIT", "0"), ("METRICS_PORT", "70000"), ("LOG_FORMAT", "xml")])
def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"QONDUIT_DEMO_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        DemoSettings()


def test_a_misspelt_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QONDUIT_DEMO_LIMITS", "4")
    monkeypatch.setenv("QONDUIT_DEMO_LIMIT", "4")
    assert DemoSettings.unknown_names() == ["QONDUIT_DEMO_LIMITS"]


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in DemoSettings.model_fields.values())


def test_a_setting_may_be_a_file_of_the_secrets_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "qonduit_demo_api_token").write_text("hunter22\n")
    (tmp_path / "qonduit_demo_limit").write_text("7")
    (tmp_path / "qonduit_other_limit").write_text("9")
    monkeypatch.setenv("QONDUIT_SECRETS_DIR", str(tmp_path))
    assert DemoSettings().api_token.get_secret_value() == "hunter22"
    assert DemoSettings().limit == 7
    monkeypatch.setenv("QONDUIT_DEMO_LIMIT", "8")
    assert DemoSettings().limit == 8, "the environment comes first"


def test_a_secrets_folder_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QONDUIT_SECRETS_DIR", str(tmp_path / "secrets"))
    with pytest.raises(FileNotFoundError, match="QONDUIT_SECRETS_DIR"):
        DemoSettings()
