"""The README's quick start for tenants, run as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import ROOT, Site

_BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.DOTALL)


def quick_start() -> str:
    """The blocks as one script for bash."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("As a tenant, with that key:") : text.index("While it streams,")]
    script = ["set -euo pipefail"]
    for kind, block in _BLOCK.findall(section):
        if kind == "python":
            script += ["python3 - <<'EOF'", block, "EOF"]
        else:
            script.append(re.sub(r"^\$ ", "", block, flags=re.MULTILINE))
    # The client is installed with the tests' own packages.
    return "\n".join(script).replace("pip install openai\n", "")


def test_the_quick_start_works_as_printed(site: Site, tmp_path: Path) -> None:
    script = quick_start()
    assert script.count("http://127.0.0.1:8080/") == 3
    path = f"{Path(sys.executable).parent}{os.pathsep}{site.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script.replace("http://127.0.0.1:8080", site.gateway_url)],
        env=site.environ | {"PATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "question-3" in done.stdout
    assert "question-5" in done.stdout
    assert '"model":"SmolLM2-135M-Instruct"' in done.stdout
    assert (tmp_path / "invoice.pdf").read_bytes().startswith(b"%PDF")
