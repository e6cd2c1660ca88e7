"""One queue for all calls of an engine: they share one batch, each with its own KB, and come and go between two tokens.

Frameworks call a model from many threads and tasks. Run side by side, such calls only take the processor from each
other; in a batch they share every pass through the model's weights.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kblam_engine.answers import Answer, Selected

if TYPE_CHECKING:
    from kblam_engine.calls import Call, CallBatch
    from kblam_engine.decoding import DecodedStep
    from kblam_engine.engine import KBLaM
    from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase

__all__ = ["MAX_BATCH", "AnswerQueue", "queue_of"]

MAX_BATCH = 16
"""Questions that are answered at the same time at most."""
_MAX_JOINING = 4  # prompts read at a time: those whose answers are being written wait meanwhile
_QUIET = 0.002  # seconds without a new call after which those that wait are taken together
_PATIENCE = 0.02  # seconds that calls may go on coming before the first of them is taken


@dataclass(slots=True, eq=False)
class _Request:
    """One call that waits or is answered; cancelling `future` gives up its place."""

    engine: KBLaM
    messages: Sequence[Mapping[str, str]]
    kb: KnowledgeBase | KBSnapshot | None
    options: dict[str, Any]
    on_piece: Callable[[str], object] | None
    on_selected: Callable[[Selected], object] | None
    future: Future[Answer] = field(default_factory=Future)
    given_up: threading.Event = field(default_factory=threading.Event)
    asked: float = field(default_factory=time.perf_counter)
    told: bool = False

    def goes_with(self, other: _Request) -> bool:
        """Return whether both can be one call of the engine."""
        return self.engine is other.engine and self.options == other.options

    def tell(self, piece: str) -> None:
        """Hand on a piece of text."""
        if self.on_piece is not None and piece:
            self.told = True
            self._call(self.on_piece, piece)

    def tell_selected(self, selected: Selected | None) -> None:
        """Hand on what the answer will rest on, once it is known."""
        listener = self.on_selected
        if listener is not None and selected is not None:
            self.on_selected = None
            self._call(listener, selected)

    def _call(self, listener: Callable[[Any], object], news: object) -> None:
        """Call a listener; one that fails is one that has gone."""
        try:
            listener(news)
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
    """Answers calls in one batch, in a thread of its own. Safe to use from any thread.

    A call that comes while others are being answered joins them between two tokens, and its place is free as soon as it
    ends or is cancelled. Rows are never mixed up: each has its own KB and options, and a mistake in one call is that
    call's alone.
    """

    def __init__(self, max_batch: int = MAX_BATCH) -> None:
        self._max_batch = max_batch
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="kblam")
        self._waiting: deque[_Request] = deque()
        self._arrived = threading.Condition()
        self._works = False
        self.batch_sizes: deque[int] = deque(maxlen=1000)
        """Rows in the batch whenever calls had joined it, for measurements."""

    def submit(
        self,
        engine: KBLaM,
        messages: Sequence[Mapping[str, str]],
        kb: KnowledgeBase | KBSnapshot | None,
        options: Mapping[str, Any],
        on_piece: Callable[[str], object] | None = None,
        on_selected: Callable[[Selected], object] | None = None,
    ) -> Future[Answer]:
        """Ask for an answer.

        Args:
            engine: the engine that answers.
            messages: the chat, as ``KBLaM.answer`` takes it.
            kb: what to answer from; None asks the base model alone.
            options: as ``KBLaM.answer`` takes them.
            on_piece: called with each piece of text as it is written, from another thread; it should not block.
            on_selected: called before that with what the answer will rest on, if there is a KB.

        Returns:
            The answer to be. Cancelling it takes the call off the queue, or ends it after the token being computed.
        """
        request = _Request(engine, messages, kb, dict(options), on_piece, on_selected)
        given_up = request.given_up
        request.future.add_done_callback(lambda _: given_up.set())
        with self._arrived:
            self._waiting.append(request)
            self._arrived.notify_all()
            if not self._works:
                self._works = True
                self._executor.submit(self._work)
        return request.future

    def _work(self) -> None:
        """Answer until nobody waits; then the thread holds nothing."""
        running: _Running | None = None
        while True:
            taken = self._take(running)
            if taken is None:
                return
            for group in _grouped(taken):
                running = running or _Running(group[0].engine)
                self._join(running, group)
            running = running if running and self._step(running) else None

    def _take(self, running: _Running | None) -> list[_Request] | None:
        """Take what joins now, the oldest first; None: nobody waits and nothing runs, and the worker ends."""
        with self._arrived:
            if running is None:
                if not self._waiting:
                    self._works = False
                    return None
                latest = time.perf_counter() + _PATIENCE
                while len(self._waiting) < self._max_batch and time.perf_counter() < latest:
                    if not self._arrived.wait(_QUIET):
                        break
            if running is None:
                engine, free = self._waiting[0].engine, self._max_batch
            else:
                engine, free = running.engine, running.can_join * (self._max_batch - len(running))
            taken: list[_Request] = []
            others: deque[_Request] = deque()
            for request in self._waiting:
                if request.future.done():
                    continue
                fits = len(taken) < min(free, _MAX_JOINING) and request.engine is engine
                (taken if fits else others).append(request)
            self._waiting = others
        return taken

    def _join(self, running: _Running, requests: Sequence[_Request]) -> None:
        """Let requests join; a mistake in one of them is that one's alone."""
        try:
            running.join(requests)
            self.batch_sizes.append(len(running))
        except Exception as error:
            if len(requests) == 1:
                requests[0].fail(error)
            else:
                for request in requests:
                    self._join(running, [request])
        except BaseException as error:
            self._give_up([*running.requests, *requests], error)
            raise

    def _step(self, running: _Running) -> bool:
        """Write a token for everybody; return whether anything goes on."""
        try:
            running.step()
            return bool(running)
        except Exception as error:
            # The batch is lost, but one of its requests may be at fault, and the others should not hear of it.
            requests = running.requests
            again = [r for r in requests if len(requests) > 1 and not r.told and not r.future.done()]
            for request in requests:
                if request not in again:
                    request.fail(error)
            for request in again:
                alone = _Running(request.engine)
                self._join(alone, [request])
                while alone and self._step(alone):
                    pass
            return False
        except BaseException as error:
            self._give_up(running.requests, error)
            raise

    def _give_up(self, requests: Sequence[_Request], error: BaseException) -> None:
        """End the worker: whoever waits must not wait for ever."""
        with self._arrived:
            lost, self._waiting, self._works = [*requests, *self._waiting], deque(), False
        for request in lost:
            request.fail(error)


