"""Model files: fetched in the background, resumed, checked, and never half there."""

from __future__ import annotations

import errno
import hashlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from airan.core.errors import ConfigError, ModelFileError, UnavailableError
from marketplace.catalogue import cache as cache_module
from marketplace.catalogue import download as download_module
from marketplace.catalogue.cache import ModelCache
from marketplace.catalogue.download import StoppedError
from marketplace.catalogue.precache import Precacher
from marketplace.catalogue.records import Caching, FileSource
from marketplace.gateway import GatewaySettings, ModelOffer, Price
from tests import waiting
from tests.marketplace.site import ADMIN_KEY, admin_get, running_gateway

CONTENT = bytes(range(256)) * 8192


class FileServer:
    """Serves CONTENT by HTTP/1.1 with ranges; the test has it break off, stall or lie."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.break_after: list[int] = []
        self.status = 0
        self.ranges = True
        self.asked: list[str | None] = []
        self.gate = threading.Event()
        self.gate.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/model.gguf"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("range")
        self.asked.append(asked)
        handler.close_connection = True
        if self.status:
            handler.send_response(self.status)
            handler.send_header("content-length", "0")
            handler.end_headers()
            return
        size = len(self.content)
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if begin >= size:
            handler.send_response(416)
            handler.send_header("content-range", f"bytes */{size}")
            handler.send_header("content-length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if begin else 200)
        handler.send_header("content-length", str(size - begin))
        if begin:
            handler.send_header("content-range", f"bytes {begin}-{size - 1}/{size}")
        handler.end_headers()
        end = begin + self.break_after.pop(0) if self.break_after else size
        half = (begin + end) // 2
        handler.wfile.write(self.content[begin:half])
        self.gate.wait(20)
        handler.wfile.write(self.content[half:end])


@pytest.fixture
def server() -> Iterator[FileServer]:
    found = FileServer()
    thread = threading.Thread(target=found.http.serve_forever, args=(0.02,))
    thread.start()
    yield found
    found.gate.set()
    found.http.shutdown()
    found.http.server_close()
    thread.join()


@pytest.fixture
def source(server: FileServer) -> FileSource:
    return FileSource("tiny", hashlib.sha256(CONTENT).hexdigest(), server.url)


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache", tmp_path / "state")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_PAUSE_S", 0.0)
    monkeypatch.setattr(cache_module, "_NOTE_S", 0.0)
    monkeypatch.setattr(cache_module, "_LOOK_S", 0.02)


until = partial(waiting.until, within_s=20.0)


def test_a_file_goes_from_pending_over_in_progress_to_ready(
    server: FileServer, source: FileSource, cache: ModelCache
) -> None:
    assert cache.look(source) == Caching("pending")
    seen: list[Caching] = []
    path = cache.fetch(source, progress=seen.append)
    assert path.read_bytes() == CONTENT
    states = [one.state for one in seen]
    assert states == ["in_progress"] * (len(states) - 1) + ["ready"]
    assert cache.look(source).state == "ready"
    assert cache.fetch(source) == path
    assert len(server.asked) == 1


def test_what_broke_off_goes_on_where_it_ended(
    server: FileServer, source: FileSource, cache: ModelCache
) -> None:
    server.break_after = [300_000, 200_000]
    assert cache.fetch(source).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=500000-"]


def test_a_server_without_ranges_is_asked_for_the_whole_file(
    server: FileServer, source: FileSource, cache: ModelCache
) -> None:
    server.break_after, server.ranges = [300_000], False
    assert cache.fetch(source).read_bytes() == CONTENT


def test_a_file_that_is_another_one_is_set_aside_and_never_ready(
    server: FileServer, source: FileSource, cache: ModelCache
) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(ModelFileError, match="SHA-256"):
        cache.fetch(source)
    found = cache.look(source)
    assert found.state == "failed"
    assert source.sha256 in found.reason
    assert "airan model pull tiny" in found.remedy
    assert found.retry_s is None
    path = cache.path_of(source)
    assert not path.exists()
    assert path.with_suffix(".corrupt").read_bytes() == server.content
    server.content = CONTENT
    assert cache.fetch(source) == path
    assert cache.look(source).state == "ready"


def test_a_partial_of_another_file_costs_one_more_download_and_no_failure(
    server: FileServer, source: FileSource, cache: ModelCache
) -> None:
    path = cache.path_of(source)
    path.parent.mkdir(parents=True)
    path.with_suffix(".part").write_bytes(b"of an older file")
    assert cache.fetch(source).read_bytes() == CONTENT
    assert server.asked == ["bytes=16-", None]


def test_a_partial_longer_than_the_file_is_thrown_away(
    source: FileSource, cache: ModelCache
) -> None:
    path = cache.path_of(source)
    path.parent.mkdir(parents=True)
    path.with_suffix(".part").write_bytes(CONTENT + b"more")
    with pytest.raises(UnavailableError):
        cache.fetch(source)
    assert cache.fetch(source).read_bytes() == CONTENT


@pytest.mark.parametrize("size_bytes", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_file_of_another_size_is_refused(
    source: FileSource, cache: ModelCache, size_bytes: int
) -> None:
    with pytest.raises(ModelFileError, match=f"{len(CONTENT)} bytes instead of {size_bytes}"):
        cache.fetch(replace(source, size_bytes=size_bytes))


@pytest.mark.parametrize(
    ("status", "kind", "retried"), [(503, UnavailableError, True), (404, ModelFileError, False)]
)
def test_only_a_failure_that_may_pass_is_retried_by_itself(
    server: FileServer,
    source: FileSource,
    cache: ModelCache,
    status: int,
    kind: type[Exception],
    retried: bool,
) -> None:
    server.status = status
    with pytest.raises(kind, match=f"answers {status}"):
        cache.fetch(source)
    assert (cache.look(source).retry_s is not None) is retried


def test_a_full_disk_is_named_before_anything_is_written(
    source: FileSource, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        download_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})
    )
    with pytest.raises(ModelFileError, match="the disk is full") as caught:
        cache.fetch(source)
    assert "free space in" in str(caught.value)
    assert cache.look(source).state == "failed"
    monkeypatch.undo()
    assert cache.fetch(source).exists()


def test_a_disk_that_becomes_full_is_named(
    source: FileSource, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download_module.os, "fsync", full)
    with pytest.raises(ModelFileError, match="the disk is full"):
        cache.fetch(source)
    assert not cache.path_of(source).exists()


def test_two_at_once_fetch_it_once(
    server: FileServer, source: FileSource, cache: ModelCache, tmp_path: Path
) -> None:
    server.gate.clear()
    other = ModelCache(tmp_path / "cache", tmp_path / "another site")
    found: list[Path] = []
    workers = [
        threading.Thread(target=lambda one=one: found.append(one.fetch(source)))
        for one in (cache, other)
    ]
    for worker in workers:
        worker.start()
    until(lambda: server.asked)
    time.sleep(0.1)
    server.gate.set()
    for worker in workers:
        worker.join(20)
    assert [path.read_bytes() for path in found] == [CONTENT, CONTENT]
    assert len(server.asked) == 1


def test_a_killed_process_leaves_a_partial_that_the_next_goes_on_with(
    server: FileServer, source: FileSource, cache: ModelCache, tmp_path: Path
) -> None:
    server.gate.clear()
    code = (
        "import sys; from pathlib import Path\n"
        "from marketplace.catalogue import cache\n"
        "from marketplace.catalogue.records import FileSource\n"
        "cache._NOTE_S = 0.0\n"
        "made = cache.ModelCache(Path(sys.argv[1]) / 'cache', Path(sys.argv[1]) / 'state')\n"
        "made.fetch(FileSource('tiny', sys.argv[2], sys.argv[3]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), source.sha256, server.url]
    child = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    try:
        until(lambda: cache.look(source).done_bytes > 0)
        assert cache.look(source).state == "in_progress"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert cache.look(source).state == "pending"
    server.gate.set()
    assert cache.fetch(source).read_bytes() == CONTENT
    assert server.asked[1] is not None


def test_a_file_changed_later_is_pending_again_and_fetched_anew(
    source: FileSource, cache: ModelCache
) -> None:
    path = cache.fetch(source)
    path.write_bytes(b"tampered with")
    assert cache.look(source).state == "pending"
    assert cache.fetch(source).read_bytes() == CONTENT


def test_another_sha256_in_the_configuration_is_another_file(
    source: FileSource, cache: ModelCache
) -> None:
    cache.fetch(source)
    assert cache.look(replace(source, sha256="0" * 64)).state == "pending"


def test_a_file_by_its_path_is_checked_where_it_lies(cache: ModelCache, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    source = FileSource("mine", hashlib.sha256(CONTENT).hexdigest(), path=path)
    with pytest.raises(ModelFileError, match="cannot be read"):
        cache.fetch(source)
    path.write_bytes(b"wrong")
    with pytest.raises(ModelFileError, match="SHA-256"):
        cache.fetch(source)
    assert path.read_bytes() == b"wrong"
    path.write_bytes(CONTENT)
    assert cache.fetch(source) == path
    assert cache.look(source).state == "ready"


def test_a_source_has_one_origin() -> None:
    with pytest.raises(ConfigError, match="both a url and a path"):
        FileSource("x", "0" * 64)


def test_a_stop_ends_a_download_and_keeps_what_came(
    server: FileServer, source: FileSource, cache: ModelCache
) -> None:
    stop = threading.Event()
    with pytest.raises(StoppedError):
        cache.fetch(source, stop=stop, progress=lambda one: one.done_bytes and stop.set())
    assert cache.look(source).state == "pending"
    assert cache.fetch(source).read_bytes() == CONTENT


def test_the_precacher_fetches_what_is_pending_and_leaves_what_failed_for_good(
    server: FileServer, source: FileSource, cache: ModelCache
) -> None:
    wrong = replace(source, name="wrong", sha256="0" * 64)
    precacher = Precacher(cache, [wrong, source])
    precacher.start()
    until(lambda: cache.look(source).state == "ready")
    precacher.stop()
    assert cache.look(wrong).state == "failed"
    assert len(server.asked) == 2


async def test_the_catalogue_is_shown_to_the_operator_only(
    server: FileServer, source: FileSource, tmp_path: Path
) -> None:
    settings = GatewaySettings(
        models=(ModelOffer("tiny", 512, Price.from_usd(0.01, 0.03)),),
        engine_urls=(),
        state_dir=tmp_path / "state",
        cache_dir=tmp_path / "cache",
        catalogue=(source,),
        admin_key=ADMIN_KEY,
    )
    async with running_gateway(settings) as url:
        (row,) = (await admin_get(url, "catalogue"))["data"]
        assert row["name"] == "tiny"
        assert row["caching"]["state"] == "pending"
        ModelCache(tmp_path / "cache", tmp_path / "state").fetch(source)
        (row,) = (await admin_get(url, "catalogue"))["data"]
        assert row["caching"]["state"] == "ready"
        assert row["caching"]["done_bytes"] == len(CONTENT)
