"""What a type refuses, in words."""

from __future__ import annotations

import pydantic


def in_words(exc: pydantic.ValidationError, whole: str = "") -> str:
    """Each field that is wrong, and why, on one line; `whole` stands for the object itself."""
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or whole}: {each['msg']}" for each in exc.errors())
