"""`capsule audit verify` beside a loop of `git verify-commit`: python -m bench.audit [operations]."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench.timing import Sheet, best_of
from capsule.documents.paths import AUDIT, MAIN
from capsule.store import git
from capsule.trust.audit import verify_audit
from capsule.trust.policy import allowed_signers
from tests.town import POLICY, Policy, Town, plain


def main() -> None:
    operations = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = git.init(folder / "state", bare=True)
        town = Town(folder, store)
        reconciler = town.reconciler()
        for number in range(operations):
            town.request(f"check-{number}", action="runHealthCheck", approved_by=())
            town.settle(reconciler)
        reconciler.close()
        main_tip, audit_tip = town.tip(MAIN), town.tip(AUDIT)
        assert main_tip is not None
        assert audit_tip is not None
        verdict = verify_audit(store, town.root, main_tip, audit_tip)
        assert verdict.first_bad is None, verdict.first_bad
        signers = folder / "signers"
        signers.write_text(allowed_signers(plain(Policy, "policy", POLICY)))
        git_dir = folder / "state"
        listed = subprocess.run(
            ["git", "-C", git_dir, "rev-list", "--first-parent", "refs/heads/audit"],
            capture_output=True,
            check=True,
        ).stdout.split()
        ours = best_of(3, lambda: verify_audit(store, town.root, main_tip, audit_tip)) / len(listed)
        sample = listed[:50]
        loop = best_of(1, lambda: [_verify(git_dir, signers, commit.decode()) for commit in sample]) / len(
            sample
        )
        sheet = Sheet(
            f"proof of {len(listed)} audit commits, {verdict.operations} operations", "git verify-commit"
        )
        sheet.row("capsule audit verify, per commit", ours, loop)
        sheet.show()
        print(f"{loop / ours:.0f} times faster than a loop of git verify-commit; it proves approvals too")
        town.close()


def _verify(git_dir: Path, signers: Path, commit: str) -> None:
    setting = f"gpg.ssh.allowedSignersFile={signers}"
    subprocess.run(
        ["git", "-C", git_dir, "-c", setting, "--no-replace-objects", "verify-commit", commit],
        check=True,
        capture_output=True,
    )


if __name__ == "__main__":
    main()
