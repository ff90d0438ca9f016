#!/bin/sh
# In the build stage: install into /opt/qonduit what a member of the workspace needs.
#   install.sh others qonduit-gateway     packages of the index, in the versions of constraints.txt
#   install.sh own qonduit-gateway        the workspace's own distributions
set -eu
here=$(dirname "$0")
. "$here/certificates.sh"
export UV_LINK_MODE=copy UV_PYTHON=/opt/qonduit/bin/python
case $1 in
others)
    python3 "$here/requirements.py" /source "$2" >/tmp/requirements.txt
    /opt/uv/bin/uv pip install -q --compile-bytecode -c /source/constraints.txt -r /tmp/requirements.txt
    ;;
own)
    # shellcheck disable=SC2046 - one folder a line, none with a space.
    /opt/uv/bin/uv pip install -q --no-deps -b /source/constraints.txt $(python3 "$here/requirements.py" --own /source "$2")
    # What uv compiles is always all; the rest was compiled already.
    /opt/qonduit/bin/python -m compileall -q /opt/qonduit/lib/python3*/site-packages/qonduit*
    ;;
esac
