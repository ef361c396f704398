"""Eight integration services of a team, in the states that such services are in on an ordinary Monday."""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime, timedelta
from functools import cache

from capsule.documents.scalars import instant_text
from capsule.testing.memory_store import MemoryStore
from tests.web.chronicle import Chronicle, service_text

NOW = datetime(2026, 11, 23, 14, 30, 20, tzinfo=UTC)


def _files() -> dict[str, str]:
    prod = {"env": "prod"}
    return {
        "services/llm/openai-chat.yaml": service_text(
            "openai-chat",
            labels={"team": "search", "vendor": "openai", **prod},
            pins={"version": "1.8.2", "model": "gpt-5.1", "upstream": "https://api.openai.com/v1"},
            more='  rotation: {every: 90d}\n  owner: "Search team, #search-oncall"\n'
            '  runbook: "https://wiki.example.com/runbooks/openai-chat"',
        ),
        "services/llm/anthropic-messages.yaml": service_text(
            "anthropic-messages",
            labels={"team": "search", "vendor": "anthropic", **prod},
            pins={"version": "2.1.0", "model": "claude-opus-4-6", "upstream": "https://api.anthropic.com"},
            more="  rotation: {every: 90d}",
        ),
        "services/llm/embeddings.yaml": service_text(
            "embeddings",
            labels={"team": "search", "vendor": "openai", "env": "staging"},
            pins={"version": "1.8.2", "model": "text-embedding-4-large"},
        ),
        "services/saas/stripe-payments.yaml": service_text(
            "stripe-payments",
            labels={"team": "billing", "vendor": "stripe", **prod},
            pins={"version": "4.0.1", "apiVersion": "2026-09-30", "upstream": "https://api.stripe.com/v1"},
            more="  rotation: {every: 30d}",
        ),
        "services/saas/salesforce-sync.yaml": service_text(
            "salesforce-sync",
            labels={"team": "crm", "vendor": "salesforce", **prod},
            pins={"version": "0.14.3", "apiVersion": "v64.0", "upstream": "https://acme.my.salesforce.com"},
        ),
        "services/saas/zendesk-tickets.yaml": service_text(
            "zendesk-tickets",
            labels={"team": "support", "vendor": "zendesk", **prod},
            pins={"version": "3.2.0", "upstream": "https://acme.zendesk.com/api/v2"},
        ),
        "services/gateways/sms-gateway.yaml": service_text(
            "sms-gateway",
            labels={"team": "platform", "vendor": "twilio", **prod},
            pins={"version": "1.0.9", "upstream": "https://api.twilio.com"},
            more="  enabled: false",
        ),
        "services/gateways/maps-geocoder.yaml": service_text(
            "maps-geocoder", labels={"team": "platform", "env": "staging"}, pins={"version": "0.3.0"}
        ),
    }


OPENAI = "services/llm/openai-chat.yaml"
ANTHROPIC = "services/llm/anthropic-messages.yaml"
EMBEDDINGS = "services/llm/embeddings.yaml"
STRIPE = "services/saas/stripe-payments.yaml"
SALESFORCE = "services/saas/salesforce-sync.yaml"
ZENDESK = "services/saas/zendesk-tickets.yaml"
SMS = "services/gateways/sms-gateway.yaml"
ROTATE_OPENAI = "20261120-rotate-openai-chat-k3f9"
ROTATE_STRIPE = "20261123-rotate-stripe-payments-q7dd"
ROTATE_TWO = "20261123-rotate-search-w2aa"
CHECK_ZENDESK = "20261122-check-zendesk-tickets-b1c4"
REJECTED = "20261119-rotate-salesforce-sync-m8k2"
ROLLOUT = "20261121-rotate-llm-h4t0"


def integration_services(store: MemoryStore | None = None) -> Chronicle:
    """The history, ending at NOW with a living reconciler; in a store of its own where none is given."""
    if store is not None:
        return _told(store)
    written = _written()
    story = copy(written)
    story.services = dict(written.services)
    story.store = MemoryStore()
    for kind, data in written.store.objects():
        story.store.put(kind, data)
    for name, oid in written.store.all_refs().items():
        story.store.set_ref(name, oid)
    return story


