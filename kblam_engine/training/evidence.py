"""Stage: train the evidence head on candidates from pools of many worlds (DESIGN 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from kblam_engine.errors import ConfigurationError
from kblam_engine.evidence import FEATURES
from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.key_table import KeyTable
from kblam_engine.products import Floats
from kblam_engine.retrieval import Message, Retriever
from kblam_engine.training.divergence import check_step
from kblam_engine.training.other_subjects import change_subject
from kblam_engine.training.pools import EncodedWorld, draw_pool
from kblam_engine.training.samples import Sample, draw

HiddenQueries = Callable[[Sequence[Sequence[Message]]], Floats]
"""From conversations to the hidden state's part of their KB queries, [n, embed_dim]."""

BLIND_SHARE = 0.15
"""Of the questions, how many are examined without a hidden state: a hop has none."""
UNANSWERABLE_SHARE = 0.35
"""Of the questions out of templates, how many have no answer in their KB."""
OTHER_SUBJECT_SHARE = 0.06
"""Of the questions with an answer, how many are followed by a turn about something else, which is then the question."""


@dataclass(frozen=True)
class Source:
    """Where training questions come from.

    Attributes:
        encoded: the world that pools are cut out of.
        draw: draws a question about it.
        weight: how many questions come from here, beside the weights of the other sources.
    """

    encoded: EncodedWorld
    draw: Callable[[Random], Sample]
    weight: float = 1.0


def templates(encoded: EncodedWorld, weight: float = 1.0) -> Source:
    """Return questions about a world out of templates."""

    def drawn(random: Random) -> Sample:
        return draw(random, encoded.world, unanswerable_share=UNANSWERABLE_SHARE)

    return Source(encoded, drawn, weight)


@dataclass(frozen=True)
class Examined:
    """The candidates of one question as the head sees them.

    Attributes:
        features: float32 [n, len(FEATURES)].
        labels: bool [n], the candidate is asked for.
        answerable: whether the KB answers the question.
        found: whether every support is among the candidates.
        kind: of the question.
    """

    features: Floats
    labels: NDArray[np.bool_]
    answerable: bool
    found: bool
    kind: str


def examine(
    retriever: Retriever,
    messages: Sequence[Message],
    table: KeyTable,
    supports: Sequence[int],
    kind: str,
    hidden_query: Floats | None = None,
) -> Examined:
    """Return what the head sees of one question; ``supports`` are positions in the table."""
    _, positions, features = retriever.examine(messages, table, hidden_query)
    labels = np.isin(positions, np.array(supports, np.int64))
    return Examined(features, labels, bool(supports), int(labels.sum()) == len(supports), kind)


def make_examined(
    random: Random,
    retriever: Retriever,
    sources: Sequence[Source],
    n: int,
    sizes: Sequence[int],
    progress: Callable[[int], None] = lambda done: None,
    hidden_queries: HiddenQueries | None = None,
) -> list[Examined]:
    """Draw ``n`` samples from the sources, with pools of the given sizes, and examine their candidates."""
    drawn = []
    for source in random.choices(sources, [s.weight for s in sources], k=n):
        sample = source.draw(random)
        if sample.supports and random.random() < OTHER_SUBJECT_SHARE:
            sample = change_subject(random, sample, source.encoded.world)
        drawn.append((source.encoded, sample))
    queries = None if hidden_queries is None else hidden_queries([sample.messages for _, sample in drawn])
    out = []
    for i, (encoded, sample) in enumerate(drawn):
        pool = draw_pool(random, encoded, sample, random.choice(sizes))
        query = None if queries is None or random.random() < BLIND_SHARE else queries[i]
        supports = pool.positions_of(sample.supports)
        out.append(examine(retriever, sample.messages, pool, supports, sample.kind, query))
        progress(i + 1)
    return out


