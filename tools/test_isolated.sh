#!/usr/bin/env bash
# Run the unit tests of each distribution in an environment that holds only what it declares (and the test
# tools), so that an undeclared import fails. Tests marked as slow are left to `make test`. Two run at a time.
set -euo pipefail
cd "$(dirname "$0")/.."

run() { # name, folder, the project's own distributions that it declares
    local uv=.venv/bin/uv name=$1 folder=$2 environment=.cache/isolated/$1
    local tools=(pytest pytest-asyncio pytest-timeout hypothesis)
    shift 2
    "$uv" venv -q --clear --python .venv/bin/python "$environment"
    "$uv" pip install -q --python "$environment/bin/python" -c constraints.txt "${tools[@]}" "./$folder" "$@"
    "$environment/bin/python" -m pytest -q -m "not slow" "$folder"
}

if (($#)); then
    log=$(mktemp)
    exec 3>&1 >"$log" 2>&1 # What two print at a time would be mixed.
    trap '{ printf "== %s, alone\n" "'"$1"'" && cat "$log"; } >&3; rm -f "$log"' EXIT
    run "$@"
    exit
fi
xargs -P 2 -L 1 tools/test_isolated.sh <<'END'
worker services/worker ./proto ./libs/service_kit ./libs/circuit_codec ./client
gateway services/gateway ./proto ./libs/service_kit
qpu_broker services/qpu_broker ./proto ./libs/service_kit
client client ./proto ./libs/circuit_codec
scheduler services/scheduler ./proto ./libs/service_kit
storage services/storage ./proto ./libs/service_kit
service_kit libs/service_kit ./proto
circuit_codec libs/circuit_codec
END
