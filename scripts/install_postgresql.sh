#!/bin/sh
# Installs Debian's PostgreSQL for the store's tests unless one is there already. They run a
# cluster of their own; none is made or started here.
set -eu
command -v initdb >/dev/null 2>&1 && exit 0
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "without PostgreSQL its tests show as skipped: run 'apt-get install postgresql' as root" >&2
    exit 0
fi
echo "installing Debian's postgresql ..."
$as_root mkdir -p /etc/postgresql-common
if ! [ -e /etc/postgresql-common/createcluster.conf ]; then
    echo "create_main_cluster = false" | $as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
fi
$as_root apt-get update -q >/dev/null
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -q -y --no-install-recommends postgresql >/dev/null
