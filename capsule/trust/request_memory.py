"""What was judged of requests before, and all that it depended on: whatever still holds is not judged again.

Rules kept: a verdict is remembered with everything besides the request's own folder that it was made of; a
month of which nothing changed is compared as one. Called by requests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from capsule.documents.paths import REQUEST_BRANCHES, RequestFolder
from capsule.documents.types import Attestation
from capsule.trust.arrivals import Arrivals
from capsule.trust.one_request import Source
from capsule.trust.state import Finding, JudgedRequest, MainState

Folders = Mapping[str, str]
"""The folders of a month: the tree of each by its name."""
Place = tuple[RequestFolder, str]
Key = tuple[Source, str, str]
Come = tuple[tuple[str | None, ...], bool]
"""The steps that brought those files of a request to main on whose arrival its verdict rests, and whether
what its pull request became is a step since which main holds the request."""


class Basis(NamedTuple):
    """What every verdict depends on."""

    policy: str
    settings: str
    services: int

    @classmethod
    def of(cls, state: MainState) -> Basis:
        """That of main as last judged."""
        return cls(state.policy.digest, state.settings.digest, len(state.services))


@dataclass(frozen=True, slots=True)
class Memo:
    """A request as judged without a clock, and what else than its own folder that depended on."""

    judged: JudgedRequest
    basis: Basis
    frozen: frozenset[str]
    told: Attestation | None
    come: Come

    def holds(
        self,
        basis: Basis,
        frozen: frozenset[str],
        told: Attestation | None,
        come: Come,
        digest_of: Callable[[str], str | None],
    ) -> bool:
        """Whether it would be judged the same."""
        if (self.basis, self.frozen, self.told, self.come) != (basis, frozen, told, come):
            return False
        document = self.judged.document
        targets = document.spec.targets if document else ()
        return all(self.judged.target_digests.get(name) == digest_of(name) for name in targets)


@dataclass(frozen=True, slots=True)
class Month:
    """The requests of one month of main as judged at `revision`, and what that depended on.

    `targets` has the digest of every service that one of them names, `reviewed` those that a forge spoke of.
    `come` is the step since which the month is as it is, where a verdict rests on how its request came to
    main. It may be taken again if it `lasts`: each of its requests was judged, and none by the time of then.
    """

    tree: str
    basis: Basis
    revision: str
    targets: Mapping[str, str | None]
    begun: tuple[Collection[str] | None, ...]
    told: tuple[Attestation | None, ...]
    come: str | None
    reviewed: tuple[Memo, ...]
    judged: Mapping[str, JudgedRequest]
    memos: Mapping[Key, Memo]
    lasts: bool


@dataclass
class Memory:
    """What one run leaves to the next: months by yyyy/mm and what they list by tree, requests on branches and
    where they lie, digests of services by blob."""

    arrivals: Arrivals | None = None
    months: dict[str, Month] = field(default_factory=dict)
    listed: dict[str, Folders] = field(default_factory=dict)
    on_branches: dict[Key, Memo] = field(default_factory=dict)
    places: dict[tuple[str, str], Place | Finding] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RequestSet(Mapping[str, JudgedRequest]):
    """The judged requests by name, and findings about branches. Give it back to be judged further.

    `months` are those of main, by yyyy/mm: what did not change since the set before is the same object.
    `on_branches` names those that lie on their branches alone. `fleeting` says whether any was judged by the
    time of now.
    """

    _requests: Mapping[str, JudgedRequest]
    findings: tuple[Finding, ...] = ()
    months: Mapping[str, Mapping[str, JudgedRequest]] = field(default_factory=dict, repr=False)
    on_branches: frozenset[str] = frozenset()
    fleeting: bool = False
    memory: Memory = field(default_factory=Memory, repr=False, compare=False)

    def __getitem__(self, name: str) -> JudgedRequest:
        return self._requests[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def without_request(self) -> frozenset[str]:
        """The names of request branches that hold no request that could be read."""
        refs = (each.path for each in self.findings if each.path.startswith(REQUEST_BRANCHES))
        return frozenset(ref.removeprefix(REQUEST_BRANCHES) for ref in refs)
