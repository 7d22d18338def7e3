"""The performance model that router, scheduler, autoscaler, simulator and power capper share."""

from penstock.perf.profiles import EngineProfile, FitReport, UnknownProfile, list_profiles, load_profile
from penstock.perf.speed import speed_of
from penstock.perf.step_model import StepModel

__all__ = ["EngineProfile", "FitReport", "StepModel", "UnknownProfile", "list_profiles", "load_profile", "speed_of"]
