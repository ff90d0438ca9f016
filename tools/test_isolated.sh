#!/usr/bin/env bash
# Run the unit tests of each distribution in an environment that holds only what it declares (and the test
# tools), so that an undeclared import fails. Tests marked as slow are left to `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
tools=(pytest pytest-asyncio pytest-timeout hypothesis)

run() { # name, folder, the project's own distributions that it declares
    local name=$1 folder=$2 environment=.cache/isolated/$1
    shift 2
    printf '== %s, alone\n' "$name"
    "$uv" venv -q --clear --python .venv/bin/python "$environment"
    "$uv" pip install -q --python "$environment/bin/python" -c constraints.txt "${tools[@]}" "./$folder" "$@"
    "$environment/bin/python" -m pytest -q -m "not slow" "$folder"
}

run service_kit libs/service_kit ./proto
run circuit_codec libs/circuit_codec
run client client ./proto ./libs/circuit_codec
run scheduler services/scheduler ./proto ./libs/service_kit
run storage services/storage ./proto ./libs/service_kit
run gateway services/gateway ./proto ./libs/service_kit
run qpu_broker services/qpu_broker ./proto ./libs/service_kit
run worker services/worker ./proto ./libs/service_kit ./libs/circuit_codec ./client
