"""What native tokens and sentence tokens are trained by alike: answer-only loss, one optimiser step at a time."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from kblam_engine.injection import Injection
from kblam_engine.models.loading import turn_end
from kblam_engine.statements import StatementTokenizer
from kblam_engine.training.distributed import Processes
from kblam_engine.triples import Triple

_SENTENCE = re.compile(r"The .+ of .+ is |I cannot ")
"""How statements begin, and the refusal; a value may begin with "The" as well."""


@dataclass(frozen=True)
class AnswerExample:
    """One training example.

    Attributes:
        prompt: the conversation as the LLM reads it.
        answer: what it should write.
        triples: that it has in its attention.
    """

    prompt: str
    answer: str
    triples: tuple[Triple, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what a person needs to look at the example."""
        return {"prompt": self.prompt, "answer": self.answer, "triples": [t.to_dict() for t in self.triples]}


E = TypeVar("E", bound=AnswerExample)
A = TypeVar("A", bound=nn.Module)


class AnswerTrainer(ABC, Generic[E, A]):
    """Optimises an adapter on examples; the LLM stays frozen.

    Attributes:
        adapter: what is trained.
        optimizer: AdamW without weight decay.
        schedule: of its learning rate.
        processes: those that share the examples of every step.
        gradient: length of the gradient at the last step, before it was clipped.
        pad_id: what fills rows; nothing attends to it.
    """

    def __init__(
        self,
        injection: Injection,
        tokenizer: Any,
        adapter: A,
        groups: Sequence[dict[str, Any]],
        rate: Callable[[int], float],
        accumulate: int,
        processes: Processes,
    ) -> None:
        """Prepare the optimiser.

        Args:
            injection: of the base model.
            tokenizer: of the base model.
            adapter: what is trained.
            groups: its parameters with their learning rates, as torch's optimisers take them.
            rate: factor of the learning rates by step, from 0.
            accumulate: parts that the examples of a step are read in, one after another.
            processes: those that share the examples of every step.
        """
        self.injection, self.tokenizer, self.adapter = injection, tokenizer, adapter
        # The end that answers are written with, which not every tokenizer names.
        self.statements = StatementTokenizer(tokenizer, turn_end(injection.model, tokenizer))
        # Not every tokenizer has a token for padding, and which one it is changes nothing.
        self.pad_id = self.statements.end_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self.accumulate, self.processes = accumulate, processes
        self.gradient = 0.0
        self.optimizer = torch.optim.AdamW(list(groups), weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)

    @abstractmethod
    def loss(self, examples: Sequence[E]) -> Tensor:
        """Return the cross-entropy of the answers, prompts excluded (mean over answer tokens, in nats)."""

    def step(self, examples: Sequence[E]) -> float:
        """Take one optimiser step and return the loss before it."""
        loss = self.backward(examples)
        self.gradient = float(torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0))
        self.optimizer.step()
        self.schedule.step()
        return loss

    def backward(self, examples: Sequence[E]) -> float:
        """Leave the gradients of the loss of all the examples, and return that loss; every process has both.

        A part weighs as much as it has answer tokens, so it does not matter how the examples are divided.
        """
        self.optimizer.zero_grad()
        lengths = [len(self.answer_ids(e.answer)) for e in examples]
        total = 0.0
        for part in self.processes.parts(range(len(examples)), self.accumulate):
            weight = sum(lengths[i] for i in part) / sum(lengths)
            loss = weight * self.loss([examples[i] for i in part])
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        self.processes.add_up_gradients(self.adapter.parameters())
        return self.processes.add_up(total)

    @torch.no_grad()
    def validate(self, batches: Sequence[Sequence[E]]) -> float:
        """Return the mean loss of batches, of which every process reads its share."""
        own = (float(self.loss(batch)) for part in self.processes.parts(batches) for batch in part)
        return self.processes.add_up(sum(own)) / len(batches)

    def answer_logits(self, keep: Tensor, **inputs: Any) -> Tensor:
        """Return the base model's logits at some positions, float32 [n_kept, vocab].

        They come from its whole forward, because some models scale or cap what their head returns. What is not kept
        is left out before the head: a vocabulary is large, and a prompt long.

        Args:
            keep: bool [batch, n], the positions.
            inputs: of the forward.
        """
        head = self.injection.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, args: (args[0][keep][None].to(head.weight.dtype),))
        try:
            logits: Tensor = self.injection.model(**inputs).logits[0].float()
        finally:
            hook.remove()
        return logits

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the ids of a prompt, which brings its own special tokens."""
        ids: list[int] = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return ids

    def answer_ids(self, answer: str) -> list[int]:
        """Return the ids of an answer, line by line, so that they equal the statements' own where they quote them."""
        ids: list[int] = []
        for number, line in enumerate(answer.split("\n")):
            if number:
                ids.append(self.statements.more_id)
            # A name or value is written with the space that it carries inside its statement.
            text = line if _SENTENCE.match(line) else f" {line}"
            ids.extend(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return [*ids, self.statements.end_id]
