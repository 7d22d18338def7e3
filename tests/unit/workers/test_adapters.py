"""Metric adapters: text recorded from vLLM, and from the metric collectors of SGLang."""

import pathlib

import pytest

from workers.adapters import registry, stats

DATA = pathlib.Path(__file__).parents[2] / "data"


def test_vllm_text_of_a_real_engine() -> None:
    """Text recorded from vLLM 0.32 on CPU gives its counts, tokens and capacity."""
    read = registry.parser_for("vllm")((DATA / "vllm-0.32.0-metrics.txt").read_text())
    assert (read.running, read.waiting, read.kv_usage) == (0, 0, 0.0)
    assert (read.prefix_queries_tokens_total, read.prefix_hits_tokens_total) == (4731, 352)
    assert read.block_size == 32
    assert read.kv_blocks is not None and read.kv_blocks > 100
    assert read.preemptions_total == 0
    assert read.finished_total is not None and read.finished_total["length"] == read.ttft_count
    assert read.ttft_s_sum is not None and read.ttft_s_sum > 0


def test_older_vllm_names_are_read() -> None:
    """Engines before the renames still tell their cache use."""
    assert registry.parser_for("vllm")('vllm:gpu_cache_usage_perc{model_name="m"} 0.5\n').kv_usage == 0.5


def test_sglang_text() -> None:
    """SGLang's names give the same vocabulary; what it does not tell stays unknown."""
    read = registry.parser_for("sglang")((DATA / "sglang-0.5.23-metrics.txt").read_text())
    assert (read.running, read.waiting, read.kv_usage) == (7, 3, 0.28)
    assert (read.prompt_tokens_total, read.generation_tokens_total) == (8128, 7557)
    assert (read.prefix_queries_tokens_total, read.prefix_hits_tokens_total) == (8128, 2032)
    assert read.preemptions_total == 2
    assert (read.ttft_s_sum, read.ttft_count) == (2.0, 11)
    assert read.kv_blocks is None and read.block_size is None and read.queue_count is None


def test_silence_is_unknown() -> None:
    """A text without the metric gives None, not zero."""
    assert registry.parser_for("sim")("") == stats.EngineStats()


def test_garbage_is_an_error() -> None:
    """Text that is no exposition is not read as an idle engine."""
    with pytest.raises(stats.BadMetrics):
        registry.parser_for("vllm")("<html>502 Bad Gateway</html>")


def test_a_wrong_engine_lists_the_allowed() -> None:
    """An engine without an adapter is an error, not a guess."""
    with pytest.raises(stats.UnknownEngine, match="unknown engine 'tgi'; allowed: sglang, sim, vllm"):
        registry.parser_for("tgi")
