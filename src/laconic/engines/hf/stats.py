"""An engine's counts, from what its caches have counted."""

from __future__ import annotations

from laconic.engines.base import EngineStats
from laconic.engines.hf.cache import CompressedCache


def count_cache(stats: EngineStats, cache: CompressedCache) -> EngineStats:
    """Add what one cache has seen and holds."""
    ledger, per_token = cache.ledger, cache.bytes_per_token
    stats.steps += ledger.steps
    stats.compressions += ledger.compressions
    stats.evicted += ledger.evicted
    stats.kept += ledger.kept
    stats.kv_token_steps += ledger.token_steps
    stats.prompt_tokens += sum(row.prompt - row.pads for row in ledger.rows)
    stats.generated_tokens += sum(row.generated for row in ledger.rows)
    stats.live_kv_tokens += ledger.tokens
    stats.live_kv_bytes += ledger.tokens * per_token
    stats.reserved_kv_bytes += cache.reserved_bytes
    stats.peak_kv_tokens = max(stats.peak_kv_tokens, ledger.peak_tokens)
    stats.peak_kv_bytes = max(stats.peak_kv_bytes, ledger.peak_tokens * per_token)
    stats.left_alone = cache.left_alone
    return stats


def add_stats(into: EngineStats, other: EngineStats) -> EngineStats:
    """A fresh sum: counts add, peaks take the larger."""
    for name in EngineStats.__dataclass_fields__:
        mine, its = getattr(into, name), getattr(other, name)
        if name == "left_alone":
            setattr(into, name, dict(its))
        else:
            setattr(into, name, max(mine, its) if name.startswith("peak") else mine + its)
    return into
