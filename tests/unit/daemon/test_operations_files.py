"""The files for operating: they parse, and name only what there is."""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from capsule.cli.run import reconcile
from capsule.daemon.metrics import CONDITIONS, OUTCOMES, PHASES, STATUSES, Metrics
from capsule.daemon.vitals import RESULTS
from capsule.lifecycle import Observation
from tests.town import START

FOLDER = Path(__file__).parents[3] / "examples" / "operations"
ALERTS = YAML(typ="safe", pure=True).load((FOLDER / "capsule-alerts.yaml").read_text("utf-8"))
BOARD = json.loads((FOLDER / "capsule-dashboard.json").read_text("utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
LABELS: dict[tuple[str, str], set[str]] = {
    ("capsule_services", "status"): set(STATUSES),
    ("capsule_requests", "phase"): set(PHASES),
    ("capsule_conditions", "condition"): set(CONDITIONS),
    ("capsule_operations_total", "outcome"): set(OUTCOMES),
    ("capsule_passes_total", "result"): set(RESULTS),
    ("capsule_rereads_total", "result"): {"taken", "refused"},
}
FUNCTIONS = {"absent", "time", "increase", "rate", "sum", "histogram_quantile", "by", "or", "and"}


def expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def series() -> dict[str, set[str]]:
    """Every series there is, with the names of its labels."""
    metrics = Metrics()
    metrics.probed(Observation("s", START, False, reason="AgentTimeout"), 0.0)
    found: dict[str, set[str]] = {"up": {"job", "instance"}}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    return found


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_expression_names_metrics_labels_and_values_that_exist(where: str, expression: str) -> None:
    known = series()
    bare = re.sub(r'"[^"]*"', '""', expression)
    assert bare.count("(") == bare.count(")"), where
    assert bare.count("{") == bare.count("}"), where
    grouped = set(re.findall(r"\bby \(([^)]*)\)", bare))
    plain = re.sub(r"\bby \([^)]*\)|\{[^}]*\}|\[[^]]*\]", "", bare)
    names = set(re.findall(r"[a-z_]{2,}", plain)) - FUNCTIONS
    assert names, where
    assert names <= set(known), where
    allowed = set().union(*(known[name] for name in names))
    assert {label.strip() for labels in grouped for label in labels.split(",")} <= allowed, where
    for name, selector in re.findall(r"([a-z_]+)\{([^}]*)\}", expression):
        for label, value in re.findall(r'([a-z_]+)=~?"([^"]*)"', selector):
            assert label in known[name], where
            words = LABELS.get((name, label))
            assert words is None or set(value.split("|")) <= words, where


def test_every_alert_says_how_bad_it_is_and_what_it_means() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) > 10
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"Capsule[A-Za-z]+", rule["alert"])
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]
        assert re.fullmatch(r"\d+[mhd]", rule.get("for", "1m"))


def test_the_dashboard_fits_its_grid_and_reads_one_data_source() -> None:
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"], panel["title"]
    assert {each["name"] for each in BOARD["templating"]["list"]} == {"datasource", "job"}


def test_the_reference_names_every_metric_and_no_other() -> None:
    page = (FOLDER.parents[1] / "docs" / "reference" / "metrics.md").read_text("utf-8")
    told = {
        (match[1], frozenset(filter(None, (match[2] or "").split(","))), match[3])
        for match in re.finditer(r"^\| `(capsule_[a-z_]+)(?:\{([a-z,]+)\})?` \| (\w+) \|", page, re.MULTILINE)
    }
    metrics = Metrics()
    metrics.probed(Observation("s", START, False, reason="AgentTimeout"), 0.0)
    known = set()
    for family in metrics.registry.collect():
        if family.name.startswith("capsule_"):
            samples = [each for each in family.samples if not each.name.endswith("_created")]
            labels = frozenset(label for each in samples for label in each.labels if label != "le")
            ending = {"counter": "_total", "info": "_info"}.get(family.type, "")
            known.add((family.name + ending, labels, "gauge" if family.type == "info" else family.type))
    assert told == known


def test_prometheus_reads_where_the_unit_listens() -> None:
    config = YAML(typ="safe", pure=True).load((FOLDER / "prometheus.yaml").read_text("utf-8"))
    (scrape,) = config["scrape_configs"]
    assert scrape["job_name"] == "capsule"
    (target,) = scrape["static_configs"][0]["targets"]
    assert f"--metrics {target}" in (FOLDER / "capsule-reconcile.service").read_text("utf-8")
    assert all((FOLDER / name).is_file() for name in config["rule_files"])


# ---- the unit -----------------------------------------------------------------------------------


def unit() -> dict[str, dict[str, list[str]]]:
    """Sections, settings, values: a setting may stand several times."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in (FOLDER / "capsule-reconcile.service").read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, sign, value = line.partition("=")
            assert sign, line
            found.setdefault(section, {}).setdefault(name, []).append(value)
    return found


def test_the_unit_parses_and_has_its_sections() -> None:
    parser = configparser.RawConfigParser(strict=False, comment_prefixes=("#",), delimiters=("=",))
    parser.read(FOLDER / "capsule-reconcile.service", encoding="utf-8")
    assert parser.sections() == ["Unit", "Service", "Install"]


def test_the_unit_starts_a_command_that_exists_with_options_that_exist() -> None:
    (command,) = unit()["Service"]["ExecStart"]
    words = command.split()
    assert Path(words[0]).is_absolute()
    assert words[1] == "reconcile"
    parameters: dict[str, Any] = reconcile.make_context(
        "reconcile", words[2:], resilient_parsing=False, obj=None
    ).params
    assert parameters["metrics"] == ("127.0.0.1", 9464)
    assert parameters["log_format"] == "json"
    options = {name for each in reconcile.params if isinstance(each, click.Option) for name in each.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_the_unit_speaks_sd_notify_and_waits_longer_than_the_daemon_may_take() -> None:
    from capsule.daemon.loop import FINISH_SECONDS
    from capsule.daemon.vitals import FIRST_PASS, LONGEST_PAUSE
    from capsule.documents.types.desired import CapsuleSpec

    service = unit()["Service"]
    assert service["Type"] == ["notify-reload"]
    assert minutes(service["TimeoutStartSec"]) * 60 >= FIRST_PASS
    assert minutes(service["WatchdogSec"]) * 60 > 2 * LONGEST_PAUSE
    longest_order = CapsuleSpec.model_fields["order_timeout"].default.total_seconds()
    assert int(service["TimeoutStopSec"][0].removesuffix("s")) > FINISH_SECONDS + longest_order


def minutes(values: list[str]) -> int:
    (value,) = values
    assert value.endswith("min")
    return int(value.removesuffix("min"))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("PrivateDevices", "yes"),
        ("RestrictNamespaces", "yes"),
        ("UMask", "0077"),
        ("KillMode", "mixed"),
    ],
)
def test_the_unit_is_a_sandbox(setting: str, value: str) -> None:
    assert unit()["Service"][setting] == [value]


def test_the_key_is_a_credential_and_no_secret_stands_in_the_unit() -> None:
    service = unit()["Service"]
    (credential,) = service["LoadCredential"]
    name = credential.partition(":")[0]
    assert f"CAPSULE_RECONCILER_KEY=%d/{name}" in service["Environment"]
    assert service["SystemCallFilter"][0] == "@system-service"
    assert service["User"] != ["root"]
