"""What a run has shown: the table, and the history of each violation."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections import Counter

from rich.table import Table

from faults.campaign import Outcome
from faults.judge import Violation


def table(outcome: Outcome) -> Table:
    """One row for each quantity."""
    plan, judge = outcome.plan, outcome.judge
    made = Table(
        title=f"{plan.launchers} launchers, {plan.seconds:g} s, seed {plan.seed}",
        title_justify="left",
    )
    made.add_column("what")
    made.add_column("how many", justify="right")
    made.add_column("until the next fulfilled request, median / longest", justify="right")
    for kind, count in sorted(outcome.nemesis.injected.items()):
        made.add_row(f"fault: {kind}", str(count), _spans(recoveries(outcome, kind)))
    made.add_row("all faults", str(outcome.nemesis.injected.total()), _spans(recoveries(outcome)))
    errors = sum((each.injector.answered for each in outcome.nemesis.launchers), start=Counter())
    for status, count in sorted(errors.items()):
        made.add_row(f"API calls answered with {status}" if status else "answers lost", str(count))
    made.add_section()
    for how, count in sorted(outcome.load.ended.items()):
        made.add_row(f"requests: {how}", str(count))
    made.add_row("requests in all", str(outcome.load.ended.total()))
    made.add_row("the last to end after the faults", f"{outcome.calm_s:.1f} s")
    made.add_section()
    for what in ("nodes", "pods", "most nodes", "most pods", "most of the tenant"):
        made.add_row(
            f"{what} at a time" if "most" in what else f"{what} made", str(judge.counts[what])
        )
    made.add_row("unexpected errors in logs", str(sum(outcome.unexpected.values())))
    made.add_row("violations", str(len(judge.violations)))
    return made


def recoveries(outcome: Outcome, kind: str = "") -> list[float]:
    """Seconds from each fault of that kind, or of every kind, to the next fulfilled request."""
    answers = sorted(outcome.judge.fulfilled_at)
    begun = [when for when, each in outcome.nemesis.times if kind in ("", each)]
    after = [(when, bisect_right(answers, when)) for when in begun]
    return [answers[index] - when for when, index in after if index < len(answers)]


def _spans(spans: list[float]) -> str:
    return f"{statistics.median(spans):.2f} / {max(spans):.2f} s" if spans else "-"


def violation(outcome: Outcome, found: Violation) -> str:
    """A broken promise, and everything known of the objects involved."""
    lines = [f"VIOLATION at {found.when:.3f} s: {found.rule}: {found.what}"]
    return "\n  ".join([*lines, *outcome.judge.history.of(found.objects)])
