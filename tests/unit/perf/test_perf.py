"""The step model, the profiles and their fits."""

import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from penstock import perf
from penstock.perf import fit

MODEL = perf.StepModel(c=1.0, w0=3.0, b=0.04, s=0.02, kappa=0.001, q=0.0001)


def test_a_step_is_the_sum_of_its_parts() -> None:
    """100 tokens (90 of a prompt behind 10 cached, 10 decoding) with 500 KV tokens take what the formula says."""
    expected = 1.0 + math.sqrt(9.0 + 16.0) + 10 * 0.02 + 0.5 + 0.0001 * 90 * (10 + 45)
    assert MODEL.step_ms([(90, 10)], decode_seqs=10, decode_kv_tokens=500) == pytest.approx(expected)


def test_an_empty_step_takes_no_time() -> None:
    """No tokens, no step."""
    assert MODEL.step_ms() == 0.0
    assert MODEL.prefill_ms(0, 100, 10) == 0.0


@pytest.mark.parametrize(("uncached", "cached"), [(1, 0), (99, 7), (100, 0), (250, 33)])
def test_prefill_is_the_sum_of_its_chunks(uncached: int, cached: int) -> None:
    """The closed form equals the steps one by one."""
    done, total = 0, 0.0
    while done < uncached:
        chunk = min(100, uncached - done)
        total += MODEL.step_ms([(chunk, cached + done)])
        done += chunk
    assert MODEL.prefill_ms(uncached, cached, 100) == pytest.approx(total)


def test_a_wrong_profile_lists_the_allowed() -> None:
    """A name that is not there is an error that says which are."""
    with pytest.raises(perf.UnknownProfile, match="unknown engine profile 'gpu'; allowed: .*cpu-tiny.*h200"):
        perf.load_profile("gpu")


def test_every_profile_loads_and_says_where_it_is_from() -> None:
    """Names, sources and licences are all there; only the synthetic one has no fit."""
    for name in perf.list_profiles():
        profile = perf.load_profile(name)
        assert profile.name == name and profile.source and profile.licence
        assert profile.synthetic == (profile.fit is None)


@pytest.mark.parametrize("job", fit.jobs(), ids=lambda job: str(job.profile["name"]))
def test_the_shipped_profile_meets_the_points_kept_out_of_its_fit(job: fit.Job) -> None:
    """The profile in the package predicts the held-back measurements to 10 % in the mean."""
    profile = perf.load_profile(str(job.profile["name"]))
    held = fit.held_back(job)
    off = [abs(point.predict(profile.step, profile.before_engine_ms) / point.measured_ms - 1) for point in held]
    assert profile.fit is not None and len(held) == profile.fit.held_back
    assert np.mean(off) < 0.10
    assert np.mean(off) == pytest.approx(profile.fit.held_back_error, abs=0.002)


def test_prompt_attention_of_the_h200_is_that_of_its_prompts() -> None:
    """Errors on prompts of 3,000 tokens and more have no slope: neither short nor long ones are all too quick."""
    profile = perf.load_profile("h200-llama3.1-8b-fp8")
    prompts = fit.h200_job().points[3:17]
    off = [point.predict(profile.step, profile.before_engine_ms) / point.measured_ms - 1 for point in prompts]
    assert max(map(abs, off)) < 0.08
    assert abs(np.mean(off[:7]) - np.mean(off[7:])) < 0.03


def test_a_fit_finds_the_coefficients_that_made_the_data() -> None:
    """From exact points of a known model, the fit comes back to it."""
    points = [
        fit.Point(MODEL.decode_step_ms(n, kv), lambda m, _, n=n, kv=kv: m.decode_step_ms(n, kv))  # type: ignore[misc]
        for n in (1, 20, 100, 400)
        for kv in (n, 1000 * n, 5000 * n)
    ]
    start = {"c": 1.0, "w0": 1.0, "b": 0.1, "s": 0.1, "kappa": 0.01, "q": 0.0001, "frontend_ms": 1.0}
    profile = fit.h200_job().profile | {"name": "made"}
    found = fit.fit(fit.Job(profile, points, start, frozenset({"c", "q", "frontend_ms"})))
    assert found.step.w0 == pytest.approx(MODEL.w0, rel=0.01)
    assert found.step.b == pytest.approx(MODEL.b, rel=0.01)
    assert found.step.s == pytest.approx(MODEL.s, rel=0.01)
    assert found.step.kappa == pytest.approx(MODEL.kappa, rel=0.01)


def test_the_table_of_errors_is_that_of_the_profiles() -> None:
    """docs/workers.md shows the errors of the shipped profiles on the points kept out of their fits."""
    root = pathlib.Path(__file__).parents[3]
    found = subprocess.run(
        [sys.executable, "tools/fitdoc.py", "--check"], cwd=root, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
