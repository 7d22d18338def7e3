"""What is known of one replayed request. Times are seconds; None is unknown, never zero."""

import dataclasses


@dataclasses.dataclass(slots=True)
class Outcome:
    """One request from the moment it was due to the end of its answer.

    due_s, sent_s, first_s, end_s: on the run's clock (0 is its start). `sent_s` is the first attempt, so that
    retries count in every latency. `first_s` is the first chunk that held content.
    gap_sum_s, gap_count: the gaps between chunks with content.
    error: None when the answer came whole, else its kind, such as `http_429`, `cut`, `timeout`.
    """

    line: int
    source: str
    due_s: float
    input_tokens: int
    sent_s: float | None = None
    first_s: float | None = None
    end_s: float | None = None
    gap_sum_s: float = 0.0
    gap_count: int = 0
    chunks: int = 0
    retries: int = 0
    status: int | None = None
    error: str | None = None
    endpoint: str | None = None
    request_id: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def completed(self) -> bool:
        """The whole answer came."""
        return self.end_s is not None and self.error is None

    @property
    def ttft_s(self) -> float | None:
        """From sending to the first content; of an answer without content, to its end."""
        first_s = self.first_s if self.first_s is not None else self.end_s
        return None if first_s is None or self.sent_s is None else first_s - self.sent_s

    @property
    def e2e_s(self) -> float | None:
        """From sending to the end."""
        return None if self.end_s is None or self.sent_s is None else self.end_s - self.sent_s

    @property
    def mean_itl_s(self) -> float | None:
        """The mean gap between chunks of content; unknown below two chunks."""
        return self.gap_sum_s / self.gap_count if self.gap_count else None

    @property
    def late_s(self) -> float | None:
        """How long after its time the request was sent: the load generator's own fault."""
        return None if self.sent_s is None else self.sent_s - self.due_s
