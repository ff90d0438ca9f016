#!/usr/bin/env bash
# Images to stand on where none can be pulled: made of Debian's packages alone. What CI uses, and an offline site may.
#   tools/make_base_images.sh packages   a root file system and docker-compose, by debootstrap, in .cache/containers (needs root)
#   tools/make_base_images.sh images     from these: qonduit/base, qonduit/rabbitmq, qonduit/postgres and qonduit/prometheus, each :debian-13
# Set in deploy/.env: BASE=qonduit/base:debian-13 RABBITMQ_IMAGE=qonduit/rabbitmq:debian-13 POSTGRES_IMAGE=qonduit/postgres:debian-13
# PROMETHEUS_IMAGE=qonduit/prometheus:debian-13
set -euo pipefail
cd "$(dirname "$0")/.."
SUITE=trixie
TAG=debian-13
HOME_OF_ALL=$PWD/.cache/containers

say() { printf '%s\n' "$*" >&2; }

packages() {
    [ -s "$HOME_OF_ALL/base.tar" ] && [ -x "$HOME_OF_ALL/docker-compose" ] && return
    mkdir -p "$HOME_OF_ALL"
    local root
    root=$(mktemp -d "$HOME_OF_ALL/root.XXXXXX")
    # shellcheck disable=SC2064 - the folder of now.
    trap "rm -rf '$root'" EXIT
    say "Making a root file system of Debian $SUITE ..."
    debootstrap --variant=minbase --include=python3,ca-certificates "$SUITE" "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$HOME_OF_ALL/debootstrap.log" \
        || { tail -5 "$HOME_OF_ALL/debootstrap.log" >&2; exit 1; }
    # Compose of this suite understands the file here; the one of Debian 12 is version 1. It is one static program.
    (cd "$root/tmp" && chroot "$root" sh -c 'cd /tmp && apt-get download -qq -o APT::Sandbox::User=root docker-compose' && dpkg -x docker-compose_*.deb compose)
    install "$root/tmp/compose/usr/libexec/docker/cli-plugins/docker-compose" "$HOME_OF_ALL/docker-compose"
    rm -rf "$root"/tmp/* "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb \
        "$root"/var/log/* "$root"/usr/share/{doc,man,locale,info}/*
    tar -C "$root" --numeric-owner -cf "$HOME_OF_ALL/base.tar.tmp" .
    mv "$HOME_OF_ALL/base.tar.tmp" "$HOME_OF_ALL/base.tar"
}

images() {
    local digest
    digest=$(sha256sum "$HOME_OF_ALL/base.tar" | cut -c 1-16)
    if [ "$(docker image inspect --format '{{index .Config.Labels "base"}}' "qonduit/base:$TAG" 2>/dev/null)" != "$digest" ]; then
        docker import --change 'CMD ["bash"]' --change "LABEL base=$digest" "$HOME_OF_ALL/base.tar" "qonduit/base:$TAG" >/dev/null
    fi
    BASE=qonduit/base:$TAG "$HOME_OF_ALL/docker-compose" -f deploy/images/offline/compose.yaml build --quiet
}

"$1"
