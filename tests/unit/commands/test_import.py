"""`capsule import` of agents that really run, over HTTP and a Unix socket, harmless and hostile ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner

from capsule.cli import app
from capsule.commands.adopt import AT_ONCE, Found, write
from capsule.commands.errors import CommandError
from capsule.documents.codec import load_as
from capsule.documents.types import AgentAddress, Service
from capsule_agent import Agent, Health
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import Envelope, Report, ReportCall, decode, encode
from capsule_agent.protocol.sshsig import PrivateKey
from tests.unit.commands.conftest import Office, right_now
from tests.unit.worlds import report

SEED = PrivateKey.from_seed(b"i" * 32)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts agents; says where they are."""
    with ExitStack() as running:

        def start(name: str, *, keyed: bool = False, socket: bool = False, model: str = "gpt-5.1") -> str:
            folder = tmp_path / f"agent-{name}-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            owners = folder / "owners"
            owners.mkdir()
            (owners / "bob.pub").write_text(PrivateKey.from_seed(b"o" * 32).public.text)
            options = (
                {"journal": folder / "agent.db", "owners": owners, "key": SEED}
                if keyed
                else {"observe": True}
            )
            agent = Agent(name, version="1.8.2", **options)  # type: ignore[arg-type]  # of both kinds
            agent.config("model", lambda: model)
            agent.config("region", lambda: "eu\x1b[2J")
            agent.config("apiKey", lambda: "sk-very-secret-indeed", sensitive=True)
            agent.health(lambda: Health("UP", "fine"))
            running.callback(agent.close)
            if socket:
                running.enter_context(agent.serve_unix(folder / "s"))
                return f"unix:{folder / 's'}"
            return running.enter_context(agent.serve("127.0.0.1", 0)).address.removesuffix("/")

        yield start


