"""What the trainer tells Prometheus. Each help text says when to worry."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_LANE: Final = ("tenant", "use_case")

CYCLES = Counter(
    "understudy_cycles_total",
    "Cycles by verdict. Worry when `fail` or `inconclusive` is all there is for days.",
    (*_LANE, "kind", "verdict"),
)
CYCLE_ERRORS = Counter(
    "understudy_cycle_errors_total",
    "Cycles that ended in an error instead of a verdict (crash, time-out, full disk). Worry when it grows.",
    _LANE,
)
CYCLE_SECONDS = Histogram(
    "understudy_cycle_seconds",
    "Duration of a cycle, freeze to verdict. Worry when it nears trainer.cycle_timeout_s.",
    (*_LANE, "kind"),
    buckets=(1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400),
)
CYCLE_STAGE = Gauge(
    "understudy_cycle_stage",
    "1 for the stage that the cycle in hand is at; 0 for all while there is none. Worry when one lasts for hours.",
    (*_LANE, "stage"),
)
CYCLE_LEFT = Gauge(
    "understudy_cycle_left_seconds",
    "About how long the cycle in hand will take; NaN where that is unknown or there is none.",
    _LANE,
)
MONEY = Gauge(
    "understudy_money_usd",
    "Dollars from the lane's books: teacher_only (estimated), calls, audits, judged, training, saved; for today and"
    " this month (UTC) and since the start. NaN without a price. Worry when `saved` falls below zero.",
    (*_LANE, "what", "period"),
)
LAST_CYCLE = Gauge(
    "understudy_last_cycle_timestamp_seconds",
    "When the last cycle reached a verdict, Unix seconds. Worry when it is older than two intervals.",
    _LANE,
)
CYCLE_INTERVAL = Gauge(
    "understudy_cycle_interval_seconds",
    "The configured longest time between cycles of a lane that gets new items (trainer.every_s).",
    _LANE,
)
FRESH_ITEMS = Gauge(
    "understudy_fresh_items",
    "Rows that a cycle would draw and none has drawn, at most. Worry when it grows while no cycle runs.",
    _LANE,
)
ITEMS = Gauge(
    "understudy_items",
    "Kept items by label and by how their answers are read today: fresh and quarantined ones are learned from, stale"
    " (paid under another prompt), retired, off_list and dropped ones are not. Worry when stale or off_list is not 0.",
    (*_LANE, "label", "state"),
)
PINNED = Gauge(
    "understudy_pinned",
    "1 while a rollback or a pin keeps automation from promoting; `understudy resume` ends it.",
    _LANE,
)
PROMISE_STATE = Gauge(
    "understudy_promise_state",
    "1 for the state the promise is in: held, suspended, unproven or broken. Worry on suspended and broken.",
    (*_LANE, "state"),
)
ANSWERED_AGREEMENT = Gauge(
    "understudy_answered_agreement_ratio",
    "Live agreement with the teacher on what the champion answers, from audits: estimate, low, high (anytime-valid).",
    (*_LANE, "bound"),
)
BLIND = Gauge(
    "understudy_trainer_blind",
    "1 while a lane cannot be looked at: Redis or the registry is away, or not to be trusted. Worry after minutes.",
    _LANE,
)
LAST_TICK = Gauge(
    "understudy_trainer_last_tick_timestamp_seconds",
    "When the schedule last saw every lane, Unix seconds. Worry when it stands still for longer than a cycle takes.",
)
