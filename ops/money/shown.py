"""What lanes spent and saved, as lines of `understudy status`; every estimate is named as one."""

from typing import Final

from ops.money.dollars import usd
from ops.show.values import time_of
from store.money.reckon import PERIODS, LaneMoney, Money, PricedBy

_NO_PRICE: Final = "unknown: set lanes.teacher.input_usd_per_mtok and output_usd_per_mtok"
_MEASURED: Final[dict[PricedBy, str]] = {
    "calls": "measured this month",
    "calls_since_the_start": "measured since the start",
    "settings": "by the settings' prices, 4 characters a token: none was measured yet",
}


def money_fields(found: LaneMoney | None) -> dict[str, object]:
    """Names and values; nothing where Redis does not answer, since nobody else knows."""
    if found is None:
        return {}
    if found.start.since_s is None:
        return {"money": "nothing was asked yet"}
    names = {"today": "today (UTC)", "month": "this month", "start": f"since {time_of(found.start.since_s)}"}
    return {
        **{names[period]: _line(getattr(found, period)) for period in PERIODS},
        "answers": _answers(found.start),
        **_assumed(found.month),
    }


def _line(money: Money) -> str:
    spent = f"{usd(money.spent_usd)} spent"
    if money.audits_usd or money.judged or money.training_usd:
        parts = [f"{usd(money.audits_usd)} audits"]
        parts += [f"{usd(money.judged_usd)} for {money.judged:,} calls of the referee"] if money.judged else []
        hours = f"{usd(money.training_usd)} for {money.training_hours:.1f} h of training"
        parts += [hours] if money.training_usd else []
        spent += f" ({', '.join(parts)})"
    if money.saved_usd is None or money.teacher_only_usd is None:
        return spent
    alone = usd(money.teacher_only_usd)
    if money.saved_usd < 0:
        return f"{spent}, {usd(-money.saved_usd)} more than the {alone} of the teacher alone"
    return f"{spent}, about {usd(money.saved_usd)} saved of {alone}"


def _answers(money: Money) -> str:
    counts = {
        "by the student": money.student,
        "by the teacher": money.teacher,
        "given again": money.cached,
        "by nobody": money.unanswered,
        "turned away": money.refused,
    }
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _assumed(money: Money) -> dict[str, object]:
    """What the saving rests on."""
    if money.usd_per_call is None or money.priced_by is None:
        return {"a call costs": _NO_PRICE} if money.student + money.teacher else {}
    told = f"{usd(money.usd_per_call)} on average, {_MEASURED[money.priced_by]}"
    if money.bounded_usd:
        told += f"; {usd(money.bounded_usd)} of what was spent is an upper bound: the endpoint did not say"
    return {"a call costs": told}
