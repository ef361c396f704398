"""What must be so before an author signs a change: everything committed, and nothing in it that is broken.

Rules kept: nothing is written; what `capsule check` would find wrong is found here by the same code.
Called by change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from capsule.commands.check import check_merged
from capsule.commands.errors import CommandError
from capsule.commands.git_program import GitFailed, current_branch, run_git
from capsule.commands.repository import Repository
from capsule.documents.problems import one_line, shown

_SHOWN = 10


def refuse_uncommitted(repository: Repository, branch: str, is_document: Callable[[str], object]) -> None:
    """Raises CommandError (NotCommitted) for documents whose last edits the branch would be proposed without.

    Only where `branch` (a full ref name) is checked out; files that are no documents may stay as they are.
    """
    tree = repository.location.work_tree
    if tree is None or current_branch(repository.location) != branch:
        return
    try:
        options = ("--porcelain", "-z", "--no-renames", "--untracked-files=all")
        listed = run_git(tree, "--no-optional-locks", "status", *options)
    except GitFailed as error:
        raise CommandError("GitBroken", f"git cannot tell what is changed here: {error}", "") from None
    changed = sorted(entry[3:] for entry in listed.split("\0") if is_document(entry[3:]))
    if changed:
        be = "is" if len(changed) == 1 else "are"
        raise CommandError(
            "NotCommitted",
            f"{', '.join(changed[:_SHOWN])} {be} changed but not committed",
            f"git add {' '.join(changed[:_SHOWN])} && git commit, then capsule propose",
        )


def refuse_broken(repository: Repository, edits: Mapping[str, bytes | None], now: datetime) -> None:
    """Raises CommandError (the one code, or BadDocument for several) with all that `edits` would break."""
    problems = check_merged(repository.directory, repository.main, edits, repository.root, now)
    if not problems:
        return
    codes = {problem.reason for problem in problems}
    code = codes.pop() if len(codes) == 1 else "BadDocument"
    lines = [shown(one_line(problem).removesuffix(f" [{code}]")) for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"and {len(problems) - _SHOWN} more: capsule check")
    elif code == "BadDocument":
        lines.append(f"{len(problems)} problems in all")
    raise CommandError(
        code,
        "this change cannot be proposed:\n" + "\n".join(lines),
        "Nothing was signed. Mend it, git commit, and propose again.",
    )