def answering(running: ExitStack, answer: Callable[[str], bytes]) -> str:
    """A server that answers every report call with what `answer` makes of its nonce."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            call = decode(ReportCall, self.rfile.read(int(self.headers["Content-Length"])))
            data = answer(call.nonce)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    running.callback(lambda: (server.shutdown(), thread.join(5), server.server_close()))
    return f"http://127.0.0.1:{server.server_port}"


def sealed(made: Report, *, key: PrivateKey | None = SEED, spoil: bool = False) -> bytes:
    payload = made.to_json()
    signature = key.sign(payload, sshsig.REPORT) if key else ""
    text = payload.decode().replace("1.8.2", "6.6.6") if spoil else payload.decode()
    return json.dumps(encode(Envelope(text, signature))).encode()


def document(office: Office, path: str) -> Service:
    return load_as(Service, (office.state / path).read_bytes(), path)


def test_agents_over_http_and_a_socket_become_documents_that_pass_the_check(
    office: Office, serve: Callable[..., str]
) -> None:
    observed, keyed = serve("stripe-events", socket=True), serve("claude-chat", keyed=True)
    done = office.run(
        "import", "--from", observed, "--from", keyed, "--label", "env=prod", "-l", "team=chat",
        "--dir", "services/chat", "--yes",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert SEED.public.fingerprint in done.stdout
    assert "sk-very-secret" not in done.output
    assert "\x1b" not in done.output
    first = document(office, "services/chat/stripe-events.yaml")
    second = document(office, "services/chat/claude-chat.yaml")
    assert (first.spec.agent.key, second.spec.agent.key) == (None, SEED.public.text)
    assert (first.spec.agent.endpoint, second.spec.agent.endpoint) == (observed, keyed)
    assert dict(second.spec.pins) == {"version": "1.8.2", "model": "gpt-5.1"}
    assert dict(second.metadata.labels) == {"env": "prod", "team": "chat"}
    assert "claude-chat: not pinned: region" in done.stdout
    checked = office.run("check")
    assert checked.exit_code == 0, checked.output
    for command in ("capsule -C", "git -C", "propose", "nothing committed"):
        assert command in done.stdout
    assert office.git("status", "--porcelain").strip() == "?? services/chat/"


def test_a_key_is_written_only_with_a_persons_word(office: Office, serve: Callable[..., str]) -> None:
    endpoint = serve("claude-chat", keyed=True)
    done = office.run("import", "--from", endpoint)
    assert done.exit_code == 2
    assert "[NobodyToAsk]" in done.stderr
    assert not (office.state / "services/claude-chat.yaml").exists()
    assert office.run("import", "--from", endpoint, "--no-keys").exit_code == 0
    assert document(office, "services/claude-chat.yaml").spec.agent.key is None
    assert "observed only" in (office.state / "services/claude-chat.yaml").read_text()


def test_at_a_terminal_each_key_is_asked_about(
    office: Office, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = serve("claude-chat", keyed=True), serve("deepl", keyed=True)
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True)
    monkeypatch.setenv("NO_COLOR", "1")
    done = CliRunner().invoke(
        app, ["-C", str(office.state), "import", "--from", one, "--from", two], input="y\nn\n"
    )
    assert done.exit_code == 0, done.output
    assert f"Is {SEED.public.fingerprint} the key of claude-chat?" in done.stdout
    assert document(office, "services/claude-chat.yaml").spec.agent.key == SEED.public.text
    assert document(office, "services/deepl.yaml").spec.agent.key is None


def test_what_is_there_is_never_overwritten(office: Office, serve: Callable[..., str]) -> None:
    before = (office.state / "services/openai-chat.yaml").read_bytes()
    done = office.run("import", "--from", serve("openai-chat"), "--dir", "services/other")
    assert done.exit_code == 1
    assert "NameTaken: there is a service openai-chat already" in done.stdout
    assert "Nothing was written." in done.stdout
    assert (office.state / "services/openai-chat.yaml").read_bytes() == before
    assert not (office.state / "services/other").exists()
    # Neither is one that only main has, nor a damaged one.
    (office.state / "services/openai-chat.yaml").unlink()
    assert "NameTaken" in office.run("import", "--from", serve("openai-chat")).stdout
    (office.state / "services/deepl.yaml").write_text("damaged: [")
    assert "NameTaken" in office.run("import", "--from", serve("deepl")).stdout
    again = serve("fresh")
    assert office.run("import", "--from", again).exit_code == 0
    text = (office.state / "services/fresh.yaml").read_text()
    (office.state / "services/fresh.yaml").rename(office.state / "services/renamed.yaml")
    (office.state / "services/renamed.yaml").write_text(text.replace("name: fresh", "name: renamed"))
    assert "EndpointTaken: it is the endpoint of renamed" in office.run("import", "--from", again).stdout


def test_a_link_in_the_way_is_not_followed(office: Office, tmp_path: Path) -> None:
    found = Found(AgentAddress(endpoint="http://127.0.0.1:1"), "linked", "1", {})
    (office.state / "services/linked.yaml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CommandError, match="exists and was not changed"):
        write(found, office.state / "services", {}, with_key=False, now=right_now())
    assert not (tmp_path / "elsewhere").exists()
    (office.state / "services/away").symlink_to(tmp_path)
    done = office.run("import", "--from", "http://127.0.0.1:1", "--dir", "services/away")
    assert (done.exit_code, "[BadFolder]" in done.stderr) == (2, True)


def test_two_agents_of_one_name_are_both_left_to_a_person(office: Office, serve: Callable[..., str]) -> None:
    done = office.run("import", "--from", serve("twin"), "--from", serve("twin"), "--from", serve("single"))
    assert done.exit_code == 1
    assert done.stdout.count("NameTwice: 2 agents say that they are twin") == 2
    assert (office.state / "services/single.yaml").exists()
    assert not (office.state / "services/twin.yaml").exists()


def test_unreachable_ones_are_listed_with_the_reason_and_hold_up_no_other(
    office: Office, serve: Callable[..., str], tmp_path: Path
) -> None:
    listed = tmp_path / "agents.txt"
    dead = [f"http://127.0.0.1:1/{at}" for at in range(AT_ONCE + 8)]
    listed.write_text("# ours\n" + "\n".join([*dead, "", f"{serve('alive')}  # the one", dead[0]]))
    done = office.run("import", "--from", str(listed), "--timeout", "2s")
    assert done.exit_code == 1
    assert done.stdout.count("AgentUnreachable") == len(dead)
    assert (office.state / "services/alive.yaml").exists()


@pytest.mark.parametrize(
    ("changes", "key", "spoil", "reason"),
    [
        ({"service": "../../etc"}, SEED, False, "UnusableName"),
        ({"service": "a\x1b[2J"}, SEED, False, "UnusableName"),
        ({"config": {"model": "x\x1b]0;owned\x07"}}, SEED, False, "UnsafeText"),
        ({"config": {"token": "ghp_" + "a" * 36}}, SEED, False, "SecretInOutput"),
        ({"config": {"a b": "c"}}, SEED, False, "BadOutput"),
        ({"nonce": "of another call"}, SEED, False, "AnswerForOther"),
        ({}, SEED, True, "BadAgentSignature"),
    ],
)
def test_hostile_reports_become_no_document(
    office: Office, changes: dict[str, object], key: PrivateKey, spoil: bool, reason: str
) -> None:
    with ExitStack() as running:

        def answer(nonce: str) -> bytes:
            made = replace(report("hostile", nonce=nonce), **changes)  # type: ignore[arg-type]  # as hostile as can be
            return sealed(made, key=key, spoil=spoil)

        done = office.run("import", "--from", answering(running, answer), "--yes")
    assert (done.exit_code, reason in done.stdout) == (1, True), done.output
    assert "\x1b" not in done.output
    assert "ghp_" not in done.output
    assert office.git("status", "--porcelain") == ""


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"payload": "{}", "signature": ""}']
)
def test_answers_that_are_no_reports_become_no_document(office: Office, answer: bytes) -> None:
    with ExitStack() as running:
        done = office.run("import", "--from", answering(running, lambda _: answer), "--yes")
    assert (done.exit_code, "MalformedAnswer" in done.stdout) == (1, True), done.output


def test_a_signature_that_is_none_becomes_no_document(office: Office) -> None:
    def answer(nonce: str) -> bytes:
        payload = report("odd", nonce=nonce).to_json().decode()
        return json.dumps(encode(Envelope(payload, "-----BEGIN SSH SIGNATURE-----\nAAAA\n"))).encode()

    with ExitStack() as running:
        done = office.run("import", "--from", answering(running, answer), "--yes")
    assert (done.exit_code, "BadAgentSignature" in done.stdout) == (1, True), done.output


def test_a_report_of_very_much_fits_into_a_document(office: Office) -> None:
    values = {f"value{at}": at for at in range(60)} | {"version": "9.9"}

    def answer(nonce: str) -> bytes:
        return sealed(report("much", nonce=nonce, config=values), key=None)

    with ExitStack() as running:
        done = office.run("import", "--from", answering(running, answer))
    assert done.exit_code == 0, done.output
    pins = document(office, "services/much.yaml").spec.pins
    assert (len(pins), pins["version"]) == (32, "9.9")
    assert "much: not pinned: value31" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--from", "ftp://127.0.0.1"], "EndpointInvalid"),
        (["--from", "https://user:secret@127.0.0.1"], "EndpointInvalid"),
        (["--from", "no-such-file"], "Unreadable"),
        (["--from", "http://127.0.0.1:1", "--dir", "requests"], "BadFolder"),
        (["--from", "http://127.0.0.1:1", "--dir", "services/../.."], "BadFolder"),
        (["--from", "http://127.0.0.1:1", "--label", "env=a b"], "BadLabel"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anybody_is_asked(
    office: Office, arguments: list[str], reason: str
) -> None:
    done = office.run("import", *arguments)
    assert f"[{reason}]" in done.stderr
    assert done.exit_code in (1, 2)
    assert "secret" not in done.stderr


def test_plain_http_to_another_host_must_be_said(office: Office) -> None:
    done = office.run("import", "--from", "http://192.0.2.1:7070", "--timeout", "1s")
    assert "InsecureRefused" in done.stdout


def test_a_file_without_endpoints_and_a_repository_without_files(office: Office, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# none\n")
    assert "[NoEndpoint]" in office.run("import", "--from", str(tmp_path / "empty.txt")).stderr
    bare = tmp_path / "bare"
    assert office.run("clone", "--bare", str(office.state), str(bare)).exit_code == 0
    done = office.run("import", "--from", "http://127.0.0.1:1", at=bare)
    assert (done.exit_code, "[NoWorkTree]" in done.stderr) == (3, True), done.output
