"""Alert rules, the Grafana dashboard and the page on metrics, with Prometheus and a server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import NewDatabase
from tests.support.deployment import DEPLOY, checked
from tests.support.repository import ROOT
from tests.support.server import FairlogServer, submit
from tests.support.waiting import wait_until

PROMETHEUS: Final = DEPLOY / "prometheus"
METRIC: Final = re.compile(r"\bfairlog_\w+")
OF_HISTOGRAMS: Final = ("_bucket", "_count", "_sum")


@pytest.fixture(scope="module")
def backend() -> str:
    """The metrics are the same on each database."""
    return "sqlite"


@pytest.fixture(scope="module")
def exposition(new_database_url: NewDatabase) -> Iterator[str]:
    """The metrics of a server that has run jobs."""
    with FairlogServer(new_database_url(), workers=1) as server:
        done = submit(server.client)["id"]
        submit(server.client, kind="fail", payload={"message": "no"}, max_attempts=1)
        submit(server.client, kind="unserved")
        wait_until(
            lambda: server.client.get(f"/v1/jobs/{done}").json()["state"] == "done", "it is done"
        )
        yield server.client.get("/metrics").text


@pytest.fixture(scope="module")
def families(exposition: str) -> dict[str, Metric]:
    """The same, by name."""
    return {family.name: family for family in text_string_to_metric_families(exposition)}


def samples_of(families: dict[str, Metric]) -> set[str]:
    """Return the names by which queries may know the metrics."""
    found: set[str] = set()
    for name, family in families.items():
        endings = {"histogram": OF_HISTOGRAMS, "counter": ("_total",)}.get(family.type, ("",))
        found |= {f"{name}{ending}" for ending in endings}
    return found


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana/fairlog.json").read_text())
    return loaded


def expressions_of_dashboard() -> list[str]:
    return [
        target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])
    ]


def rules() -> list[dict[str, Any]]:
    [group] = msgspec.yaml.decode((PROMETHEUS / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_prometheus_accepts_the_rules_and_the_configuration(tmp_path: Path) -> None:
    assert f"{len(rules())} rules found" in checked(
        "promtool", "check", "rules", str(PROMETHEUS / "alerts.yml")
    )
    # It looks for the files that the configuration names.
    (tmp_path / "fairlog.key").write_text("fl_…")
    configuration = (PROMETHEUS / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(
        configuration.replace("/etc/prometheus/fairlog.key", str(tmp_path / "fairlog.key"))
    )
    (tmp_path / "alerts.yml").write_text((PROMETHEUS / "alerts.yml").read_text())
    checked("promtool", "check", "config", str(tmp_path / "prometheus.yml"))


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    checked("promtool", "test", "rules", "alerts.test.yml", folder=PROMETHEUS)
    tests = msgspec.yaml.decode((PROMETHEUS / "alerts.test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules()}
    [healthy] = [test for test in tests if test["name"] == "healthy"]
    fed = " ".join(series["series"] for series in healthy["input_series"])
    named = {name for rule in rules() for name in METRIC.findall(rule["expr"])}
    assert {name for name in named if f"{name}{{" not in fed} == set()


def test_prometheus_accepts_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    expressions = expressions_of_dashboard()
    assert len(expressions) > 20
    rates = [
        {"record": f"panel:{number}", "expr": one.replace("$__rate_interval", "5m")}
        for number, one in enumerate(expressions)
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rates}]}))
    assert f"{len(rates)} rules found" in checked("promtool", "check", "rules", str(file))


def test_the_panels_of_the_dashboard_have_their_own_places_and_a_title() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
    assert max(x for x, _ in taken) == 23  # Grafana's width is 24
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] for panel in panels)


def test_a_server_has_every_metric_that_rules_and_dashboard_name(
    families: dict[str, Metric],
) -> None:
    queries = [rule["expr"] for rule in rules()] + expressions_of_dashboard()
    variables = [variable["query"] for variable in dashboard()["templating"]["list"]]
    named = set(METRIC.findall(" ".join(queries + [str(query) for query in variables])))
    assert len(named) > 15
    assert named - samples_of(families) == set()


def test_labels_that_rules_and_dashboard_name_exist(families: dict[str, Metric]) -> None:
    labels = {
        label
        for name, family in families.items()
        if name.startswith("fairlog_")
        for sample in family.samples
        for label in sample.labels
    }
    queries = " ".join([rule["expr"] for rule in rules()] + expressions_of_dashboard())
    named = {
        label.strip()
        for group in re.findall(r"(?:by|on) \(([^)]*)\)", queries)
        for label in group.split(",")
    }
    assert named - labels == {"instance"}  # which Prometheus adds


def test_prometheus_finds_nothing_wrong_in_the_metrics(exposition: str) -> None:
    checked("promtool", "check", "metrics", stdin=exposition)


def test_every_alert_is_documented() -> None:
    page = (ROOT / "docs/deployment.md").read_text()
    for rule in rules():
        assert f"| `{rule['alert']}` |" in page
        assert f"| {rule['labels']['severity']} |" in page
        assert {"summary", "description"} == rule["annotations"].keys()
