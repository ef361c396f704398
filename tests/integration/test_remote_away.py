"""The state repository's server is away for an hour: probing goes on, and nothing is lost.

The server is `git http-backend`, stopped and started again; the hour is the town's clock's.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from capsule.documents.paths import AUDIT, MAIN
from capsule.store.git import clone
from capsule.trust.audit import verify_audit
from tests.git_servers import assert_sound, bare_repository, http_git
from tests.town import Town

CLAIMED = "rotateKey openai-chat: claimed"
SUCCEEDED = "rotateKey openai-chat: succeeded"


def test_an_hour_without_the_server_loses_nothing(tmp_path: Path) -> None:
    bare = bare_repository(tmp_path / "served" / "state.git")
    with ExitStack() as stack:
        server = ExitStack()
        stack.callback(server.close)
        web = server.enter_context(http_git(tmp_path / "served"))
        store = stack.enter_context(closing(clone(web.url("state.git"), tmp_path / "clone")))
        town = stack.enter_context(closing(Town(tmp_path, store)))
        reconciler = stack.enter_context(closing(town.reconciler()))
        town.settle(reconciler)
        town.request()

        def cut(step: str) -> None:
            if step == "verify":  # the claim is pushed, the order is being executed, no result is recorded
                server.close()

        town.keys["openai-chat"].before = cut
        assert reconciler.one_pass(patience=10.0).stalled
        town.keys["openai-chat"].before = lambda _: None
        assert town.keys["openai-chat"].history == ["key-1"]

        probed = len(town.transport.carried)
        town.models["openai-chat"] = "m2"
        for _ in range(20):
            town.clock.advance(minutes=3)
            report = reconciler.one_pass(patience=5.0)
            assert f"cannot fetch from {web.url('state.git')}" in report.stalled
        assert len(town.transport.carried) >= probed + 10
        assert SUCCEEDED not in town.audit_subjects()

        server.enter_context(http_git(tmp_path / "served", web.port))
        town.settle(reconciler)
        assert town.keys["openai-chat"].history == ["key-1"]
        subjects = town.audit_subjects()
        assert (subjects.count(CLAIMED), subjects.count(SUCCEEDED)) == (1, 1), subjects
        assert "drift openai-chat: model m1 → m2, desired m1" in subjects
        main, audit = town.tip(MAIN), town.tip(AUDIT)
        assert main is not None
        assert audit is not None
        verdict = verify_audit(store, town.root, main, audit)
        assert (verdict.first_bad, verdict.operations) == (None, 1)
        assert_sound(bare)
