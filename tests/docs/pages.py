"""The pages of the documentation, their fenced blocks, links and headings. Shared by the tests beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, and its text without the fence's indent."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def pages() -> list[Path]:
    """Every page that people read."""
    found = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md"]
    for folder in ("docs", "examples", "state_repo_template"):
        found += sorted((REPOSITORY / folder).rglob("*.md"))
    return found


def blocks(language: str) -> list[Block]:
    """Every fenced block in `language` of every page."""
    return [
        Block(page, text[: match.start()].count("\n") + 1, language, _dedented(match))
        for page in pages()
        for text in [page.read_text(encoding="utf-8")]
        for match in _FENCE.finditer(text)
        if match["language"] == language
    ]


def links(page: Path) -> list[str]:
    """The targets of all links of a page, outside of code."""
    return _LINK.findall(_prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        for heading in _HEADING.findall(_prose(page))
    }


def _prose(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return re.sub(r"`[^`\n]+`", lambda code: code[0].replace("[", "").replace("]", ""), _FENCE.sub("", text))


def _dedented(match: re.Match[str]) -> str:
    indent = match["indent"]
    return "".join(line.removeprefix(indent) for line in match["text"].splitlines(keepends=True))
