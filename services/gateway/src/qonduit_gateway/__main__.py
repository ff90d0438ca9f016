"""`python -m qonduit_gateway` serves; `python -m qonduit_gateway migrate` brings the database up to date and ends."""

from __future__ import annotations

import asyncio
import sys

from qonduit_service_kit.lifecycle import main

from qonduit_gateway.database.engine import Database
from qonduit_gateway.database.migrate import upgrade
from qonduit_gateway.settings import GatewaySettings
from qonduit_gateway.wiring import build

_MIGRATION_TIMEOUT_S = 24 * 3600.0


async def _migrate() -> None:
    settings = GatewaySettings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database, busy_timeout_s=settings.database_busy_timeout_s)
    try:
        changed = await database.write(upgrade, timeout_s=_MIGRATION_TIMEOUT_S)
    finally:
        await database.close()
    sys.stdout.write(f"{database.where}: {'migrated' if changed else 'is up to date'}\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["migrate"]:
        asyncio.run(_migrate())
    elif sys.argv[1:]:
        sys.exit("usage: python -m qonduit_gateway [migrate]")
    else:
        main("gateway", GatewaySettings, build)
