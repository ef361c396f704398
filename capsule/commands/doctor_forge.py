"""The doctor's part about the forge and receivers: settings, accounts, the token, webhooks, notifications.

Rules kept: files are looked at as the reconciler would, and nothing of what they hold is shown; the forge is
asked with --online alone. Called by commands.doctor.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from capsule.commands.diagnosis import Diagnosis, Patient
from capsule.commands.errors import CommandError
from capsule.commands.forge_access import connector, reaching, told
from capsule.commands.reconcile import runs_here
from capsule.documents.problems import shown
from capsule.documents.types import ForgeSettings, Policy
from capsule.forge.api import ForgeError
from capsule.forge.credential import secret_in, token_in
from capsule.notify.reasons import Undeliverable
from capsule.notify.receivers import addresses
from capsule.trust.policy import people

REASONS: dict[str, str] = {
    "Forge": "`doctor --online`: the forge answers to the token.",
    "ForgeToken": "`doctor`: the file holds a token for the forge of the settings.",
    "LastPushUnreviewed": "`doctor`: reviews let changes in; whether the forge asks for a review by somebody "
    "else than who pushed last cannot be seen from here.",
    "NoNotifyDir": "`doctor`: the settings name receivers, and their folder was not named.",
    "NoWebhook": "`doctor`: no webhook secret was named: merges and reviews are found by polling.",
    "Receiver": "`doctor`: a receiver that the settings name has addresses.",
    "WebhookSecret": "`doctor`: there is a secret of webhooks.",
    "WebhookSecretShort": "`doctor`: the secret of webhooks is so short that it could be guessed.",
}

_SHORTEST_SECRET = 20
_SETTINGS = "Propose it: spec.forge: {kind: github, server: https://github.com, repository: owner/name}"


def forge(patient: Patient) -> Iterator[Diagnosis]:
    """Whether reviews can be read, where rules take them."""
    state = patient.repository.state
    settings, policy = state.settings.document.spec.forge, state.policy.document
    teams = sorted(_reviewing_teams(policy))
    if settings is None:
        if teams:
            message = f"rules take reviews of {', '.join(teams)} at the forge, and the settings name no forge"
            yield Diagnosis("mend", "NoForge", message, _SETTINGS)
        return
    for name in sorted(people(policy, teams)):
        if settings.kind not in policy.spec.principals[name].forge:
            yield Diagnosis(
                "note",
                "AccountMissing",
                f"{name} may approve by reviews and has no account at {settings.kind}: they count for nobody",
                f"forge: {{{settings.kind}: NUMBER}} under {name} in policy.yaml",
            )
    if any(rule.match.change and rule.evidence == "forge" for rule in policy.spec.rules):
        yield Diagnosis(
            "note",
            "LastPushUnreviewed",
            "reviews let changes in, and names in unsigned commits can be forged by who may push to a branch",
            "At the forge, let main require approval of the most recent push by somebody else",
        )
    yield from _token(patient, settings, needed=bool(teams) and runs_here(patient.repository))


def receivers(patient: Patient) -> Iterator[Diagnosis]:
    """Whether webhooks and notifications have what they need."""
    spec = patient.repository.state.settings.document.spec
    if patient.given.webhook_secret:
        yield _secret(patient.given.webhook_secret)
    elif spec.forge and runs_here(patient.repository):
        yield Diagnosis(
            "note",
            "NoWebhook",
            "no webhook secret was named here: without webhooks, merges and reviews are found by polling",
            "capsule doctor --webhook-secret-file FILE   (and give it to capsule reconcile)",
        )
    names = sorted({route.to for route in spec.notify})
    if patient.given.notify_dir:
        yield from (_receiver(patient.given.notify_dir, name) for name in names)
    elif names and runs_here(patient.repository):
        yield Diagnosis(
            "note",
            "NoNotifyDir",
            f"the settings name the receivers {', '.join(names)}; whether they have files was not looked at",
            "capsule doctor --notify-dir DIR   (the one that capsule reconcile is given)",
        )


def _reviewing_teams(policy: Policy) -> set[str]:
    return {need.team for rule in policy.spec.rules if rule.evidence == "forge" for need in rule.approvals}


def _token(patient: Patient, settings: ForgeSettings, *, needed: bool) -> Iterator[Diagnosis]:
    file = patient.given.forge_token
    if file is None:
        yield Diagnosis(
            "mend" if needed else "note",
            "ForgeTokenMissing",
            f"no token for {settings.kind} at {settings.server} was named here: reviews cannot be read",
            "capsule doctor --forge-token-file FILE   (and give it to capsule reconcile)",
        )
        return
    try:
        token_in(file, settings)()
    except ForgeError as error:
        yield _refused(told(error, settings))
        return
    yield Diagnosis("ok", "ForgeToken", f"{file} holds a token for {settings.server}")
    if patient.given.online:
        yield _reached(file, settings)


def _reached(file: Path, settings: ForgeSettings) -> Diagnosis:
    connect = connector(file)
    assert connect is not None  # there is a file
    try:
        with reaching(connect, settings) as client:
            pulls, login = len(client.open_pulls()), client.account()
    except CommandError as error:
        return _refused(error)
    who = shown(login) if login else "nobody by name"
    return Diagnosis(
        "ok", "Forge", f"{settings.server} answers {who}: {pulls} pull requests into main are open"
    )


def _refused(error: CommandError) -> Diagnosis:
    return Diagnosis("mend", error.reason, error.message, error.hint)


def _secret(file: Path) -> Diagnosis:
    try:
        secret = secret_in(file)()
    except ForgeError as error:
        remedy = f"openssl rand -hex 32 > {file} && chmod 600 {file}"
        return Diagnosis("mend", error.reason, f"the secret of webhooks: {error}", remedy)
    if len(secret) < _SHORTEST_SECRET:
        remedy = f"openssl rand -hex 32 > {file}, and give it to the forge"
        message = f"the secret of webhooks in {file} has fewer than {_SHORTEST_SECRET} characters"
        return Diagnosis("mend", "WebhookSecretShort", message, remedy)
    return Diagnosis("ok", "WebhookSecret", f"{file} holds a secret for webhooks")


def _receiver(folder: Path, name: str) -> Diagnosis:
    try:
        found = addresses(folder, name)
    except Undeliverable as error:
        remedy = f"install -m 600 /dev/null {folder / name}, and write an address into it"
        return Diagnosis("mend", error.reason, str(error), remedy)
    return Diagnosis("ok", "Receiver", f"the receiver {name} has {len(found)} addresses")
