"""What CI makes of pip-audit's answers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "audit_dependencies.py"


@pytest.fixture
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit_dependencies", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(folder: Path, prints: str) -> str:
    """Stands for pip-audit: prints that."""
    path = folder / "pip-audit"
    path.write_text(f"#!{sys.executable}\nprint({prints!r})\n")
    path.chmod(0o755)
    return str(path)


WELL = '{"name": "numpy", "version": "2.0", "vulns": []}'
ILL = (
    '{"name": "jinja2", "version": "2.4.1", '
    '"vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"]}]}'
)
UNKNOWN = '{"name": "airan", "skip_reason": "not found"}'


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        (f"[{WELL}]", 0, "1 dependencies audited, 0 with known"),
        (f"[{WELL}, {UNKNOWN}]", 0, "not in the database: airan"),
        (f"[{WELL}, {ILL}]", 1, "jinja2 2.4.1: PYSEC-2019-217, mended in 2.10.1"),
        (f"[{UNKNOWN}]", 0, "NOT AUDITED"),
        ("[]", 0, "NOT AUDITED"),
    ],
)
def test_known_vulnerabilities_fail_the_build_and_ignorance_is_said(
    audit: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    found: str,
    status: int,
    said: str,
) -> None:
    pip_audit = program(tmp_path, f'{{"dependencies": {found}}}')
    assert audit.main(pip_audit, "constraints.txt") == status
    told = capsys.readouterr()
    assert said in told.out + told.err


def test_without_pip_audit_or_its_database_it_is_said_that_nothing_was_audited(
    audit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(str(tmp_path / "none"), "constraints.txt") == 0
    assert audit.main(program(tmp_path, "no connection"), "constraints.txt") == 0
    assert capsys.readouterr().err.count("NOT AUDITED") == 2
