"""SGLang's metrics (python/sglang/srt/observability/metrics_collector.py), served with `--enable-metrics`."""

from workers.adapters import stats


def parse_sglang(text: str) -> stats.EngineStats:
    """Read SGLang's `/metrics`. Raises stats.BadMetrics.

    SGLang counts tokens, not blocks (its page size is no metric): `kv_blocks` and `block_size` stay unknown unless
    the text has the page size. Retractions are what others call preemptions.
    """
    samples = stats.Samples(text)
    cached = samples.count("sglang:cached_tokens_total")
    prompt = samples.count("sglang:prompt_tokens_total")
    page = samples.count("sglang:page_size")
    capacity = samples.count("sglang:max_total_num_tokens")
    return stats.EngineStats(
        running=samples.count("sglang:num_running_reqs"),
        waiting=samples.count("sglang:num_queue_reqs"),
        kv_usage=samples.mean("sglang:token_usage"),
        kv_blocks=capacity // page if capacity is not None and page else None,
        block_size=page,
        prefix_queries_tokens_total=prompt if cached is not None else None,
        prefix_hits_tokens_total=cached,
        preemptions_total=samples.count("sglang:num_retracted_requests_total"),
        prompt_tokens_total=prompt,
        generation_tokens_total=samples.count("sglang:generation_tokens_total"),
        ttft_s_sum=samples.total("sglang:time_to_first_token_seconds_sum"),
        ttft_count=samples.count("sglang:time_to_first_token_seconds_count"),
        itl_s_sum=samples.total("sglang:inter_token_latency_seconds_sum"),
        itl_count=samples.count("sglang:inter_token_latency_seconds_count"),
        e2e_s_sum=samples.total("sglang:e2e_request_latency_seconds_sum"),
        e2e_count=samples.count("sglang:e2e_request_latency_seconds_count"),
        queue_s_sum=samples.total("sglang:queue_time_seconds_sum"),
        queue_count=samples.count("sglang:queue_time_seconds_count"),
    )
