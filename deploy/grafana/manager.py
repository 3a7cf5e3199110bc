"""For whoever answers for the money and for the promise."""

from typing import Final

from deploy.grafana.panels import LANE, Board, Panel, Query, Row, one

_PRICED: Final = "> -Inf"  # a lane without a price has NaN, which would make any sum one
_SPENT: Final = 'what=~"calls|audits|training"'

MANAGER: Final = Board(
    name="manager",
    title="Understudy: money and promise",
    says="What was spent and saved, and whether the student agrees with the teacher as often as is promised.",
    since="now-7d",
    rows=(
        Row(
            title="This month",
            panels=(
                Panel(
                    title="Saved",
                    says="Dollars that this month (UTC) would have cost more with the teacher alone, estimated from the"
                    " lanes' own prices (lanes.teacher.input_usd_per_mtok and its like). Worry below zero: audits and"
                    " training cost more than they save.",
                    queries=one(f'sum(understudy_money_usd{{{LANE},what="saved",period="month"}} {_PRICED})', "saved"),
                    unit="currencyUSD",
                    kind="figure",
                    columns=6,
                    at_zero="no price is known",
                ),
                Panel(
                    title="Spent",
                    says="Dollars for the teacher's answers, for audits and for training, this month (UTC).",
                    queries=one(f'sum(understudy_money_usd{{{LANE},{_SPENT},period="month"}} {_PRICED})', "spent"),
                    unit="currencyUSD",
                    kind="figure",
                    columns=6,
                    at_zero="no price is known",
                ),
                Panel(
                    title="Answered by the student",
                    says="Share of the last 24 hours' answers that cost no call of the teacher.",
                    queries=one(
                        f'sum(increase(understudy_answers_total{{{LANE},served_by="student"}}[24h]))'
                        f' / sum(increase(understudy_answers_total{{{LANE},served_by!="nobody"}}[24h]))',
                        "student",
                    ),
                    unit="percentunit",
                    kind="figure",
                    columns=6,
                ),
                Panel(
                    title="The promise",
                    says="What the audits show of each lane's promise. Worry on suspended (answers are withheld: the"
                    " budget binds) and on broken. A lane with the policy budget promises nothing, and is not here.",
                    queries=one(
                        f"max by (tenant, use_case, state) (understudy_promise_state{{{LANE}}}) == 1",
                        "{{tenant}}/{{use_case}}: {{state}}",
                    ),
                    kind="figure",
                    columns=6,
                ),
            ),
        ),
        Row(
            title="The promise",
            panels=(
                Panel(
                    title="Agreement with the teacher, by lane",
                    says="Of what the student answers itself, the share that the teacher says, too: the estimate of the"
                    " audits. Worry where it falls below the lane's promise.",
                    queries=one(
                        f'max by (tenant, use_case) (understudy_answered_agreement_ratio{{{LANE},bound="estimate"}})',
                        "{{tenant}}/{{use_case}}",
                    ),
                    unit="percentunit",
                    columns=12,
                ),
                Panel(
                    title="How sure that is",
                    says="The interval around the estimate, at whatever time one looks. Wide: few audits yet.",
                    queries=one(
                        f"max by (tenant, use_case, bound)"
                        f' (understudy_answered_agreement_ratio{{{LANE},bound=~"low|high"}})',
                        "{{tenant}}/{{use_case}} {{bound}}",
                    ),
                    unit="percentunit",
                    columns=12,
                ),
            ),
        ),
        Row(
            title="Money",
            panels=(
                Panel(
                    title="Today, against the teacher alone",
                    says="Dollars since midnight (UTC), by lane: what was spent, and what the teacher alone would have"
                    " cost by its measured prices.",
                    queries=(
                        Query(
                            promql=f'sum by (tenant, use_case) (understudy_money_usd{{{LANE},{_SPENT},period="today"}}'
                            f" {_PRICED})",
                            legend="{{tenant}}/{{use_case}} spent",
                        ),
                        Query(
                            promql="sum by (tenant, use_case)"
                            f' (understudy_money_usd{{{LANE},what="teacher_only",period="today"}} {_PRICED})',
                            legend="{{tenant}}/{{use_case}} teacher alone",
                        ),
                    ),
                    unit="currencyUSD",
                    columns=12,
                ),
                Panel(
                    title="Since the start, by what it was for",
                    says="Dollars since each lane's start.",
                    queries=one(f'sum by (what) (understudy_money_usd{{{LANE},period="start"}} {_PRICED})', "{{what}}"),
                    unit="currencyUSD",
                    columns=12,
                ),
                Panel(
                    title="Budget used",
                    says="Calls counted against the last 24 hours, as a share of budget.calls_per_day. At 1 the student"
                    " answers what it may, and the rest is refused or withheld.",
                    queries=one(
                        f"max by (tenant, use_case) (understudy_budget_used_calls{{{LANE}}})"
                        f" / (max by (tenant, use_case) (understudy_budget_limit_calls{{{LANE}}}) > 0)",
                        "{{tenant}}/{{use_case}}",
                    ),
                    unit="percentunit",
                    columns=12,
                ),
                Panel(
                    title="Dollars an hour",
                    says="What the gateways pay the teacher, by the price table of the settings.",
                    queries=one(
                        f"3600 * sum by (tenant, use_case) (rate(understudy_teacher_usd_total{{{LANE}}}[1h]))",
                        "{{tenant}}/{{use_case}}",
                    ),
                    unit="currencyUSD",
                    columns=12,
                ),
            ),
        ),
        Row(
            title="Who answers",
            panels=(
                Panel(
                    title="Answers an hour, by who gave them",
                    says="Worry when nobody's rise: clients get errors.",
                    queries=one(
                        f"3600 * sum by (served_by) (rate(understudy_answers_total{{{LANE}}}[1h]))", "{{served_by}}"
                    ),
                    columns=12,
                ),
                Panel(
                    title="The student's share, by lane",
                    says="It rises as students learn; it falls after a rollback, and when a new topic comes.",
                    queries=one(
                        "sum by (tenant, use_case)"
                        f' (increase(understudy_answers_total{{{LANE},served_by="student"}}[1h]))'
                        " / sum by (tenant, use_case)"
                        f' (increase(understudy_answers_total{{{LANE},served_by!="nobody"}}[1h]))',
                        "{{tenant}}/{{use_case}}",
                    ),
                    unit="percentunit",
                    columns=12,
                ),
            ),
        ),
    ),
)
