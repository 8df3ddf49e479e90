"""Policies and reward models made ready for a log: bound to its shape, and of its vocabulary."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import nn

from recfb.contracts import Policy
from recfb.data import Log, Vocabulary
from recfb.data.history import History
from recfb.errors import LogError, UnboundError
from recfb.random import stream


def bound(component: object) -> bool:
    """Whether `bind` gave it a shape already."""
    return hasattr(component, "n_items") or hasattr(component, "vocabulary")


def check_vocabulary(component: object, log: Log, who: str) -> None:
    """Refuse what was fitted on other ids: its item 3 is not the log's item 3."""
    known = getattr(component, "vocabulary", None)
    if isinstance(known, Vocabulary) and known.digest != log.vocabulary.digest:
        raise LogError(
            f"{who} was fitted on a log with other users or items, so its ids mean other things. "
            "Read the log with its vocabulary: Log.read(path, like=model), or log.recode("
            "model.vocabulary)."
        )


def ready(policy: Policy, log: Log, who: str, seed: int) -> Policy:
    """The policy if it is bound; else a copy bound to the log's sizes, without its rows.

    Fitted models inside it are taken as they are. A model that has to be fitted first is an error.
    """
    for name, part in _parts(policy):
        check_vocabulary(part, log, f"{who}.{name}")
        if hasattr(part, "solve") and not bound(part):
            raise UnboundError(
                f"{who}.{name} is a {type(part).__name__} that was never fitted. "
                "Fit it first: recfb.fit(train, model)."
            )
    if bound(policy) or not hasattr(policy, "bind"):
        return policy
    kept = {name: part for name, part in _parts(policy) if bound(part)}
    inner = {
        name: ready(part, log, f"{who}.{name}", seed)
        for name, part in _parts(policy)
        if isinstance(part, Policy) and name not in kept
    }
    shape = Log.empty(log.n_users, log.n_items, vocabulary=log.vocabulary)
    made = copy.deepcopy(policy).bind(shape)
    made.reset(stream(seed, "policy", who))
    for name, part in {**kept, **inner}.items():
        _put(made, name, part)
    return made


def _parts(policy: Policy) -> list[tuple[str, object]]:
    """What a policy is made of, also through containers, and models that are no modules."""
    found: list[tuple[str, object]] = []
    if isinstance(policy, nn.Module):
        for name, child in policy.named_children():
            if isinstance(child, (nn.ModuleDict, nn.ModuleList)):
                found += [(f"{name}.{key}", part) for key, part in child.named_children()]
            else:
                found.append((name, child))
    model = getattr(policy, "model", None)
    if model is not None and not isinstance(model, nn.Module):
        found.append(("model", model))
    return found


def _put(policy: Policy, name: str, part: object) -> None:
    holder, _, key = name.rpartition(".")
    owner = getattr(policy, holder) if holder else policy
    if isinstance(owner, nn.ModuleDict) and isinstance(part, nn.Module):
        owner[key] = part
    else:
        setattr(owner, key, part)


def origin(model: object, log: Log) -> Literal["other log", "same log", "unknown"]:
    """Whether a reward model was fitted on these rows, as far as it can be told.

    From `model.fitted_on`, the names of its logs; else from the clicks that a fitted model keeps:
    all of the log's among them is the same log, none of them is another.
    """
    names = getattr(model, "fitted_on", None)
    if names is not None:
        return (
            "same log"
            if log.name in ([names] if isinstance(names, str) else names)
            else ("other log")
        )
    history = getattr(model, "history", None)
    if isinstance(history, History) and log.n_users > 1 and len(log.clicks.key):
        share = torch.isin(log.clicks.key, history.seen.key.to("cpu")).to(torch.float64).mean()
        if share == 1:
            return "same log"
        if share == 0:
            return "other log"
    return "unknown"
