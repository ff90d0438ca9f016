from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from qonduit_service_kit import logs

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, configured = root.handlers[:], root.level, structlog.get_config()
    yield
    logging.captureWarnings(capture=False)
    structlog.configure(**configured)
    root.handlers[:] = handlers
    root.setLevel(level)


def written(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def written_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(written(capsys))
    return parsed


def test_a_text_line_has_time_level_service_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("gateway")
    logs.get_logger().bind(job="j-1").info("job accepted", user="ann", title="two words")
    line = written(capsys)
    assert line.count("\n") == 1
    assert "INFO    gateway: job accepted  job=j-1 title='two words' user=ann" in line


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("gateway", "json")
    logs.get_logger().warning("slow", seconds=2.5)
    event = written_json(capsys)
    assert (event["event"], event["level"], event["service"], event["seconds"]) == ("slow", "warning", "gateway", 2.5)
    assert event["timestamp"].endswith("Z")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_is_ever_written(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    logs.configure("gateway", log_format)
    logs.get_logger().info(
        "connecting to amqp://me:hunter22@host/",
        token="hunter22",
        storage_ticket="hunter22",
        settings={"internal_key": "hunter22", "deep": ["Bearer hunter22hunter22"]},
        url="https://me:hunter22@host/x",
        header="Authorization: Bearer hunter22hunter22",
    )
    logs.get_logger().error("failed", exc_info=OSError("cannot reach amqp://me:hunter22@host/"))
    logging.getLogger("library").warning("token is Bearer %s", "hunter22hunter22")
    text = written(capsys)
    assert "hunter22" not in text
    assert "amqp://me:***@host/" in text


def test_a_path_to_a_secret_is_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("gateway")
    logs.get_logger().info("starting", internal_key_file="/etc/key")
    assert "internal_key_file=/etc/key" in written(capsys)


def test_a_traceback_is_written_without_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("gateway")

    def fails(hidden: str) -> None:
        raise ValueError(len(hidden))

    try:
        fails("hunter" + "22")
    except ValueError:
        logs.get_logger().exception("failed")
    text = written(capsys)
    assert "Traceback (most recent call last)" in text
    assert "ValueError: 8" in text
    assert "hunter22" not in text


def test_a_text_from_a_user_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("gateway")
    logs.get_logger().info("upload", title="x\n2026-01-01 ERROR forged\x1b[31m")
    text = written(capsys)
    assert text.count("\n") == 1
    assert "\x1b" not in text


def test_the_level_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("gateway", level="WARNING")
    logs.get_logger().info("quiet")
    logging.getLogger("library").info("quiet")
    assert written(capsys) == ""
