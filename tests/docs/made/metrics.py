"""The metrics reference: every series with its labels and when to worry, from the definitions themselves."""

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Metric

import trainer.metrics
from ops.logs.repeats import RepeatLimit
from ops.processes import admin
from ops.wiring.otel import count_spans
from serve.metrics import ServeMetrics
from stream.metrics import IngestMetrics
from tests.docs.made.markdown import head, page, table


def metrics_page() -> str:
    """The whole page."""
    serve, ingest, every = CollectorRegistry(), CollectorRegistry(), CollectorRegistry()
    ServeMetrics.create(serve)
    IngestMetrics.create(ingest)
    RepeatLimit(registry=every)
    count_spans(every)
    lines = head(
        "Metrics",
        "the metrics' own help texts",
        "Each process serves `/metrics` on its admin port: the gateway on `admin.serve_port` (9471), ingest on"
        " `admin.ingest_port` (9472), the trainer on `admin.train_port` (9473); beside these are Prometheus' own series"
        " of a Python process. A histogram has `_bucket`, `_sum` and `_count`. Labels are closed sets: lanes come"
        " from the settings, the rest from the code. What is alerted on: [Alerts](alerts.md).",
    )
    for title, collectors in {
        "Every process": [admin._INFO, *every._collector_to_names],
        "Gateway": serve._collector_to_names,
        "Ingest": ingest._collector_to_names,
        "Trainer": [one for one in vars(trainer.metrics).values() if hasattr(one, "_labelnames")],
    }.items():
        lines += [f"## {title}", "", *table(("metric", "kind", "labels", "what it says"), _rows(collectors))]
    return page(lines)


def _rows(collectors: Iterable[Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for collector in collectors:
        metric: Metric = next(iter(collector.collect()))
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)
        rows.append((f"`{name}`", metric.type, labels, metric.documentation))
    return sorted(rows)
