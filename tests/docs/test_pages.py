"""What the documentation shows is true: documents pass the codec, code compiles, links lead somewhere."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from capsule.documents import codec
from capsule.documents.check import check_tree
from capsule.documents.digests import target_digest
from capsule.documents.types import ActionRequest, ChangeApproval, Policy, Service
from capsule_agent import Agent, FoundKey, Health, NewKey, Rotation
from capsule_agent.protocol.messages import Approval, decode
from tests.docs.pages import REPOSITORY, Block, anchors, blocks, links, pages

YAML = [block for block in blocks("yaml") if "apiVersion:" in block.text]
JSON = [
    block for block in blocks("json") if json.loads(block.text).get("kind") in ("Approval", "ChangeApproval")
]
PYTHON = blocks("python")
PAGES = {str(page.relative_to(REPOSITORY)): page for page in pages()}


def test_there_is_something_to_test() -> None:
    assert len(YAML) >= 6
    assert len(JSON) >= 2
    assert len(PYTHON) >= 5


def test_the_documents_people_write_most_are_shown() -> None:
    kinds = {type(codec.load(block.text.encode(), str(block))[0]) for block in YAML}
    assert {Policy, Service, ActionRequest} <= kinds


@pytest.mark.parametrize("block", YAML, ids=str)
def test_every_yaml_document_passes_the_codec(block: Block) -> None:
    document, problems = codec.load(block.text.encode(), str(block))
    assert problems == ()
    assert document is not None


@pytest.mark.parametrize("block", [block for block in YAML if "kind: Policy" in block.text], ids=str)
def test_every_policy_passes_the_check(block: Block) -> None:
    settings = b"apiVersion: capsule/v1\nkind: Capsule\nmetadata: {name: state}\n"
    assert check_tree({"capsule.yaml": settings, "policy.yaml": block.text.encode()}) == ()


@pytest.mark.parametrize("block", JSON, ids=str)
def test_every_json_document_is_one(block: Block) -> None:
    if json.loads(block.text)["kind"] == "Approval":
        decode(Approval, block.text.encode())
    else:
        codec.load_as(ChangeApproval, block.text.encode(), f"{block}.json")


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_python_block_compiles_and_names_what_exists(block: Block) -> None:
    offered = {each.__name__ for each in (Agent, FoundKey, Health, NewKey, Rotation)}
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module == "capsule_agent":
            assert {name.name for name in node.names} <= offered
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "agent":
            assert hasattr(Agent, node.attr), f"Agent has no {node.attr}"


def test_the_approval_written_by_hand_fits_the_request_and_the_service_beside_it() -> None:
    page = "docs/how-to/approve-by-hand.md"
    yaml = [block.text for block in YAML if str(block).startswith(page)]
    request_text = next(text for text in yaml if "kind: ActionRequest" in text)
    service = codec.load_as(Service, next(text for text in yaml if "kind: Service" in text).encode(), page)
    request = codec.load_as(ActionRequest, request_text.encode(), page)
    approval = decode(Approval, next(block.text for block in JSON if str(block).startswith(page)).encode())

    assert approval.request.name == request.metadata.name
    assert approval.request.digest == "sha256:" + hashlib.sha256(request_text.encode()).hexdigest()
    assert approval.request.requested_by == request.spec.requested_by
    assert approval.request.action == request.spec.action
    assert dict(approval.request.params) == dict(request.spec.params)
    assert approval.targets == {service.metadata.name: target_digest(service)}
    command = next(block.text for block in blocks("sh") if str(block).startswith(page))
    printed = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert approval.targets[service.metadata.name] == "sha256:" + printed.split()[0]


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    page = PAGES[name]
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name}: {link}"
        assert REPOSITORY in target.parents, f"{name}: {link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target), f"{name}: {link}"


def test_every_page_of_the_documentation_is_linked_from_another() -> None:
    reached = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in pages()
        for link in links(page)
        if not link.startswith("http")
    }
    lost = [
        name
        for name, page in PAGES.items()
        if page not in reached and name not in ("README.md", "docs/README.md")
    ]
    assert [name for name in lost if name.startswith("docs/")] == []


@pytest.mark.parametrize("index", ["README.md", "docs/README.md"])
def test_both_indexes_name_every_page(index: str) -> None:
    page = PAGES[index]
    named = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
    kinds = ("docs/tutorial.md", "docs/how-to/", "docs/reference/", "docs/explanation/", "docs/adr/README.md")
    assert [name for name, each in PAGES.items() if name.startswith(kinds) and each not in named] == []


@pytest.mark.parametrize(
    "picture", sorted((REPOSITORY / "docs" / "images").glob("*.svg")), ids=lambda p: p.name
)
def test_pictures_say_what_they_show_in_both_colour_schemes(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{space}title") is not None
    assert root.find(f"{space}desc") is not None
    assert "prefers-color-scheme: dark" in picture.read_text(encoding="utf-8")
    assert not [node.tag for node in root.iter() if node.tag in (f"{space}script", f"{space}image")]
