"""`run.png`: one run of the demo as a figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MultipleLocator, PercentFormatter

from ops.demo.page.picture import Mark, Picture, headline, points
from ops.show.canvas import FAINT, INK, figure, label_ends

STUDENT: Final = "#0f7fa8"
ANSWERED: Final = "#1f8a4c"
SYSTEM: Final = "#6b5bb5"
ESCALATED: Final = "#d17a00"
VERDICTS: Final = {"pass": "#1f8a4c", "fail": "#c62f2f", "inconclusive": "#d1a400", "held": "#5b8fa8"}
_HIGH: Final = 8.2  # inches of a lane
_WIDE: Final = 0.7  # an agreement below it asks for fewer lines
_LANE_OF: Final = {"cycles": 1.0, "swaps": 0.0}


def draw_run(pictures: Mapping[str, Picture], path: Path) -> None:
    """Draw the run, one lane below the other; the folder exists."""
    named = len(pictures) > 1
    with figure(path, size=(11, _HIGH * len(pictures)), title=headline(pictures)) as drawn:
        for part, (name, picture) in zip(
            drawn.subfigures(len(pictures), 1, squeeze=False)[:, 0], pictures.items(), strict=True
        ):
            top, middle, bottom = part.subplots(
                3, 1, sharex=True, gridspec_kw={"height_ratios": [5, 2.6, 1.25], "hspace": 0.2}
            )
            _agreements(top, picture, f"{name}: agreement" if named else "Agreement")
            _escalations(middle, picture)
            _events(bottom, picture)
            part.subplots_adjust(left=0.07, right=0.845, top=0.88, bottom=0.075)


def _agreements(axes: Axes, picture: Picture, title: str) -> None:
    shown: list[float] = [picture.target]
    ends: list[tuple[float, str, str]] = []
    for name, colour, read in (
        ("system", SYSTEM, lambda one: one.system_agreement),
        ("answered", ANSWERED, lambda one: one.answered_agreement),
        ("student", STUDENT, lambda one: one.student_agreement),
    ):
        drawn = points(picture.curve, read)
        if not drawn:
            continue
        at, found = [x for x, _ in drawn], [one for _, one in drawn]
        axes.fill_between(at, [one.low for one in found], [one.high for one in found], color=colour, alpha=0.13, lw=0)
        axes.plot(at, [one.value for one in found], color=colour, lw=2.2, solid_capstyle="round")
        ends.append((found[-1].value, f"{name} {found[-1].value:.1%}", colour))
        shown += [one.value for one in found]
    axes.axhline(picture.target, color=INK, lw=1.1, ls=(0, (5, 3)))
    axes.text(picture.total * 0.005, picture.target, f"promised {picture.target:.0%}", size=8.5, va="bottom", color=INK)
    axes.set_ylim(max(0.0, min(shown) - 0.08), 1.012)
    label_ends(axes, picture.total, ends)
    axes.yaxis.set_major_locator(MultipleLocator(0.1 if min(shown) < _WIDE else 0.05))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title(f"{title} with the teacher, last 250 requests, 95 % intervals", size=10, loc="left", color=FAINT)
    _through_lines(axes, picture.marks, with_text=True)


def _escalations(axes: Axes, picture: Picture) -> None:
    drawn = [(one.last + 1, one.escalated_ratio) for one in picture.curve if one.escalated_ratio is not None]
    at, ratios = [x for x, _ in drawn], [ratio for _, ratio in drawn]
    axes.fill_between(at, ratios, color=ESCALATED, alpha=0.18, lw=0)
    axes.plot(at, ratios, color=ESCALATED, lw=2.2)
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title("Share of requests that the teacher answered", size=10, loc="left", color=FAINT)
    if ratios:
        label_ends(axes, picture.total, [(ratios[-1], f"escalated {ratios[-1]:.1%}", ESCALATED)])
    _through_lines(axes, picture.marks, with_text=False)


def _events(axes: Axes, picture: Picture) -> None:
    for mark in picture.marks:
        if mark.kind in VERDICTS:
            size, shape = (130.0, "X") if mark.planted else (46.0, "o")
            axes.scatter(
                [mark.at], [_LANE_OF["cycles"]], s=size, c=VERDICTS[mark.kind], marker=shape, zorder=3, clip_on=False
            )
        elif mark.kind != "topic":
            colour = INK if mark.kind == "rollback" else FAINT
            axes.scatter([mark.at], [_LANE_OF["swaps"]], s=42, c=colour, marker="<" if mark.kind == "rollback" else "|")
    axes.set_ylim(-0.6, 1.6)
    axes.set_yticks(list(_LANE_OF.values()), list(_LANE_OF))
    axes.set_xlim(0, picture.total)
    axes.set_xlabel("requests")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(visible=False, axis="y")
    for place, (name, colour) in enumerate(VERDICTS.items()):
        axes.annotate(
            f"● {name}",
            (1, 1),
            xytext=(8, -2 - 13 * place),
            xycoords="axes fraction",
            textcoords="offset points",
            color=colour,
            size=8.5,
            va="center",
        )


def _through_lines(axes: Axes, marks: Sequence[Mark], *, with_text: bool) -> None:
    """What a reader should see across panels: the new topic, the planted challenger, the rollback."""
    for mark in marks:
        told = _told(mark)
        if told is None:
            continue
        text, colour, side = told
        axes.axvline(mark.at, color=colour, lw=1.1, ls=(0, (1, 2)))
        if with_text:
            low, high = axes.get_ylim()
            axes.annotate(
                text,
                (mark.at, low + 0.03 * (high - low)),
                xytext=(4 if side == "left" else -4, 0),
                textcoords="offset points",
                rotation=90,
                size=8.5,
                color=colour,
                va="bottom",
                ha=side,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
            )


def _told(mark: Mark) -> tuple[str, str, str] | None:
    if mark.kind == "topic":
        return mark.text, FAINT, "right"
    if mark.planted:
        return f"planted challenger: {mark.kind}", VERDICTS[mark.kind], "left"
    if mark.kind == "rollback":
        return "rollback, pinned", INK, "left"
    return None
