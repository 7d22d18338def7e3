"""CPU time of a process and all it started, from the kernel."""

import psutil


def used_s(pid: int) -> float:
    """User and system time of the process, its threads and its children, living and waited for, in s.

    The kernel counts in hundredths of a second here: measure at least some tenths. Raises `psutil.NoSuchProcess`.
    """
    process = psutil.Process(pid)
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        times = each.cpu_times()
        total += times.user + times.system
        if each.pid == pid:
            total += times.children_user + times.children_system
    return total
