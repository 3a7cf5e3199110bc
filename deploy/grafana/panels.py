"""What a dashboard is made of: rows of panels, each with its queries and when to worry, and their form as Grafana's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as forms
from grafana_foundation_sdk.models import dashboard as models

LANE: Final = 'tenant=~"$tenant",use_case=~"$use_case"'  # the lanes that are chosen above
USE_CASE: Final = 'use_case=~"$use_case"'  # of series that know no tenant
_SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${source}")
_LANES: Final = "understudy_budget_limit_calls"  # a gauge that every lane has
_HEIGHT: Final = 7  # of Grafana's rows, 30 pixels each
_FULL: Final = 24  # of Grafana's columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query, and what its series are called."""

    promql: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel: a line over time, or the figure of now."""

    title: str
    says: str  # what it shows, and when to worry
    queries: tuple[Query, ...]
    unit: str = "short"  # of Grafana: s, bytes, percentunit, currencyUSD, reqps, short
    kind: Literal["line", "figure"] = "line"
    columns: int = 8
    at_zero: str | None = None  # what a figure says where there is no series
    empty_while: str | None = None  # it has no series in health; why


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard."""

    name: str  # of its file
    title: str
    says: str
    since: str  # as Grafana writes a time: now-6h
    rows: tuple[Row, ...]

    @property
    def panels(self) -> list[Panel]:
        """All of its panels, in order."""
        return [panel for row in self.rows for panel in row.panels]


def one(promql: str, legend: str) -> tuple[Query, ...]:
    """A panel's only query."""
    return (Query(promql=promql, legend=legend),)


def grafana_of(board: Board) -> dashboard.Dashboard:
    """The dashboard as Grafana's own builder has it."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"understudy-{board.name}")
        .description(board.says)
        .tags(["understudy"])
        .readonly()
        .refresh("30s")
        .time(board.since, "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(_choice("tenant", "Tenant", f"label_values({_LANES}, tenant)"))
        .with_variable(_choice("use_case", "Use case", f'label_values({_LANES}{{tenant=~"$tenant"}}, use_case)'))
    )
    number = 0
    for row in board.rows:
        number += 1
        made = made.with_row(dashboard.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            made = made.with_panel(_figure(panel, number) if panel.kind == "figure" else _line(panel, number))
    return made


def _choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(_SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _line(panel: Panel, number: int) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True).display_mode(forms.LegendDisplayMode.LIST)
    made = (
        timeseries.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.says)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .span(panel.columns)
        .height(_HEIGHT)
        .legend(legend.placement(forms.LegendPlacement.BOTTOM).calcs([]))
        .tooltip(common.VizTooltipOptions().mode(forms.TooltipDisplayMode.MULTI))
    )
    for target in _targets(panel.queries, instant=False):
        made = made.with_target(target)
    return made


def _figure(panel: Panel, number: int) -> stat.Panel:
    made = (
        stat.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.says)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .span(panel.columns)
        .height(_HEIGHT - 2)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(forms.BigValueGraphMode.NONE)
    )
    if panel.at_zero is not None:
        made = made.no_value(panel.at_zero)
    for target in _targets(panel.queries, instant=True):
        made = made.with_target(target)
    return made


def _targets(queries: Sequence[Query], *, instant: bool) -> list[prometheus.Dataquery]:
    made = []
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).expr(query.promql).legend_format(query.legend)
        made.append(target.instant() if instant else target.range())
    return made
