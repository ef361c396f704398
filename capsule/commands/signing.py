"""Signing as a person: with the key git already signs with, through ssh-keygen.

Rules kept: a private key is never read here: ssh-keygen opens the file or asks the ssh-agent, and asks
for a passphrase on the terminal itself; what is signed goes through standard input; who signs is the
principal of the policy in force that lists the key, whatever name git has. Called by every command that
writes on behalf of a person.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from capsule.commands.errors import RefusedByPolicy, SetUpProblem
from capsule.commands.git_program import setting
from capsule.documents.scalars import instant_text
from capsule.documents.types import DatedKey, Policy
from capsule.store.api import Person
from capsule.trust.key_validity import key_text
from capsule_agent.protocol.sshsig import COMMIT, BadKey, BadSignature, PublicKey, verify

_SET_UP = (
    "Make a key for it, beside those that you have, and tell git to sign with it:\n"
    "  ssh-keygen -t ed25519 -f ~/.ssh/capsule_ed25519\n"
    "  git config --global gpg.format ssh\n"
    "  git config --global user.signingkey ~/.ssh/capsule_ed25519.pub"
)


@dataclass(frozen=True, slots=True)
class KeygenSigner:
    """Signs through `ssh-keygen -Y sign`, with a key file or with a public key held by the ssh-agent.

    `key_file` is None for a key that git holds as text (`key::…`): its private half is in the agent.
    """

    public: PublicKey
    key_file: Path | None

    def sign(self, message: bytes, namespace: str) -> str:
        """The armored SSHSIG of `message` in `namespace`.

        Raises SetUpProblem when ssh-keygen cannot, for example without the passphrase.
        """
        with self._file() as file:
            done = _keygen("-Y", "sign", "-q", "-n", namespace, "-f", str(file), stdin=message)
        if done.returncode:
            raise SetUpProblem(
                "CannotSign",
                f"ssh-keygen could not sign with {self.public.fingerprint}: {_last_line(done)}",
                "Is the private key there and readable, or in the agent (`ssh-add -l`)?",
            )
        signature = done.stdout.decode()
        try:
            verify(message, signature, namespace, [self.public])
        except BadSignature as error:
            raise SetUpProblem(
                "WrongKeyPair",
                f"the private and the public key do not belong together: {error}",
                f"Write the public key anew: ssh-keygen -y -f {self.key_file} > {self.key_file}.pub",
            ) from None
        return signature

    def sign_commit(self, data: bytes) -> str:
        """What a git commit carries as `gpgsig`."""
        return self.sign(data, COMMIT)

    @contextmanager
    def _file(self) -> Iterator[Path]:
        if self.key_file is not None:
            yield self.key_file
            return
        with tempfile.TemporaryDirectory(prefix="capsule-key-") as folder:
            file = Path(folder) / "key.pub"
            file.write_text(self.public.text + "\n", encoding="ascii")
            yield file


@dataclass(frozen=True, slots=True)
class Identity:
    """A person of the policy, with the key that speaks for them and the name commits carry."""

    principal: str
    person: Person
    signer: KeygenSigner


def find_signer(directory: Path, as_key: Path | None = None) -> KeygenSigner:
    """The signer of `as_key`, or of git's `user.signingkey` as seen from `directory`.

    Raises SetUpProblem with the commands that mend it.
    """
    if as_key is not None:
        return _signer_of_file(as_key.expanduser(), f"--as-key {as_key}")
    text = setting(directory, "user.signingkey")
    if not text:
        raise SetUpProblem("NoSigningKey", "git has no signing key (user.signingkey is not set)", _SET_UP)
    literal = text.removeprefix("key::")
    if literal.startswith("ssh-"):
        return KeygenSigner(_parse(literal, "user.signingkey"), None)
    path = setting(directory, "user.signingkey", as_path=True) or text
    return _signer_of_file(Path(path), "user.signingkey")


def identify(policy: Policy, signer: KeygenSigner, directory: Path, ever: Policy | None = None) -> Identity:
    """The person of `policy` whose key `signer` holds. Raises RefusedByPolicy for a key of nobody.

    `ever` is the same policy with the keys that do not speak now, too.
    """
    for name, principal in policy.spec.principals.items():
        if any(PublicKey.parse(key_text(key)) == signer.public for key in principal.keys):
            if principal.machine:
                raise RefusedByPolicy(
                    "MachineKey",
                    f"the key {signer.public.fingerprint} belongs to {name}, a machine: "
                    "machines never request or approve",
                    "Use your own key: git config user.signingkey FILE, or --as-key FILE.",
                )
            return Identity(name, _person(directory, name, principal.email), signer)
    for name, entry in _dated(ever or policy):
        if PublicKey.parse(entry.key) == signer.public:
            ends = [("from", entry.valid_after), ("until before", entry.valid_before)]
            window = " ".join(f"{word} {instant_text(at)}" for word, at in ends if at)
            raise RefusedByPolicy(
                "KeyNotValid",
                f"your key {signer.public.fingerprint}, {name}'s, counts only {window}",
                "Sign with another of your keys (--as-key FILE), or have an owner list a new one.",
            )
    raise RefusedByPolicy(
        "UnknownKey",
        f"your key {signer.public.fingerprint} is not listed for anyone in the policy in force",
        "Ask an owner to add it to policy.yaml under your name:\n"
        f'  keys: ["{signer.public.text}"]\n'
        "or sign with another key: --as-key FILE",
    )


def _dated(policy: Policy) -> Iterator[tuple[str, DatedKey]]:
    """The keys that speak for a while only, with whose they are."""
    for name, principal in policy.spec.principals.items():
        yield from ((name, entry) for entry in principal.keys if isinstance(entry, DatedKey))


def _person(directory: Path, principal: str, email: str | None) -> Person:
    """The name that commits carry: git's, unless git is set up for somebody else than who signs."""
    known = setting(directory, "user.email")
    name = setting(directory, "user.name") if email in (None, known) else None
    return Person(name or principal, email or known or f"{principal}@localhost")


