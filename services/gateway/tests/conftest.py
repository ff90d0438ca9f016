"""Fixtures of the gateway's own tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from gateway_book import book

__all__ = ["book"]  # A fixture.

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """An empty database; tests/integration runs the same tests on PostgreSQL."""
    return f"sqlite:///{tmp_path / 'gateway.db'}"
