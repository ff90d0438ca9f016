#!/usr/bin/env bash
# Prepare one part of what the chores need:  prepare.sh environment | rabbitmq | postgresql | prometheus | peers | containers
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

find_python() {
    for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$name" ] || continue
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            printf '%s' "$name"
            return
        fi
    done
    say "Qonduit needs Python 3.11, 3.12 or 3.13, and none was found."
    say "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name it: PYTHON=/path/to/python make setup"
    exit 1
}

# How to install system packages here: nothing printed when we may not.
elevate() {
    if ! command -v apt-get >/dev/null; then return 1; fi
    if [ "$(id -u)" = 0 ]; then printf 'env'; return; fi
    if sudo -n true 2>/dev/null; then printf 'sudo'; return; fi
    return 1
}

install_packages() {
    local with
    with=$(elevate) || return 1
    say "Installing $* from the system's packages ..."
    # A package's service is not wanted: Qonduit starts private servers of its own.
    $with apt-get update -qq
    $with env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

disable_service() {
    local with
    with=$(elevate)
    if [ -d /run/systemd/system ]; then
        $with systemctl disable --now "$1" >/dev/null 2>&1 || true
    fi
}

environment() {
    local python uv_version
    python=$(find_python)
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
        rm -rf .venv
        if ! "$python" -m venv .venv 2>/dev/null; then
            install_packages python3-venv || {
                say "python3 -m venv does not work here. Get it with: apt-get install python3-venv"
                exit 1
            }
            "$python" -m venv .venv
        fi
    fi
    uv_version=$(sed -n 's/^uv==\([^ ;]*\).*/\1/p' constraints.txt)
    if [ "$(.venv/bin/uv --version 2>/dev/null | cut -d ' ' -f 2)" != "$uv_version" ]; then
        .venv/bin/python -m pip install -q --disable-pip-version-check "uv==$uv_version"
    fi
    .venv/bin/uv pip install -q --python .venv/bin/python -c constraints.txt -b constraints.txt --group dev \
        -e proto -e libs/service_kit -e libs/circuit_codec -e client -e services/gateway -e services/scheduler -e services/storage \
        -e services/qpu_broker -e services/worker
}

rabbitmq() {
    if command -v rabbitmq-server >/dev/null || [ -x /usr/sbin/rabbitmq-server ]; then return; fi
    if install_packages rabbitmq-server; then
        disable_service rabbitmq-server
        return
    fi
    say "RabbitMQ is missing, and this user may not install it."
    say "Get it with: sudo apt-get install rabbitmq-server   (or your system's way), then try again."
    exit 1
}

postgresql() {
    if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then return; fi
    install_packages postgresql || say "PostgreSQL is missing: its tests are skipped (apt-get install postgresql)."
}

# With promtool, which checks rules.
prometheus() {
    if command -v promtool >/dev/null && command -v prometheus >/dev/null; then return; fi
    if install_packages prometheus; then
        disable_service prometheus
    else
        say "Prometheus is missing: what checks dashboards and rules is skipped (apt-get install prometheus)."
    fi
}

# What bench/tasks.py compares with, in an environment of its own, with the Qiskit that ours has.
peers() {
    local home=.cache/bench-peers
    if [ ! -e $home/.ready ] || [ bench/peers/requirements.txt -nt $home/.ready ] || [ constraints.txt -nt $home/.ready ]; then
        .venv/bin/uv venv -q --clear --python .venv/bin/python $home
        .venv/bin/uv pip install -q --python $home/bin/python -c constraints.txt -r bench/peers/requirements.txt
        touch $home/.ready
    fi
    if command -v redis-server >/dev/null; then return; fi
    if install_packages redis-server; then
        disable_service redis-server
    else
        say "Redis is missing: Dramatiq and taskiq are left out (apt-get install redis-server)."
    fi
}

# What tests/e2e needs: Docker Engine, and Debian's packages to make images of where none can be pulled. Without root
# there is nothing to prepare: the tests use the engine that answers, or say that there is none.
containers() {
    if docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1 && [ "$(id -u)" != 0 ]; then return; fi
    if ! command -v dockerd >/dev/null || ! command -v debootstrap >/dev/null; then
        # Up to Debian 12 the command is in docker.io, later in a package of its own.
        local command=""
        if apt-cache show docker-cli >/dev/null 2>&1; then command=docker-cli; fi
        if ! install_packages docker.io debootstrap $command; then
            say "Docker Engine or debootstrap is missing: the tests in containers are skipped (apt-get install docker.io debootstrap)."
            return
        fi
        disable_service docker.service
        disable_service docker.socket
    fi
    if [ "$(id -u)" = 0 ]; then tools/make_base_images.sh packages; fi
}

"$1"
