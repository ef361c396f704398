"""Reading a document: python -m bench.codec. The floor is ruamel.yaml's safe loader, which checks nothing."""

from __future__ import annotations

from ruamel.yaml import YAML

from bench.timing import Sheet, best_of
from capsule.documents.codec import emit, load
from tests.unit.worlds import service, status

ROUNDS = 200


def main() -> None:
    sheet = Sheet(f"documents, best of 5 × {ROUNDS}", "ruamel safe")
    for name, document in (("Service", service().document), ("ServiceStatus", status())):
        data = emit(document)
        yaml = YAML(typ="safe")
        ours = best_of(5, lambda data=data: [load(data, "x.yaml") for _ in range(ROUNDS)]) / ROUNDS
        floor = best_of(5, lambda data=data, yaml=yaml: [yaml.load(data) for _ in range(ROUNDS)]) / ROUNDS
        sheet.row(f"strict load of a {name} of {len(data)} bytes", ours, floor)
    sheet.show()


if __name__ == "__main__":
    main()