@cache
def _written() -> Chronicle:
    """The history that is written once in a process, and never given away."""
    return _told(MemoryStore())


def _told(store: MemoryStore) -> Chronicle:
    story = Chronicle(NOW - timedelta(days=40), _files(), store)
    _first_pass(story)
    _requests(story)
    story.now = NOW
    story.beat(probes(story))
    return story


def probes(story: Chronicle) -> dict:
    """The latest probe of every service that was ever reached."""
    return {
        "openai-chat": story.probe(4, latency_ms=112),
        "anthropic-messages": story.probe(8, latency_ms=96),
        "embeddings": story.probe(11, latency_ms=41),
        "stripe-payments": story.probe(2, latency_ms=230),
        "salesforce-sync": story.probe(6, ok=False, reason="ConnectionRefused"),
        "zendesk-tickets": story.probe(9, status="DEGRADED", latency_ms=1840),
        "sms-gateway": story.probe(5, enabled=False, latency_ms=18),
    }


def _first_pass(story: Chronicle) -> None:
    def up(**more: object) -> dict:
        since = instant_text(story.now)
        return {"enabled": True, "health": {"status": "UP", "detail": "", "since": since}, **more}

    day = timedelta(days=1)
    created = instant_text(story.now - 20 * day)
    edits = {
        **story.status(
            OPENAI,
            "HEALTHY",
            "HealthUp",
            **up(version="1.8.2", values={"model": "gpt-5.1", "upstream": "https://api.openai.com/v1"}),
            keyCreatedAt=created,
        ),
        **story.status(
            ANTHROPIC,
            "HEALTHY",
            "HealthUp",
            **up(
                version="2.1.0",
                values={"model": "claude-opus-4-6", "upstream": "https://api.anthropic.com"},
            ),
            keyCreatedAt=created,
        ),
        **story.status(
            STRIPE,
            "HEALTHY",
            "HealthUp",
            **up(
                version="4.0.1",
                values={
                    "apiVersion": "2026-09-30",
                    "upstream": "https://api.stripe.com/v1",
                    "currency": "EUR",
                },
            ),
            keyCreatedAt=created,
        ),
        **story.status(ZENDESK, "HEALTHY", "HealthUp", **up(version="3.2.0")),
        **story.status(
            SALESFORCE, "HEALTHY", "HealthUp", **up(version="0.14.3", values={"apiVersion": "v64.0"})
        ),
        **story.status(
            EMBEDDINGS,
            "HEALTHY",
            "HealthUp",
            **up(version="1.8.2", values={"model": "text-embedding-4-large"}),
        ),
    }
    story.record(edits, "first observation of 6 services")
    story.now += 30 * day
    since = instant_text(story.now)
    drifted = story.status(
        EMBEDDINGS,
        "HEALTHY",
        "HealthUp",
        **up(version="1.8.2", values={"model": "text-embedding-4-small"}),
        drift=[
            {
                "pin": "model",
                "desired": "text-embedding-4-large",
                "observed": "text-embedding-4-small",
                "since": since,
            }
        ],
    )
    story.record(
        drifted, "embeddings: model drifted", {"Capsule-Service": "embeddings", "Capsule-Reason": "Drift"}
    )
    story.now += 5 * day
    off = story.status(
        SMS, "DISABLED", "DisabledBySpec", enabled=False, version="1.0.9", message="number pool moves"
    )
    story.record(off, "sms-gateway: disabled", {"Capsule-Service": "sms-gateway"})


