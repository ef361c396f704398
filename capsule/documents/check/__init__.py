"""All problems of a state repository's tree, found without acting on anything.

Rules kept: pure; a problem of one document never hides those of another. What only history or a clock
can tell (who signed, what is in force) is trust's and decide's to judge. Called by the `check` command
and by doctor.
"""

from __future__ import annotations

from capsule.documents.check.reasons import REASONS
from capsule.documents.check.tree import check_change, check_tree

__all__ = ["REASONS", "check_change", "check_tree"]
