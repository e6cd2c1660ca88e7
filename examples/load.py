"""What many callers at once get: LangChain and LlamaIndex on one engine, four knowledge bases, one batch.

Asks a number of questions one by one and again all at once, and compares answers, time, and how long the event loop was
ever kept waiting. Then it gives up a call, to see how soon its place is the next caller's, and asks a few hundred
times more, to see whether memory grows. docs/langchain.md has the table of a whole measurement.

On a machine that other programs keep busy, most of the longest waits are waits for a processor: the thread that
computes is stopped in the middle of its work, and the event loop with it. So beside each wait stands how much of it
this process was computing at all, which is the most that it can have cost on a free machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from array import array
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import ChatMessage

from kblam_engine import KBLaM
from kblam_integrations.langchain import ChatKBLaM, KBRegistry
from kblam_integrations.llama_index import KBLaMLLM

TENANTS = {
    name: [
        ("Orca 2", "battery life", f"{hours} hours"),
        ("Orca 2", "price", f"{hours + 37},500 euros"),
        ("Orca 2", "diving depth", f"{hours * 10} metres"),
        ("Varnholm depot", "foreman", foreman),
        ("Varnholm depot", "opening hours", f"{hours} am to {hours - 4} pm"),
    ]
    for name, hours, foreman in [
        ("north", 8, "Ingrid Solberg"),
        ("east", 9, "Piet Vos"),
        ("south", 10, "Lena Hoffmann"),
        ("west", 11, "Ada Brandt"),
    ]
}
QUESTIONS = [
    "How long does the battery of the Orca 2 last?",
    "What does the Orca 2 cost?",
    "How deep can the Orca 2 dive?",
    "Who is the foreman of the Varnholm depot?",
    "When is the Varnholm depot open?",
    "What is the weight of the Orca 2?",  # none of them knows
]


PLACES = 16  # of an engine: so many calls are answered at the same time


class Ticker:
    """Keeps how long, in ms, the event loop did not come round, and how much of that this process was computing."""

    def __init__(self) -> None:
        self.gaps = array("d")  # lists of numbers would be the growth of memory that is looked for
        self.computed = array("d")
        self._task: asyncio.Task[None] | None = None

    async def _tick(self) -> None:
        last, worked = time.perf_counter(), time.process_time()
        while True:
            await asyncio.sleep(0.002)
            now, work = time.perf_counter(), time.process_time()  # of all threads
            self.gaps.append(1000 * (now - last))
            self.computed.append(1000 * min(now - last, work - worked))
            last, worked = now, work

    async def __aenter__(self) -> Ticker:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._task is not None
        self._task.cancel()

    def __str__(self) -> str:
        gaps = sorted(self.gaps)
        return f"{gaps[-1]:.0f} (99 % below {gaps[int(0.99 * len(gaps))]:.0f}), computing for {max(self.computed):.0f}"


class Callers:
    """A LangChain model and a LlamaIndex model on one engine; every other question goes to either."""

    def __init__(self) -> None:
        registry = KBRegistry(TENANTS)
        engine = KBLaM.from_pretrained("smollm2-135m")
        self.chain = ChatKBLaM(engine=engine, kbs=registry, max_tokens=40)
        self.llama = KBLaMLLM(engine=engine, kbs=registry, max_tokens=40)
        self.tenants = list(registry)

    async def ask(self, number: int) -> str:
        """Ask question number so and so of the next tenant."""
        question, tenant = QUESTIONS[number % len(QUESTIONS)], self.tenants[number % len(self.tenants)]
        if number % 2:
            return str((await self.llama.achat([ChatMessage(content=question)], kb_id=tenant)).message.content)
        return str((await self.chain.ainvoke(question, kb_id=tenant)).text)


async def timed(work: Awaitable[Any]) -> tuple[Any, float, float]:
    """Return what comes of it, seconds, and seconds of processor time, which others on the machine do not change."""
    begun = time.perf_counter(), time.process_time()
    result = await work
    return result, time.perf_counter() - begun[0], time.process_time() - begun[1]


async def one_by_one(callers: Callers, n_calls: int) -> list[str]:
    """Ask question after question."""
    return [await callers.ask(number) for number in range(n_calls)]


async def freed(callers: Callers) -> tuple[float, float]:
    """Return ms from giving up a call until the next caller's first word, and ms of a token while all places are taken."""
    options = {"kb_id": "north", "unknown": "base", "max_tokens": 1000}
    stories = [callers.chain.astream(f"Tell me a long story about {n} ships.", **options) for n in range(PLACES)]
    await asyncio.gather(*map(word, stories))  # all places are taken
    waiting = callers.chain.astream("Say hello.", **options)
    first = asyncio.create_task(word(waiting))
    begun = time.perf_counter()
    for _ in range(5):
        await word(stories[1])
    token = 1000 * (time.perf_counter() - begun) / 5
    assert not first.done()
    begun = time.perf_counter()
    await stories[0].aclose()
    await first
    took = 1000 * (time.perf_counter() - begun)
    for stream in (waiting, *stories[1:]):
        await stream.aclose()
    return took, token


