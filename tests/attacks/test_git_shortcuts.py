"""Git's shortcuts (replace refs, grafts, a shallow file) change no verdict: bytes are what is judged.

Rules kept: each is set with stock git or by hand in the repository that is judged, once to hide a forged
commit and once over an honest history.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from capsule.documents.paths import AUDIT, MAIN
from capsule.store.api import Draft, Person, RefUpdate
from capsule.store.git import init, open_store
from capsule.trust.audit import AuditVerdict, verify_audit
from capsule.trust.objects import MissingObject, parse_commit
from capsule_agent.protocol import sshsig
from tests.agent_fixtures import key
from tests.git_servers import git
from tests.town import Town


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """A rotation that was asked for, approved, executed and recorded, in a bare repository."""
    made = Town(tmp_path, store=init(tmp_path / "state.git", bare=True))
    made.request()
    made.settle(made.reconciler())
    yield made
    made.close()


def folder(town: Town) -> Path:
    return town.folder / "state.git"


def verdict(town: Town, at: Path | None = None) -> AuditVerdict:
    """What a process finds that opens the repository anew."""
    main, audit = town.tip(MAIN), town.tip(AUDIT)
    assert main
    assert audit
    with closing(open_store(at or folder(town))) as store:
        return verify_audit(store, town.root, main, audit)


def forged(town: Town) -> tuple[str, str]:
    """A commit on audit that a person signed, with an honest one over it; and its honest parent."""
    before = town.tip(AUDIT)
    assert before
    bad = appended(town, "records/2026/11/rotate-1/note.txt", b"forged", "mallory")
    appended(town, "status/openai-chat.yaml", None, "reconciler-1")
    return bad, before


def appended(town: Town, path: str, data: bytes | None, who: str) -> str:
    tip = town.tip(AUDIT)
    assert tip
    observed = parse_commit(town.store.read(tip)[1]).trailers["Capsule-Revision"][-1]
    made = town.store.write(
        Draft(
            base=tip,
            edits={path: data},
            parents=[tip],
            message=f"Nothing to see here\n\nCapsule-Revision: {observed}\n",
            author=Person(who, f"{who}@example.com"),
            at=town.clock.now(),
            sign=lambda text: key(who).sign(text, sshsig.COMMIT),
        )
    )
    town.store.publish([RefUpdate(AUDIT, tip, made)])
    return made


def test_forged_commit_hidden_by_a_replace_ref(town: Town) -> None:
    bad, honest = forged(town)
    git(folder(town), "replace", bad, honest)
    found = verdict(town).first_bad
    assert found is not None
    assert found.commit == bad


def test_honest_commit_replaced_by_another(town: Town) -> None:
    before = verdict(town)
    tip = town.tip(AUDIT)
    assert tip
    git(folder(town), "replace", tip, town.root)
    git(
        folder(town),
        "replace",
        parse_commit(town.store.read(tip)[1]).tree,
        parse_commit(town.store.read(town.root)[1]).tree,
    )
    assert verdict(town) == before
    assert before.first_bad is None


def test_forged_commit_hidden_by_a_graft(town: Town) -> None:
    bad, honest = forged(town)
    (folder(town) / "info").mkdir(exist_ok=True)
    (folder(town) / "info" / "grafts").write_text(f"{town.tip(AUDIT)} {honest}\n")
    found = verdict(town).first_bad
    assert found is not None
    assert found.commit == bad


def test_honest_history_cut_off_by_a_graft(town: Town) -> None:
    before = verdict(town)
    (folder(town) / "info").mkdir(exist_ok=True)
    (folder(town) / "info" / "grafts").write_text(f"{town.tip(AUDIT)}\n{town.tip(MAIN)}\n")
    assert verdict(town) == before
    assert before.first_bad is None


def test_forged_commit_hidden_by_a_shallow_file(town: Town) -> None:
    """Git itself ends the history at a commit that the file names; here it does not."""
    bad, _ = forged(town)
    (folder(town) / "shallow").write_text(f"{town.tip(AUDIT)}\n")
    found = verdict(town).first_bad
    assert found is not None
    assert found.commit == bad


def test_shallow_clone_is_never_called_proved(town: Town, tmp_path: Path) -> None:
    forged(town)
    clone = tmp_path / "shallow.git"
    git(
        tmp_path,
        "clone",
        "-q",
        "--bare",
        "--depth",
        "1",
        "--no-single-branch",
        f"file://{folder(town)}",
        str(clone),
    )
    with pytest.raises(MissingObject):
        verdict(town, clone)


def test_tag_named_like_a_branch_or_a_commit(town: Town) -> None:
    before = verdict(town)
    for name in ("main", "audit", f"{town.tip(AUDIT)}", "heads/main"):
        git(folder(town), "update-ref", f"refs/tags/{name}", town.root)
    assert verdict(town) == before
    with closing(open_store(folder(town))) as store:
        assert (store.refs()[MAIN], store.refs()[AUDIT]) == (town.tip(MAIN), town.tip(AUDIT))
