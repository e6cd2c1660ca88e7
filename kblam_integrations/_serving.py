"""One queue for all calls of an engine: those that wait together are answered in one batch, each from its own KB.

Frameworks call a model from many threads and tasks. Run side by side, such calls only take the processor from each
other; in a batch they share every pass through the model's weights.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kblam_engine.answers import Answer

if TYPE_CHECKING:
    from kblam_engine.calls import Call
    from kblam_engine.engine import KBLaM
    from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase

__all__ = ["MAX_BATCH", "AnswerQueue", "queue_of"]

MAX_BATCH = 16
"""Questions in one batch at most."""
_N_BATCHES = 2  # batches at a time: a long answer does not hold up everybody, and more would only share the cores
_QUIET = 0.002  # seconds without a new call after which those that wait are taken as one batch
_PATIENCE = 0.02  # seconds that calls may go on coming before the first of them is taken


@dataclass(slots=True, eq=False)
class _Request:
    """One call that waits or is answered; cancelling `future` gives up its place."""

    engine: KBLaM
    messages: Sequence[Mapping[str, str]]
    kb: KnowledgeBase | KBSnapshot | None
    options: dict[str, Any]
    on_piece: Callable[[str], object] | None
    future: Future[Answer] = field(default_factory=Future)
    asked: float = field(default_factory=time.perf_counter)
    told: bool = False

    def goes_with(self, other: _Request) -> bool:
        """Return whether both can be answered in one batch."""
        return self.options == other.options

    def tell(self, piece: str) -> None:
        """Hand on a piece of text; a listener that fails is one that has gone."""
        if self.on_piece is None or not piece:
            return
        self.told = True
        try:
            self.on_piece(piece)
        except Exception as error:  # the others in the batch have nothing to do with it
            self.fail(error)

    def succeed(self, answer: Answer, begun: float) -> None:
        """Hand over the answer; the time it waited counts into its time to the first token."""
        waited = 1000 * (begun - self.asked)
        try:
            self.future.set_result(replace(answer, ttft_ms=answer.ttft_ms + waited))
        except InvalidStateError:  # cancelled in this moment
            pass

    def fail(self, error: BaseException) -> None:
        """Hand over what went wrong."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            pass


class AnswerQueue:
    """Collects calls into batches and answers them in a few threads of its own. Safe to use from any thread.

    Calls with different decoding options are not mixed. A batch never mixes up its rows: each has its own KB, and a
    mistake in one call is that call's alone.
    """

    def __init__(self, max_batch: int = MAX_BATCH) -> None:
        self._max_batch = max_batch
        self._executor = ThreadPoolExecutor(_N_BATCHES, thread_name_prefix="kblam")
        self._waiting: deque[_Request] = deque()
        self._arrived = threading.Condition()
        self._collecting = threading.Lock()
        self._n_workers = 0
        self.batch_sizes: deque[int] = deque(maxlen=1000)
        """Sizes of the last batches, for measurements."""

    def submit(
        self,
        engine: KBLaM,
        messages: Sequence[Mapping[str, str]],
        kb: KnowledgeBase | KBSnapshot | None,
        options: Mapping[str, Any],
        on_piece: Callable[[str], object] | None = None,
    ) -> Future[Answer]:
        """Ask for an answer.

        Args:
            engine: the engine that answers.
            messages: the chat, as ``KBLaM.answer`` takes it.
            kb: what to answer from; None asks the base model alone.
            options: as ``KBLaM.answer`` takes them.
            on_piece: called with each piece of text as it is written, from another thread; it should not block.

        Returns:
            The answer to be. Cancelling it takes the call off the queue, or ends it after the token being computed.
        """
        request = _Request(engine, messages, kb, dict(options), on_piece)
        with self._arrived:
            self._waiting.append(request)
            self._arrived.notify_all()
            if self._n_workers < _N_BATCHES:
                self._n_workers += 1
                self._executor.submit(self._work)
        return request.future

    def _work(self) -> None:
        while True:
            with self._collecting:
                batch = self._collect()
            if batch is None:
                return
            if batch:
                self._run(batch)
            del batch  # nothing is kept alive while waiting for the next

    def _collect(self) -> list[_Request] | None:
        """Take the calls that go with the one that has waited longest; None: nobody waits, and the worker ends."""
        with self._arrived:
            if not self._waiting:
                self._n_workers -= 1
                return None
            latest = time.perf_counter() + _PATIENCE
            while len(self._waiting) < self._max_batch and time.perf_counter() < latest:
                if not self._arrived.wait(_QUIET):
                    break
            first, others = self._waiting[0], deque[_Request]()
            batch: list[_Request] = []
            for request in self._waiting:
                fits = len(batch) < self._max_batch and request.goes_with(first)
                (batch if fits else others).append(request)
            self._waiting = others
        return [request for request in batch if not request.future.done()]

    def _run(self, batch: list[_Request]) -> None:
        from kblam_engine.calls import Call

        begun = time.perf_counter()
        try:
            call = Call(
                batch[0].engine,
                [[dict(message) for message in request.messages] for request in batch],
                [request.kb for request in batch],
                None,
                dict(batch[0].options),
            )
            self.batch_sizes.append(len(batch))
            _answer(call, batch, begun)
        except Exception as error:
            # One of them may be at fault, and the others should not hear of it.
            alone = [r for r in batch if len(batch) > 1 and not r.told and not r.future.done()]
            for request in batch:
                if request in alone:
                    self._run([request])
                else:
                    request.fail(error)
        except BaseException as error:  # whoever waits must not wait for ever
            for request in batch:
                request.fail(error)
            raise


def _answer(call: Call, batch: list[_Request], begun: float) -> None:
    """Write the answers of a batch, and hand each over as soon as it ends."""
    going = dict(enumerate(batch))
    for step in call.steps():
        for row, request in list(going.items()):
            if request.future.done():  # cancelled, or its listener has gone
                step.rows[row].finish("cancelled")
                del going[row]
                continue
            request.tell(step.pieces[row])
            if step.rows[row].finish_reason is not None:
                request.succeed(call.result(row), begun)
                del going[row]
        if not going:
            return


_queues: WeakKeyDictionary[KBLaM, AnswerQueue] = WeakKeyDictionary()
_queues_lock = threading.Lock()


def queue_of(engine: KBLaM) -> AnswerQueue:
    """Return the queue of an engine, the same for everybody who uses it; it goes away with the engine."""
    with _queues_lock:
        if engine not in _queues:
            _queues[engine] = AnswerQueue()
        return _queues[engine]
