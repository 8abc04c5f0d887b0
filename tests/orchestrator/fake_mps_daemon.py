#!/usr/bin/env python3
"""A fake `nvidia-cuda-mps-control` for tests: it keeps its state in files of the pipe directory.

With -f it runs until told to quit; without, it answers one line of its input. Where there is a
file `with-server` beside the pipes it has a server, whose pid it writes there, and which outlives
it when it is killed.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

pipe = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
alive, said = pipe / "alive", pipe / "said"

if sys.argv[1:] == ["-f"]:
    if (pipe.parent / "refuse").exists():
        print("fake: An instance of this daemon is already running")
        sys.exit(1)
    alive.touch()
    server = None
    if (named := pipe.parent / "with-server").exists():
        server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        named.write_text(str(server.pid))
    while alive.exists():
        time.sleep(0.01)
    if server is not None:
        server.kill()
        server.wait()
    sys.exit(0)

if not alive.exists():
    print("Cannot find MPS control daemon process", file=sys.stderr)
    sys.exit(1)
line = sys.stdin.readline().strip()
with said.open("a") as file:
    file.write(line + "\n")
words = line.split()
if words[0] == "quit":
    alive.unlink()
elif words[0] == "get_server_list":
    print("4242")
elif words[0] == "get_client_list":
    print("101\n102")
