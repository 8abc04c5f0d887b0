"""A site of its own: started, killed at the front, stopped; and a port that is taken."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Site, eventually, start_site

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(200)
def test_a_site_outlives_its_terminal_and_airan_down_ends_it(tmp_path: Path) -> None:
    # At a quiet hour: in the morning peak the radio holds the whole GPU, and no site is ready.
    second = start_site(tmp_path / "state", AIRAN_CLOCK__START="03:00")
    second.front.kill()
    second.front.wait()
    eventually(
        lambda: any("airan.site.warden" in p.cmdline() for p in second.processes()),
        "a new warden",
        60,
    )
    assert second.airan_json("status")["problems"] == []
    done = second.airan("down")
    assert done.returncode == 0, done.stderr
    assert second.processes() == []
    assert second.airan("status").returncode == 4


def test_a_second_site_in_the_same_folder_is_refused(site: Site) -> None:
    done = site.airan("up")
    assert done.returncode == 1
    assert "already runs" in done.stderr
    assert "airan down" in done.stderr


def test_a_taken_port_is_named_with_its_remedy(site: Site, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environ = site.environ | {
            "AIRAN_STATE_DIR": str(tmp_path),
            "AIRAN_PORTS__DASHBOARD": port,
        }
        done = Site(tmp_path, site.front, environ).airan("up")
    assert done.returncode == 3
    assert f"port {port}" in done.stderr
    assert "AIRAN_PORTS__DASHBOARD" in done.stderr


def test_an_unknown_key_in_the_configuration_is_named(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("ran: {bandwidth: 100}\n")
    done = site.airan("--config", str(path), "up")
    assert done.returncode == 3
    assert "ran.bandwidth: unknown key" in done.stderr


def test_a_corrupt_model_file_is_named_with_its_remedy(site: Site, tmp_path: Path) -> None:
    cached = Path(json.loads(site.airan("model", "pull", "--json").stdout)["path"])
    copy = tmp_path / "cache" / cached.relative_to(Path("~/.cache/airan").expanduser())
    copy.parent.mkdir(parents=True)
    copy.write_bytes(cached.read_bytes()[:-1] + b"!")
    environ = site.environ | {
        "AIRAN_CACHE_DIR": str(tmp_path / "cache"),
        "AIRAN_STATE_DIR": str(tmp_path / "state"),
    }
    done = Site(tmp_path, site.front, environ).airan("up")
    assert done.returncode == 1
    assert str(copy) in done.stderr
    assert "--force" in done.stderr


@pytest.mark.timeout(240)
def test_a_demo_stopped_by_ctrl_c_leaves_no_process(site: Site, tmp_path: Path) -> None:
    environ = site.environ | {"AIRAN_STATE_DIR": str(tmp_path)}
    command = (sys.executable, "-m", "airan", "demo", "--duration", "60")
    demo = subprocess.Popen(
        # As a shell starts a background job: the demo must not rely on the default handler.
        ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command],
        env=environ,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    own = Site(tmp_path / "demo", demo, environ)
    eventually((tmp_path / "demo" / "run" / "site.json").exists, "it starts", 60)
    eventually(lambda: len(own.processes()) >= 4, "its processes", 60)
    demo.send_signal(signal.SIGINT)
    try:
        assert demo.wait(60) == 130
    finally:
        demo.kill()
        demo.wait()
    assert own.processes() == []
