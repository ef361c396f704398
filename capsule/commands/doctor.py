"""`capsule doctor`: what is missing or unsafe in this set-up, and the command that mends it.

Rules kept: every examination stands for itself, so that one broken thing hides no other; nothing is changed;
what cannot be known from here is said as a note and never as fine.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

from capsule.commands.diagnosis import Diagnosis, Given, Patient
from capsule.commands.doctor_forge import forge, receivers
from capsule.commands.doctor_hosting import hooks
from capsule.commands.errors import CommandError
from capsule.commands.git_program import GitFailed, run_git, setting
from capsule.commands.init import ALLOWED_SIGNERS, RECONCILER_KEY
from capsule.commands.lost_audit import lost_audit
from capsule.commands.reads import look
from capsule.commands.reconcile import machine_of, read_key, reconcilers, runs_here
from capsule.commands.repository import Repository, first_commit, open_repository
from capsule.commands.signing import find_signer, identify
from capsule.commands.ssh_access import doubtful_hosts
from capsule.documents.paths import MAIN, POLICY
from capsule.documents.types import Policy
from capsule.store.api import StoreError
from capsule.store.git_settings import HEARTBEATS_REFSPEC
from capsule.trust.published import allowed_signers

_OLDEST_GIT = (2, 34)
_CLOCK_SLACK = timedelta(minutes=5)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def examine(
    directory: Path,
    root: str | None,
    now: datetime,
    *,
    given: Given | None = None,
    token_file: Path | None = None,
) -> tuple[Diagnosis, ...]:
    """Everything that can be examined from `directory`, in the order in which a person would mend it.

    `given` are the files that the reconciler is given; no host is connected to, but for the forge when it
    says so.
    """
    found = list(_git_itself(directory))
    try:
        repository = open_repository(directory, root, token_file=token_file)
    except (CommandError, StoreError) as error:
        found.append(_broken(error))
        return tuple(found)
    try:
        repository.now = now
        patient = Patient(repository, now, given or Given())
        found += chain.from_iterable(_safely(each, patient) for each in _EXAMINATIONS)
    finally:
        repository.close()
    return tuple(found)


def _safely(examination: Callable[[Patient], Iterator[Diagnosis]], patient: Patient) -> list[Diagnosis]:
    found = []
    try:
        for diagnosis in examination(patient):
            found.append(diagnosis)
    except (CommandError, StoreError) as error:
        found.append(_broken(error))
    except GitFailed as error:
        found.append(Diagnosis("mend", "GitBroken", f"git failed here: {error}", "git fsck"))
    return found


def _broken(error: CommandError | StoreError) -> Diagnosis:
    reason = error.reason if isinstance(error, CommandError) else type(error).__name__
    return Diagnosis("mend", reason, str(error), error.hint)


# ---- the examinations ---------------------------------------------------------------------------


def _git_itself(directory: Path) -> Iterator[Diagnosis]:
    try:
        text = run_git(directory, "--version")
    except CommandError as error:
        yield _broken(error)
        return
    except GitFailed as error:
        yield Diagnosis("mend", "GitBroken", f"git does not run here: {error}", "git --version")
        return
    number = re.search(r"(\d+)\.(\d+)", text)
    if number and (int(number[1]), int(number[2])) < _OLDEST_GIT:
        yield Diagnosis(
            "mend", "GitTooOld", f"{text}: signing with SSH keys needs git 2.34", "sudo apt-get install git"
        )
    else:
        yield Diagnosis("ok", "Git", text)


def _root(patient: Patient) -> Iterator[Diagnosis]:
    repository = patient.repository
    first = first_commit(patient.directory)
    if repository.root_source == "first commit":
        yield Diagnosis(
            "mend",
            "RootNotPinned",
            f"the root is not pinned; the first commit here is {first}",
            f"If an owner told you the same id: git -C {patient.directory} config capsule.root {first}",
        )
    elif first != repository.root:
        yield Diagnosis(
            "mend",
            "RootDiffers",
            f"the root is pinned as {repository.root}, but the first commit of main is {first}",
            "Main was replaced, or this is another repository. Ask an owner before you go on.",
        )
    else:
        yield Diagnosis("ok", "Root", f"root {first}, pinned")


def _in_force(patient: Patient) -> Iterator[Diagnosis]:
    state = patient.repository.state
    if state.suspended:
        yield Diagnosis(
            "mend",
            state.suspended.reason,
            f"suspended, nothing is acted on: {state.suspended.message}",
            f"Go back to the policy in force (commit {state.policy.since[:12]}):\n"
            f"  git switch -c mend main && git checkout {state.policy.since} -- policy.yaml && git commit\n"
            "and merge that; or have owners sign the new policy: capsule propose, capsule approve.",
        )
    for change in state.pending:
        yield Diagnosis(
            "mend",
            change.reason or "ChangePending",
            f"{change.path} on main is not in force: {change.message}",
            "capsule approve the branch it came from, or revert it: "
            f"git log -1 {change.since[:12]} shows the commit",
        )
    shown = {change.path for change in state.pending}
    for finding in state.findings:
        if finding != state.suspended and finding.path not in shown:
            remedy = "capsule policy signers" if finding.reason.startswith("Signers") else ""
            yield Diagnosis("mend", finding.reason, finding.message, remedy)
    if state.signers is None:
        yield Diagnosis(
            "mend",
            "SignersMissing",
            "no list of signers is in force: agents can check no approval",
            "capsule policy signers",
        )
    if not state.suspended and not state.pending and not state.findings:
        yield Diagnosis("ok", "Main", f"main is judged up to {state.tip[:12]}, all of it in force")


def _signing_key(patient: Patient) -> Iterator[Diagnosis]:
    signer = find_signer(patient.directory)
    identity = identify(
        patient.repository.policy, signer, patient.directory, patient.repository.state.policy.document
    )
    signer.sign(b"capsule doctor", "capsule-doctor@v1")
    yield Diagnosis("ok", "SigningKey", f"you sign as {identity.principal} ({signer.public.fingerprint})")


def _git_shows_signatures(patient: Patient) -> Iterator[Diagnosis]:
    configured = setting(patient.directory, "gpg.ssh.allowedSignersFile", as_path=True)
    own = patient.repository.location.git_dir / ALLOWED_SIGNERS
    wanted = allowed_signers(patient.repository.state.policy.document)
    remedy = "capsule policy allowed-signers --install"
    if configured is None:
        yield Diagnosis("mend", "NoAllowedSigners", "git cannot name the signer of a commit here", remedy)
    elif Path(configured) == own and (not own.exists() or own.read_text(encoding="utf-8") != wanted):
        yield Diagnosis("mend", "AllowedSignersOld", f"{own} is not what the policy says", remedy)
    else:
        yield Diagnosis("ok", "AllowedSigners", "git names the signers of commits")


def _reconciler_key(patient: Patient) -> Iterator[Diagnosis]:
    file = patient.repository.location.git_dir / RECONCILER_KEY
    if not runs_here(patient.repository):
        yield Diagnosis("note", "NoReconcilerKey", "no reconciler's key here: this clone is for people")
        return
    key = read_key(file)
    if stat.S_IMODE(file.parent.stat().st_mode) & 0o022:
        yield Diagnosis(
            "mend", "KeyFolderOpen", f"others can write to {file.parent}", f"chmod go-w {file.parent}"
        )
    name = machine_of(patient.repository.policy, key.public, None)
    yield Diagnosis("ok", "ReconcilerKey", f"the key of {name}, readable by its owner alone")


def _branches(patient: Patient) -> Iterator[Diagnosis]:
    repository = patient.repository
    lost = lost_audit(repository)
    if lost:
        yield Diagnosis("mend", "AuditRewritten", lost.message, lost.remedy)
    elif _is_new_server(repository):
        yield Diagnosis(
            "note",
            "NoAudit",
            "there is no branch audit yet: the first pass of a reconciler pushes it",
            f"capsule clone URL state --root {repository.root}   where people and reconcilers work",
        )
    elif repository.audit is None:
        yield Diagnosis(
            "mend", "NoAudit", "there is no branch audit: no reconciler has run yet", _start(repository)
        )
    else:
        yield Diagnosis("ok", "Audit", f"audit is at {repository.audit[:12]}")
    if not repository.store.has_remote():
        yield Diagnosis(
            "note",
            "NoRemote",
            "this repository is its own authority: whoever can write its files can rewind it",
            "Keep the root, and now and then the id of audit's tip, somewhere else.",
        )
        return
    shown = repository.store.remote_shown
    yield Diagnosis(
        "note",
        "ProtectionUnknown",
        f"it cannot be seen from here whether {shown} protects main (reviews) "
        "and audit (reconcilers alone, no force push)",
    )


def _is_new_server(repository: Repository) -> bool:
    """A bare repository that people push to, before any reconciler did: nothing is amiss there."""
    return (
        repository.location.work_tree is None
        and repository.audit is None
        and not repository.store.has_remote()
    )


def _heartbeats(patient: Patient) -> Iterator[Diagnosis]:
    yield from _refspec(patient.repository)
    seen = look(patient.repository, patient.now)
    for beat in seen.heartbeats:
        if beat.at - patient.now > _CLOCK_SLACK:
            yield Diagnosis(
                "mend",
                "ClockAhead",
                f"{beat.reconciler} signed at {beat.at:%Y-%m-%d %H:%M:%S}Z, which is in the future",
                "timedatectl",
            )
        elif beat.alive:
            yield Diagnosis("ok", "Heartbeat", f"{beat.reconciler} lives ({beat.at:%H:%M:%S}Z)")
    if not any(beat.alive for beat in seen.heartbeats) and not _is_new_server(patient.repository):
        yield Diagnosis(
            "mend",
            "HeartbeatDead",
            "no reconciler gives a sign of life"
            if seen.heartbeats or not patient.repository.store.has_remote()
            else "unknown here: no heartbeat was fetched",
            _start(patient.repository),
        )


def _refspec(repository: Repository) -> Iterator[Diagnosis]:
    """Stock `git fetch` gets branches alone: a plain clone hears no heartbeat of its own accord."""
    wanted = "refs/capsule/heartbeat/"
    if not repository.store.has_remote() or wanted in run_git(
        repository.directory, "config", "--get-regexp", r"^remote\.origin\."
    ):
        return
    where = f"git -C {repository.directory}"
    yield Diagnosis(
        "note",
        "HeartbeatsNotFetched",
        "stock `git fetch` does not get the reconcilers' heartbeats here",
        f"{where} config --add remote.origin.fetch '{HEARTBEATS_REFSPEC}' && {where} fetch",
    )


def _start(repository: Repository) -> str:
    """What to do where no reconciler runs: starting one takes its key, which most clones do not have."""
    if runs_here(repository):
        return "capsule up   (or capsule reconcile)"
    return f"Its key is not in this clone: tell whoever runs {reconcilers(repository)}, who types: capsule up"


def _clock(patient: Patient) -> Iterator[Diagnosis]:
    when = datetime.fromtimestamp(
        int(run_git(patient.directory, "log", "-1", "--format=%ct", MAIN, "--") or 0), UTC
    )
    if when - patient.now > _CLOCK_SLACK:
        yield Diagnosis(
            "mend",
            "ClockBehind",
            f"main's last commit is from {when:%Y-%m-%d %H:%M:%S}Z, this clock is behind",
            "timedatectl",
        )
    else:
        yield Diagnosis("ok", "Clock", f"the clock says {patient.now:%Y-%m-%d %H:%M:%S}Z")


def _services(patient: Patient) -> Iterator[Diagnosis]:
    for name, service in patient.repository.state.services.items():
        agent = service.document.spec.agent
        if agent.key is None:
            yield Diagnosis(
                "note",
                "ObserveOnly",
                f"{name} has no agent key: it is observed, nothing can be ordered",
                f"capsule-agent keygen on its host, then `key:` in {service.path}",
            )
        host = urlsplit(agent.endpoint).hostname
        if agent.endpoint.startswith("http://") and host not in _LOOPBACK:
            yield Diagnosis(
                "mend",
                "PlainHttp",
                f"{name} is asked over plain http: anybody on the way reads along and can hold orders back",
                f"Give its agent a certificate, and {service.path} an https:// endpoint.",
            )


def _ssh_hosts(patient: Patient) -> Iterator[Diagnosis]:
    agents = {name: item.document.spec.agent for name, item in patient.repository.state.services.items()}
    for doubt in doubtful_hosts(patient.given.ssh, agents):
        yield Diagnosis("mend", doubt.reason, doubt.message, doubt.remedy)


def _rules(patient: Patient) -> Iterator[Diagnosis]:
    yield from _one_person(patient.repository.state.policy.document)
    for number, rule in enumerate(patient.repository.state.policy.document.spec.rules, 1):
        if rule.match.action and rule.approvals and rule.evidence != "signature":
            yield Diagnosis(
                "note",
                "WeakEvidence",
                f"rule {number} ({rule.match.action}) takes {rule.evidence} for an approval: "
                "agents that check signatures themselves refuse such orders",
                "evidence: signature",
            )


def _one_person(policy: Policy) -> Iterator[Diagnosis]:
    """Rules that let one person change documents, where others approve actions: they are the way around."""
    rules = policy.spec.rules
    alone = [rule.match.change for rule in rules if rule.match.change and not rule.approvals]
    if alone and any(rule.approvals for rule in rules):
        yield Diagnosis(
            "note",
            "OnePersonChanges",
            f"one person alone may change {', '.join(map(str, alone))}: that leads around every approval "
            "that other rules ask for",
            f"In {POLICY}: approvals: [{{team: reviewers, count: 1}}]; for the policy a second owner",
        )


_EXAMINATIONS: tuple[Callable[[Patient], Iterator[Diagnosis]], ...] = (
    _root,
    _in_force,
    _signing_key,
    _git_shows_signatures,
    _reconciler_key,
    _branches,
    _heartbeats,
    _clock,
    _services,
    _ssh_hosts,
    _rules,
    forge,
    receivers,
    hooks,
)
