"""Knowledge bases in shards: built side by side, on one machine or on many, and asked as one.

A shard is a knowledge base of its own in a folder beside the others; `shards.json` names them. Everything here works in
one process; `ray_cluster` alone knows Ray, which spreads it over processes and machines.
"""

from kblam_engine.cluster.build import BuildReport, BuildRequest, build_shards
from kblam_engine.cluster.live import LiveShards
from kblam_engine.cluster.manifest import Manifest, ShardRecord, is_sharded, read_manifest
from kblam_engine.cluster.opening import open_shards, verify_shards
from kblam_engine.cluster.sharded_kb import ShardedKB
from kblam_engine.cluster.transfer import PullReport, PushReport, pull_shards, push_shards

__all__ = [
    "BuildReport",
    "BuildRequest",
    "LiveShards",
    "Manifest",
    "PullReport",
    "PushReport",
    "ShardRecord",
    "ShardedKB",
    "build_shards",
    "is_sharded",
    "open_shards",
    "pull_shards",
    "push_shards",
    "read_manifest",
    "verify_shards",
]
