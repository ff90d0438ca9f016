#!/usr/bin/env bash
# Resolve the whole workspace anew and write the versions to constraints.txt, without hashes or addresses.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
[ -x "$uv" ] || uv=uv
rm -f uv.lock
"$uv" lock -q
{
    printf '# Versions everything here is tested with. Made by: make constraints\n'
    "$uv" export -q --all-packages --all-extras --all-groups --no-hashes --no-emit-workspace --no-annotate --no-header
} >constraints.txt
