"""News from the remote before somebody looks: a short fetch, so that what is read is what is so now.

Rules kept: whoever looks waits a few seconds at most and is shown what there is when the remote does not
answer; two looks in a row cost one fetch. Called by the verbs that look, and by the guide.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from capsule.commands.repository import Repository
from capsule.store.api import StoreError

_FRESH = timedelta(seconds=5)
_SILENCE = 3.0
_WHOLE = 10.0
"""Seconds that a silent remote is given, and seconds for all of a fetch: for more there is `git fetch`."""


def get_news(repository: Repository, now: datetime) -> str:
    """Fetch, unless somebody did a moment ago; why nothing came, in words, or an empty text."""
    if not repository.store.has_remote():
        return ""
    fetched = repository.store.fetched_at()
    if fetched and timedelta(0) <= now - fetched < _FRESH:
        return ""
    from capsule.store.git import open_store

    patience = replace(repository.remote_settings, timeout=_SILENCE, whole=_WHOLE)
    try:
        store = open_store(repository.directory, settings=patience)
        try:
            store.refresh()
        finally:
            store.close()
    except (StoreError, OSError) as error:
        return str(error)
    return ""
