"""A scorer, an objective and a sampler, trained by Lightning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from recfb.contracts import (
    Batch,
    Context,
    Fitted,
    Objective,
    Pairing,
    Sampler,
    Scorer,
    Step,
    describe,
)
from recfb.data.pairs import Pairs
from recfb.errors import ConfigError, RecfbError
from recfb.optim import Adagrad, Spec, densify
from recfb.random import derive, stream

FORMAT = 1
"""Of checkpoints: what a Recommender adds to those of Lightning."""
_DRAWS: dict[Pairing, str] = {
    "pairs": "every pair with its label: samplers.AllPairs()",
    "shown_pairs": 'every pair with what was logged of it: samplers.AllPairs(labels="shown")',
    "rows": "the rows of the log: samplers.Logged()",
    "any_negative": 'a click and any items, clicked ones included: samplers.Clicks(among="any")',
    "free_negative": "a click and items its user never clicked: samplers.Clicks()",
    "shown_negative": "a click and items shown beside it: samplers.Slates()",
}


class Recommender(Fitted, LightningModule):
    """Ranks items by a scorer that is trained on what a sampler draws, by what an objective says.

    One step: rows of the log -> the sampler's Batch (without gradient) -> the objective's losses,
    weighed and reduced -> plus penalties -> backward -> clip each group that asks for it -> one
    step of the optimiser -> constraints. Every random number is a function of (seed, step), so
    training resumes exactly.

    Args:
        scorer: s(u, i).
        objective: losses of a batch.
        sampler: what to draw; it must give what the objective needs.
        optimizer: a specification of `recfb.optim`.

    Raises:
        ConfigError: an objective that cannot learn from what the sampler draws.
        RecfbError: in training, once the loss is no longer a number.

    >>> from recfb import objectives, samplers, scorers
    >>> Recommender(scorers.MF(dim=8), objectives.BPR(), samplers.Clicks())
    Recommender(MF(dim=8), BPR(), Clicks())
    """

    n_users: int
    n_items: int

    def __init__(
        self,
        scorer: Scorer,
        objective: Objective,
        sampler: Sampler,
        *,
        optimizer: Spec = Adagrad(lr=0.1),
    ) -> None:
        super().__init__()
        _check_pairing(objective, sampler)
        self.scorer, self.objective, self.sampler = scorer, objective, sampler
        self.optimizer = optimizer
        self.automatic_optimization = False
        self.seed = 0  # set by fit
        self._loss_sum: Tensor | None = None

    # ---- a model

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """(B,), (B,) | (B, C) -> scores shaped like item."""
        score: Tensor = self.scorer(user, item)
        return score

    def scores(self, context: Context) -> Tensor:
        """(B, n_items), or like `context.candidates`."""
        return self.scorer.scores(context)

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        """Scores of given items, shaped like item."""
        return self.scorer.score_of(context, item)

    def top(self, context: Context, k: int, *, hide: Pairs | None = None) -> Tensor:
        """The k best available items of each request, best first: (B, k)."""
        return self.scorer.top(context, k, hide=hide)

    # ---- training

    def loss(self, batch: Batch, step: Step, view: Scorer | None = None) -> Tensor:
        """The training loss of a batch: weighed, reduced, with penalties. A scalar."""
        view = self.scorer.ready() if view is None else view
        losses = self.objective(partial(view, batch=batch), batch, step)  # (B,) | (B, C)
        if batch.weight is not None and losses.dim():
            wide = losses.dim() > batch.weight.dim()
            losses = losses * (batch.weight[:, None] if wide else batch.weight)
        total = self.objective.reduction == "sum"
        penalty = view.penalty(batch) + self.objective.penalty(batch)
        loss = losses.sum() + len(batch) * penalty if total else losses.mean() + penalty
        return torch.as_tensor(loss)

    def training_step(self, rows: Tensor, batch_idx: int) -> None:
        """One step on rows of the sampler."""
        index, spe = self.trainer.global_step, int(self.trainer.num_training_batches)
        rank = self.global_rank  # each device has draws of its own, the first those of one device
        names = ("step", index, rank) if rank else ("step", index)
        generator = stream(self.seed, *names, device=self.device)
        step = Step(index, self.current_epoch, self._total(spe), generator)
        with _dropout(derive(self.seed, "dropout", index, rank), self.device):
            view = self.scorer.ready()
            with torch.no_grad():
                batch = self.sampler(rows, view, step)
            loss = self.loss(batch, step, view)
        self._descend(loss, step)
        seen = loss.detach()
        self._loss_sum = seen if self._loss_sum is None else self._loss_sum + seen

    def _total(self, steps_an_epoch: int) -> int:
        epochs, steps = self.trainer.max_epochs, self.trainer.max_steps
        planned = [steps] if steps > 0 else []
        planned += [epochs * steps_an_epoch] if epochs is not None and epochs > 0 else []
        return min(planned, default=0)

    def _descend(self, loss: Tensor, step: Step) -> None:
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.zero_grad()
        self.manual_backward(loss)
        factor = self.optimizer.factor(step.index, step.epoch, step.total)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
            densify(group, self.optimizer.sparse)
            if group.get("clip") is not None:
                _clip(group["params"], group["clip"])
        optimizer.step()
        with torch.no_grad():
            self.constrain()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser over the components' groups."""
        optimizer = self.optimizer.build(self.groups())
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        return optimizer

    @property
    def diverged(self) -> bool:
        """Whether a loss of this epoch was no number."""
        return self._loss_sum is not None and not bool(torch.isfinite(self._loss_sum))

    def on_train_epoch_end(self) -> None:
        """Log the mean loss, and stop where it is no number."""
        if self._loss_sum is None:
            return
        loss = self._loss_sum / max(1, int(self.trainer.num_training_batches))
        diverged, self._loss_sum = self.diverged, None
        if diverged:
            raise RecfbError(
                f"the loss is {float(loss)} in epoch {self.current_epoch}. Try a lower learning "
                "rate (optimizer=optim.Adagrad(lr=0.01)), a larger l2, or a bounded loss "
                '(objectives.RelMF(..., link="sq_sigmoid")).'
            )
        self.log("loss", loss, prog_bar=True, sync_dist=True)

    # ---- checkpoints: plain data only, so that they load with weights_only=True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the module is and which vocabulary it belongs to."""
        checkpoint["recfb"] = {
            "format": FORMAT,
            "model": describe(self),
            "n_users": self.vocabulary.users.height,
            "n_items": self.vocabulary.items.height,
            "vocabulary": self.vocabulary.digest,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another version, vocabulary or model."""
        found = checkpoint.get("recfb", {})
        if found.get("format") != FORMAT:
            raise ConfigError(
                f"the checkpoint has format {found.get('format')!r}; this version of recfb goes on "
                f"from format {FORMAT}. Fit anew without ckpt_path."
            )
        if found.get("vocabulary") != self.vocabulary.digest:
            sizes = f"{found.get('n_users')} users and {found.get('n_items')} items"
            users, items = self.vocabulary.users, self.vocabulary.items
            raise ConfigError(
                f"the checkpoint belongs to another vocabulary: it has {sizes}, this log has "
                f"{users.height} and {items.height}, or the same number with other ids. Resume "
                "with the log it was trained on, or fit anew without ckpt_path."
            )
        if found["model"] != describe(self):
            raise ConfigError(
                f"the checkpoint belongs to another model: {found['model']}. Resume with that "
                "one, or fit anew without ckpt_path."
            )


@contextmanager
def _dropout(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from the global generators: seed them for a step, then put them back.

    Not torch.manual_seed, which on a machine without a GPU keeps a stack trace of every call.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed >> 1)
        for each in cuda:
            torch.cuda.default_generators[each.index or 0].manual_seed(seed >> 1)
        yield


def _check_pairing(objective: Objective, sampler: Sampler) -> None:
    if sampler.gives in objective.needs:
        return
    fitting = " or ".join(_DRAWS[need] for need in objective.needs)
    raise ConfigError(
        f"objectives.{type(objective).__name__} does not go with "
        f"samplers.{type(sampler).__name__}, which draws {_DRAWS[sampler.gives]}. "
        f"It needs {fitting}."
    )


def _clip(parameters: list[nn.Parameter], most: float) -> None:
    """Scale the gradients of a group to a joint length of at most `most`."""
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
        values.append(parameter.grad._values() if parameter.grad.is_sparse else parameter.grad)
    if values:
        length = torch.stack([torch.linalg.vector_norm(value) for value in values]).norm()
        scale = (most / length.clamp(min=1e-12)).clamp(max=1.0)
        for value in values:
            value.mul_(scale)
