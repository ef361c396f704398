"""The contents endpoint, which GitHub and Gitea share: blob ids of files at a commit. Called by both clients.

Rules kept: what is no file, or is not there, has no blob id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter

from capsule.forge.rest import NotThere, Rest
from capsule.forge.shapes import File, escaped

_FILE = TypeAdapter(File)


def blob_ids_at(rest: Rest, repository: str, commit: str, paths: Sequence[str]) -> Mapping[str, str]:
    """The blob id of each of `paths` that is a file in `commit`; `repository` is its path in the API.

    Raises EvidenceUnavailable, ForgeRefused.
    """
    found = {}
    for path in paths:
        try:
            file = rest.get(_FILE, f"{repository}/contents/{escaped(path)}", {"ref": commit})
        except NotThere:
            continue
        if file.type == "file":
            found[path] = file.sha
    return found
