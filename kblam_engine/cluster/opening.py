"""Opening and checking a folder of shards."""

from __future__ import annotations

import os
from pathlib import Path

from kblam_engine.cluster.manifest import ShardRecord, problems, read_manifest
from kblam_engine.cluster.shard import Shard
from kblam_engine.cluster.sharded_kb import ShardedKB
from kblam_engine.cluster.shards import Shards, ShardsHere
from kblam_engine.cluster.workers import Here, Workers
from kblam_engine.errors import KnowledgeBaseError


def open_shards(
    folder: str | os.PathLike[str], *, address: str | None = None, index: str = "auto"
) -> ShardedKB:
    """Open a folder of shards as one knowledge base, for reading.

    Args:
        folder: where `build_shards` put them.
        address: None maps every shard in this process. Else each shard gets a process of its own on a Ray cluster:
            "local" starts one on this machine, "auto" finds a running one, "host:port" is that of its head. All machines
            have to see the folder under this path.
        index: "auto" uses the indexes that were built; "exact" scores every key.

    Raises:
        KnowledgeBaseNotFoundError: there are no shards.
        KnowledgeBaseError: a shard is damaged or has been changed, or there is no triple in any.
        MissingDependencyError: `address` is given, and Ray is not installed.
    """
    place = Path(folder).absolute()
    manifest = read_manifest(place)
    records = [record for record in manifest.shards if record.n_triples]
    if not records:
        raise KnowledgeBaseError(f"{place}: expected shards with triples, got none in them; build them again from files with triples")
    shards: Shards
    if address is None:
        shards = ShardsHere([Shard(str(place), record, index) for record in records])
    else:
        from kblam_engine.cluster.ray_cluster import RayShards, connect

        shards = RayShards(connect(address), str(place), records, index)
    try:
        return ShardedKB(place, manifest, shards)
    except BaseException:
        shards.close()
        raise


def verify_shards(folder: str | os.PathLike[str], workers: Workers | None = None) -> list[str]:
    """Return what is wrong with the files of all shards, one line each; reads all of them.

    Raises:
        KnowledgeBaseError: there is no manifest, or it is damaged.
    """
    place = Path(folder).absolute()
    checks = [(str(place), record) for record in read_manifest(place).shards]
    return [line for lines in (workers or Here()).map(_problems, checks) for line in lines]


def _problems(check: tuple[str, ShardRecord]) -> list[str]:
    folder, record = check
    return problems(Path(folder), record)
