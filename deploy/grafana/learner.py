"""For whoever minds what is learned: cycles, verdicts, and what they are made from."""

from typing import Final

from deploy.grafana.panels import LANE, Board, Panel, Query, Row, one

_OF_A_LANE: Final = "{{tenant}}/{{use_case}}"

LEARNER: Final = Board(
    name="learner",
    title="Understudy: cycles and verdicts",
    says="What the trainer does and decides, what it learns from, and what the audits say of it.",
    since="now-7d",
    rows=(
        Row(
            title="Now",
            panels=(
                Panel(
                    title="The cycle in hand",
                    says="Its stage. Worry when one lasts for hours.",
                    queries=one(
                        f"max by (tenant, use_case, stage) (understudy_cycle_stage{{{LANE}}}) == 1",
                        "{{tenant}}/{{use_case}}: {{stage}}",
                    ),
                    kind="figure",
                    at_zero="none",
                    empty_while="no cycle runs",
                ),
                Panel(
                    title="Since the last verdict",
                    says="Worry above two intervals (trainer.every_s) while there is something new.",
                    queries=one(
                        f"time() - (max by (tenant, use_case) (understudy_last_cycle_timestamp_seconds{{{LANE}}}) > 0)",
                        _OF_A_LANE,
                    ),
                    unit="s",
                    kind="figure",
                ),
                Panel(
                    title="Pinned",
                    says="1 while a rollback or a pin keeps automation from promoting: `understudy resume` ends it.",
                    queries=one(f"max by (tenant, use_case) (understudy_pinned{{{LANE}}})", _OF_A_LANE),
                    kind="figure",
                ),
            ),
        ),
        Row(
            title="Cycles",
            panels=(
                Panel(
                    title="Verdicts",
                    says="Cycles since the trainer's start, by kind and verdict. Worry when fail or inconclusive is all"
                    " there is for days.",
                    queries=one(
                        f"sum by (tenant, use_case, kind, verdict) (understudy_cycles_total{{{LANE}}})",
                        "{{tenant}}/{{use_case}}: {{kind}} {{verdict}}",
                    ),
                ),
                Panel(
                    title="Mean duration of a cycle",
                    says="Freeze to verdict, of the cycles of a day. Worry when it nears trainer.cycle_timeout_s.",
                    queries=one(
                        f"sum by (use_case, kind) (increase(understudy_cycle_seconds_sum{{{LANE}}}[1d]))"
                        f" / (sum by (use_case, kind) (increase(understudy_cycle_seconds_count{{{LANE}}}[1d])) > 0)",
                        "{{use_case}}: {{kind}}",
                    ),
                    unit="s",
                    empty_while="no cycle has ended within a day that Prometheus saw begin",
                ),
                Panel(
                    title="Left of the cycle in hand",
                    says="About how long it will take; a gap where that is unknown or there is none.",
                    queries=one(f"max by (tenant, use_case) (understudy_cycle_left_seconds{{{LANE}}})", _OF_A_LANE),
                    unit="s",
                ),
                Panel(
                    title="Cycles that ended in an error",
                    says="Since the trainer's start. Worry when it grows: `understudy history` says of what.",
                    queries=one(f"sum by (tenant, use_case) (understudy_cycle_errors_total{{{LANE}}})", _OF_A_LANE),
                    empty_while="no cycle has failed",
                ),
                Panel(
                    title="The trainer sees",
                    says="Seconds since it last saw every lane, and 1 for a lane that it cannot look at. Worry after"
                    " minutes.",
                    queries=(
                        Query(
                            promql="time() - (max(understudy_trainer_last_tick_timestamp_seconds) > 0)",
                            legend="since its last look, s",
                        ),
                        Query(
                            promql=f"max by (tenant, use_case) (understudy_trainer_blind{{{LANE}}})",
                            legend="{{tenant}}/{{use_case}}: blind",
                        ),
                    ),
                ),
                Panel(
                    title="Swaps",
                    says="Versions that gateways took into service, or could not, within an hour.",
                    queries=one(
                        f"sum by (use_case, outcome) (increase(understudy_swaps_total{{{LANE}}}[1h]))",
                        "{{use_case}}: {{outcome}}",
                    ),
                ),
            ),
        ),
        Row(
            title="What is learned from",
            panels=(
                Panel(
                    title="New rows",
                    says="Rows that a cycle would draw and none has drawn, at most. Worry when they grow and no cycle"
                    " comes.",
                    queries=one(f"max by (tenant, use_case) (understudy_fresh_items{{{LANE}}})", _OF_A_LANE),
                ),
                Panel(
                    title="Kept questions, by how their answers are read",
                    says="Fresh and quarantined ones are learned from. Worry when stale (another prompt or model) or"
                    " off_list ones are not 0.",
                    queries=one(
                        "sum by (use_case, state)"
                        f" (max by (tenant, use_case, label, state) (understudy_items{{{LANE}}}))",
                        "{{use_case}}: {{state}}",
                    ),
                ),
                Panel(
                    title="The ten most frequent labels",
                    says="Kept questions of each label; rank and chat have no labels of yours.",
                    queries=one(
                        "topk(10, sum by (use_case, label)"
                        f' (max by (tenant, use_case, label, state) (understudy_items{{{LANE},state="fresh"}})))',
                        "{{use_case}}: {{label}}",
                    ),
                ),
                Panel(
                    title="Events, by what became of them",
                    says="Worry when ineligible ones are all there are: training is not permitted there.",
                    queries=one(
                        f"max by (use_case, fate) (understudy_buffer_events{{{LANE}}})", "{{use_case}}: {{fate}}"
                    ),
                ),
                Panel(
                    title="Records that are not learned from, an hour",
                    says="By why. Worry at any steady flow: a producer speaks another schema, or has another prompt.",
                    queries=one(
                        "3600 * sum by (use_case, reason) (rate(understudy_events_unusable_total"
                        '{tenant=~"-|$tenant",use_case=~"$use_case"}[1h]))',
                        "{{use_case}}: {{reason}}",
                    ),
                ),
                Panel(
                    title="Escalations, by why",
                    says="Why the student did not keep a question, in answers an hour.",
                    queries=one(
                        "3600 * sum by (use_case, reason)"
                        f' (rate(understudy_answers_total{{{LANE},served_by="teacher"}}[1h]))',
                        "{{use_case}}: {{reason}}",
                    ),
                ),
            ),
        ),
        Row(
            title="What the audits say",
            panels=(
                Panel(
                    title="Agreement of the champion",
                    says="The estimate, and the interval that holds whenever one looks.",
                    queries=one(
                        f"max by (tenant, use_case, bound) (understudy_answered_agreement_ratio{{{LANE}}})",
                        "{{tenant}}/{{use_case}} {{bound}}",
                    ),
                    unit="percentunit",
                ),
                Panel(
                    title="Audits an hour",
                    says="Worry when lost ones rise: the estimate thins out.",
                    queries=one(
                        f"3600 * sum by (use_case, outcome) (rate(understudy_audits_total{{{LANE}}}[1h]))",
                        "{{use_case}}: {{outcome}}",
                    ),
                ),
                Panel(
                    title="The referee of chat, verdicts an hour",
                    says="Worry when inconsistent ones are a large share (the judge goes by the order of the answers),"
                    " or when unjudged ones rise: these count as no agreement.",
                    queries=one(
                        f"3600 * sum by (use_case, kind) (rate(understudy_verdicts_total{{{LANE}}}[1h]))",
                        "{{use_case}}: {{kind}}",
                    ),
                    empty_while="no lane of chat has a referee",
                ),
            ),
        ),
        Row(
            title="The student at work",
            panels=(
                Panel(
                    title="Forward passes",
                    says="Questions in one, on average. Worry when always at gateway.max_batch: the gateway is full.",
                    queries=one(
                        "sum(rate(understudy_forward_texts_sum[$__rate_interval]))"
                        " / (sum(rate(understudy_forward_texts_count[$__rate_interval])) > 0)",
                        "questions in one",
                    ),
                ),
                Panel(
                    title="A forward pass, p99",
                    says="Worry when it nears the student's time-out, 5 s.",
                    queries=one(
                        "histogram_quantile(0.99,"
                        " sum by (le) (rate(understudy_forward_seconds_bucket[$__rate_interval])))",
                        "p99",
                    ),
                    unit="s",
                ),
                Panel(
                    title="Vectors of documents",
                    says="Of rank: known when asked for, computed, and kept now. Worry when few are found: load the"
                    " catalogue.",
                    queries=(
                        Query(promql="sum(understudy_document_vectors_found)", legend="found"),
                        Query(promql="sum(understudy_document_vectors_computed)", legend="computed"),
                        Query(promql="sum(understudy_document_vectors_kept)", legend="kept"),
                    ),
                ),
            ),
        ),
    ),
)
