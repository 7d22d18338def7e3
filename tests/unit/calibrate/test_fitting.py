"""From measurements to a profile, without a server."""

from __future__ import annotations

import dataclasses
import pathlib
import random

import pytest

from controller.calibrate import fitting, measure
from penstock import perf

TRUTH = perf.load_profile("h200-llama3.1-8b-fp8")
FIELDS = TRUTH.model_dump(exclude={"step", "frontend_ms", "fit"}) | {"name": "mine"}


def measured(noise: float = 0.0, seed: int = 0) -> measure.Measured:
    """What the engine of the H200 profile would show."""
    rng = random.Random(seed)
    step = TRUTH.step

    def noisy(value: float) -> float:
        return value * (1 + rng.uniform(-noise, noise))

    prefills = [(n, c) for n in (16, 60, 250, 1_000, 4_000, 12_000) for c in (0, 4_096)]
    decodes = [(d, d * length) for d in (1, 2, 4, 8, 16, 64) for length in (100, 2_000)]
    return measure.Measured(
        tuple(
            measure.Prefill(n, c, noisy(TRUTH.frontend_ms + step.prefill_ms(n, c, TRUTH.max_num_batched_tokens)))
            for n, c in prefills
        ),
        tuple(measure.Decode(d, kv, noisy(step.decode_step_ms(d, kv))) for d, kv in decodes),
        True,
    )


def test_exact_measurements_give_the_engine_back() -> None:
    """Without noise every prediction is right to 1 %, and the errors in the report say so."""
    made = fitting.profile(measured(), FIELDS, TRUTH.max_num_batched_tokens)
    assert made.fit is not None and made.fit.error < 0.01 and made.fit.held_back_error < 0.01
    assert made.fit.held_back == 5
    for n in (50, 500, 6_000):
        said = made.frontend_ms + made.step.prefill_ms(n, 0, 8_192)
        assert said == pytest.approx(TRUTH.frontend_ms + TRUTH.step.prefill_ms(n, 0, 8_192), rel=0.01)
    assert made.step.decode_step_ms(32, 100_000) == pytest.approx(TRUTH.step.decode_step_ms(32, 100_000), rel=0.01)


def test_the_report_tells_noise() -> None:
    """Measurements that are off by up to 20 % leave errors of that order on the points kept out."""
    made = fitting.profile(measured(0.2), FIELDS, TRUTH.max_num_batched_tokens)
    assert made.fit is not None and 0.03 < made.fit.held_back_error < 0.25


def test_a_few_disturbed_points_move_nothing() -> None:
    """Three of 24 measurements at twice their time or more: the others' course is found all the same."""
    found = measured(0.01)
    prefills, decodes = list(found.prefills), list(found.decodes)
    for points, number, times in ((prefills, 0, 2.0), (prefills, 9, 1.8), (decodes, 3, 3.0)):
        points[number] = dataclasses.replace(points[number], measured_ms=points[number].measured_ms * times)
    made = fitting.profile(
        dataclasses.replace(found, prefills=tuple(prefills), decodes=tuple(decodes)),
        FIELDS,
        TRUTH.max_num_batched_tokens,
    )
    for n in (16, 500, 6_000):
        said = made.frontend_ms + made.step.prefill_ms(n, 0, 8_192)
        assert said == pytest.approx(TRUTH.frontend_ms + TRUTH.step.prefill_ms(n, 0, 8_192), rel=0.06)
    assert made.step.decode_step_ms(8, 20_000) == pytest.approx(TRUTH.step.decode_step_ms(8, 20_000), rel=0.06)


def test_rounds_that_agree_are_enough() -> None:
    """Of five rounds, two of which others on the machine slowed down, three agree to 4 %; the first three do not."""

    def of(pace: float) -> measure.Round:
        made: dict[measure.Asked, measure.Prefill | measure.Decode] = {
            ("prefill", n, 0): measure.Prefill(n, 0, pace * n) for n in (16, 64, 256)
        }
        return made | {("decode", 4, 64): measure.Decode(4, 256, pace * 5.0)}

    rounds = [of(pace) for pace in (1.9, 1.0, 1.02, 1.5, 1.04)]
    assert measure.spread(rounds, 3) == pytest.approx(0.04)
    assert measure.spread(rounds[:3], 3) > measure.STEADY


def test_too_few_points_are_refused() -> None:
    """Nothing is fitted to a handful of points."""
    found = measured()
    with pytest.raises(measure.CalibrateError, match="1 prefills and 2 batches were measured; it takes 10"):
        fitting.profile(measure.Measured(found.prefills[:1], found.decodes[:2], True), FIELDS, 8_192)


def test_a_profile_is_read_from_its_file(tmp_path: pathlib.Path) -> None:
    """A name that ends in .json is a file; what is wrong with it is said with its name."""
    made = fitting.profile(measured(), FIELDS, TRUTH.max_num_batched_tokens)
    path = tmp_path / "mine.json"
    path.write_text(made.model_dump_json())
    assert perf.load_profile(str(path)) == made
    path.write_text("{}")
    with pytest.raises(perf.UnknownProfile, match=r"mine\.json: name: Field required"):
        perf.load_profile(str(path))
    with pytest.raises(perf.UnknownProfile, match=r"other\.json: .*No such file"):
        perf.load_profile(str(tmp_path / "other.json"))
