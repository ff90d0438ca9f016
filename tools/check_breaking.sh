#!/usr/bin/env bash
# buf breaking: the .proto files may not break clients of the last released version (the newest v* tag; with
# none yet, of the first commit that had them).
set -euo pipefail
cd "$(dirname "$0")/.."
released=$(git describe --tags --match 'v*' --abbrev=0 2>/dev/null ||
    git log --diff-filter=A --format=%h -- proto/buf.yaml | tail -n 1)
base=$(mktemp -d)
trap 'rm -rf "$base"' EXIT
git archive "$released" proto | tar -x -C "$base"
.venv/bin/buf breaking proto --against "$base/proto"
