"""Looks the pinned dependencies up in pip-audit's vulnerability database.

    python scripts/audit_dependencies.py PIP_AUDIT constraints.txt

Exit status 1: something pinned has a known vulnerability. Where the database cannot be reached
nothing is known, which is said, and is no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

TIMEOUT_S = 300


def main(pip_audit: str, constraints: str) -> int:
    """Runs pip-audit over the file; what is to be the exit status."""
    command = [pip_audit, "-r", constraints, "--no-deps", "--disable-pip", "-f", "json"]
    command += ["--progress-spinner", "off", "--desc", "off"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        found = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
        return not_done(f"pip-audit did not answer ({type(error).__name__})")
    return judge(found)


def judge(found: list[dict[str, Any]]) -> int:
    """Says what is known of each dependency; the exit status."""
    skipped = [one["name"] for one in found if "skip_reason" in one]
    if len(skipped) == len(found):
        return not_done("the vulnerability database knows none of the packages, or is not reached")
    vulnerable = [one for one in found if one.get("vulns")]
    for one in vulnerable:
        for known in one["vulns"]:
            mended = ", ".join(known["fix_versions"]) or "no version yet"
            print(f"{one['name']} {one['version']}: {known['id']}, mended in {mended}")
    n_audited = len(found) - len(skipped)
    print(f"{n_audited} dependencies audited, {len(vulnerable)} with known vulnerabilities")
    if skipped:
        print(f"not in the database: {', '.join(skipped)}")
    return 1 if vulnerable else 0


def not_done(why: str) -> int:
    """Nothing was found out."""
    print(f"DEPENDENCIES NOT AUDITED: {why}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
