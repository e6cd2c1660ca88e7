"""A tiny engine for the LangChain tests, one for each test process, and a few knowledge bases."""

import asyncio
import time
from functools import cache

from conftest import build_llama, build_tokenizer
from engine_parts import build_engine, copying_engine

from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple


@cache
def tiny_engine():
    """A random engine: it answers nonsense, and the same nonsense to the same call."""
    return build_engine(build_llama(), build_tokenizer())


@cache
def endless_engine():
    """A random engine whose answers have no end but `max_tokens`: what takes long here takes long everywhere."""
    engine = build_engine(build_llama(), build_tokenizer())
    engine.end_ids = frozenset()
    return engine


@cache
def copier():
    """An engine that answers with the statement of the best triple."""
    return copying_engine(build_tokenizer())


def kb_of(*triples, encoder=None, multi=False):
    kb = KnowledgeBase.open(":memory:", encoder=encoder or HashingEncoder(), multi=multi)
    kb.add([t if isinstance(t, Triple) else Triple(*t) for t in triples])
    return kb


@cache
def ships():
    """Six triples that nobody can change: all tests of a process share them."""
    kb = kb_of(
        ("Acme Robotics", "founder", "Lena Hoffmann"),
        ("Acme Robotics", "founding date", "12 March 2009"),
        ("Orca 2", "battery life", "7.5 hours"),
        ("Orca 2", "purpose", "to inspect ships"),
        ("Port of Varnholm", "annual traffic", "1,240 ships"),
        ("Port of Varnholm", "harbour master", "Ingrid Solberg"),
    )
    kb._store.read_only = True  # what opens a KB to read only needs a file
    return kb


async def gaps_during(work):
    """Return what `work` gives, and the times in seconds between two turns of the event loop meanwhile, sorted."""
    gaps, done = [], asyncio.Event()

    async def watch():
        while not done.is_set():
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            gaps.append(time.perf_counter() - before)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.005)
    result = await work
    done.set()
    await watching
    return result, sorted(gaps)
