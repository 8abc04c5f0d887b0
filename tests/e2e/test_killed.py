"""`kill -9` of any one process of the site while a request streams: the site comes back."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time

import httpx
import openai
import psutil
import pytest

from tests.e2e.conftest import MODEL, Site, eventually

pytestmark = pytest.mark.e2e

STORY = [{"role": "user", "content": "Tell me everything about the sea."}]
SERVICES = ("control", "engine", "l1", "dashboard", "gateway")
RAY = ("gcs_server", "raylet", "ServeReplica", "ServeController")


def victim(site: Site, name: str) -> int:
    if name in SERVICES:
        return site.service_pid(name)
    if name == "supervisor":
        pid: int = psutil.Process(int((site.state_dir / "run" / "supervisor.lock").read_text())).pid
        return pid
    return site.pid_of(name)


def complete(site: Site) -> bool:
    try:
        answer = site.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=3
        )
    except openai.APIError:
        return False
    return bool(answer.choices)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", [*SERVICES, "supervisor", *RAY])
def test_the_site_heals(site: Site, name: str) -> None:
    eventually(lambda: complete(site), "a working site before", 60)
    streamed: list[str] = []
    outcome: list[str] = []

    def read() -> None:
        try:
            stream = site.client().chat.completions.create(
                model=MODEL, messages=STORY, max_tokens=150, temperature=0, stream=True
            )
            for chunk in stream:
                if chunk.choices:
                    streamed.append(chunk.choices[0].delta.content or "")
                    if chunk.choices[0].finish_reason:
                        outcome.append(chunk.choices[0].finish_reason)
        except (openai.APIError, httpx.HTTPError) as error:
            outcome.append(type(error).__name__)

    reader = threading.Thread(target=read)
    reader.start()
    eventually(lambda: len(streamed) > 5, "the stream has begun", 60)
    pid = victim(site, name)
    os.kill(pid, signal.SIGKILL)
    killed_s = time.monotonic()
    eventually(lambda: not psutil.pid_exists(pid) or victim_gone(pid), "it is dead", 30)
    eventually(lambda: complete(site), f"a completion after killing {name}", 90)
    print(f"{name}: working again after {time.monotonic() - killed_s:.1f} s")
    reader.join(90)
    assert not reader.is_alive()
    if name in ("control", "engine", "l1", "dashboard", "supervisor"):
        assert outcome in (["stop"], ["length"]), f"the stream broke: {outcome}"
    check_books(site)


def victim_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def check_books(site: Site) -> None:
    """Every completed request is billed, and nothing is billed that was not worked on."""
    with sqlite3.connect(f"file:{site.state_dir / 'marketplace.db'}?mode=ro", uri=True) as books:
        billed = [row[0] for row in books.execute("SELECT job_id FROM usage")]
        states = dict(books.execute("SELECT id, state FROM jobs"))
    books.close()
    completed = {job for job, state in states.items() if state == "completed"}
    assert len(billed) == len(set(billed))
    assert completed <= set(billed)
    assert {states[job] for job in billed} <= {"completed", "cancelled"}


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", ["ServeReplica", "gateway", "engine"])
def test_accepted_asynchronous_work_is_done_once(site: Site, name: str) -> None:
    eventually(lambda: complete(site), "a working site before", 60)
    before = site.stats()["requests"]["completed"]
    answer = httpx.post(
        f"{site.gateway_url}/v2/nvcf/pexec/functions/{MODEL}",
        json={"model": MODEL, "messages": STORY, "max_tokens": 200, "temperature": 0},
        headers={"Authorization": f"Bearer {site.key}", "NVCF-POLL-SECONDS": "0"},
        timeout=30,
    )
    assert answer.status_code == 202
    request_id = answer.headers["NVCF-REQID"]
    os.kill(victim(site, name), signal.SIGKILL)
    found: list[httpx.Response] = []

    def done() -> bool:
        try:
            status = httpx.get(
                f"{site.gateway_url}/v2/nvcf/pexec/status/{request_id}",
                headers={"Authorization": f"Bearer {site.key}", "NVCF-POLL-SECONDS": "1"},
                timeout=30,
            )
        except httpx.HTTPError:
            return False
        found.append(status)
        return status.status_code == 200

    eventually(done, "the accepted job is done", 110)
    assert found[-1].json()["choices"][0]["message"]["content"]
    # Asking again gives the same answer and bills nothing more.
    assert done()
    assert found[-1].json() == found[-2].json()
    assert site.stats()["requests"]["completed"] == before + 1
