#!/usr/bin/env bash
# Make deploy/secrets/: random passwords, keys and a token, and a private CA with certificates for gateway and storage.
#   deploy/make_secrets.sh [NAME...]     NAME: host names and addresses, beside localhost, that clients reach the gateway by
# What is there already stays. To renew the certificates, remove secrets/*.pem and run it again; a token or password: the same.
set -euo pipefail
umask 077
cd "$(dirname "$0")"
mkdir -p "${QONDUIT_SECRETS:=secrets}"
cd "$QONDUIT_SECRETS"
# Nobody else enters the folder, so nobody else on this machine reads what is in it. The files themselves may be read by
# all, because containers get them one by one, and run as a user that this machine doesn't have.
chmod 0700 .
umask 022

random() { openssl rand -hex "$1"; }

keep() { # FILE TEXT: write it unless it is there
    [ -s "$1" ] || printf '%s\n' "$2" >"$1"
}

certificate() { # NAME ALTERNATIVES
    [ -s "$1.pem" ] && return
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" -subj "/CN=$1" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 825 -out "$1.pem" \
        -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth' "$2") 2>/dev/null
    rm -f "$1.csr" ca.srl
    chmod 0644 "$1.key"
}

alternatives() { # NAME...: as openssl writes them
    local name text=""
    for name in "$@"; do
        if [[ $name =~ ^[0-9.]+$ || $name == *:* ]]; then text+=",IP:$name"; else text+=",DNS:$name"; fi
    done
    printf '%s' "${text#,}"
}

keep internal_key "$(random 32)"
keep admin_token "$(random 32)"
keep rabbitmq_password "$(random 24)"
keep postgres_password "$(random 24)"
keep grafana_admin_password "$(random 24)"
# Made of the two above, for programs that want them in other words.
printf 'default_user = qonduit\ndefault_pass = %s\n' "$(cat rabbitmq_password)" >rabbitmq.conf
printf 'amqp://qonduit:%s@rabbitmq:5672/\n' "$(cat rabbitmq_password)" >amqp_url
printf 'postgresql://qonduit:%s@postgres:5432/qonduit\n' "$(cat postgres_password)" >database_url
if [ ! -s ca.pem ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -keyout ca.key -out ca.pem \
        -subj "/CN=Qonduit private CA" 2>/dev/null
    chmod 0600 ca.key
    rm -f gateway.pem storage.pem
fi
certificate gateway "$(alternatives localhost 127.0.0.1 gateway "$@")"
certificate storage "$(alternatives localhost 127.0.0.1 storage)"