async def word(stream: AsyncIterator[Any]) -> str:
    """Return the next text of a stream."""
    while not (text := (await anext(stream)).text):
        pass
    return str(text)


async def main(n_at_once: int, n_calls: int) -> None:
    """Measure, and print a row for each thing that was."""
    callers = Callers()
    await asyncio.gather(callers.ask(0), callers.ask(1))
    # Half a million objects of torch and the frameworks stay for good; a full collection that visits them stops the event
    # loop, and all else, for a third of a second.
    gc.freeze()
    serial, seconds, cpu = await timed(one_by_one(callers, n_at_once))
    async with Ticker() as ticker:
        together, at_once, at_once_cpu = await timed(asyncio.gather(*map(callers.ask, range(n_at_once))))
    async with Ticker() as idle:
        await asyncio.sleep(3)
    print(f"| {n_at_once} calls, {len(TENANTS)} knowledge bases | one by one | at once |\n|---|---|---|")
    print(f"| answers that differ | | {sum(a != b for a, b in zip(serial, together, strict=True))} |")
    print(f"| seconds | {seconds:.1f} | {at_once:.1f} |")
    print(f"| processor seconds | {cpu:.1f} | {at_once_cpu:.1f} |")
    print(f"| calls in a processor second | {n_at_once / cpu:.2f} | {n_at_once / at_once_cpu:.2f} |")
    print(f"| longest wait of the event loop, ms; without calls {idle} | | {ticker} |")
    place, token = await freed(callers)
    print(f"| from giving up a call to the next one's first word, ms | | {place:.0f} (a token: {token:.0f}) |", flush=True)
    if n_calls:
        await watch_memory(callers, together, n_calls)


async def watch_memory(callers: Callers, expected: list[str], n_calls: int) -> None:
    """Ask again and again, as many at once as before, and print what the process holds on the way."""
    n_at_once, points, n_other = len(expected), [], 0
    async with Ticker() as ticker:
        for done in range(n_at_once, n_calls + n_at_once, n_at_once):
            answers = await asyncio.gather(*map(callers.ask, range(n_at_once)))
            n_other += sum(a != b for a, b in zip(answers, expected, strict=True))
            points.append((done, resident_mb()))
    shown = points[:: max(1, len(points) // 6)]
    told = ", ".join(f"{mb:.1f} after {done}" for done, mb in dict([*shown, points[-1]]).items())
    print(f"| answers that differ from the first wave's, of {points[-1][0]} | | {n_other} |")
    print(f"| resident memory, MB | | {told} |")
    print(f"| longest wait of the event loop meanwhile, ms | | {ticker} |")


def resident_mb() -> float:
    """Return the memory that the process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at-once", type=int, default=32, help="how many calls at the same time")
    parser.add_argument("--calls", type=int, default=0, help="how many calls to watch memory for; 0: none")
    options = parser.parse_args()
    asyncio.run(main(options.at_once, options.calls))
