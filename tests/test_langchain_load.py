"""Many calls at once: no cross-talk, real batches, an event loop that stays free, cancelled calls that stop."""

import asyncio
import gc
import threading
import time
import weakref

import pytest
from conftest import build_llama, build_tokenizer
from engine_parts import QUESTION, build_engine, same
from integration_parts import copier, gaps_during, kb_of, ships, tiny_engine

from kblam_engine.calls import Call
from kblam_engine.errors import ConfigurationError, KnowledgeBaseError
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.knowledge_state import KnowledgeState
from kblam_integrations._serving import AnswerQueue, queue_of
from kblam_integrations.langchain import ChatKBLaM

ENDLESS = {"max_new_tokens": 1500, "temperature": 5.0, "seed": 1, "top_k": 5}


def user(text):
    return [{"role": "user", "content": text}]


class Watched:
    """Counts the forward passes of an engine, to see decoding stop."""

    def __init__(self, engine):
        self.n_forwards = 0
        self._hook = engine.lm.register_forward_pre_hook(self._count)

    def _count(self, *_):
        self.n_forwards += 1

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._hook.remove()

    def stands_still(self):
        """Whether, after one token at most, nothing is computed any more."""
        time.sleep(0.15)
        before = self.n_forwards
        time.sleep(0.3)
        return self.n_forwards == before

    def wait_for(self, n):
        ends = time.monotonic() + 30
        while self.n_forwards < n:
            assert time.monotonic() < ends, "decoding did not begin"
            time.sleep(0.005)


@pytest.fixture
def watched():
    with Watched(tiny_engine()) as watch:
        yield watch


def tenants():
    """Return four knowledge bases that answer the same question differently."""
    return {str(n): kb_of(("Orca 2", "battery life", f"{n}5 hours")) for n in range(1, 5)}


async def test_32_calls_on_four_knowledge_bases_equal_serial_ones():
    llm = ChatKBLaM(engine=copier(), kbs=tenants(), max_tokens=60)
    serial = {kb_id: llm.invoke(QUESTION, kb_id=kb_id) for kb_id in llm.kbs}
    assert len({str(message.text) for message in serial.values()}) == 4
    sizes = queue_of(copier()).batch_sizes
    sizes.clear()
    asked = [str(1 + number % 4) for number in range(32)]
    for kb_id, message in zip(
        asked, await asyncio.gather(*(llm.ainvoke(QUESTION, kb_id=kb_id) for kb_id in asked)), strict=True
    ):
        assert message.text == serial[kb_id].text
        ids = [[t["id"] for t in m.additional_kwargs["attended_triples"]] for m in (message, serial[kb_id])]
        assert ids[0] == ids[1]
    assert max(sizes) == 16 and len(sizes) < 32


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_the_event_loop_stays_free(way):
    llm = ChatKBLaM(engine=tiny_engine(), kbs=tenants(), max_tokens=20)
    await llm.ainvoke(QUESTION, kb_id="1")

    async def ask(kb_id):
        if way == "ainvoke":
            return await llm.ainvoke(QUESTION, kb_id=kb_id)
        return [chunk async for chunk in llm.astream(QUESTION, kb_id=kb_id)]

    begun = time.perf_counter()
    _, gaps = await gaps_during(asyncio.gather(*(ask(str(1 + n % 4)) for n in range(32))))
    took = time.perf_counter() - begun
    # A call that ran on the loop would be one gap, as long as the call. A busy machine makes some gaps of its own: so
    # most of the ticks count, and the longest may be a part of the whole time, but not the whole of a batch.
    assert gaps[int(0.9 * len(gaps))] < 0.05, f"{len(gaps)} ticks in {took:.2f} s, the longest gap {gaps[-1]:.3f} s"
    assert gaps[-1] < max(0.05, took / 3) and len(gaps) >= 10


