"""The tree that tests spoil."""

from __future__ import annotations

import pytest

from tests.unit.documents.samples import good_tree


@pytest.fixture
def tree() -> dict[str, bytes]:
    """A tree of main without any problem."""
    return good_tree()
