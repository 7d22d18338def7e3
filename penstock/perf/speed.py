"""The step-time model as a router reads it."""

from penstock.api import types
from penstock.perf import profiles


def speed_of(profile: profiles.EngineProfile, factor: float = 1.0) -> types.EngineSpeed:
    """What a worker registers: `w0` and `b * n` add in quadrature in the model, and linearly here.

    `factor` stretches every time, as a power cap or a faster clock does.
    """
    step = profile.step
    return types.EngineSpeed(
        base_ms=(step.c + step.w0 + profile.frontend_ms) * factor,
        ms_per_token=max(step.b, 1e-9) * factor,
        ms_per_token2=step.q * factor,
        ms_per_seq=(step.b + step.s) * factor,
        ms_per_kv_token=step.kappa * factor,
        step_base_ms=(step.c + step.w0) * factor,
    )
