"""Reason codes of problems that concern more than one document."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "MachinePathOnMain": "A file below `status/` or `records/` on main; reconcilers write these, on audit.",
    "MissingDocument": "`capsule.yaml` or `policy.yaml` is not there.",
    "UnexpectedFile": "A file in a folder of documents that is no document of that folder.",
    "NameMismatch": "The name in the document is not the name of its file or folder.",
    "DuplicateName": "Two documents of a kind have the same name.",
    "LargeFolder": "More than 1000 entries in one folder make every commit slow. Use subfolders.",
    "BadKey": "Text that has the form of an OpenSSH Ed25519 key, but is none.",
    "BadEndpoint": "An endpoint whose host or port cannot be connected to, such as port 70000.",
    "InsecureEndpoint": "Plain HTTP beyond this machine, without `insecure: true`. Use https.",
    "SharedKey": "The same key is listed for two principals, so a signature would not say who signed.",
    "BadKeyWindow": "A key whose `validBefore` is not after its `validAfter`, so it never speaks.",
    "SharedAccount": "The same account at a forge is listed for two principals, so a review would not say "
    "who gave it.",
    "SharedEmail": "Two principals have one e-mail, so a merge would not say whose it is.",
    "EvidenceOfNobody": "A rule takes reviews or merges, and too few of its people have the account or "
    "e-mail by which these are told apart. They can still sign.",
    "AccountMissing": "A rule takes reviews at the forge, and somebody who may approve has no account number "
    "there in the policy: reviews of theirs count for nobody.",
    "EvidenceNotTaken": "A rule names weaker evidence than is ever taken for a change of policy: it is "
    "judged by signatures.",
    "UnknownPrincipal": "A person or machine that the policy does not list.",
    "UnknownTeam": "A team that the policy does not list.",
    "BadMatch": "A rule must name either an action or a change.",
    "RepeatedTeam": "A rule lists the same team twice among its approvals. Raise its count instead.",
    "UnsatisfiableRule": "A rule that nobody can satisfy: too few people may request or approve.",
    "IdleBreakGlass": "A rule lets the glass be broken where that means nothing, or by nobody.",
    "ShadowedRule": "An earlier rule matches everything that this one does, so this one is never used.",
    "NoRuleForChange": "No rule says who may change documents of this kind, so every change is refused.",
    "RouteMatchesNothing": "A route of `notify` whose selector no service fits, so it tells nobody anything.",
    "UnknownTimezone": "A zone that is not in the IANA time zone database.",
    "BadWindow": "A freeze that ends before it starts, or lies beyond the calendar.",
    "ProposedTooEarly": "`rotation.propose` is not shorter than `rotation.every`.",
    "NothingToCorrect": "`onDrift: correct` on a service that takes no orders, or has no pin to correct.",
    "CorrectionNeverStops": "The loop breaker's `limit` corrections cannot lie `within` its time.",
    "PolicySerialNotRaised": "The policy changed and its serial did not rise.",
    "MissingSignature": "A document that must be signed has no `.sig` file beside it.",
    "OrphanSignature": "A `.sig` file whose document is not there.",
    "OrphanApproval": "An approval whose request is not there.",
    "UnknownService": "A request names a service that does not exist.",
    "DuplicateTarget": "A request names the same service twice.",
    "TooManyTargets": "A request names more services than `limits.maxTargets` allows.",
    "NoRuleForRequest": "No rule of the policy matches this action on this service, so it will be refused.",
    "NotAllowedToRequest": "The rule that decides does not let this person ask.",
    "BreakGlassMismatch": "Somebody says that the glass is broken for a request that does not say so, or "
    "that somebody else asked for.",
    "OwnApproval": "Somebody approves their own request; such an approval never counts.",
    "ApprovalMismatch": "An approval that says something else than the request or folder it lies in.",
    "ApprovalVoid": "A target's agent, labels or pins are not those that were approved.",
    "OtherRepository": "An approval given for another repository.",
}
