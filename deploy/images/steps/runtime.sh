#!/bin/sh
# In the image itself: Python without its tools, the user, and the folder that a volume is mounted on.
set -eu
if ! command -v python3 >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 ca-certificates >/dev/null
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*
fi
echo 'qonduit:x:10001:10001:Qonduit:/var/lib/qonduit:/usr/sbin/nologin' >>/etc/passwd
echo 'qonduit:x:10001:' >>/etc/group
install -d -m 0700 -o 10001 -g 10001 /var/lib/qonduit
