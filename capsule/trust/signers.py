"""The list of who may sign, which agents learn: taken from main only as owners signed it.

Rules kept: at least one person of team `owners` under the policy in force signed these bytes; the serial
rises with every other text; else the last good list stays. Called by mainline.
"""

from __future__ import annotations

from capsule.documents.paths import SIGNERS
from capsule.documents.types import Policy
from capsule.trust.objects import ObjectReader, entries, read_blob
from capsule.trust.policy import OWNERS, people, signer_of
from capsule.trust.published import signers_document
from capsule.trust.state import Finding, SignersInForce
from capsule_agent.protocol import messages, sshsig
from capsule_agent.protocol.strict_json import InvalidMessage

REASONS: dict[str, str] = {
    "SignersMissing": "signers/signers.json is gone; agents go on with the last list they were sent.",
    "SignersMalformed": "signers/signers.json is not the document it should be.",
    "SignersOfOtherRepository": "The list of signers was made for another repository.",
    "SignersSerialNotRising": "The list of signers changed, but its serial did not rise, so agents "
    "would refuse it.",
    "SignersUntrusted": "No present owner signed the list of signers: sign it again with an owner's key.",
    "SignersOutdated": "The list of signers says something else than the policy: owners should "
    "sign a new one.",
}


def judge_signers(
    reader: ObjectReader, root: str, folder: str | None, policy: Policy, known: SignersInForce | None
) -> tuple[SignersInForce | None, tuple[Finding, ...]]:
    """The list in force after a step whose signers/ is the tree `folder`, and what is wrong with it."""
    files = {e.name: e.oid for e in entries(reader, folder) if not e.is_folder} if folder else {}
    text = files.get(SIGNERS.rpartition("/")[2])
    if text is None:
        if known is None:
            return None, ()
        return _keep(known, policy, "SignersMissing", f"{SIGNERS} is gone")
    document = read_blob(reader, text)
    owners = sorted(people(policy, [OWNERS]))
    armored = [
        read_blob(reader, files[f"{owner}.sig"]).decode("ascii", errors="replace")
        for owner in owners
        if f"{owner}.sig" in files
    ]
    return _judge(document, tuple(armored), root, policy, known)


def _judge(
    document: bytes, armored: tuple[str, ...], root: str, policy: Policy, known: SignersInForce | None
) -> tuple[SignersInForce | None, tuple[Finding, ...]]:
    try:
        signers = messages.decode(messages.Signers, document)
    except InvalidMessage as error:
        return _keep(known, policy, "SignersMalformed", str(error))
    if signers.repository != root:
        return _keep(known, policy, "SignersOfOtherRepository", f"made for repository {signers.repository}")
    if known and document != known.document and signers.serial <= known.serial:
        message = f"serial {signers.serial} after {known.serial}"
        return _keep(known, policy, "SignersSerialNotRising", message)
    good = tuple(each for each in armored if _by_owner(policy, document, each))
    if not good:
        return _keep(known, policy, "SignersUntrusted", f"no person of team {OWNERS} signed it")
    findings: tuple[Finding, ...] = ()
    if signers_document(policy, root, signers.serial).principals != signers.principals:
        message = "it differs from what the policy in force says"
        findings = (Finding("SignersOutdated", message, SIGNERS, severity="warning"),)
    return SignersInForce(document, good, signers.serial), findings


def _keep(
    known: SignersInForce | None, policy: Policy, reason: str, message: str
) -> tuple[SignersInForce | None, tuple[Finding, ...]]:
    """The list before, as far as people who are owners still vouch for it."""
    finding = Finding(reason, message, SIGNERS)
    if known is None:
        return None, (finding,)
    good = tuple(each for each in known.signatures if _by_owner(policy, known.document, each))
    return (SignersInForce(known.document, good, known.serial) if good else None), (finding,)


def _by_owner(policy: Policy, document: bytes, signature: str) -> bool:
    try:
        return signer_of(policy, document, signature, sshsig.SIGNERS) in people(policy, [OWNERS])
    except sshsig.BadSignature:
        return False
