"""The rounds of one run: refit if due, observe, act, respond, log, update, probes, step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Generator, Tensor

from recfb.contracts import (
    Context,
    Feedback,
    Policy,
    Probe,
    Round,
    Slate,
    Truth,
    World,
    cat,
    check_probs,
    describe,
    informed,
)
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies import Uniform
from recfb.random import derive, stream
from recfb.simulate.delays import EMPTY, Parcel, deliver, post
from recfb.simulate.doors import check_model, check_slate, forgets
from recfb.simulate.record import Entry, Recorder
from recfb.simulate.refit import Refit, trainer
from recfb.simulate.saved import Unsaved, load, load_policy, pack, policy_state, save, unpack
from recfb.simulate.streams import Streams


@dataclass(frozen=True)
class Snapshot:
    """A run between two rounds: all that going on from here, or forking, needs."""

    time: int
    world: Any
    policy: Policy
    opening: Log
    log: pl.DataFrame
    truth: pl.DataFrame
    waiting: Parcel | None
    generation: int
    fitted: bool
    serial: int


@dataclass(frozen=True)
class Plan:
    """What one replication, or one vectorised run, is to do. Picklable, so that a worker can be
    given one."""

    world: World[Any]
    policy: Policy
    rounds: int
    slate: int
    learners: int
    replication: int
    refit: Refit
    probes: Sequence[Probe]
    seed: int
    device: str
    state: Snapshot | None
    hold: bool
    told: bool
    folders: tuple[Path, Path] | None


@dataclass(frozen=True)
class Played:
    """What one replication, or one vectorised run, gave."""

    opening: Log
    first: int
    learners: int
    start: int
    log: pl.DataFrame
    truth: pl.DataFrame
    probes: Sequence[Mapping[str, Tensor]]
    state: Snapshot
    rows: int


def play(plan: Plan) -> Played:
    """Play all rounds of a plan."""
    loop = Loop(plan)
    start = 0 if plan.state is None else plan.state.time
    with torch.no_grad() if loop.differentiates else torch.inference_mode():
        while loop.time < start + plan.rounds:
            loop.round()
    return loop.finish(start)


class Loop:
    """The rounds of one plan; world and policy draw from `Streams`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seed = derive(plan.seed, "replication", plan.replication)
        self.streams = Streams(self.seed, plan.device)
        cpu = torch.device(plan.device).type == "cpu"
        self.world = plan.world if cpu else deepcopy(plan.world).to(plan.device)
        self.probes: list[Mapping[str, Tensor]] = []
        if plan.state is None:
            self._start()
            self._go_on()
        else:
            self._resume(plan.state)
        self.learns = self.policy.retrained
        parts = self.policy.modules()
        self.differentiates = any(getattr(part, "differentiates", False) for part in parts)
        self.fresh = True  # what the policy says is checked at the start and after every training
        self.told = plan.told or informed(self.world)
        self.uniform = Uniform().bind(self.opening)

    def _start(self) -> None:
        plan = self.plan
        self.time, self.generation, self.fitted = 0, 0, False
        self.waiting: Parcel | None = None
        begin = stream(self.seed, "start", device=plan.device)
        self.state = self.world.start(begin, plan.learners)
        self.opening = self.world.opening(self.state, plan.learners, plan.rounds)
        self.policy = self._fresh()
        self.recorder = Recorder(
            plan.learners, plan.replication, folders=plan.folders, hold=plan.hold
        )

    def _resume(self, before: Snapshot) -> None:
        plan = self.plan
        self.time, self.generation, self.fitted = before.time, before.generation, before.fitted
        self.waiting, self.state, self.opening = before.waiting, before.world, before.opening
        if describe(before.policy) == describe(plan.policy):
            self.policy = deepcopy(before.policy)
        else:
            self.policy, self.fitted = self._fresh(), False
        self.recorder = Recorder(
            plan.learners,
            plan.replication,
            serial=before.serial,
            folders=plan.folders,
            hold=plan.hold,
        )
        self.recorder.preload(before.log, before.truth)

    def _fresh(self) -> Policy:
        policy = deepcopy(self.plan.policy).bind(self.opening)
        policy.reset(stream(self.seed, "reset"))
        return policy.to(self.plan.device)

    def _stream(self, name: str) -> Generator:
        return self.streams(name, self.time)

    def round(self) -> None:
        """One round, in the order that truth and log rely on."""
        trains = self._trains()
        if self.recorder.due(trains):
            self._keep(trains)
        if trains:
            with torch.inference_mode(False):
                self._refit()
        state = self.state
        context = self.world.observe(state)
        slate = self._act(context)
        feedback, truth = self.world.respond(state, slate, self._stream("respond"))
        if self.recorder.kept:
            self.recorder.add(Entry(self.time, self.generation, context, slate, feedback, truth))
        self._update(context, slate, feedback)
        if self.plan.probes:
            self._probe(context, slate, feedback, truth)
        self.state = self.world.step(state, slate, truth, self._stream("step"))
        self.time += 1

    def _trains(self) -> bool:
        """Whether this round begins with a training."""
        late = not self.fitted and self.time >= self.plan.refit.uniform
        return self.learns and (late or self.plan.refit.due(self.time))

    def _refit(self) -> None:
        plan = self.plan
        seen = self.recorder.frames()[0]
        view = plan.refit.view(seen, self.time) if seen.height else seen
        known = self.opening.frame
        rows = pl.concat([known, view], how="diagonal") if known.height and view.height else view
        if not rows.height:
            rows = known
        if not rows.height:
            return
        warm = plan.refit.warm and self.fitted
        self.policy.refit(
            self.opening.with_frame(rows),
            trainer(derive(self.seed, "fit", self.time), warm, plan.device),
        )
        self.generation, self.fitted, self.fresh = self.generation + 1, True, True

    def _keep(self, trains: bool) -> None:
        """Write the rows so far, and where the run stands, if it can go on from there: what probes
        saw is not kept, and a policy is either plain data or about to be trained from scratch."""
        self.recorder.write()
        if self.plan.probes or self.plan.state is not None:
            return
        anew = trains and not (self.plan.refit.warm and self.fitted) and forgets(self.policy)
        try:
            policy = None if anew else policy_state(self.policy)
        except Unsaved:
            return
        kept = {"world": pack(self.state), "waiting": pack(self.waiting), "policy": policy}
        numbers = {"time": self.time, "generation": self.generation, "fitted": self.fitted}
        recorder = self.recorder
        counts = {"serial": recorder.serial, "rows": recorder.rows, "parts": recorder.parts}
        save(self._place(), {**kept, **numbers, "counts": counts})

    def _go_on(self) -> None:
        """From where the same run was interrupted, if it was."""
        kept = None if self.plan.folders is None else load(self._place(), self.plan.device)
        if kept is None:
            return
        self.state = unpack(self.state, kept["world"])
        self.waiting = unpack(EMPTY, kept["waiting"])
        if kept["policy"] is not None:
            load_policy(self.policy, kept["policy"])
        self.time, self.generation = kept["time"], kept["generation"]
        self.fitted = kept["fitted"]
        self.recorder.go_on(**kept["counts"])

    def _place(self) -> Path:
        """The file of where this replication stands, beside the folders of its rows."""
        folders = self.plan.folders or (Path(),)
        return folders[0].parent / f"state-{self.plan.replication:05d}.pt"

    def _act(self, context: Context) -> Slate:
        k, generator = self.plan.slate, self._stream("act")
        if self.time < self.plan.refit.uniform:
            return self.uniform.act(context, generator, k=k)
        if self.policy.privileged:
            self.policy.look(self.world.values(self.state))
        if self.fresh:
            check_model(self.policy, context)
        told = self.told or self.fresh
        slate = (self.policy.act if told else self.policy.draw)(context, generator, k=k)
        who = type(self.policy).__name__
        check_slate(slate, len(context), k, self.world.n_items, who, context.available, told=told)
        if self.fresh and slate.probs is not None:
            check_probs(slate.probs, len(context), self.world.n_items, who)
        self.fresh = False
        return slate

    def _update(self, context: Context, slate: Slate, feedback: Feedback) -> None:
        if feedback.delay is None and self.waiting is None:
            self._learn(context, slate, feedback)
            return
        new = post(context, slate, feedback, self.time, self.plan.learners)
        self.waiting = new if self.waiting is None else cat([self.waiting, new])
        due, self.waiting = deliver(self.waiting, self.time)
        if len(due):
            self._learn(due.context, due.slate, due.feedback)

    def _learn(self, context: Context, slate: Slate, feedback: Feedback) -> None:
        try:
            self.policy.update(context, slate, feedback, self._stream("update"))
        except RuntimeError as error:
            if self.differentiates or not re.search("grad|nference tensor", str(error)):
                raise
            raise ConfigError(
                f"{type(self.policy).__name__}.update needs autograd, and rounds are played "
                "without. Say so in its class: differentiates = True"
            ) from error

    def _probe(self, context: Context, slate: Slate, feedback: Feedback, truth: Truth) -> None:
        done = Round(
            self.time, context, slate, feedback, truth, self.policy, self.world, self.state
        )
        found: dict[str, Tensor] = {}
        for probe in self.plan.probes:
            found.update(probe(done))
        self.probes.append(found)

    def finish(self, start: int) -> Played:
        """Write what is left, and say where the run stands."""
        self.recorder.close()
        log, truth = self.recorder.frames()
        state = Snapshot(
            self.time, self.state, self.policy, self.opening, log, truth, self.waiting,
            self.generation, self.fitted, self.recorder.serial,
        )  # fmt: skip
        return Played(
            self.opening, self.plan.replication, self.plan.learners, start, log, truth,
            self.probes, state, self.recorder.rows,
        )  # fmt: skip
