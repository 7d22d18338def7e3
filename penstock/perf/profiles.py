"""Engine profiles by name: what one engine instance on one kind of accelerator can do.

The profiles are JSON files in `penstock/perf/data/profiles`, written by `python -m penstock.perf.fit` from the
measurements beside them. Their sources and licences are in `penstock/perf/data/README.md`.
"""

import json
import pathlib
from importlib import resources
from importlib.resources import abc

import pydantic

from penstock.api import invalid
from penstock.perf import step_model


class UnknownProfile(ValueError):
    """The named profile does not exist; the message lists those that do."""


class FitReport(pydantic.BaseModel):
    """How well the step model meets the measurements that it was fitted to."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    points: int = pydantic.Field(ge=0, description="measured points fitted")
    held_back: int = pydantic.Field(ge=0, description="measured points kept out of the fit")
    error: float = pydantic.Field(ge=0, description="mean absolute relative error on the fitted points")
    held_back_error: float = pydantic.Field(ge=0, description="the same on the points kept out")


class EngineProfile(pydantic.BaseModel):
    """Speed and capacity of one engine instance."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str
    model: str = pydantic.Field(description="model that was measured")
    accelerator: str
    tp: int = pydantic.Field(ge=1, description="tensor-parallel ranks")
    step: step_model.StepModel
    kv_blocks: int = pydantic.Field(ge=1, description="blocks of the KV cache")
    block_size: int = pydantic.Field(ge=1, description="tokens per block")
    max_num_batched_tokens: int = pydantic.Field(ge=1, description="tokens per step at most")
    max_num_seqs: int = pydantic.Field(ge=1, description="sequences running at most")
    kv_bytes_per_token: int | None = pydantic.Field(
        default=None, ge=1, description="KV of one token, all ranks together, bytes; unset: not known"
    )
    frontend_ms: float = pydantic.Field(ge=0, description="HTTP, tokenising and detokenising outside the steps, ms")
    frontend_ms_per_token: float = pydantic.Field(
        default=0.0, ge=0, description="what of it grows with the prompt, cached or not, ms per token"
    )
    synthetic: bool = pydantic.Field(default=False, description="made up, not measured")
    source: str
    licence: str
    fit: FitReport | None = None

    def before_engine_ms(self, prompt_tokens: int) -> float:
        """Time from a request's arrival until the scheduler has it, ms."""
        return self.frontend_ms + self.frontend_ms_per_token * prompt_tokens

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return self.kv_blocks * self.block_size


def list_profiles() -> list[str]:
    """Names of all profiles, sorted."""
    return sorted(path.name.removesuffix(".json") for path in _directory().iterdir() if path.name.endswith(".json"))


def load_profile(name: str) -> EngineProfile:
    """The profile called `name`, or in the file of that name where it ends in `.json`.

    Raises UnknownProfile, whose message lists the allowed names or says what is wrong with the file.
    """
    if name.endswith(".json"):
        return _read(pathlib.Path(name))
    if name not in (allowed := list_profiles()):
        raise UnknownProfile(f"unknown engine profile {name!r}; allowed: {', '.join(allowed)}")
    return EngineProfile.model_validate(json.loads(_directory().joinpath(f"{name}.json").read_text()))


def _read(path: pathlib.Path) -> EngineProfile:
    try:
        return EngineProfile.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise UnknownProfile(f"engine profile {path}: {exc}") from exc
    except pydantic.ValidationError as exc:
        raise UnknownProfile(f"engine profile {path}: {invalid.in_words(exc, 'file')}") from exc


def _directory() -> abc.Traversable:
    return resources.files("penstock.perf").joinpath("data", "profiles")
