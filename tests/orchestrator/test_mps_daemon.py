"""The MPS daemon's owner, against a fake daemon binary."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from airan.core.errors import InvalidInputError, NotFoundError, UnavailableError
from orchestrator.drivers.mps import MpsDaemon, MpsShare, without_mps

FAKE = str(Path(__file__).with_name("fake_mps_daemon.py"))


@pytest.fixture
def daemon() -> Iterator[MpsDaemon]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        owned = MpsDaemon(Path(folder), FAKE)
        yield owned
        owned.stop()


def test_a_started_daemon_answers_and_ends_when_told_to(daemon) -> None:
    daemon.start()
    daemon.start()
    assert daemon.is_running
    assert daemon.servers() == [4242]
    assert daemon.clients(4242) == [101, 102]
    said = (daemon.pipe_dir / "said").read_text().splitlines()
    daemon.stop()
    daemon.stop()
    assert not daemon.is_running
    assert said[-1] == "get_client_list 4242"
    assert (daemon.pipe_dir / "said").read_text().splitlines()[-1] == "quit"


def test_a_dead_daemon_is_noticed_and_started_again(daemon) -> None:
    daemon.start()
    assert not daemon.keep()
    os.kill(daemon._process.pid, signal.SIGKILL)
    daemon._process.wait()
    assert daemon.keep()
    assert daemon.is_running
    assert daemon.restarts == 1


def test_a_daemon_that_does_not_start_tells_why(daemon) -> None:
    (daemon.pipe_dir.parent / "refuse").touch()
    with pytest.raises(UnavailableError, match="already running"):
        daemon.start()


def test_commands_say_what_they_change(daemon) -> None:
    daemon.start()
    daemon.limit_new_clients(4242, 30)
    daemon.terminate_client(4242, 101)
    said = (daemon.pipe_dir / "said").read_text().splitlines()
    assert said[-2:] == ["set_active_thread_percentage 4242 30", "terminate_client 4242 101"]
    with pytest.raises(InvalidInputError, match="sm_percent"):
        daemon.limit_new_clients(4242, 0)


def test_a_daemon_that_was_not_started_does_not_answer(daemon) -> None:
    with pytest.raises(UnavailableError, match="Cannot find MPS control daemon"):
        daemon.servers()


def test_a_client_has_its_own_share_and_nothing_of_another_daemon(daemon) -> None:
    inherited = {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "5", "HOME": "/h"}
    assert daemon.client(inherited, MpsShare(70, 20_480)) == {
        "HOME": "/h",
        "CUDA_MPS_PIPE_DIRECTORY": str(daemon.pipe_dir),
        "CUDA_MPS_LOG_DIRECTORY": str(daemon.log_dir),
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "70",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=20480M",
    }
    assert without_mps(inherited, Path("/e")) == {"HOME": "/h", "CUDA_MPS_PIPE_DIRECTORY": "/e"}


def test_wrong_shares_folders_and_binaries_are_refused_by_name() -> None:
    for share in ((0, None), (101, None), (None, 0)):
        with pytest.raises(InvalidInputError):
            MpsShare(*share)
    with pytest.raises(InvalidInputError, match="too long for sockets"):
        MpsDaemon(Path("/" + "x" * 100), FAKE)
    with pytest.raises(NotFoundError, match="no-such-daemon is not installed"):
        MpsDaemon(Path("/tmp/x"), "no-such-daemon")