async def test_the_event_loop_does_not_read_the_knowledge_base(monkeypatch):
    """Of a million triples, what a change made new takes longer than the event loop may be kept."""
    readers, read = [], KnowledgeBase._read_snapshot

    def watched_read(kb, revision):
        readers.append(threading.current_thread())
        return read(kb, revision)

    kb = kb_of(("Orca 2", "battery life", "7.5 hours"))
    llm = ChatKBLaM(engine=tiny_engine(), kb=kb, max_tokens=2)
    monkeypatch.setattr(KnowledgeBase, "_read_snapshot", watched_read)
    for n in range(2):
        kb.set("Orca 2", "battery life", f"{n} hours")
        await llm.ainvoke(QUESTION)
        kb.set("Orca 2", "battery life", f"{n}5 hours")
        assert [chunk async for chunk in llm.astream(QUESTION)]
    assert len(readers) >= 4 and threading.main_thread() not in readers


@pytest.mark.parametrize("way", ["ainvoke", "astream", "stream"])
async def test_a_call_that_is_given_up_stops_within_a_token(watched, way):
    llm = ChatKBLaM(engine=tiny_engine(), max_tokens=1500, temperature=5.0, seed=1, top_k=5)
    if way == "stream":

        def first_pieces():
            stream = llm.stream(QUESTION)
            for _, _ in zip(range(3), stream, strict=False):
                pass
            stream.close()

        await asyncio.to_thread(first_pieces)
    elif way == "astream":
        stream = llm.astream(QUESTION)
        await anext(stream)
        await anext(stream)
        await stream.aclose()
    else:
        task = asyncio.create_task(llm.ainvoke(QUESTION))
        await asyncio.to_thread(watched.wait_for, 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert watched.n_forwards < 1000 and await asyncio.to_thread(watched.stands_still)


def test_a_call_that_waits_leaves_the_queue_and_one_in_a_batch_leaves_the_others(watched):
    answers, engine = AnswerQueue(), tiny_engine()
    endless = [answers.submit(engine, user(f"{QUESTION} {n}"), None, ENDLESS) for n in range(3)]
    watched.wait_for(3)
    short = answers.submit(engine, user(QUESTION), None, {"max_new_tokens": 5})
    assert short.result(30).usage.completion_tokens <= 5  # it joins the endless ones
    endless[0].cancel()
    endless[1].cancel()
    time.sleep(0.1)
    assert not endless[2].done()
    endless[2].cancel()
    assert watched.stands_still()
    assert answers.submit(engine, user(QUESTION), None, {"max_new_tokens": 5}).result(30).text


def test_the_place_of_a_cancelled_call_is_free_at_once(watched):
    """With all places taken by answers without an end, the one that is given up is the next caller's."""
    answers, engine = AnswerQueue(max_batch=2), tiny_engine()
    endless = [answers.submit(engine, user(QUESTION), ships(), {**ENDLESS, "seed": n}) for n in range(2)]
    watched.wait_for(3)
    waiting = answers.submit(engine, user(QUESTION), ships(), {"max_new_tokens": 5})
    time.sleep(0.2)
    assert not waiting.done()
    endless[0].cancel()
    assert waiting.result(30).usage.completion_tokens <= 5 and not endless[1].done()
    endless[1].cancel()
    assert watched.stands_still()


def test_calls_that_join_late_and_leave_early_are_what_they_are_alone():
    """Each has its own KB and options; some are cancelled on the way."""
    kbs, engine = [*tenants().values(), None], copier()
    alone = {n: engine.answer(QUESTION, kbs[n % 5], max_new_tokens=20 + 7 * (n % 4)) for n in range(20)}
    answers, futures = AnswerQueue(), {}
    for n in range(20):
        futures[n] = answers.submit(engine, user(QUESTION), kbs[n % 5], {"max_new_tokens": 20 + 7 * (n % 4)})
        lost = answers.submit(engine, user(QUESTION), kbs[n % 4], ENDLESS)
        time.sleep(0.01 * (n % 3))
        lost.cancel()
    for n, future in futures.items():
        same(future.result(60), alone[n])
    assert max(answers.batch_sizes) > 2


def test_rows_of_a_batch_end_one_by_one():
    """A short answer does not wait for a long one beside it."""
    kb = kb_of(("Orca 2", "battery life", "7 hours"), ("Kite", "purpose", "to fly " * 40))
    answers, ended = AnswerQueue(), []
    futures = {
        name: answers.submit(copier(), user(question), kb, {"max_new_tokens": 200})
        for name, question in {"long": "What is the purpose of the Kite?", "short": QUESTION}.items()
    }
    for name, future in futures.items():
        future.add_done_callback(lambda _, name=name: ended.append(name))
    assert "7 hours" in futures["short"].result(60).text and "to fly to fly" in futures["long"].result(60).text
    assert list(answers.batch_sizes) == [2] and ended == ["short", "long"]


def test_a_mistake_in_a_batch_is_one_callers_alone():
    closed = kb_of(("Orca 2", "battery life", "9 hours"))
    snapshot = closed.snapshot()
    closed.close()
    answers, options = AnswerQueue(), {"max_new_tokens": 60}
    good = kb_of(("Orca 2", "battery life", "7 hours"))
    asked = [(QUESTION, good), (" ", good), (QUESTION, snapshot), (QUESTION, good)]
    futures = [answers.submit(copier(), user(text), kb, options) for text, kb in asked]
    assert "7 hours" in futures[0].result(60).text and "7 hours" in futures[3].result(60).text
    with pytest.raises(ConfigurationError, match="empty"):
        futures[1].result(60)
    with pytest.raises(KnowledgeBaseError, match="closed"):
        futures[2].result(60)


def test_a_listener_that_fails_is_told_and_the_others_go_on():
    answers, pieces = AnswerQueue(), []

    def broken(piece):
        raise RuntimeError("nobody listens")

    options = {"max_new_tokens": 8}
    first = answers.submit(tiny_engine(), user(QUESTION), None, options, broken)
    second = answers.submit(tiny_engine(), user(QUESTION), None, options, pieces.append)
    with pytest.raises(RuntimeError, match="nobody listens"):
        first.result(30)
    assert second.result(30).text == "".join(pieces)


def test_different_options_share_a_batch_and_waiting_counts_as_waiting():
    answers, engine = AnswerQueue(), tiny_engine()
    futures = [answers.submit(engine, user(QUESTION), None, {"max_new_tokens": 4 + n % 2}) for n in range(6)]
    assert [future.result(30).usage.completion_tokens for future in futures] == [4, 5] * 3
    assert list(answers.batch_sizes) == [2, 4, 5, 6]  # four at a time join, those with the same options together
    assert all(future.result().ttft_ms >= 2 for future in futures)  # the quiet before a batch begins


def test_calls_that_have_ended_hold_no_memory():
    """Whatever way they ended: no call, state or answer is kept."""

    def held():
        gc.collect()
        return sum(isinstance(each, Call | KnowledgeState) for each in gc.get_objects())

    answers, engine, before = AnswerQueue(), tiny_engine(), held()
    for _ in range(10):
        futures = [answers.submit(engine, user(QUESTION), ships(), {"max_new_tokens": 3}) for _ in range(32)]
        futures[0].cancel()
        futures.append(answers.submit(engine, user(" "), ships(), {"max_new_tokens": 3}))
        for future in futures[1:]:
            assert future.exception(60) is None or isinstance(future.exception(), ConfigurationError)
    del future, futures
    ends = time.monotonic() + 10
    while held() > before and time.monotonic() < ends:
        time.sleep(0.05)
    assert held() <= before


def test_threads_and_tasks_leave_nothing_behind():
    """Engines go when nobody holds them, and idle queues hold no answers."""
    engine = build_engine(build_llama(), build_tokenizer())
    llm = ChatKBLaM(engine=engine, kb=kb_of(("a", "b", "c")), max_tokens=3)
    n_threads = threading.active_count()
    for _ in range(10):
        llm.invoke(QUESTION)
    assert threading.active_count() <= n_threads + 2
    gone = weakref.ref(engine)
    engine.injection.detach()
    del engine, llm
    for _ in range(20):
        gc.collect()
        if gone() is None:
            break
        time.sleep(0.05)
    assert gone() is None
