"""The reason codes of calls that brought no answer; the reference is made from them."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "AddressRefused": "The endpoint leads to an address that is never used, such as a cloud's metadata.",
    "AgentBusy": "The agent, or the far end of the SSH connection, has as many calls as it takes.",
    "AgentFailed": "The agent answered with an error of its own.",
    "AgentRedirects": "The endpoint answers with a redirect, which is not followed.",
    "AgentRejectedCall": "The agent refused the call, and said why.",
    "AgentTimeout": "The agent did not answer in time.",
    "AgentUnreachable": "Nothing answers at the endpoint, or the connection broke.",
    "AnswerMalformed": "What came back is no answer of an agent: other output, or a broken frame.",
    "AnswerTooLarge": "The answer is larger than any agent's may be.",
    "CaUnknown": "The service names a private CA that the reconciler was not given with `--ca`.",
    "CallTooLarge": "The order is larger than an agent takes.",
    "CallUnknown": "The far end of the SSH connection is of another version, and knows no such call.",
    "CertificateUntrusted": "The agent's TLS certificate is not one that is trusted.",
    "EndpointInvalid": "`spec.agent.endpoint` cannot be read.",
    "HostCertificateInvalid": "The SSH host's certificate is for another host, expired, or not by its CA.",
    "HostKeyChanged": "The SSH host showed another key than the one that is known. Nothing was sent.",
    "HostKeyInvalid": "`spec.agent.hostKey` is no public key.",
    "HostKeyRevoked": "The SSH host's key is marked `@revoked` in known_hosts.",
    "HostKeyUnknown": "The SSH host's key is not known. None is accepted on first sight.",
    "InsecureRefused": "Plain HTTP beyond this machine, without `insecure: true` in the service's document.",
    "KnownHostsUnreadable": "A known_hosts file cannot be read.",
    "LoginRefused": "The SSH host accepts none of the keys; `capsule-agent authorize` prints its line.",
    "RelayMissing": "The command behind the SSH login ended without speaking to us: is capsule-agent there?",
    "SshBusy": "The SSH host dropped the connection before a word, as sshd does above its MaxStartups.",
    "SshConfigInvalid": "The ssh_config file asks for something that is not done here, or cannot be read.",
    "SshRefused": "The SSH host, or a jump host, refused the connection or the channel.",
    "TlsFailed": "The TLS handshake failed.",
    "WeakPeer": "The SSH host offers no key exchange that is safe (strict key exchange is required).",
}
