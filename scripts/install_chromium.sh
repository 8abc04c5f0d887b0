#!/bin/sh
# Installs Debian's Chromium for the browser tests unless one is there already.
set -eu
command -v chromium >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "the browser tests need Chromium: run 'apt-get install chromium' as root, then again" >&2
    exit 1
fi
echo "installing Debian's chromium ..."
$as_root apt-get update -q >/dev/null
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -q -y --no-install-recommends chromium fonts-dejavu-core >/dev/null
