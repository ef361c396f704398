"""What the answers of all forges share: ids, accounts, instants, as strict values.

Rules kept: an id is a number and nothing that could be read as one; what is not used is not read. Formats:
the API descriptions that each client names. Called by the clients beside it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from capsule.forge.api import ForgeRefused

MAIN = "main"
AccountId = Annotated[int, Field(ge=1, le=2**53 - 1)]
Number = Annotated[int, Field(ge=1, le=2**53 - 1)]
CommitId = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Login = Annotated[str, Field(max_length=255)]
Address = Annotated[str, Field(max_length=2000)]
When = AwareDatetime


class Shape(BaseModel):
    """Base of every answer: fields that are not named are not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class File(Shape):
    """What the contents endpoints of GitHub and Gitea tell of a file."""

    type: Annotated[str, Field(max_length=20)]
    sha: CommitId


def whole(at: datetime) -> datetime:
    """`at` in UTC, to the second: documents carry no more."""
    return at.astimezone(UTC).replace(microsecond=0)


def escaped(path: str) -> str:
    """A path of a file as a part of an address, slashes kept."""
    return quote(path, safe="/")


def owner_and_name(repository: str) -> tuple[str, str]:
    """The two parts of owner/name. Raises ForgeRefused."""
    owner, _, name = repository.partition("/")
    if not owner or not name or "/" in name:
        raise ForgeRefused("ForgeRefusedCall", f"{repository!r} is not of the form owner/name")
    return owner, name
