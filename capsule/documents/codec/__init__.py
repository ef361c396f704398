"""The strict codec: documents from bytes, and bytes from documents. The only user of ruamel.yaml.

`parse` reads strict YAML into nodes with places; `load` and `load_as` make documents of them, or problems;
`emit` writes the one stable form; `edit` changes a value in a person's text and nothing else.
Called by every room that reads or writes documents.
"""

from __future__ import annotations

from capsule.documents.codec.editor import CannotEdit, edit
from capsule.documents.codec.emitter import emit
from capsule.documents.codec.parser import MAX_BYTES, MAX_DEPTH, Node, parse
from capsule.documents.codec.validation import JsonDocument, load, load_as
from capsule.documents.problems import InvalidDocument

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "CannotEdit",
    "InvalidDocument",
    "JsonDocument",
    "Node",
    "edit",
    "emit",
    "load",
    "load_as",
    "parse",
]
