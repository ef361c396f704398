"""The verb `capsule-agent conformance`: make keys, say how to start the agent under test, run the checks.

Rules kept: exit 0 when every check passed, 1 when one failed, 2 wrong usage, 3 the agent cannot be asked;
what the agent says is shown without characters that a terminal obeys. Called by cli.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capsule_agent.conformance.caller import BadAddress, Caller, NoAnswer
from capsule_agent.conformance.keys import BadFolder, KeyRing, make_keys, read_keys
from capsule_agent.conformance.session import Plan, Session
from capsule_agent.conformance.suite import CHECKS, Finding, run_checks
from capsule_agent.protocol.sshsig import BadKey, PublicKey
from capsule_agent.values import plain_line

_EPILOG = """examples:
  capsule-agent conformance --keys conformance-keys
  capsule-agent conformance http://127.0.0.1:7070 --keys conformance-keys
  capsule-agent conformance unix:/run/test.sock --keys conformance-keys --json
"""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        for check in CHECKS:
            print(f"{check.name:<45} {check.meaning}")
        return 0
    if options.keys is None:
        parser.error("expected --keys FOLDER, where the keys of the test are or shall be")
    try:
        ring = read_keys(options.keys) if (options.keys / "repository").exists() else make_keys(options.keys)
        if options.url is None:
            print(how_to_start(ring, options))
            return 0
        return _run(options, ring)
    except (BadAddress, BadFolder, BadKey) as error:
        print(f"capsule-agent: {plain_line(str(error))}", file=sys.stderr)
        return 2
    except NoAnswer as error:
        print(f"capsule-agent: no answer from {plain_line(str(error))}", file=sys.stderr)
        return 3


def how_to_start(ring: KeyRing, options: argparse.Namespace) -> str:
    """What the person who runs the agent under test needs to know."""
    return f"""Keys of the test are in {ring.folder}. Start the agent under test with:

  service name      {options.service}
  owners            {ring.owners}
  repository        {ring.repository} (or unset: the first list of signers says it)
  journal           a new one; a test changes it
  action            {options.action}, with 2 approvals, that takes {json.dumps(options.params)}
                    and {json.dumps(options.other_params)}

It will trust the keys in this folder: give it nothing of value, and never point a service in use at them.
{options.action} is really executed, many times. Then:

  capsule-agent conformance URL --keys {ring.folder}"""


def _run(options: argparse.Namespace, ring: KeyRing) -> int:
    plan = Plan(options.service, options.action, options.params, options.other_params)
    caller = Caller(options.url, ca=options.ca)
    session = Session(caller, ring, plan, PublicKey.parse(options.agent_key) if options.agent_key else None)
    found = []
    for finding in run_checks(session, options.only):
        found.append(finding)
        if not options.json:
            print(_line(finding), flush=True)
    failed = [finding for finding in found if not finding.passed]
    if options.json:
        print(json.dumps(_as_json(session, found), indent=2))
    else:
        print(f"{len(found) - len(failed)} of {len(found)} checks passed")
    return 1 if failed else 0


def _line(finding: Finding) -> str:
    line = f"{'ok' if finding.passed else 'FAILED':<7}{finding.check}"
    return line if finding.passed else f"{line}\n         {plain_line(finding.problem)}"


def _as_json(session: Session, found: Sequence[Finding]) -> dict[str, Any]:
    return {
        "url": session.caller.address,
        "service": session.plan.service,
        "agentKey": session.agent_key.text if session.agent_key else None,
        "passed": all(finding.passed for finding in found),
        "checks": [
            {"name": finding.check, "passed": finding.passed, "problem": finding.problem} for finding in found
        ],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="capsule-agent conformance",
        description="Check from outside whether an agent, in whatever language, keeps the wire contract.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("url", nargs="?", metavar="URL", help="http://…, https://… or unix:/path; without it: how to start")
    add("--keys", type=Path, metavar="FOLDER", help="keys of the test; made when not there")
    add("--service", default="conformance", metavar="NAME", help="the service's name (conformance)")
    add("--action", default="rotateKey", metavar="NAME", help="an action that needs approvals (rotateKey)")
    add("--params", type=_params, default={"grace": "0s"}, metavar="JSON", help="parameters it takes")
    add(
        "--other-params",
        type=_params,
        default={"grace": "24h"},
        metavar="JSON",
        help="other parameters it takes",
    )
    add("--agent-key", metavar="KEY", help="key that must sign; without it the one of the first report")
    add("--ca", metavar="FILE", help="certificate authority of an https:// agent")
    add("--only", action="append", default=[], choices=[check.name for check in CHECKS], metavar="CHECK")
    add("--list", action="store_true", help="list the checks, and what each means")
    add("--json", action="store_true", help="answer in JSON")
    return parser


def _params(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError('expected a JSON object such as {"grace": "0s"}')
    return found
