"""Readers on the full public traces, where PENSTOCK_TRACES names their folder."""

import os
import pathlib

import pytest

from penstock.workload import formats, options, prompts, request

FOLDER = os.environ.get("PENSTOCK_TRACES")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="PENSTOCK_TRACES does not name a folder of full traces")
# Rows, mean prompt and mean answer tokens, as counted by the research on these traces.
KNOWN = [
    ("mooncake", "mooncake_conversation.jsonl", 12_031, 12_035, 343),
    ("azure", "azure_2023_code.csv", 8_819, 2_048, 28),
    ("agent", "taubench", 471, 166, 22),
]


def read(name: str, path: str, **opts: object) -> list[request.TraceRequest]:
    folder = pathlib.Path(FOLDER or "")
    return list(formats.read(folder / path, name, options.ReadOptions.model_validate(opts), request.RowErrors(True)))


@pytest.mark.parametrize(("name", "path", "rows", "input_mean", "output_mean"), KNOWN)
def test_counts_and_means(name: str, path: str, rows: int, input_mean: int, output_mean: int) -> None:
    """Every row is used and the mean lengths are the known ones."""
    found = read(name, path)
    assert len(found) == rows
    assert sum(each.input_tokens for each in found) / rows == pytest.approx(input_mean, abs=1)
    assert sum(each.output_tokens for each in found) / rows == pytest.approx(output_mean, abs=1)


def test_servegen_day_has_its_published_rate() -> None:
    """Deepseek-r1 in one day: every window's count, 15 to 17 requests per s on the mean."""
    folder = pathlib.Path(FOLDER or "") / "servegen_deepseek_r1"
    rates = [float(line.split(",")[1]) for file in folder.glob("*.csv") for line in file.read_text().splitlines()]
    found = read("servegen", "servegen_deepseek_r1")
    assert len(found) == sum(round(rate * 600) for rate in rates)
    assert 15 < len(found) / 86_400 < 17


def test_prompts_share_what_an_infinite_cache_would_find() -> None:
    """Hashing the made text block by block finds the trace's known 36.6 % of blocks seen before."""
    maker, seen, blocks, hits = prompts.Prompts(), set(), 0, 0
    for each in read("mooncake", "mooncake_conversation.jsonl"):
        text, chain = maker.text(each), 0
        for start in range(0, len(text), 512 * 4):
            chain = hash((chain, text[start : start + 512 * 4]))
            blocks += 1
            hits += chain in seen
            seen.add(chain)
    assert blocks == 288_500
    assert 0.35 < hits / blocks <= 0.3665
