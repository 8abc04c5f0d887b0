"""A scripted stand-in for vLLM's server over real HTTP: no model, but its life cycle.

What it is told, and the environment it was started with, go to the file that SCRIPT_LOG names.
SCRIPT says what it does not do: `no-sleep` (has no such route), `no-sleep-mode` (does not start
with the option), `slow-sleep` (never answers), `no-wake` (fails), `slow-start` (listens only when
the file SCRIPT_GO is there).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SCRIPT, LOG = os.environ.get("SCRIPT", ""), Path(os.environ["SCRIPT_LOG"])
OPTIONS = [one for one in sys.argv if one.startswith("--")]
PORT = next(int(one.partition("=")[2]) for one in OPTIONS if one.startswith("--port="))
METRICS = 'vllm:num_requests_running{engine="0"} 0.0\nvllm:num_requests_waiting{engine="0"} 0.0\n'


def note(**what: object) -> None:
    with LOG.open("a") as file:
        file.write(json.dumps(what) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200, METRICS if self.path == "/metrics" else "")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        note(path=self.path, body=body)
        if self.path.startswith("/sleep") and SCRIPT == "slow-sleep":
            threading.Event().wait()
        fails = self.path.startswith("/wake_up") and SCRIPT == "no-wake"
        is_there = not (self.path.startswith("/sleep") and SCRIPT == "no-sleep")
        self.answer(500 if fails else 200 if is_there else 404, "")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


if SCRIPT == "no-sleep-mode" and "--enable-sleep-mode" in OPTIONS:
    sys.exit("ValueError: Sleep mode is not supported on current platform.")
while SCRIPT == "slow-start" and not Path(os.environ["SCRIPT_GO"]).exists():
    time.sleep(0.02)
note(started=dict(os.environ), options=OPTIONS)
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
