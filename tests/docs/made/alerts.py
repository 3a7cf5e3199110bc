"""The alerts reference: every rule with its severity, its summary and its runbook, from the rule file."""

import re
from pathlib import Path
from typing import Any, Final

import yaml

from tests.docs.made.markdown import head, page

RULES: Final = Path(__file__).parents[3] / "deploy" / "prometheus" / "understudy.rules.yml"
_SEVERITIES: Final = {"page": "wakes somebody", "ticket": "waits for the morning", "none": "always fires"}


def alerts_page() -> str:
    """The whole page."""
    lines = head(
        "Alerts",
        "`deploy/prometheus/understudy.rules.yml`",
        "A `page` wakes somebody, a `ticket` waits for the morning. Each alert has a runbook: meaning, impact,"
        " diagnosis, mitigation. How to put them into service: [Deploy](../how-to/deploy.md#alerts).",
    )
    for rule in _rules():
        name, severity = rule["alert"], rule["labels"]["severity"]
        wait = f", after {rule['for']}" if "for" in rule else ""
        lines += [
            f"## {name}",
            "",
            f"{_plain(rule['annotations']['summary'])}.",
            "",
            f"`{severity}` ({_SEVERITIES[severity]}){wait}; [runbook](../../{rule['annotations']['runbook_url']}).",
            "",
            "```promql",
            *str(rule["expr"]).strip().splitlines(),
            "```",
            "",
        ]
    return page(lines)


def _plain(summary: str) -> str:
    """A summary with its labels' names where Prometheus puts their values."""
    without = re.sub(r"\{\{ with .*?\{\{ end \}\}", "", summary)
    named = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", without)
    return re.sub(r"\{\{ \$value.*?\}\}", "*N*", named)


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]
