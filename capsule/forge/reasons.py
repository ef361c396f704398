"""The reason codes of calls to a forge; the reference is made from them."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "ForgeAnswerMalformed": "The forge's answer is not what its API describes. It is asked again later.",
    "ForgeAnswerTooLarge": "The forge's answer, or its list of pages, is larger than any may be.",
    "ForgeFailed": "The forge answered with an error of its own (5xx). It is asked again later.",
    "ForgeInsecure": "The server's address is plain http beyond this machine, where a token is never sent.",
    "ForgeNotAllowed": "The forge knows the token, but does not let it do this, or says that nothing is "
    "here. Give the token the rights that the how-to lists.",
    "ForgeRateLimited": "The forge wants no more calls for now; it is asked again when it says.",
    "ForgeRedirects": "The forge answers with a redirect, which is not followed: was the repository renamed?",
    "ForgeRefusedCall": "The forge did not take what was asked of it.",
    "ForgeTokenRefused": "The forge does not know the token, or it has expired.",
    "ForgeTokenUnreadable": "The token's file cannot be read, is open to others, or holds no token.",
    "ForgeUnreachable": "The forge did not answer in time. It is asked again later.",
    "ForgeUntrusted": "The forge's TLS certificate is not one that is trusted.",
}
