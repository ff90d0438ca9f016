#!/bin/sh
# In the build stage: Python with venv, a C compiler for the circuit codec, and uv in the version of constraints.txt.
set -eu
. "$(dirname "$0")/certificates.sh"
if ! python3 -c 'import ensurepip' 2>/dev/null || ! command -v gcc >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        python3 python3-venv libpython3-dev gcc libc6-dev ca-certificates >/dev/null
fi
python3 -m venv /opt/uv
version=$(sed -n 's/^uv==\([^ ;]*\).*/\1/p' /source/constraints.txt)
/opt/uv/bin/pip install -q --disable-pip-version-check "uv==$version"
/opt/uv/bin/uv venv -q --python "$(command -v python3)" /opt/qonduit
