"""What holds for the tests of every folder."""

from __future__ import annotations

import contextlib

from hypothesis import HealthCheck, settings

# How long an example takes tells how busy the machine is, and nothing about the code.
settings.register_profile("any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

with contextlib.suppress(ImportError):  # Not every distribution logs.
    import structlog

    # By default a traceback is drawn with the source and all variables of each frame, which takes a third of a second.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])
