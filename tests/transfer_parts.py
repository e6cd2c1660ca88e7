"""Shards to push and pull, and stores in memory and on the disk to push them to."""

import shutil
from dataclasses import replace

import fsspec
import pytest
from cluster_parts import N_SHARDS, request_of, some_triples, write_files

from kblam_engine.cluster import build_shards
from kblam_engine.cluster.transfer_store import open_store

TRIPLES = some_triples(20)
N_FILES = 3 * N_SHARDS


def build(folder, triples=TRIPLES, **options):
    """Build shards of triples in `folder`; return it."""
    folder.parent.mkdir(exist_ok=True, parents=True)
    build_shards(request_of(write_files(folder.parent, triples), folder, **options))
    return folder


@pytest.fixture(name="built_once", scope="module")
def built_once_fixture(tmp_path_factory):
    return build(tmp_path_factory.mktemp("once") / "builder" / "big.shards")


@pytest.fixture(name="built")
def built_fixture(built_once, tmp_path):
    """A folder of shards, with the files of triples beside it."""
    return shutil.copytree(built_once.parent, tmp_path / "builder") / "big.shards"


@pytest.fixture(name="url", params=["memory", "file"])
def url_fixture(request, tmp_path):
    """The address of a store in memory or on the disk."""
    fsspec.filesystem("memory").store.clear()
    yield "memory://bucket/shards" if request.param == "memory" else f"file://{tmp_path}/store/shards"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(name="store")
def store_fixture(url):
    return open_store(url)


def put(store, name, content=b"x"):
    store.write(name, content)


def names_of(store):
    return set(store.sizes())


def with_other_values(word="other"):
    return [replace(triple, value=f"{word} {triple.value}") for triple in TRIPLES]
