"""What the tests of shards share: triples of many names, their files, and the same triples in one knowledge base."""

import itertools

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.cluster import BuildRequest, build_shards
from kblam_engine.cluster.splitting import shard_of
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triple_files import write_jsonl
from kblam_engine.triples import Provenance

N_SHARDS = 3
MAKERS = ("Acme", "Borealis", "Calder", "Dunlin", "Elara")
THINGS = ("Orca", "Narwhal", "Kite", "Heron", "Lynx", "Puffin", "Walrus", "Gannet")
PROPERTIES = ("battery life", "founder", "price", "colour", "range")
QUESTIONS = [
    "What is the battery life of the Acme Orca 2?",
    "Who is the founder of Calder Lynx 7?",
    "Which colour has the Heron 3 of Dunlin?",
    "What is the price of the Borealis Kite 4?",
    "How far does the Walrus go?",
    [
        {"role": "user", "content": "What is the range of the Elara Puffin 5?"},
        {"role": "assistant", "content": "Far enough."},
        {"role": "user", "content": "And what does it cost?"},
    ],
]


def some_triples(n_names=80):
    """Return triples of names with one to five properties, whose values differ."""
    names = [f"{maker} {thing} {n}" for n, maker, thing in itertools.product(range(2, 10), MAKERS, THINGS)][:n_names]
    return [
        Triple(name, prop, f"{prop} number {7 * at + place}", {"row": at}, Provenance("catalogue"))
        for at, name in enumerate(names)
        for place, prop in enumerate(PROPERTIES[: 1 + at % 5])
    ]


def write_files(folder, triples, n_files=2):
    """Write triples to files of about equal length; return their paths."""
    size = -(-len(triples) // n_files)
    paths = []
    for number in range(n_files):
        path = folder / f"triples-{number}.jsonl"
        write_jsonl(path, triples[number * size : (number + 1) * size])
        paths.append(str(path))
    return paths


def in_shard_order(triples, n_shards=N_SHARDS):
    """Return triples as one knowledge base has them in which the shards follow each other."""
    return sorted(triples, key=lambda triple: shard_of(triple.name, n_shards))


def request_of(paths, output, **options):
    return BuildRequest(tuple(paths), output, **{"n_shards": N_SHARDS, "encoder": "hashing", **options})


def built(folder, triples, workers=None, **options):
    """Build shards of triples below a folder; return where they are."""
    folder.mkdir(exist_ok=True)
    output = folder / "big.shards"
    build_shards(request_of(write_files(folder, triples), output, **options), workers)
    return output


def one_kb(triples, path=":memory:"):
    """Return one knowledge base of triples."""
    kb = KnowledgeBase.open(path, encoder=HashingEncoder())
    kb.add(triples)
    return kb
