#!/bin/sh
# Builds a virtual environment at $1 and installs $2 (a requirement, e.g. '.[dev]') into it,
# editable and pinned by constraints.txt. Needs python3.11 and pip; Debian's python3-venv is not
# needed: without it the environment gets no pip of its own and the system's pip installs into it.
set -eu
venv=$1
requirement=$2
python=${PYTHON:-python3.11}
if ! command -v "$python" >/dev/null 2>&1; then
    echo "$python is not installed; install it (Debian: apt-get install python3.11 python3-pip)" \
         "or name another with PYTHON=..." >&2
    exit 1
fi
if ! [ -x "$venv/bin/python" ]; then
    if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
        rm -rf "$venv"
        "$python" -m venv --without-pip "$venv"
    fi
fi
if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    set -- "$venv/bin/python" -m pip
elif "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m pip --python "$venv/bin/python" install -q --disable-pip-version-check pip
    set -- "$venv/bin/python" -m pip
else
    echo "$python has no pip; install it (Debian: apt-get install python3-pip)" >&2
    exit 1
fi
echo "installing airan and its pinned dependencies into $venv ..."
"$@" install -q --disable-pip-version-check -c constraints.txt -e "$requirement"
