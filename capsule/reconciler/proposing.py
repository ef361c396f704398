"""Requests that a reconciler makes by itself, for rotations that fall due: asked for, never approved by it.

Rules kept: the request is signed by the reconciler as any requester signs, and lies on its own branch
`request/<name>`, made by compare-and-swap from nothing on the tip of main; a remote that refuses it stops
nothing else. Called by the reconciler.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

from capsule.decide import Propose
from capsule.documents.codec import emit
from capsule.documents.paths import REQUEST_BRANCHES, RequestFolder
from capsule.documents.types import API_VERSION, ActionRequest, Metadata, RequestSpec
from capsule.reconciler.clock import Clock
from capsule.reconciler.context import about
from capsule.store.api import Draft, Person, PushRefused, PushUnclear, RefMoved, RefUpdate, Store
from capsule.trust.state import MainState
from capsule_agent.protocol import sshsig

log = logging.getLogger("capsule.reconciler")
ROTATE = "rotateKey"
OPEN_FOR = timedelta(days=30)
"""How long after the due date a proposal may still be approved."""
MOST = 20
"""Proposals in one pass: each is a branch, and a push."""
PAUSE = 600.0


class Proposing:
    """Makes the requests of one reconciler."""

    def __init__(self, store: Store, signer: sshsig.Signer, name: str, clock: Clock) -> None:
        self._store = store
        self._signer = signer
        self._name = name
        self._clock = clock
        self._tried: dict[str, float] = {}

    def publish(self, found: Sequence[Propose], state: MainState) -> int:
        """Put each on its branch; how many were. For one service at most one is pushed in ten minutes,
        whatever became of it: neither a remote that refuses nor somebody who takes its place makes every
        pass push.

        Raises RemoteUnreachable.
        """
        now = self._clock.monotonic()
        self._tried = {name: at for name, at in self._tried.items() if now - at < PAUSE}
        due = [each for each in found if each.service.document.metadata.name not in self._tried]
        return sum(self._publish(each, state) for each in due[:MOST])

    def _publish(self, propose: Propose, state: MainState) -> bool:
        service = propose.service.document.metadata.name
        with about(request=propose.name, service=service):
            self._tried[service] = self._clock.monotonic()
            branch = REQUEST_BRANCHES + propose.name
            commit = self._write(propose, state)
            try:
                self._store.publish([RefUpdate(branch, None, commit)])
            except RefMoved:
                # Another reconciler was first: the same name, the same wish. Or somebody put something else
                # there: then decide takes another name once that was seen.
                return False
            except (PushRefused, PushUnclear) as error:
                log.warning("request %s was not put on its branch: %s", propose.name, error)
                return False
            log.info("asked for %s, due %s", propose.name, f"{propose.due:%Y-%m-%d}")
            return True

    def _write(self, propose: Propose, state: MainState) -> str:
        now = self._clock.now()
        folder = RequestFolder(f"{now:%Y/%m}", propose.name)
        raw = emit(self._document(propose))
        service = propose.service.document.metadata.name
        person = Person(self._name, f"{self._name}@reconciler.invalid")
        signature = self._signer.sign(raw, sshsig.REQUEST)
        return self._store.write(
            Draft(
                base=state.tip,
                edits={folder.request: raw, folder.signature: signature.encode()},
                parents=[state.tip],
                message=f"Ask for {ROTATE} on {service}\n\nCapsule-Request: {propose.name}\n",
                author=person,
                at=now,
                sign=lambda data: self._signer.sign(data, sshsig.COMMIT),
            )
        )

    def _document(self, propose: Propose) -> ActionRequest:
        due, now = propose.due.replace(microsecond=0), self._clock.now().replace(microsecond=0)
        return ActionRequest(
            api_version=API_VERSION,
            kind="ActionRequest",
            metadata=Metadata(name=propose.name),
            spec=RequestSpec(
                requested_by=self._name,
                action=ROTATE,
                targets=(propose.service.document.metadata.name,),
                reason=f"The key is due for rotation on {due:%Y-%m-%d}, as its document says",
                expires=max(due, now) + OPEN_FOR,
            ),
        )
