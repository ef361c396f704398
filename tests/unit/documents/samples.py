"""Documents that are right, for the tests to spoil."""

from __future__ import annotations

from typing import Any

from capsule.documents.codec import emit, load_as
from capsule.documents.digests import bytes_digest, target_digest
from capsule.documents.types import ActionRequest, Service
from capsule_agent.protocol.messages import Approval, ApprovedRequest
from capsule_agent.protocol.sshsig import PrivateKey

ROOT = "6f" * 20
REQUEST = "requests/2026/11/20261123-rotate/request.yaml"
APPROVAL = "requests/2026/11/20261123-rotate/approvals/bob.json"


def key(seed: int) -> str:
    """The public key of a private key made from one byte."""
    return PrivateKey.from_seed(bytes([seed]) * 32).public.text


SERVICE_TEXT = f"""\
# The chat of the search team.
apiVersion: capsule/v1
kind: Service
metadata:
  name: openai-chat
  labels: {{team: search, env: prod}}
spec:
  enabled: true   # takes traffic
  agent:
    endpoint: "https://10.0.3.4:7070"
    key: "{key(9)}"
  pins: {{version: "1.8.2", model: gpt-5.1}}
  health: {{interval: 30s, timeout: 5s}}
  rotation: {{every: 90d}}
"""

REQUEST_TEXT = """\
apiVersion: capsule/v1
kind: ActionRequest
metadata: {name: 20261123-rotate}
spec:
  requestedBy: alice
  action: rotateKey
  targets: [openai-chat]
  params: {grace: 24h}
  reason: "Quarterly rotation, OPS-1234"
  expires: "2026-11-30T00:00:00Z"
"""

POLICY_TEXT = f"""\
apiVersion: capsule/v1
kind: Policy
metadata: {{name: policy}}
spec:
  serial: 7
  principals:
    alice: {{email: alice@example.com, keys: ["{key(1)}"]}}
    bob: {{email: bob@example.com, keys: ["{key(2)}"]}}
    carol: {{email: carol@example.com, keys: ["{key(3)}"]}}
    reconciler-1: {{machine: true, keys: ["{key(4)}"]}}
  teams: {{operators: [alice], reviewers: [bob], owners: [bob, carol]}}
  rules:
    - match: {{action: rotateKey, selector: {{env: prod}}}}
      mayRequest: [operators]
      approvals: [{{team: reviewers, count: 1}}]
    - match: {{change: service}}
      mayRequest: [operators]
      approvals: [{{team: reviewers, count: 1}}]
    - match: {{change: settings}}
      mayRequest: [owners]
      approvals: [{{team: owners, count: 1}}]
    - match: {{change: policy}}
      mayRequest: [owners]
      approvals: [{{team: owners, count: 1}}]
  freezes:
    - selector: {{env: prod}}
      from: "2026-12-20T00:00"
      to: "2027-01-02T00:00"
      timezone: Europe/Berlin
      except: [owners]
"""

SETTINGS_TEXT = """\
apiVersion: capsule/v1
kind: Capsule
metadata: {name: example}
spec: {limits: {maxTargets: 2}}
"""


def approval(**changes: Any) -> Approval:
    """Bob's approval of the request above, with some fields changed."""
    service = load_as(Service, SERVICE_TEXT.encode(), "service.yaml")
    request = load_as(ActionRequest, REQUEST_TEXT.encode(), "request.yaml")
    fields: dict[str, Any] = {
        "repository": ROOT,
        "principal": "bob",
        "decision": "approve",
        "request": ApprovedRequest(
            name=request.metadata.name,
            digest=bytes_digest(REQUEST_TEXT.encode()),
            requested_by="alice",
            action="rotateKey",
            params={"grace": "24h"},
        ),
        "targets": {"openai-chat": target_digest(service)},
        "expires": "2026-11-30T00:00:00Z",
    }
    return Approval(**{**fields, **changes})


def good_tree() -> dict[str, bytes]:
    """A tree of main without any problem."""
    return {
        "README.md": b"\xff any file outside of the folders is nobody's business",
        "capsule.yaml": SETTINGS_TEXT.encode(),
        "policy.yaml": POLICY_TEXT.encode(),
        "services/search/openai-chat.yaml": SERVICE_TEXT.encode(),
        "services/README.md": b"what the folders mean",
        REQUEST: REQUEST_TEXT.encode(),
        f"{REQUEST}.sig": b"signature",
        APPROVAL: emit(approval()),
        f"{APPROVAL}.sig": b"signature",
    }
