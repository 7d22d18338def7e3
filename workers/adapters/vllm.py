"""vLLM's metrics (vllm/v1/metrics/loggers.py). Older names are read too."""

from workers.adapters import stats


def parse_vllm(text: str) -> stats.EngineStats:
    """Read vLLM's `/metrics`. Raises stats.BadMetrics."""
    samples = stats.Samples(text)
    blocks, block_size = _cache_config(samples)
    return stats.EngineStats(
        running=samples.count("vllm:num_requests_running"),
        waiting=samples.count("vllm:num_requests_waiting"),
        kv_usage=samples.mean("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        kv_blocks=blocks,
        block_size=block_size,
        prefix_queries_tokens_total=samples.count(
            "vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"
        ),
        prefix_hits_tokens_total=samples.count("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
        preemptions_total=samples.count("vllm:num_preemptions_total"),
        prompt_tokens_total=samples.count("vllm:prompt_tokens_total"),
        generation_tokens_total=samples.count("vllm:generation_tokens_total"),
        ttft_s_sum=samples.total("vllm:time_to_first_token_seconds_sum"),
        ttft_count=samples.count("vllm:time_to_first_token_seconds_count"),
        itl_s_sum=samples.total("vllm:inter_token_latency_seconds_sum", "vllm:time_per_output_token_seconds_sum"),
        itl_count=samples.count("vllm:inter_token_latency_seconds_count", "vllm:time_per_output_token_seconds_count"),
        e2e_s_sum=samples.total("vllm:e2e_request_latency_seconds_sum"),
        e2e_count=samples.count("vllm:e2e_request_latency_seconds_count"),
        queue_s_sum=samples.total("vllm:request_queue_time_seconds_sum"),
        queue_count=samples.count("vllm:request_queue_time_seconds_count"),
        finished_total=samples.by_label("vllm:request_success_total", "finished_reason"),
    )


def _cache_config(samples: stats.Samples) -> tuple[int | None, int | None]:
    """(blocks of all engines, tokens per block) from the labels of the info metric."""
    blocks: int | None = None
    block_size: int | None = None
    for labels, _ in samples.each("vllm:cache_config_info"):
        here = stats.whole(labels.get("num_gpu_blocks"))
        if here is not None:
            blocks = (blocks or 0) + here
        block_size = stats.whole(labels.get("block_size")) or block_size
    return blocks, block_size
