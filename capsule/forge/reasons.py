"""The reason codes of calls to a forge; the reference is made from them."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "CheckMissing": "The merge request's pipeline has no job `capsule/approval` that could be run again. "
    "Take the job over from the template's .gitlab-ci.yml.",
    "CommitsUntold": "The forge does not list every commit of the pull request (250 are too many), so "
    "nobody can tell who wrote it. Make it smaller, or sign the change.",
    "ForgeAnswerMalformed": "The forge's answer is not what its API describes. It is asked again later.",
    "ForgeAnswerTooLarge": "The forge's answer, or its list of pages, is larger than any may be.",
    "ForgeFailed": "The forge answered with an error of its own (5xx). It is asked again later.",
    "ForgeInsecure": "The server's address is plain http beyond this machine, where a token is never sent.",
    "ForgeNotAllowed": "The forge knows the token, but does not let it do this, or says that nothing is "
    "here. Give the token the rights that the how-to lists.",
    "ForgeRateLimited": "The forge wants no more calls for now; it is asked again when it says.",
    "ForgeRedirects": "The forge answers with a redirect, which is not followed: was the repository renamed?",
    "ForgeRefusedCall": "The forge did not take what was asked of it.",
    "ForgeServerChanged": "The settings name a forge that the token is not for. The token is not sent. "
    "If the forge is meant, write its address behind a token for it.",
    "ForgeTokenRefused": "The forge does not know the token, or it has expired.",
    "ForgeTokenUnreadable": "The file of a token or secret cannot be read, is open to others, or does not "
    "hold what it should: TOKEN ADDRESS, or the one secret.",
    "ForgeUnreachable": "The forge did not answer in time. It is asked again later.",
    "ForgeUntrusted": "The forge's TLS certificate is not one that is trusted.",
}
