"""`python -m controller.ray_node`: a local Ray for one fleet, for as long as this process lives.

Every socket of it is on 127.0.0.1, access needs a token that only this user can read, its files lie in the fleet's own
folder, and the kernel ends its processes with this one (Ray asks for that itself).
"""

from __future__ import annotations

import argparse
import os
import pathlib
import secrets
import signal
import sys
import threading

from penstock.runtime import logs

# Ray's unix sockets lie about 62 characters below its folder, and 107 is the kernel's limit.
MAX_TEMP_DIR = 44


def environment(run_dir: pathlib.Path) -> dict[str, str]:
    """What every process that touches this Ray has in its environment."""
    source = str(pathlib.Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return {
        # The name says little: with 0 Ray takes a loopback address for itself and listens nowhere else.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(run_dir / "ray.token"),
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # Ray nices its workers by 15; they are what the machine is for.
        "RAY_worker_niceness": "0",
        # No pool of idle interpreters: each costs seconds of CPU, and workers are few and long-lived.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_enable_worker_prestart": "0",
        "PYTHONPATH": source if not inherited else f"{source}{os.pathsep}{inherited}",
    }


def write_token(run_dir: pathlib.Path) -> None:
    """A fresh token in a file for this user only, instead of Ray's default below HOME."""
    path = run_dir / "ray.token"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
        handle.write(secrets.token_hex(32))


def main() -> int:
    """Starts Ray and Serve, writes the address, waits for SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m controller.ray_node")
    parser.add_argument("--run-dir", type=pathlib.Path, required=True)
    parser.add_argument("--temp-dir", type=pathlib.Path, required=True)
    parser.add_argument("--address-file", type=pathlib.Path, required=True)
    parser.add_argument("--num-cpus", type=int, default=64)
    parser.add_argument("--object-store-bytes", type=int, default=80 * 2**20)
    args = parser.parse_args()
    # Before Ray is imported: it reads these at import time.
    write_token(args.run_dir)
    os.environ.update(environment(args.run_dir))
    logs.configure(logs.LogSettings())
    import ray
    from ray import serve

    context = ray.init(
        num_cpus=args.num_cpus,
        include_dashboard=False,
        object_store_memory=args.object_store_bytes,
        namespace="penstock",
        log_to_driver=False,
        logging_level="warning",
        _temp_dir=str(args.temp_dir),
        _node_ip_address="127.0.0.1",
    )
    serve.start(proxy_location="Disabled")
    # After Ray, which sets handlers of its own.
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    partial = args.address_file.with_suffix(".tmp")
    partial.write_text(context.address_info["gcs_address"])
    partial.replace(args.address_file)
    logs.get("ray").info("ray_ready", address=context.address_info["gcs_address"])
    stopped.wait()
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
