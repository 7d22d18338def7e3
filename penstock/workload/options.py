"""What may be chosen when a trace is read."""

import pydantic


class ReadOptions(pydantic.BaseModel):
    """Options of all readers; a reader ignores those that do not concern its format."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    seed: int = pydantic.Field(default=0, description="Seed of everything that is drawn: arrivals and lengths.")
    raw_times: bool = pydantic.Field(
        default=False,
        description="Keep the trace's coarse clock instead of spreading requests over each tick.",
    )
    bytes_per_token: float = pydantic.Field(
        default=4.0,
        gt=0,
        le=16,
        description="Bytes of text per token, to estimate lengths of rows that hold text.",
    )
    input_tokens: float = pydantic.Field(
        default=1377.0,
        gt=0,
        description="Mean prompt length where the trace has none (ServeGen deepseek-r1's mean).",
    )
    output_tokens: float = pydantic.Field(
        default=1502.0,
        gt=0,
        description="Mean answer length where the trace has none (ServeGen deepseek-r1's mean).",
    )
    length_sigma: float = pydantic.Field(
        default=1.5,
        ge=0,
        le=4,
        description="Spread (log-normal sigma) of drawn lengths; 0 gives the mean each time.",
    )
    max_output_tokens: int = pydantic.Field(
        default=256, gt=0, description="Answer length of an OpenAI body that names none."
    )
    rate_rps: float | None = pydantic.Field(
        default=None,
        gt=0,
        description="Arrivals per second of OpenAI bodies without a timestamp; None: all at once.",
    )
    session_shift_s: float = pydantic.Field(
        default=0.0,
        ge=0,
        description="Begin each session of an agent trace up to so many s later, drawn by the seed; 0: at its own time.",
    )
    start_s: float = pydantic.Field(
        default=0.0, ge=0, description="Leave out what arrives before this trace time, in s."
    )
    duration_s: float | None = pydantic.Field(
        default=None,
        gt=0,
        description="Leave out what arrives this long after start_s or later; None: nothing.",
    )
