#!/bin/sh
# Makes the secrets of compose.yaml below deploy/compose/secrets, once: a file that exists stays as it is.
#
# The folder is for its owner alone. The files in it can be read by all, because compose mounts each of them as it is
# into containers whose users are others; nobody else reaches them, since nobody else may enter the folder.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

keep() { # NAME VALUE
    if [ -e "secrets/$1" ]; then
        echo "secrets/$1 is kept"
    else
        printf '%s' "$2" > "secrets/$1"
        chmod 444 "secrets/$1"
        echo "secrets/$1 is new"
    fi
}

keep postgres_password "$(random)"
keep broker_password "$(random)"
keep grafana_password "$(random)"
keep flower_auth "celora:$(random)"
keep celora_record_secret "$(random)"
keep celora_database_url "postgresql://celora:$(cat secrets/postgres_password)@postgres:5432/celora"
keep celora_broker_url "redis://:$(cat secrets/broker_password)@broker:6379/0"
keep celora_worker_broker_url "redis://celora-worker:$(random)@broker:6379/0"
# The broker's users and their rights: docs/howto/broker-roles.md.
worker_password=$(sed 's/.*celora-worker:\([^@]*\)@.*/\1/' secrets/celora_worker_broker_url)
keep broker_users "$(sed -e "s/APPLICATION_PASSWORD/$(cat secrets/broker_password)/" \
    -e "s/WORKER_PASSWORD/$worker_password/" broker_users.template)"