def _requests(story: Chronicle) -> None:
    hour = timedelta(hours=1)
    rejected = story.request(
        REJECTED,
        "rotateKey",
        ("salesforce-sync",),
        reason="Routine rotation",
        params={"grace": "24h"},
        approvals={"carol": "reject"},
    )
    story.record(
        story.refusal(rejected, "Rejected", "RejectedByReviewer", "carol rejected it: Not during the launch"),
        "rotateKey salesforce-sync: rejected",
        {"Capsule-Request": REJECTED, "Capsule-Reason": "RejectedByReviewer", "Requested-by": "alice"},
    )
    story.now += 26 * hour
    rotate = story.request(
        ROTATE_OPENAI,
        "rotateKey",
        ("openai-chat",),
        reason="Quarterly rotation, OPS-1234",
        params={"grace": "24h"},
        approvals={"bob": "approve"},
    )
    _perform(story, rotate, "openai-chat", outputs={"keyId": "key_7Qm2", "revokedAt": "2026-11-21T18:00:00Z"})
    story.now += 20 * hour
    rollout = story.request(
        ROLLOUT,
        "rotateKey",
        ("anthropic-messages", "embeddings", "zendesk-tickets"),
        reason="Vendor advisory 2026-118",
        approvals={"carol": "approve"},
    )
    _perform(story, rollout, "anthropic-messages", approved_by=("carol",))
    _perform(
        story,
        rollout,
        "embeddings",
        outcome="failed",
        result_reason="VerifyFailed",
        message="the new key was refused by the upstream; the old one stays in use",
        approved_by=("carol",),
    )
    story.now += 12 * hour
    check = story.request(
        CHECK_ZENDESK, "runHealthCheck", ("zendesk-tickets",), reason="Slow since noon", branch=True
    )
    _perform(story, check, "zendesk-tickets", approved_by=(), outputs={"status": "DEGRADED", "queue": 412})
    since = instant_text(story.now)
    story.record(
        {
            **story.status(
                ZENDESK,
                "UNHEALTHY",
                "HealthDegraded",
                enabled=True,
                version="3.2.0",
                message="rate limited by the upstream, 412 tickets queued",
                health={"status": "DEGRADED", "detail": "rate limited by the upstream", "since": since},
            ),
            **story.status(
                SALESFORCE,
                "OFFLINE",
                "ConnectionRefused",
                message="no answer since 02:41: connection refused",
                version="0.14.3",
                values={"apiVersion": "v64.0"},
            ),
        },
        "zendesk-tickets: UNHEALTHY, salesforce-sync: OFFLINE",
        {"Capsule-Service": "zendesk-tickets", "Capsule-Reason": "HealthDegraded"},
    )
    story.now = NOW - 3 * hour
    story.request(
        ROTATE_STRIPE,
        "rotateKey",
        ("stripe-payments",),
        reason="Key is older than 30 days",
        params={"grace": "1h"},
        approvals={"bob": "approve"},
        branch=False,
    )
    story.request(
        ROTATE_TWO,
        "rotateKey",
        ("openai-chat", "anthropic-messages"),
        reason="A laptop with access was lost, SEC-77",
        params={"grace": "0s"},
        branch=True,
    )
    story.record({}, "take in main")


def _perform(
    story: Chronicle,
    request: object,
    service: str,
    *,
    outcome: str = "succeeded",
    result_reason: str = "Succeeded",
    message: str = "",
    approved_by: tuple[str, ...] = ("bob",),
    outputs: dict | None = None,
) -> None:
    name, action = request.metadata.name, request.spec.action
    trailers = {"Capsule-Request": name, "Capsule-Service": service, "Capsule-Action": action}
    story.now += timedelta(minutes=2)
    story.record(
        story.claim(request, service, approved_by=approved_by), f"claim {action} {service}", trailers
    )
    story.now += timedelta(seconds=7)
    people = {"Requested-by": "alice", **({"Approved-by": approved_by[0]} if approved_by else {})}
    story.record(
        story.result(
            request,
            service,
            outcome,
            result_reason,
            message=message,
            outputs=outputs or {},
            receiptDigest="sha256:" + "9d2e" * 16,
        ),
        f"{action} {service}: {outcome}",
        {**trailers, "Capsule-Outcome": outcome, "Capsule-Reason": result_reason, **people},
    )
