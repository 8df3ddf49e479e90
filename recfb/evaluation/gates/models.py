"""Gates on the reward model: what it saw, whether it agrees, what it misses."""

from __future__ import annotations

from collections.abc import Iterator

from recfb.contracts import Evidence, Finding
from recfb.contracts.evaluating import Level
from recfb.estimate import dm
from recfb.evaluation.gates.common import below, everyone
from recfb.evaluation.shape import through
from recfb.evaluation.terms import residual


def g8_cross_fit(evidence: Evidence) -> Iterator[Finding]:
    """G8, the reward model saw the rows that it is judged on: fails; not known: warns."""
    own = evidence.traits.view == "robust"  # mrdr fits its model itself, without the row's fold
    if not evidence.traits.models or own or evidence.model not in ("same log", "unknown"):
        return
    same = evidence.model == "same log"
    text = (
        "the reward model was fitted on the evaluated log"
        if same
        else "the reward model does not say on which log it was fitted"
    )
    advice = "fit it on another log, or give it unfitted: reward_model=evaluation.CrossFit(model)"
    yield from everyone(evidence, "G8", "fail" if same else "warn", text, advice)


def g9_agreement(evidence: Evidence) -> Iterator[Finding]:
    """G9, the reward model alone says something else: dm outside the interval of dr is a note,
    since dr corrects what the model misses."""
    traits = evidence.traits
    if not (traits.models and traits.weighs) or traits.unshrunk is not None:
        return
    model = evidence.estimates.stat(through(traits.view, dm))  # (P,)
    lower, upper = evidence.limits
    for policy, value in enumerate(model.tolist()):
        if value < float(lower[policy]) or value > float(upper[policy]):
            text = f"the reward model alone says {value:.3g}, outside the interval"
            yield Finding("G9", policy, "note", text, "see where it is off: evaluation.residuals")


def g10_residual(evidence: Evidence) -> Iterator[Finding]:
    """G10, what the model misses under the target: D > 2 se warns, and above 10 % of the value
    fails dm and shrunk forms; dr repairs it, so there it is a note."""
    about = evidence.estimates.about(through(evidence.traits.view, residual))
    if not evidence.traits.models or about is None:
        return
    biased = not evidence.traits.weighs or evidence.traits.unshrunk is not None
    rows = zip(about.value.tolist(), about.se().tolist(), evidence.estimates.value, strict=True)
    for policy, (d, se, value) in enumerate(rows):
        if not abs(d) > 2 * se:
            continue
        level: Level = "fail" if abs(d) > 0.1 * abs(float(value)) else "warn"
        yield Finding(
            "G10",
            policy,
            level if biased else "note",
            f"the model's weighted residual is {d:.3g}, "
            + (f"{abs(d) / se:.1f} standard errors" if se else "with a standard error of 0"),
            "use dr, which corrects for it" if biased else "",
        )


def dm_is_a_model(evidence: Evidence) -> Iterator[Finding]:
    """The error of the reward model, which a standard error leaves out: dm is at best usable with
    care. So are shrunk forms by a model of the same rows where their standard error is below .9 of
    the unshrunk form's; below .6 they fail."""
    unshrunk = evidence.traits.unshrunk
    if evidence.traits.models and not evidence.traits.weighs:
        text = "the standard error leaves out the error of the reward model"
        yield from everyone(evidence, "DM", "warn", text, "compare with dr")
    elif evidence.traits.models and evidence.model == "cross-fitted" and unshrunk is not None:
        whole = evidence.estimates.about(unshrunk)
        if whole is not None:
            ratio = evidence.estimates.se() / whole.se()
            text = "the standard error is {:.2f} of dr's, for it leaves out the error of the model"
            advice = "use dr, which repairs it, or a model that was fitted on another log"
            yield from below("DM", ratio, (0.9, 0.6), text, advice)