def _grouped(requests: Sequence[_Request]) -> list[list[_Request]]:
    """Return the requests in groups with the same options, each of which is one call of the engine."""
    groups: list[list[_Request]] = []
    for request in requests:
        own = next((group for group in groups if group[0].goes_with(request)), None)
        if own is None:
            groups.append([request])
        else:
            own.append(request)
    return groups


class _Running:
    """The requests that are being answered, and their batch."""

    def __init__(self, engine: KBLaM) -> None:
        from kblam_engine.calls import CallBatch

        self.engine = engine
        self._batch: CallBatch = CallBatch(engine)
        self._requests: dict[Call, dict[int, _Request]] = {}
        self._begun: dict[Call, float] = {}

    @property
    def requests(self) -> list[_Request]:
        return [request for going in self._requests.values() for request in going.values()]

    @property
    def can_join(self) -> bool:
        return self._batch.can_join

    def __len__(self) -> int:
        return sum(len(going) for going in self._requests.values())

    def join(self, requests: Sequence[_Request]) -> None:
        from kblam_engine.calls import Call

        begun = time.perf_counter()
        call = Call(
            self.engine,
            [[dict(message) for message in request.messages] for request in requests],
            [request.kb for request in requests],
            [request.given_up for request in requests],
            dict(requests[0].options),
        )
        call.select()
        for row, request in enumerate(requests):
            request.tell_selected(call.selected(row))
        step = self._batch.join(call)
        self._requests[call], self._begun[call] = dict(enumerate(requests)), begun
        self._tell(call, step)

    def step(self) -> None:
        for call, step in self._batch.step():
            self._tell(call, step)

    def _tell(self, call: Call, step: DecodedStep) -> None:
        """Hand on what a step has brought; an answer as soon as it ends, whatever becomes of those beside it."""
        going = self._requests[call]
        for row, request in list(going.items()):
            if not request.future.done():
                request.tell_selected(call.selected(row))
                request.tell(step.pieces[row])
            if request.future.done():  # cancelled, or its listener has gone
                del going[row]
            elif step.rows[row].finish_reason is not None:
                request.succeed(call.result(row), self._begun[call])
                del going[row]
        if step.done:
            del self._requests[call], self._begun[call]


_queues: WeakKeyDictionary[KBLaM, AnswerQueue] = WeakKeyDictionary()
_queues_lock = threading.Lock()


def queue_of(engine: KBLaM) -> AnswerQueue:
    """Return the queue of an engine, the same for everybody who uses it; it goes away with the engine."""
    with _queues_lock:
        if engine not in _queues:
            _queues[engine] = AnswerQueue()
        return _queues[engine]


def _begin_anew() -> None:
    """Forget the queues of the process that this one was forked from: their threads are not here to answer."""
    global _queues, _queues_lock
    _queues, _queues_lock = WeakKeyDictionary(), threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_begin_anew)
