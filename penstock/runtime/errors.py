"""Errors that say whether to try again. Third-party errors are translated into these, once, where they arise."""

from __future__ import annotations


class PenstockError(Exception):
    """Base of the project's own errors."""

    retryable = False


class RetryableError(PenstockError):
    """The same call may succeed later: a peer is away, slow, or restarting."""

    retryable = True


class TerminalError(PenstockError):
    """The same call fails again: wrong input, wrong credentials, a bug."""


class FencedError(TerminalError):
    """A newer holder of the same name is there; the caller must give up what it holds."""


class SettingsError(TerminalError):
    """The configuration is wrong. The message names the key, where it came from, the value and what is allowed."""


class StartError(TerminalError):
    """A component did not start, or not within its deadline."""
