"""The command `capsule-agent`: what the owner of a host does without any order.

Rules kept: `disable` here wins over the spec; a private key never leaves its file. Exit 0 fine, 2 usage,
3 environment. Called by people and scripts on the host.
"""

from __future__ import annotations

import sys

from capsule_agent import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from capsule_agent.journal import Journal

_EPILOG = """examples:
  capsule-agent keygen --out /etc/capsule/agent_ed25519
  capsule-agent status --journal /var/lib/openai-chat/agent.db
  capsule-agent disable --journal /var/lib/openai-chat/agent.db --reason "vendor incident"
  capsule-agent enable --journal /var/lib/openai-chat/agent.db
  capsule-agent conformance http://127.0.0.1:7070 --keys conformance-keys
  capsule-agent authorize --key "ssh-ed25519 AAAA…" --socket /run/openai-chat/agent.sock
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) == 3 and given[:2] == ["stdio", "--socket"]:
        # Alone and first: sshd starts it for every connection, and all other imports take their time.
        from capsule_agent.pump import pump

        if pump(given[2]):
            return 0
    if given[:1] in (["stdio"], ["authorize"]):
        from capsule_agent import stdio

        return stdio.main(given)
    if given[:1] == ["conformance"]:
        from capsule_agent.conformance import command

        return command.main(given[1:])
    return _look_after(_parser().parse_args(given))


def _look_after(options: argparse.Namespace) -> int:
    import sqlite3
    from datetime import UTC, datetime

    from capsule_agent.journal import Journal, JournalError, service_of

    try:
        if options.verb == "keygen":
            return _keygen(options.out)
        journal = Journal(options.journal, service_of(options.journal))
        if options.verb == "disable":
            journal.set_enabled(options.reason, by_host=True, now=datetime.now(UTC))
        elif options.verb == "enable":
            journal.set_enabled(None, by_host=True, now=datetime.now(UTC))
        _show(journal, as_json=options.json)
    except (JournalError, OSError, sqlite3.Error) as error:
        print(f"capsule-agent: {error}", file=sys.stderr)
        return 3
    return 0


def _parser() -> argparse.ArgumentParser:
    import argparse
    from pathlib import Path

    parser = argparse.ArgumentParser(
        prog="capsule-agent",
        description="Look after the agent of an integration service on its own host.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"capsule-agent {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in (
        ("status", "show whether the service is enabled, and where its journal stands"),
        ("disable", "refuse traffic from now on; wins over the spec until `enable`"),
        ("enable", "take back this host's `disable`; the spec decides again"),
    ):
        one = verbs.add_parser(verb, help=text, description=text)
        one.add_argument("--journal", required=True, metavar="FILE", help="journal of the agent")
        one.add_argument("--json", action="store_true", help="answer in JSON")
        if verb == "disable":
            one.add_argument("--reason", required=True, type=_reason, help="why; shown in every report")
    verbs.add_parser(
        "authorize", help="print the line of authorized_keys for a reconciler's key", add_help=False
    )
    verbs.add_parser("stdio", help="carry calls between an SSH connection and the agent", add_help=False)
    verbs.add_parser("conformance", help="check whether an agent keeps the wire contract", add_help=False)
    keygen = verbs.add_parser("keygen", help="make the agent's key: FILE (mode 0600) and FILE.pub")
    keygen.add_argument("--out", required=True, type=Path, metavar="FILE", help="file to write")
    return parser


def _reason(text: str) -> str:
    import argparse

    if not text.strip() or not text.isprintable() or len(text) > 200:
        raise argparse.ArgumentTypeError("expected one line of 1 to 200 printable characters")
    return text.strip()


def _show(journal: Journal, *, as_json: bool) -> None:
    import json

    state = journal.state()
    facts = {
        "service": journal.service,
        "enabled": state.enabled,
        "disabledReason": state.disabled_reason,
        "busy": state.busy,
        "journal": state.mark.id,
        "sequence": state.mark.sequence,
        "signersSerial": state.signers_serial,
        "repository": state.repository,
        "keyCreatedAt": state.key_created_at,
    }
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        for name, value in facts.items():
            shown = "yes" if value is True else "no" if value is False else value
            print(f"{name:<16}{'-' if shown in (None, '') else shown}")


def _keygen(out: Path) -> int:
    """Write an OpenSSH Ed25519 key pair; an existing file is never overwritten."""
    import os
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from capsule_agent.protocol.sshsig import PrivateKey

    key = Ed25519PrivateKey.generate()
    data = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    try:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"capsule-agent: {out} exists already; give another file", file=sys.stderr)
        return 3
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    public = PrivateKey(key).public.text
    Path(f"{out}.pub").write_text(public + "\n", "utf-8")
    print(public)
    return 0
