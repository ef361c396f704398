"""The walk over a tree: which file is what, and every check of it. See the package for the rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from capsule.documents import paths
from capsule.documents.check.approvals import check_approvals, check_change_approvals
from capsule.documents.check.convergence import check_breaker, check_correction, check_proposal
from capsule.documents.check.endpoints import check_endpoint
from capsule.documents.check.evidence import check_evidence
from capsule.documents.check.policy import check_policy
from capsule.documents.check.requests import check_request
from capsule.documents.check.routes import check_routes
from capsule.documents.check.sources import Tree, check_name, public_key
from capsule.documents.problems import Problem
from capsule.documents.types import ActionRequest, Capsule, Policy, Service
from capsule_agent.protocol.messages import Signers

MAX_ENTRIES = 1000
_IGNORED = (".gitkeep", "README.md")
_DOCUMENT_FOLDERS = (paths.SERVICES, paths.REQUESTS, paths.CHANGE_APPROVALS, paths.SIGNERS_FOLDER)


def check_tree(
    files: Mapping[str, bytes],
    *,
    now: datetime | None = None,
    root: str | None = None,
    brought: Collection[str] = (),
) -> tuple[Problem, ...]:
    """Every problem of the tree of main that `files` (path to bytes) holds, in the order of the paths.

    Requests that have expired at `now` are only checked for form; approvals are compared with the
    repository id `root`; both are left out when not given. `brought` are the paths that a change brings in:
    what services and policy have since made of older requests is only a hint. Files outside of Capsule's
    folders are not read.
    """
    tree = Tree(files, brought=brought)
    _read(tree)
    _layout(tree)
    tree.problems += check_routes(tree)
    if tree.policy:
        tree.problems += check_policy(tree.policy)
        tree.problems += check_evidence(tree.policy, tree.settings)
    for folder, source in tree.requests.values():
        expired = now is not None and source.document.spec.expires <= now
        if not expired:
            tree.problems += check_request(tree, source)
        check_approvals(tree, source, folder, root, expired=expired)
    check_change_approvals(tree, root)
    return tuple(sorted(set(tree.problems), key=lambda problem: (problem.path, problem.line, problem.column)))


def check_change(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> tuple[Problem, ...]:
    """Problems of the step from one tree of main to the next that neither tree shows alone."""
    old_data, new_data = before.get(paths.POLICY), after.get(paths.POLICY)
    if old_data is None or new_data is None or old_data == new_data:
        return ()
    old, new = Tree(before).read(Policy, paths.POLICY), Tree(after).read(Policy, paths.POLICY)
    if not old or not new or new.document.spec.serial > old.document.spec.serial:
        return ()
    least = old.document.spec.serial + 1
    message = f"the policy changed, but its serial is {new.document.spec.serial}"
    return (new.problem(("spec", "serial"), "PolicySerialNotRaised", message, f"at least {least}"),)


def _read(tree: Tree) -> None:
    for path, wanted in ((paths.SETTINGS, "Capsule"), (paths.POLICY, "Policy")):
        if path not in tree.files:
            tree.at_start(path, "MissingDocument", f"there is no {path}", f"a document of kind {wanted}")
    for path in sorted(tree.files):
        if path == paths.SETTINGS:
            tree.settings = tree.read(Capsule, path)
            tree.problems += check_breaker(tree.settings) if tree.settings else ()
        elif path == paths.POLICY:
            tree.policy = tree.read(Policy, path)
        elif name := paths.service_name(path):
            _read_service(tree, path, name)
        elif folder := paths.RequestFolder.of(path):
            _read_request(tree, path, folder)
        elif place := paths.approval_place(path):
            tree.approvals.setdefault(place[0].folder, []).append((path, place[1]))
        elif path == paths.SIGNERS:
            tree.read(Signers, path)


def _read_service(tree: Tree, path: str, name: str) -> None:
    source = tree.read(Service, path)
    if source is None:
        tree.unreadable_services.add(name)
        return
    tree.problems += check_name(source, name)
    own = source.document.metadata.name
    if own in tree.services:
        message = f'a service named "{own}" is also in {tree.services[own].path}'
        tree.problems.append(source.problem(("metadata", "name"), "DuplicateName", message))
    tree.services.setdefault(own, source)
    tree.problems += [*check_endpoint(source), *check_correction(source), *check_proposal(source)]
    key = source.document.spec.agent.key
    if key is not None and isinstance(found := public_key(key), str):
        tree.problems.append(source.problem(("spec", "agent", "key"), "BadKey", found))


def _read_request(tree: Tree, path: str, folder: paths.RequestFolder) -> None:
    source = tree.read(ActionRequest, path)
    if folder.signature not in tree.files:
        hint = f"ssh-keygen -Y sign -n capsule-request@v1 -f KEY {path}"
        tree.at_start(path, "MissingSignature", "the request is not signed", f"{folder.signature}", hint)
    if source is None:
        return
    if folder.name in tree.requests:
        message = f'a request named "{folder.name}" is also in {tree.requests[folder.name][0].request}'
        tree.problems.append(source.problem(("metadata", "name"), "DuplicateName", message))
        return
    tree.problems += check_name(source, folder.name)
    tree.requests[folder.name] = (folder, source)


def _layout(tree: Tree) -> None:
    entries: dict[str, set[str]] = {}
    for path in sorted(tree.files):
        top, _, rest = path.partition("/")
        if top in paths.MACHINE_FOLDERS:
            hint = "remove it from main; the reconciler writes it on audit"
            tree.at_start(path, "MachinePathOnMain", "only reconcilers write this file, on audit", hint=hint)
        if top not in _DOCUMENT_FOLDERS or not rest:
            continue
        parts = path.split("/")
        for depth in range(1, len(parts)):
            entries.setdefault("/".join(parts[:depth]), set()).add(parts[depth])
        if parts[-1] not in _IGNORED and not _expected(tree, path, top):
            _unexpected(tree, path, top)
    for folder, names in entries.items():
        if len(names) > MAX_ENTRIES:
            message = f"{len(names)} entries in one folder make every commit slow"
            tree.at_start(folder, "LargeFolder", message, f"at most {MAX_ENTRIES}", "use subfolders", "hint")


def _expected(tree: Tree, path: str, top: str) -> bool:
    if top == paths.SERVICES:
        return paths.service_name(path) is not None
    if top == paths.SIGNERS_FOLDER:
        return path == paths.SIGNERS or paths.signers_owner(path) is not None
    if top == paths.CHANGE_APPROVALS:
        return _has_document(tree, path, paths.change_approval_place(path.removesuffix(".sig")) is not None)
    if paths.RequestFolder.of(path.removesuffix(".sig")):
        return _has_document(tree, path, True)
    place = paths.approval_place(path.removesuffix(".sig"))
    if place is not None and place[0].request not in tree.files:
        tree.at_start(path, "OrphanApproval", "there is no request.yaml for this approval", place[0].request)
    return _has_document(tree, path, place is not None)


def _has_document(tree: Tree, path: str, expected: bool) -> bool:
    if expected and path.endswith(".sig") and path.removesuffix(".sig") not in tree.files:
        message = "the document that this signs is not there"
        tree.at_start(path, "OrphanSignature", message, path.removesuffix(".sig"))
    return expected


def _unexpected(tree: Tree, path: str, top: str) -> None:
    expected = {
        paths.SERVICES: 'services/**/NAME.yaml, names of lower-case letters, digits and "-"',
        paths.REQUESTS: "requests/YYYY/MM/NAME/ with request.yaml, approvals/PRINCIPAL.json, .sig files",
        paths.CHANGE_APPROVALS: "approvals/DIGEST/PRINCIPAL.json and PRINCIPAL.json.sig",
        paths.SIGNERS_FOLDER: "signers/signers.json and signers/OWNER.sig",
    }[top]
    hint = "rename it to .yaml" if path.endswith(".yml") else ""
    tree.at_start(path, "UnexpectedFile", "this file does not belong here", expected, hint)