def _signer_of_file(path: Path, source: str) -> KeygenSigner:
    if not path.is_file():
        raise SetUpProblem(
            "SigningKeyMissing", f"{source}: there is no such file: {path}", _nearest_file(path) or _SET_UP
        )
    if path.suffix == ".pub":
        return KeygenSigner(_parse(_read_public(path), str(path)), path)
    beside = path.with_name(path.name + ".pub")
    if beside.is_file():
        return KeygenSigner(_parse(_read_public(beside), str(beside)), path)
    done = _keygen("-y", "-f", str(path))
    if done.returncode:
        raise SetUpProblem(
            "SigningKeyUnusable",
            f"ssh-keygen cannot read {path}: {_last_line(done)}",
            _SET_UP,
        )
    return KeygenSigner(_parse(done.stdout.decode(errors="replace"), str(path)), path)


def _nearest_file(path: Path) -> str:
    """The file that was perhaps meant; empty where none is called alike."""
    try:
        names = [each.name for each in path.parent.iterdir() if each.is_file()]
    except OSError:
        return ""
    near = get_close_matches(path.name, names, n=1)
    return f"Did you mean {path.with_name(near[0])}?" if near else ""


def _read_public(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetUpProblem("SigningKeyUnusable", f"cannot read {path}: {error}", _SET_UP) from None


def _parse(text: str, source: str) -> PublicKey:
    try:
        return PublicKey.parse(text.strip())
    except BadKey as error:
        raise SetUpProblem(
            "SigningKeyUnusable", f"{source}: {error}; Capsule signs with Ed25519 keys alone", _SET_UP
        ) from None


def _keygen(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["ssh-keygen", *arguments], input=stdin, capture_output=True, check=False)
    except FileNotFoundError:
        raise SetUpProblem(
            "SshKeygenMissing",
            "the program ssh-keygen is not installed",
            "On Debian: sudo apt-get install openssh-client",
        ) from None


def _last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1] if said else "it gave no reason"
