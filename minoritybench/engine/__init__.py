"""Engines run shards. They only schedule shard numbers; what a shard is, they never see."""

from minoritybench.engine.local import run_shards

__all__ = ["run_shards"]
