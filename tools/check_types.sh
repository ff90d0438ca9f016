#!/usr/bin/env bash
# mypy, strict, over every package, the tests, the tools and the examples.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/mypy proto/qonduit_api libs/service_kit/src libs/circuit_codec/src client/src services/*/src tools bench examples
