"""All checks by name, and a run of them. Called by command, and by tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import NamedTuple

from capsule_agent.conformance import checks_contract as contract
from capsule_agent.conformance import checks_orders as orders
from capsule_agent.conformance.caller import NoAnswer
from capsule_agent.conformance.keys import MOST_APPROVALS
from capsule_agent.conformance.retell import vectors
from capsule_agent.conformance.session import Nonconformance, Session


class Check(NamedTuple):
    """One check: its name, and what it does, which raises Nonconformance."""

    name: str
    run: Callable[[Session], None]
    meaning: str


class Finding(NamedTuple):
    """How one check ended; `problem` is empty when the agent conforms."""

    check: str
    problem: str

    @property
    def passed(self) -> bool:
        """Whether the agent conforms."""
        return not self.problem


_OWN = (
    contract.report_is_signed_and_fresh,
    contract.report_names_what_it_offers,
    contract.report_call_is_strict,
    contract.hostile_json_is_refused,
    contract.deep_and_long_json_is_refused,
    contract.envelope_is_strict,
    contract.signed_payload_is_strict,
    contract.numbers_are_never_guessed,
    contract.unknown_parameters_are_refused,
    contract.half_times_are_refused,
    contract.http_other_methods_and_paths,
    contract.http_only_json,
    contract.http_oversize_is_refused,
    orders.health_check_runs,
    orders.approved_order_runs,
    orders.too_few_approvals,
    orders.too_many_approvals,
    orders.approvals_of_another_request,
    orders.replay_gives_the_stored_receipt,
    orders.two_at_once_run_once,
    orders.refused_stays_refused,
    orders.edited_request_never_runs_again,
    orders.outdated_attempt_is_refused,
    orders.query_of_the_unknown,
    orders.query_is_authenticated,
    orders.tombstone_prevents,
    orders.stored_signers_serve,
    orders.older_signers_are_refused,
    orders.reused_serial_is_refused,
    orders.signers_of_another_repository,
    orders.leaver_no_longer_counts,
    orders.unreadable_signers_are_refused,
    orders.signers_in_another_namespace,
    orders.removed_reconciler_is_refused,
    orders.approval_needs_a_list_that_lists,
    orders.order_in_another_namespace,
    orders.signed_bytes_are_what_counts,
    orders.generations_only_rise,
    orders.generation_far_ahead_is_refused,
    orders.disabled_agent_takes_orders,
    orders.journal_rises,
)

CHECKS: tuple[Check, ...] = (
    *(Check(each.__name__.replace("_", "-"), each, (each.__doc__ or "").strip()) for each in _OWN),
    *(
        Check(
            f"vector-{each.name.replace(' ', '-')}",
            partial(orders.answers_vector, vector=each),
            f"The published order “{each.name}”: {each.outcome} {each.reason}.",
        )
        for each in vectors()
    ),
)


def run_checks(session: Session, only: Collection[str] = ()) -> Iterator[Finding]:
    """Run the checks named in `only`, or all of them, one after the other.

    Raises NoAnswer when the agent cannot be reached at all.
    """
    session.needed = _approvals_needed(session)
    for check in CHECKS:
        if not only or check.name in only:
            yield Finding(check.name, _problem_of(check, session))


def _approvals_needed(session: Session) -> int:
    """As the agent says; what is wrong with its report is found by the checks of it."""
    try:
        offered = {action.name: action.approvals for action in session.report("begin").actions}
    except Nonconformance:
        offered = {}
    return min(max(offered.get(session.plan.action, 1), 1), MOST_APPROVALS)


def _problem_of(check: Check, session: Session) -> str:
    try:
        check.run(session)
    except Nonconformance as error:
        return str(error)
    except NoAnswer as error:
        return f"no answer: {error}"
    return ""
