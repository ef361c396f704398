"""Records are read from a revision of audit, and only where it changed."""

from __future__ import annotations

from capsule.documents.codec import emit
from capsule.documents.paths import ChangeFolder, RequestFolder, StateFolder
from capsule.documents.types import Attestation, AttestationSpec, Metadata
from capsule.lifecycle import Records, read_records
from capsule.store.api import Draft, Person
from capsule.testing.memory_store import MemoryStore
from capsule.trust.objects import ObjectKind
from tests.unit.decide.made import ordered
from tests.unit.worlds import NOW, claim, refusal, request, result


class CountingStore(MemoryStore):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs = 0

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        kind, data = super().read(oid)
        self.blobs += kind == "blob"
        return kind, data


def commit(store: MemoryStore, base: str | None, edits: dict[str, bytes | None]) -> str:
    parents = [base] if base else []
    return store.write(Draft(base, edits, parents, "facts\n", Person("r", "r@example.com"), NOW))


def some_records(store: MemoryStore) -> str:
    done, refused = request("done-1"), request("refused-1")
    folder = RequestFolder("2026/11", "done-1")
    edits: dict[str, bytes | None] = {
        folder.claim("openai-chat", 1): emit(claim(done)),
        folder.claim("openai-chat", 2): emit(claim(done, attempt=2)),
        folder.result("openai-chat"): emit(result(done, attempt=2)),
        folder.receipt("openai-chat"): b"{}",
        RequestFolder("2026/10", "refused-1").refusal: emit(refusal(refused)),
    }
    return commit(store, None, edits)


def test_no_audit_and_no_records_are_empty() -> None:
    store = MemoryStore()
    assert read_records(store, None) == Records()
    assert read_records(store, commit(store, None, {"capsule.yaml": b"x"})) == Records()


def test_claims_results_and_refusals_are_read() -> None:
    store = MemoryStore()
    found = read_records(store, some_records(store))
    done, refused = found.of("done-1"), found.of("refused-1")
    assert done is not None
    assert refused is not None
    operation = done.operations["openai-chat"]
    assert [item.spec.attempt for item in operation.claims] == [1, 2]
    assert operation.result is not None
    assert done.claimed
    assert not refused.claimed
    assert refused.refusal is not None
    assert found.of("nothing") is None
    assert [item.name for item in found.all()] == ["refused-1", "done-1"]
    assert not list(found.running())


def test_what_is_running_is_found() -> None:
    store = MemoryStore()
    running = request("running-1")
    path = RequestFolder("2026/11", "running-1").claim("openai-chat", 1)
    found = read_records(store, commit(store, some_records(store), {path: emit(claim(running))}))
    assert [(item.name, operation.service) for item, operation in found.running()] == [
        ("running-1", "openai-chat")
    ]


def test_what_did_not_change_is_not_read_again() -> None:
    store = CountingStore()
    tip = some_records(store)
    known = read_records(store, tip)
    store.blobs = 0
    assert read_records(store, tip, known) is known
    path = RequestFolder("2026/11", "running-1").claim("openai-chat", 1)
    later = read_records(store, commit(store, tip, {path: emit(claim(request("running-1")))}), known)
    assert store.blobs == 1
    assert later.months["2026/10"] is known.months["2026/10"]
    assert later.of("done-1") is known.of("done-1")


def test_attestations_are_read_by_rising_number() -> None:
    store = MemoryStore()
    folder = RequestFolder("2026/11", "done-1")
    edits: dict[str, bytes | None] = {folder.attestation(at): emit(attestation(at)) for at in (10, 9, 2)}
    edits[folder.attestation(11)] = b"nonsense"
    found = read_records(store, commit(store, some_records(store), edits))
    done = found.of("done-1")
    assert done is not None
    assert [told.spec.number for told in done.attestations] == [2, 9, 10]
    assert found.attestations() == {"done-1": done.attestations}
    assert done.damaged == (folder.attestation(11),)


def attestation(number: int) -> Attestation:
    spec = AttestationSpec(
        forge="github",
        server="https://github.com",
        repository="acme/state",
        number=number,
        revision="a" * 40,
        merged="b" * 40,
        head="c" * 40,
        author=101,
        request="done-1",
        request_digest="sha256:" + "0" * 64,
        paths={},
        targets={},
        reconciler="reconciler-1",
        observed_at=NOW,
    )
    metadata = Metadata(name="done-1")
    return Attestation(api_version="capsule/v1", kind="Attestation", metadata=metadata, spec=spec)


def test_a_damaged_record_is_named_and_hides_no_other() -> None:
    store = MemoryStore()
    path = RequestFolder("2026/11", "done-1").claim("stripe-pay", 1)
    found = read_records(store, commit(store, some_records(store), {path: b"kind: [\n"})).of("done-1")
    assert found is not None
    assert found.damaged == (path,)
    assert "openai-chat" in found.operations


def test_state_orders_are_read_by_rising_generation_and_only_where_they_changed() -> None:
    store = CountingStore()
    first, second = ordered("disable", 9), ordered("enable", 10, None)
    assert first.result
    nine, ten = StateFolder("openai-chat", 9), StateFolder("openai-chat", 10)
    other = ordered("configure", 3, None, service="stripe-pay")
    tip = commit(
        store,
        some_records(store),
        {
            nine.order: emit(first.order),
            nine.result: emit(first.result),
            nine.receipt: b"{}",
            nine.receipt_signature: b"signature",
            ten.order: emit(second.order),
            StateFolder("stripe-pay", 3).order: emit(other.order),
        },
    )
    found = read_records(store, tip)
    assert found.state_operations("openai-chat") == (first, second)
    assert found.state_operations("stripe-pay") == (other,)
    assert found.state_operations("nobody") == ()
    assert [item.name for item in found.all()] == ["refused-1", "done-1"]
    store.blobs = 0
    third = ordered("enable", 10)
    assert third.result
    tip = commit(store, tip, {ten.result: emit(third.result)})
    again = read_records(store, tip, found)
    assert again.state_operations("openai-chat") == (first, third)
    assert again.desired["stripe-pay"] is found.desired["stripe-pay"]
    assert store.blobs == 4
    store.blobs = 0
    path = RequestFolder("2026/11", "running-1").claim("openai-chat", 1)
    later = read_records(store, commit(store, tip, {path: emit(claim(request("running-1")))}), again)
    assert later.desired is again.desired
    assert store.blobs == 1


def test_a_damaged_state_order_is_named_and_hides_no_other() -> None:
    store = MemoryStore()
    good, folder = ordered("disable", 9), StateFolder("openai-chat", 9)
    bad = StateFolder("openai-chat", 10).order
    stray = "records/desired/openai-chat/notes.txt"
    tip = commit(store, None, {folder.order: emit(good.order), bad: b"kind: [\n", stray: b"x"})
    kept = read_records(store, tip).desired["openai-chat"]
    assert [item.generation for item in kept.operations] == [9]
    assert kept.damaged == (bad,)


def test_what_forges_said_of_changes_is_no_month_of_requests() -> None:
    store = MemoryStore()
    told: dict[str, bytes | None] = {ChangeFolder("ab" * 20).attestation(1): b"{}"}
    assert read_records(store, commit(store, None, told)).months == {}
