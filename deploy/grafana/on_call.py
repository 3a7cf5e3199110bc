"""For whoever is on call: is it well, and if not, where to look."""

from typing import Final

from deploy.grafana.panels import LANE, USE_CASE, Board, Panel, Query, Row, one

_RATE: Final = "$__rate_interval"
_PROCESS: Final = "on (job, instance) group_left (process) understudy_process_info"


def _slow(quantile: float, histogram: str, labels: str, by: str = "") -> str:
    """A quantile of a histogram, over all replicas."""
    grouped = "le" if not by else f"le, {by}"
    return f"histogram_quantile({quantile}, sum by ({grouped}) (rate({histogram}_bucket{{{labels}}}[{_RATE}])))"


ON_CALL: Final = Board(
    name="on-call",
    title="Understudy: health",
    says="Is it well, and if not, where to look. Each alert has a page of its own name in deploy/runbooks.",
    since="now-3h",
    rows=(
        Row(
            title="Now",
            panels=(
                Panel(
                    title="Alerts that fire",
                    says="Each has a runbook of its name.",
                    queries=one(
                        'sum by (alertname, severity) (ALERTS{alertstate="firing",alertname=~"Understudy.+"})',
                        "{{alertname}} ({{severity}})",
                    ),
                    kind="figure",
                    at_zero="none",
                    empty_while="no alert fires",
                ),
                Panel(
                    title="Processes",
                    says="How many of each are read by Prometheus. Worry at a missing one.",
                    queries=one("sum by (process) (understudy_process_info)", "{{process}}"),
                    kind="figure",
                ),
                Panel(
                    title="Answered with an error",
                    says="Share of questions that got no answer in the last five minutes. Worry at any that lasts.",
                    queries=one(
                        f'(sum(rate(understudy_answers_total{{{LANE},served_by="nobody"}}[5m])) or vector(0))'
                        f" / sum(rate(understudy_answers_total{{{LANE}}}[5m]))",
                        "errors",
                    ),
                    unit="percentunit",
                    kind="figure",
                ),
            ),
        ),
        Row(
            title="The gateway",
            panels=(
                Panel(
                    title="Answers a second, by who gave them",
                    says="Worry when nobody's rise.",
                    queries=one(
                        f"sum by (served_by) (rate(understudy_answers_total{{{LANE}}}[{_RATE}]))", "{{served_by}}"
                    ),
                    unit="reqps",
                ),
                Panel(
                    title="Latency",
                    says="From admission to answer. Worry when the student's leaves its steady value.",
                    queries=(
                        Query(
                            promql=_slow(0.99, "understudy_request_seconds", LANE, "served_by"),
                            legend="{{served_by}} p99",
                        ),
                        Query(
                            promql=_slow(0.5, "understudy_request_seconds", LANE, "served_by"),
                            legend="{{served_by}} p50",
                        ),
                    ),
                    unit="s",
                ),
                Panel(
                    title="Refused with 429 a second",
                    says="Nobody is paid for these. Worry when it lasts: add replicas.",
                    queries=one(
                        f"sum by (use_case, reason) (rate(understudy_requests_shed_total{{{LANE}}}[{_RATE}]))",
                        "{{use_case}}: {{reason}}",
                    ),
                    unit="reqps",
                    empty_while="no gateway was ever too busy",
                ),
                Panel(
                    title="The line for the student",
                    says="How long one more token would wait, and how long a forward pass has hung. Worry near"
                    " gateway.max_wait_s, and at any hang.",
                    queries=(
                        Query(promql="max by (instance) (understudy_student_line_seconds)", legend="{{instance}} line"),
                        Query(
                            promql="max by (instance) (understudy_student_hung_seconds)", legend="{{instance}} hangs"
                        ),
                    ),
                    unit="s",
                ),
                Panel(
                    title="Connections",
                    says="Open ones of each gateway. Worry when it stays at its limit.",
                    queries=one("max by (instance) (understudy_connections)", "{{instance}}"),
                ),
                Panel(
                    title="Connections ended by the gateway, a second",
                    says="Worry when evicted or refused ones rise: there are too many.",
                    queries=one(f"sum by (why) (rate(understudy_connections_closed_total[{_RATE}]))", "{{why}}"),
                    empty_while="no connection had to be ended",
                ),
                Panel(
                    title="Goes on without",
                    says="1 while answers go on without this dependency of a lane. Worry when it lasts.",
                    queries=one(
                        f"max by (use_case, dependency) (understudy_degraded{{{LANE}}})", "{{use_case}}: {{dependency}}"
                    ),
                ),
                Panel(
                    title="Served by a student",
                    says="Gateways that have a student for a lane; 0 while it is cold. Worry when it falls.",
                    queries=one(f"sum by (tenant, use_case) (understudy_served{{{LANE}}})", "{{tenant}}/{{use_case}}"),
                ),
                Panel(
                    title="Versions that could not be taken into service",
                    says="Failed swaps within an hour, and registries that are not believed. Worry at each.",
                    queries=(
                        Query(
                            promql="sum by (use_case)"
                            f' (increase(understudy_swaps_total{{{LANE},outcome="failed"}}[1h]))',
                            legend="{{use_case}}: failed swaps",
                        ),
                        Query(
                            promql=f"max by (use_case) (understudy_registry_refused{{{LANE}}})",
                            legend="{{use_case}}: registry refused",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="The teacher",
            panels=(
                Panel(
                    title="Calls a second, by outcome",
                    says="Worry when unavailable or invalid ones rise.",
                    queries=one(
                        f"sum by (use_case, outcome) (rate(understudy_teacher_calls_total{{{LANE}}}[{_RATE}]))",
                        "{{use_case}}: {{outcome}}",
                    ),
                    unit="reqps",
                ),
                Panel(
                    title="Latency of a call",
                    says="Worry when it nears lanes.teacher.timeout_s.",
                    queries=one(_slow(0.99, "understudy_teacher_seconds", LANE, "use_case"), "{{use_case}} p99"),
                    unit="s",
                ),
                Panel(
                    title="Waits for the teacher",
                    says="Texts, and audits, that wait for a turn. Worry when they grow.",
                    queries=(
                        Query(
                            promql=f"sum by (use_case) (understudy_teacher_waiting{{{LANE}}})",
                            legend="{{use_case}}: texts",
                        ),
                        Query(
                            promql=f"sum by (use_case) (understudy_audits_waiting{{{LANE}}})",
                            legend="{{use_case}}: audits",
                        ),
                    ),
                ),
                Panel(
                    title="Refuses us",
                    says="1 while the endpoint takes not our key, model, address, parameters or quota. Worry at once.",
                    queries=one(
                        f"max by (use_case, reason) (understudy_teacher_refused{{{LANE}}})", "{{use_case}}: {{reason}}"
                    ),
                ),
                Panel(
                    title="Answers that cannot be read, a second",
                    says="Paid for, and no label or ranking. Worry above a few in a hundred: prompt and parser do not"
                    " fit the teacher.",
                    queries=one(
                        f"sum by (use_case, kind) (rate(understudy_invalid_answers_total{{{LANE}}}[{_RATE}]))",
                        "{{use_case}}: {{kind}}",
                    ),
                    unit="reqps",
                    empty_while="every answer could be read",
                ),
                Panel(
                    title="Withheld",
                    says="1 while a lane's promise is suspended: the budget binds, or nobody knows what is left of it.",
                    queries=one(
                        f"max by (tenant, use_case) (understudy_promise_suspended{{{LANE}}})", "{{tenant}}/{{use_case}}"
                    ),
                ),
            ),
        ),
        Row(
            title="Log and ingest",
            panels=(
                Panel(
                    title="Unread records",
                    says="Worry when they grow for longer than a burst lasts.",
                    queries=one(f"sum by (use_case) (understudy_ingest_lag_records{{{USE_CASE}}})", "{{use_case}}"),
                ),
                Panel(
                    title="Age of the oldest unread record",
                    says="Worry above 900 s: what is learned is old.",
                    queries=one(
                        f"max by (use_case) (understudy_ingest_oldest_unread_seconds{{{USE_CASE}}})", "{{use_case}}"
                    ),
                    unit="s",
                ),
                Panel(
                    title="Records applied a second",
                    says="Worry at 0 while there are unread ones.",
                    queries=one(
                        f"sum by (use_case) (rate(understudy_ingest_records_total{{{USE_CASE}}}[{_RATE}]))",
                        "{{use_case}}",
                    ),
                    unit="reqps",
                ),
                Panel(
                    title="From a batch to its application, p99",
                    says="Worry above a second: Redis or its disk.",
                    queries=one(_slow(0.99, "understudy_ingest_batch_seconds", USE_CASE, "use_case"), "{{use_case}}"),
                    unit="s",
                ),
                Panel(
                    title="Redis and the log answer ingest",
                    says="Worry at 0: nothing is ingested.",
                    queries=one(
                        f"min by (use_case, dependency) (understudy_ingest_dependency_up{{{USE_CASE}}})",
                        "{{use_case}}: {{dependency}}",
                    ),
                ),
                Panel(
                    title="Spool",
                    says="Share of spool.max_bytes that waits on a gateway's disk for the log. Worry above a half.",
                    queries=one(
                        "max by (instance) (understudy_spool_bytes / understudy_spool_limit_bytes)", "{{instance}}"
                    ),
                    unit="percentunit",
                ),
                Panel(
                    title="Lost, stopped, damaged",
                    says="Paid answers that neither log nor spool took, partitions that stand still, stored values that"
                    " are damaged. Worry at any.",
                    queries=(
                        Query(
                            promql=f"sum by (use_case) (increase(understudy_escalations_dropped_total{{{LANE}}}[1h]))",
                            legend="{{use_case}}: lost in an hour",
                        ),
                        Query(
                            promql=f"max by (use_case) (understudy_ingest_stopped_partitions{{{USE_CASE}}})",
                            legend="{{use_case}}: partitions stand still",
                        ),
                        Query(
                            promql=f"max by (use_case) (understudy_buffer_corrupt_items{{{LANE}}})",
                            legend="{{use_case}}: damaged",
                        ),
                    ),
                ),
                Panel(
                    title="Open dead letters",
                    says="Worry at any: `understudy dlq list` says what they are.",
                    queries=one(
                        f"max by (use_case, reason) (understudy_dead_letters_open{{{USE_CASE}}})",
                        "{{use_case}}: {{reason}}",
                    ),
                    empty_while="every record could be read",
                ),
            ),
        ),
        Row(
            title="The processes",
            panels=(
                Panel(
                    title="Memory",
                    says="Resident, of each process; a gateway holds two versions while it swaps, and a cycle's own"
                    " process is not in it.",
                    queries=one(f"process_resident_memory_bytes * {_PROCESS}", "{{process}} {{instance}}"),
                    unit="bytes",
                ),
                Panel(
                    title="Processor",
                    says="Seconds of a processor's time a second.",
                    queries=one(f"rate(process_cpu_seconds_total[{_RATE}]) * {_PROCESS}", "{{process}} {{instance}}"),
                ),
                Panel(
                    title="Lines of the log a second",
                    says="Worry when errors rise: the log says of what.",
                    queries=one(
                        f"sum by (level) (rate(understudy_log_lines_total[{_RATE}]))",
                        "{{level}}",
                    ),
                ),
            ),
        ),
    ),
)
