"""What a shell makes of a line that somebody is told to type."""

from __future__ import annotations

import shlex

# Those that a reader of the documents has.
PROGRAMS = {"kubectl", "kubeadm", "helm", "penstock", "base64"}


def typed(mend: str) -> set[str]:
    """The programs that a shell would start of it."""
    words = list(shlex.shlex(mend, posix=True, punctuation_chars=";|&"))
    firsts = [0, *(at + 1 for at, word in enumerate(words) if word in (";", "|", "&&"))]
    return {words[at] for at in firsts}
