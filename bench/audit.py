"""`capsule audit verify` beside a loop of `git verify-commit`: python -m bench.audit [--commits 100000].

The loop is measured on a sample of the same commits, half before and half after the proof, so that both see
the same machine. What the proof does besides (approvals, receipts, records, main) the loop does not.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from pathlib import Path

from bench.histories import write_history
from bench.timing import Sheet, duration
from capsule.commands.audit import in_words, verify
from capsule.commands.repository import open_repository
from capsule.documents.codec import load_as
from capsule.documents.types import Policy
from capsule.trust.published import allowed_signers
from tests.trust_history import policy_text


def main() -> None:
    """Write a history, prove it, and measure."""
    parser = argparse.ArgumentParser(description="capsule audit verify beside a loop of git verify-commit")
    parser.add_argument("--commits", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=100, help="commits given to git verify-commit")
    parser.add_argument("--history", type=Path, help="keep the history in this folder, or use what is there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.history or Path(name) / "state"
        if not folder.exists():
            began = time.perf_counter()
            written = write_history(folder, args.commits)
            print(f"{written.commits} commits written in {duration(time.perf_counter() - began)}")
        measure(folder, Path(name) / "signers", args.sample)


def measure(folder: Path, signers: Path, sample: int) -> None:
    """Prove the history in `folder`, and print the ratio."""
    signers.write_text(allowed_signers(load_as(Policy, policy_text(), "policy.yaml")))
    listing = ["git", "-C", str(folder), "rev-list", "--first-parent", "refs/heads/main..refs/heads/audit"]
    listed = subprocess.run(listing, capture_output=True, check=True, text=True).stdout.split()
    chosen = listed[:: max(1, len(listed) // sample)]
    middle = len(chosen) // 2
    loop, loop_busy = _loop(folder, signers, chosen[:middle])
    busy = _busy(resource.RUSAGE_SELF)
    repository = open_repository(folder)
    began = time.perf_counter()
    verdict = verify(repository, from_start=True)
    ours = (time.perf_counter() - began) / verdict.commits
    busy = (_busy(resource.RUSAGE_SELF) - busy) / verdict.commits
    began = time.perf_counter()
    verify(repository)
    again = time.perf_counter() - began
    repository.close()
    assert verdict.first_bad is None, verdict.first_bad
    more, more_busy = _loop(folder, signers, chosen[middle:])
    loop, loop_busy = (loop + more) / len(chosen), (loop_busy + more_busy) / len(chosen)
    sheet = Sheet(f"proof of {verdict.commits} audit commits", "git verify-commit")
    sheet.row("capsule audit verify, per commit", ours, loop)
    sheet.row("the same in processor time, of the proving process", busy, loop_busy)
    sheet.show()
    print(in_words(verdict))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{duration(ours * verdict.commits)} in all, {memory} MiB at most, {loop / ours:.1f} times faster")
    print(f"{duration(again)} when nothing is new since the last proof")


def _busy(who: int) -> float:
    """Processor time so far, in seconds."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def _loop(folder: Path, signers: Path, commits: list[str]) -> tuple[float, float]:
    """The seconds that git takes for these commits, one by one, and the processor time."""
    began, busy = time.perf_counter(), _busy(resource.RUSAGE_CHILDREN)
    setting = f"gpg.ssh.allowedSignersFile={signers}"
    for commit in commits:
        subprocess.run(
            ["git", "-C", folder, "-c", setting, "--no-replace-objects", "verify-commit", commit],
            check=True,
            capture_output=True,
        )
    return time.perf_counter() - began, _busy(resource.RUSAGE_CHILDREN) - busy


if __name__ == "__main__":
    main()
