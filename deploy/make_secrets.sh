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

quietly() { # COMMAND...: what it says is shown where it fails
    local said
    said=$("$@" 2>&1) || {
        printf '%s\n' "$said" >&2
        return 1
    }
}

# What is there stays until all of the new is there.
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

certificate() { # NAME ALTERNATIVES
    [ -s "$1.pem" ] && return
    if [ ! -s ca.key ]; then
        echo "$PWD/ca.key is missing, and $1.pem must be signed with it. Put it back for that, or remove ca.pem, too:" \
            "then there is a new CA, and clients need its ca.pem." >&2
        exit 1
    fi
    quietly openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$made/key" -out "$made/csr"
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth' "$2" >"$made/extensions"
    quietly openssl x509 -req -in "$made/csr" -CA ca.pem -CAkey ca.key -CAserial "$made/serial" -CAcreateserial -days 825 \
        -extfile "$made/extensions" -out "$made/pem"
    chmod 0644 "$made/key"
    mv "$made/key" "$1.key"
    mv "$made/pem" "$1.pem"
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
    quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -keyout ca.key -out ca.pem \
        -subj "/CN=Qonduit private CA"
    chmod 0600 ca.key
    rm -f gateway.pem storage.pem
fi
certificate gateway "$(alternatives localhost 127.0.0.1 gateway "$@")"
certificate storage "$(alternatives localhost 127.0.0.1 storage)"
