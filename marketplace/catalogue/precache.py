"""Fetching the models' files in the background, beside whatever else a process does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from airan.core.errors import AiranError
from marketplace.catalogue.cache import ModelCache
from marketplace.catalogue.download import StoppedError
from marketplace.catalogue.records import FileSource

log = logging.getLogger(__name__)

_LOOK_S = 1.0


class Precacher:
    """Fetches what is pending, one file after the other, and again what failed but may pass.

    A file that failed for good waits for `airan model pull`. The thread does not keep the process
    alive: what it has fetched by then is gone on with at the next start.
    """

    def __init__(self, cache: ModelCache, sources: Sequence[FileSource]) -> None:
        self._cache = cache
        self._sources = tuple(sources)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="precache", daemon=True)

    def start(self) -> None:
        """Begins, if there is anything to fetch."""
        if self._sources:
            self._thread.start()

    def stop(self) -> None:
        """Ends it soon."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            for source in self._sources:
                if self._due(source):
                    self._fetch(source)
            self._stop.wait(_LOOK_S)

    def _due(self, source: FileSource) -> bool:
        found = self._cache.look(source)
        if found.state == "failed":
            return found.retry_s is not None and time.time() >= found.retry_s
        return found.state == "pending"

    def _fetch(self, source: FileSource) -> None:
        try:
            path = self._cache.fetch(source, stop=self._stop)
            log.info("model %s is ready at %s", source.name, path)
        except StoppedError:
            return
        except AiranError as error:
            log.warning("model %s: %s", source.name, error)
        except Exception:
            log.exception("model %s could not be fetched", source.name)
