"""What a forge said of a pull request, as trust reads it.

Rules kept: nothing is judged here; texts are made printable. Called by reconciler.evidence and commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from capsule.documents.problems import shown
from capsule.documents.types import ForgeSettings, Review, Writer
from capsule.forge.api import Forge, RawPull
from capsule.trust.attestations import ForgeFacts
from capsule.trust.change_reviews import Origin


def facts_of(settings: ForgeSettings, pull: RawPull, merged: str, paths: Mapping[str, str]) -> ForgeFacts:
    """What a forge said of `pull`, which became `merged`, as trust reads it. Raises ValueError."""
    return ForgeFacts(
        forge=settings.kind,
        server=settings.server,
        repository=settings.repository,
        number=pull.number,
        merged=merged,
        head=pull.head,
        author=pull.author,
        paths=paths,
        reviews=_reviews(pull),
    )


def origin_of(forge: Forge, number: int, paths: Sequence[str]) -> Origin:
    """Where the pull request comes from: who wrote it, and what `paths` held where its branch left main.

    Raises ForgeError, ValueError.
    """
    return Origin(writers_of(forge, number), forge.blob_ids(forge.base(number), paths))


def writers_of(forge: Forge, number: int) -> tuple[Writer, ...]:
    """Who wrote the commits of the pull request. Raises ForgeError, ValueError."""
    return tuple(Writer(user=each.user, email=shown(each.email)[:500]) for each in forge.writers(number))


def _reviews(pull: RawPull) -> Sequence[Review]:
    return [
        Review(
            id=each.id,
            user=each.user,
            login=shown(each.login)[:100],
            state=each.state,
            commit=each.commit,
            submitted_at=each.submitted_at,
            bot=each.bot,
        )
        for each in pull.reviews
    ]
