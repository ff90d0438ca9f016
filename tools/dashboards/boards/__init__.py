"""The dashboards, one module each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dashboards.boards.cluster import CLUSTER
from dashboards.boards.jobs import JOBS
from dashboards.boards.overview import OVERVIEW
from dashboards.boards.qpu import QPU
from dashboards.boards.rabbitmq import RABBITMQ
from dashboards.boards.storage import STORAGE

if TYPE_CHECKING:
    from dashboards.panels import Board

BOARDS: Final[tuple[Board, ...]] = (OVERVIEW, JOBS, CLUSTER, QPU, STORAGE, RABBITMQ)
