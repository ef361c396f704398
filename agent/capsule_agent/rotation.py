"""Key rotation, journalled: create → verify → switch → revoke the old key after its grace.

Rules kept: every step is in the journal before it begins; after a crash the key store is asked what
happened, and the rotation is finished or rolled back; at most one key is switched to per operation; a key
in use is never revoked; keys created and not switched to are revoked. Secrets of keys are never stored:
a key whose switch did not happen cannot be finished, only revoked. Called by execute, and by its timer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from capsule_agent.journal import Journal
from capsule_agent.protocol.messages import Outcome, instant_text
from capsule_agent.sensitive import Redactor
from capsule_agent.values import DURATION, BadValue, DeclarationError, Field, Scalar

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_GRACE = "3650d"
_RETRY_SECONDS = (1.0, 5.0, 30.0, 300.0)
OUTPUTS = {
    "keyId": Field(str, "Id of the new key"),
    "previousKeyId": Field(str, "Id of the key that was in use before"),
    "revokeAt": Field(str, "When the previous key is revoked"),
    "previousRevoked": Field(bool, "Whether the previous key is revoked already"),
}


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just created. `id` names it at the key store and is no secret; `secret` is the key itself."""

    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key that the key store lists. `in_use`: whether the service uses it now. `tag`: what `create` was
    given, "" for a key without one, None where the store has no tags."""

    id: str
    in_use: bool
    tag: str | None = None
    created_at: datetime | None = None


class Grace(Field):
    """The parameter `grace`: a duration of at most MAX_GRACE."""

    __slots__ = ()

    def check(self, value: object) -> Scalar:
        """`value`, when it fits. Raises BadValue."""
        text = Field.check(self, value)
        if seconds(str(text)) > seconds(MAX_GRACE):
            raise BadValue(f"expected at most {MAX_GRACE}")
        return text


@dataclass(frozen=True, slots=True)
class Rotation:
    """How an adapter rotates its key; each function may raise, and is told nothing twice.

    create(tag): make a key at the key store, tagged if the store can. verify(key): raise unless the
    upstream accepts it. switch(key): make the service use it, durably before returning. revoke(id): end a
    key; called again for one that is gone must do no harm. find(): all keys, with the one in use marked.
    `grace`: how long the old key lives on unless the order says otherwise. `patience`: seconds waited
    before each try to ask the key store, after a step that failed or was interrupted.
    """

    create: Callable[[str], NewKey]
    verify: Callable[[NewKey], object]
    switch: Callable[[NewKey], object]
    revoke: Callable[[str], object]
    find: Callable[[], Iterable[FoundKey]]
    grace: str = "24h"
    patience: tuple[float, ...] = (0.0, 0.5, 2.0, 5.0)

    def __post_init__(self) -> None:
        if not DURATION.fullmatch(self.grace):
            raise DeclarationError('Rotation.grace: expected a duration such as "24h" or "0s"')
        if seconds(self.grace) > seconds(MAX_GRACE):
            raise DeclarationError(f"Rotation.grace: expected at most {MAX_GRACE}")

    @property
    def params(self) -> dict[str, Field]:
        """The parameters of rotateKey."""
        text = f"How long the previous key lives on, at most {MAX_GRACE}; 0s revokes it at once, for a leak"
        return {"grace": Grace(str, text, pattern=DURATION.pattern, default=self.grace)}


@dataclass(frozen=True, slots=True)
class Ending:
    """How an operation ended, before it becomes a receipt."""

    outcome: Outcome
    reason: str
    message: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)


class KeyStoreUnreachable(Exception):
    """The key store did not answer, for as long as patience lasted."""


@dataclass(frozen=True, slots=True)
class _Row:
    op_id: str
    phase: str
    before: frozenset[str]
    old: str | None
    new: str | None
    grace: int


class Rotator:
    """Runs rotations of one service through its journal. The caller holds `journal.running()`."""

    def __init__(
        self, rotation: Rotation, journal: Journal, redactor: Redactor, clock: Callable[[], datetime]
    ) -> None:
        self._do = rotation
        self._journal = journal
        self._redactor = redactor
        self._clock = clock

    def run(self, op_id: str, grace: str) -> Ending:
        """Rotate once. The journal's operation is already in step Effect."""
        refused = self._list_keys(op_id, seconds(grace))
        if refused:
            return refused
        if seconds(grace) == 0:
            self._hasten_revocations()
        self._enter(op_id, "Creating")
        try:
            key = self._do.create(tag_of(op_id))
            self._redactor.remember(key.secret)
            _check_id(key)
            self._enter(op_id, "Created", new=key.id)
            self._do.verify(key)
            self._enter(op_id, "Switching")
            self._do.switch(key)
        except Exception as error:
            self._redactor.log_exception("the rotation failed; it is rolled back")
            return self._settle_now(op_id, type(error).__name__)
        try:
            self._record_switch(op_id, key.id)
            return self._conclude(op_id)
        except Exception as error:
            self._redactor.log_exception("the key was switched; what follows failed and is settled")
            return self._settle_now(op_id, type(error).__name__)

    def _settle_now(self, op_id: str, cause: str) -> Ending:
        """Settle; when that fails too, a doubt: nobody may read that nothing was changed."""
        try:
            return self.settle(op_id, cause)
        except Exception as error:
            self._redactor.log_exception("a rotation could not be settled")
            text = f"{cause}, then {type(error).__name__} while it was settled: look which key is in use"
            return Ending("unknown", "InterruptedInEffect", text)

    def settle(self, op_id: str, cause: str) -> Ending:
        """Ask the key store what happened to a rotation that stopped somewhere; finish it or roll it back."""
        row = self._row(op_id)
        if row is None or row.phase == "Listed":
            return Ending("failed", "RolledBack", f"{cause}: stopped before a key was created")
        if row.phase == "Switched":
            return self._conclude(op_id)
        try:
            keys = self._ask()
        except KeyStoreUnreachable:
            text = f"{cause} while {row.phase}; then the key store did not answer: look for a key to revoke"
            return Ending("unknown", "KeyStoreUnreachable", text)
        ours = _created_here(row, keys)
        if len(ours) > 1 and row.new is None and not _tagged(keys):
            return Ending("unknown", "OrphanAmbiguous", f"{cause}: one of these is ours: {', '.join(ours)}")
        switched = [key.id for key in keys if key.in_use and key.id in ours]
        if switched:
            self._record_switch(op_id, switched[0])
            return self._conclude(op_id)
        if row.phase == "Switching" and not any(key.in_use for key in keys):
            return Ending("unknown", "InterruptedInSwitch", f"{cause}: cannot tell which key is in use")
        return self._roll_back(row, ours, cause)

    def revoke_due(self) -> float | None:
        """Revoke what is due; seconds until the next one is, None when there is none."""
        for key_id, op_id, tries in self._journal.rows(
            "SELECT key_id, op_id, tries FROM revocations WHERE due <= ? ORDER BY due", self._now()
        ):
            self._revoke(key_id, op_id, tries)
        due = self._journal.rows("SELECT min(due) FROM revocations")[0][0]
        return None if due is None else max(0.0, due - self._now())

    def note_creation(self) -> None:
        """Learn from the key store when the present key was created, if the journal does not know."""
        if self._journal.state().key_created_at is None:
            made = [key.created_at for key in self._do.find() if key.in_use and key.created_at]
            if len(made) == 1:
                with self._journal.change("", "KeyAgeLearned", self._clock()) as db:
                    db.execute(
                        "INSERT OR IGNORE INTO facts VALUES ('key_created_at', ?)", (instant_text(made[0]),)
                    )

    # ---- steps ----------------------------------------------------------------------------------

    def _list_keys(self, op_id: str, grace: int) -> Ending | None:
        keys = list(self._do.find())
        in_use = [key.id for key in keys if key.in_use]
        if len(in_use) > 1 or (keys and not in_use):
            text = f"the key store shows {len(in_use)} keys in use of {len(keys)}; expected one: mark it"
            return Ending("failed", "KeyInUseUnclear", text)
        with self._journal.change(op_id, "Rotation:Listed", self._clock()) as db:
            db.execute(
                "INSERT OR REPLACE INTO rotations VALUES (?, 'Listed', ?, ?, NULL, ?)",
                (op_id, json.dumps([key.id for key in keys]), in_use[0] if in_use else None, grace),
            )
        return None

    def _enter(self, op_id: str, phase: str, new: str | None = None) -> None:
        with self._journal.change(op_id, f"Rotation:{phase}", self._clock()) as db:
            db.execute(
                "UPDATE rotations SET phase = ?, new_key = coalesce(?, new_key) WHERE op_id = ?",
                (phase, new, op_id),
            )

    def _record_switch(self, op_id: str, new: str) -> None:
        row = self._row(op_id)
        assert row
        now = self._clock()
        with self._journal.change(op_id, "Rotation:Switched", now) as db:
            db.execute("UPDATE rotations SET phase = 'Switched', new_key = ? WHERE op_id = ?", (new, op_id))
            db.execute("INSERT OR REPLACE INTO facts VALUES ('key_created_at', ?)", (instant_text(now),))
            db.execute("DELETE FROM revocations WHERE key_id = ?", (new,))
            if row.old is not None:
                db.execute(
                    "INSERT OR REPLACE INTO revocations VALUES (?, ?, ?, 0)",
                    (row.old, op_id, now.timestamp() + row.grace),
                )

    def _conclude(self, op_id: str) -> Ending:
        row = self._row(op_id)
        assert row
        if row.grace == 0:
            self.revoke_due()
        pending = self._journal.rows("SELECT due FROM revocations WHERE key_id = ?", row.old)
        outputs: dict[str, Any] = {"keyId": row.new}
        if row.old is not None:
            outputs |= {"previousKeyId": row.old, "previousRevoked": not pending}
        if pending and row.grace == 0:
            text = "switched to the new key, but the previous one could not be revoked yet; it is tried on"
            return Ending("failed", "RevokeFailed", text, outputs)
        if pending:
            due = datetime.fromtimestamp(pending[0][0], tz=self._clock().tzinfo)
            outputs["revokeAt"] = instant_text(due)
        return Ending("succeeded", "Rotated", "", outputs)

    def _roll_back(self, row: _Row, ours: list[str], cause: str) -> Ending:
        now = self._clock()
        with self._journal.change(row.op_id, "Rotation:RolledBack", now) as db:
            db.execute("UPDATE rotations SET phase = 'RolledBack' WHERE op_id = ?", (row.op_id,))
            for key_id in ours or ([row.new] if row.new else []):
                db.execute(
                    "INSERT OR IGNORE INTO revocations VALUES (?, ?, ?, 0)",
                    (key_id, row.op_id, now.timestamp()),
                )
        self.revoke_due()
        return Ending("failed", "RolledBack", f"{cause} while {row.phase}; the key in use was not changed")

    def _hasten_revocations(self) -> None:
        """A leak: keys still in their grace go before a new one is made, which also frees their place."""
        with self._journal.change("", "Rotation:Hastened", self._clock()) as db:
            db.execute("UPDATE revocations SET due = min(due, ?)", (self._now(),))
        self.revoke_due()

    def _revoke(self, key_id: str, op_id: str, tries: int) -> None:
        try:
            keys = {key.id: key for key in self._do.find()}
            if key_id in keys and keys[key_id].in_use:
                self._forget(key_id, op_id, "KeptInUse")
                return
            if keys and not any(key.in_use for key in keys.values()):
                self._postpone(key_id, tries)
                return
            self._do.revoke(key_id)
        except Exception as error:
            self._redactor.log_exception(f"revoking key {key_id} failed: {type(error).__name__}; tried again")
            self._postpone(key_id, tries)
            return
        self._forget(key_id, op_id, "Revoked")

    def _forget(self, key_id: str, op_id: str, step: str) -> None:
        with self._journal.change(op_id, f"Rotation:{step}", self._clock()) as db:
            db.execute("DELETE FROM revocations WHERE key_id = ?", (key_id,))

    def _postpone(self, key_id: str, tries: int) -> None:
        wait = _RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)]
        with self._journal.change("", "Rotation:Postponed", self._clock()) as db:
            db.execute(
                "UPDATE revocations SET due = ?, tries = tries + 1 WHERE key_id = ?",
                (self._now() + wait, key_id),
            )

    # ---- asking ---------------------------------------------------------------------------------

    def _ask(self) -> list[FoundKey]:
        for wait in self._do.patience:
            time.sleep(wait)
            try:
                return list(self._do.find())
            except Exception:
                self._redactor.log_exception("the key store did not list its keys")
        raise KeyStoreUnreachable

    def _row(self, op_id: str) -> _Row | None:
        rows = self._journal.rows(
            "SELECT op_id, phase, keys_before, old_key, new_key, grace FROM rotations WHERE op_id = ?", op_id
        )
        if not rows:
            return None
        op_id, phase, before, old, new, grace = rows[0]
        return _Row(op_id, phase, frozenset(json.loads(before)), old, new, grace)

    def _now(self) -> float:
        return self._clock().timestamp()


def tag_of(op_id: str) -> str:
    """The tag of a key created for an operation: short enough for names at key stores."""
    return f"capsule-{op_id[:32]}"


def seconds(duration: str) -> int:
    """Seconds of "24h"; the text was checked before."""
    match = DURATION.fullmatch(duration)
    assert match
    return int(timedelta(seconds=int(match[1]) * _UNITS[match[2]]).total_seconds())


def _check_id(key: NewKey) -> None:
    if key.secret in key.id:
        raise DeclarationError("NewKey.id holds the secret itself; ids are shown and stored")


def _tagged(keys: Iterable[FoundKey]) -> bool:
    return any(key.tag is not None for key in keys)


def _created_here(row: _Row, keys: list[FoundKey]) -> list[str]:
    if _tagged(keys):
        return [key.id for key in keys if key.tag == tag_of(row.op_id) or key.id == row.new]
    if row.new is not None:
        return [key.id for key in keys if key.id == row.new]
    return [key.id for key in keys if key.id not in row.before]