def train_head(
    head: EvidenceHead,
    examined: Sequence[Examined],
    *,
    members: int = 1,
    epochs: int = 50,
    lr: float = 3e-3,
    seed: int = 0,
) -> EvidenceHead:
    """Fit the head: per candidate, the probability that it is asked for. Its comparison stays as it is.

    Args:
        head: what is fitted, in place.
        examined: questions with their candidates.
        members: heads of one ``members``-th of its units that are fitted from different draws; the head is their mean. One
            alone is right or wrong by chance where questions are unlike those of training.
        epochs: how often each question is seen.
        lr: the highest learning rate.
        seed: of draws.

    Raises:
        ConfigurationError: the units cannot be shared evenly.
        TrainingError: a loss is not a number.
    """
    units, left_over = divmod(head.inner.out_features, members)
    if left_over:
        raise ConfigurationError(
            f"evidence head: expected a multiple of {members} units, one share for each member, got {head.inner.out_features}"
        )
    fitted = []
    for number in range(members):
        torch.manual_seed(seed + number)
        member = EvidenceHead(units, len(head.question_map))
        for name in ("question_map", "property_map", "value_map"):
            getattr(member, name).data.copy_(getattr(head, name))
        fitted.append(_fit(member, examined, epochs, lr, seed + number, f"evidence head, member {number + 1}"))
    head.load_state_dict(EvidenceHead.mean_of(fitted).state_dict())
    return head


def _fit(
    head: EvidenceHead, examined: Sequence[Examined], epochs: int, lr: float, seed: int, name: str
) -> EvidenceHead:
    stacked = np.concatenate([e.features for e in examined])
    with torch.no_grad():
        head.mean.copy_(torch.from_numpy(stacked.mean(0)))
        head.scale.copy_(torch.from_numpy(1.0 / (stacked.std(0) + 1e-3)))
    parameters = [p for n, p in head.named_parameters() if p.requires_grad and not n.endswith("_map")]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.02)
    steps = epochs * (len(examined) // 128 + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    order = np.arange(len(examined))
    generator = np.random.default_rng(seed)
    step = 0
    for _ in range(epochs):
        generator.shuffle(order)
        for start in range(0, len(order), 128):
            batch = [examined[i] for i in order[start : start + 128]]
            loss = head_loss(head, batch)
            step += 1
            check_step(name, step, float(loss.detach()))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return head


def head_loss(head: EvidenceHead, batch: Sequence[Examined]) -> torch.Tensor:
    """Return the loss: every candidate's own log-loss, and the best candidate against "none of them"."""
    log_odds = head(torch.from_numpy(np.concatenate([e.features for e in batch])))
    labels = torch.from_numpy(np.concatenate([e.labels for e in batch]))
    own = binary_cross_entropy_with_logits(log_odds, labels.float(), reduction="sum")
    # Softmax over candidates and none (log-odds 0, the last column), as the null triple competes when the answer begins.
    lengths = [len(e.labels) for e in batch]
    row = torch.repeat_interleave(torch.arange(len(batch)), torch.tensor(lengths))
    column = torch.cat([torch.arange(n) for n in lengths])
    scores = log_odds.new_full((len(batch), max(lengths) + 1), -1e4)
    scores[row, column] = log_odds
    scores[:, -1] = 0.0
    wanted = torch.zeros_like(scores)
    wanted[row, column] = labels.float()
    wanted[:, -1] = (wanted.sum(1) == 0).float()
    chosen = (scores.log_softmax(1) * wanted).sum(1) / wanted.sum(1)
    total: torch.Tensor = (own - chosen.sum()) / len(batch)
    return total


def validate(head: EvidenceHead, examined: Sequence[Examined], threshold: float = 0.5) -> dict[str, float]:
    """Return top1, top5, AUC, refusal recall and over-refusal at a threshold, and recall at .05 over-refusal."""
    best_yes: list[float] = []
    best_no: list[float] = []
    top1: list[bool] = []
    top5: list[bool] = []
    with torch.no_grad():
        for e in examined:
            log_odds = head(torch.from_numpy(e.features)).numpy()
            peak = float(1 / (1 + np.exp(-log_odds.max()))) if len(log_odds) else 0.0
            (best_yes if e.answerable else best_no).append(peak)
            if e.answerable:
                order = np.argsort(-log_odds)
                top1.append(bool(e.labels[order[0]]))
                top5.append(e.found and bool(e.labels[order[:5]].sum() == e.labels.sum()))
    yes, no = np.array(best_yes), np.array(best_no)
    result = {
        "n": len(examined),
        "top1": float(np.mean(top1 or [False])),
        "top5": float(np.mean(top5 or [False])),
    }
    if len(no) and len(yes):
        result["auc"] = float((yes[:, None] > no[None]).mean())
        result["refusal_recall"] = float((no < threshold).mean())
        result["over_refusal"] = float((yes < threshold).mean())
        result["recall_at_05"] = float((no < np.quantile(yes, 0.05)).mean())
    return result


assert len(FEATURES) == len(set(FEATURES)), "feature names must be distinct"
