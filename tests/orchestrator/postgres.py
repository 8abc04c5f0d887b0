"""A PostgreSQL of the tests' own: private cluster, unix socket, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest


def binaries() -> Path | None:
    """The folder with initdb and postgres; None where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    on_path = shutil.which("initdb")
    if found:
        return found[0].parent
    return Path(on_path).resolve().parent if on_path else None


def _other_user() -> dict[str, object]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("no user that PostgreSQL could run as")


@contextmanager
def cluster() -> Iterator[str]:
    """A running cluster; gives the socket's folder."""
    folder = binaries()
    if folder is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    home = Path(tempfile.mkdtemp(prefix="airan-postgres-"))
    user = _other_user()
    if user:
        os.chown(home, user["user"], user["group"])  # type: ignore[arg-type]
    try:
        _run(home, "initdb", "-U", "airan", "-A", "trust", "-N", "-E", "UTF8")
        start(str(home))
        try:
            yield str(home)
        finally:
            _run(home, "pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def start(socket_folder: str) -> None:
    """Starts the cluster, and returns when it answers."""
    home = Path(socket_folder)
    settings = f"-c listen_addresses='' -c unix_socket_directories={home} -c fsync=off"
    _run(home, "pg_ctl", "-l", home / "log", "-w", "-o", settings, "start")


def kill(socket_folder: str) -> None:
    """`kill -9` of all its processes: nothing is written down, nobody is told."""
    pid = int((Path(socket_folder) / "data" / "postmaster.pid").read_text().split()[0])
    server = psutil.Process(pid)
    server.suspend()  # no new child meanwhile
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=10)


def _run(home: Path, program: str, *arguments: str | Path) -> None:
    folder = binaries()
    assert folder is not None
    command = [folder / program, "-D", home / "data", *arguments]
    options: dict[str, object] = {"cwd": home, "stdout": subprocess.DEVNULL, **_other_user()}
    subprocess.run(command, check=True, **options)  # type: ignore[call-overload]


@contextmanager
def database(socket_folder: str) -> Iterator[str]:
    """A fresh database of the cluster; gives its URL."""
    name = f"airan_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(host=socket_folder, user="airan", dbname="postgres") as admin:
        admin.autocommit = True
        admin.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    yield f"postgresql://airan@/{name}?host={socket_folder}"
    with psycopg.connect(host=socket_folder, user="airan", dbname="postgres") as admin:
        admin.autocommit = True
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]
