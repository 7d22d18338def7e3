"""The parts of the vLLM worker that need no vLLM."""

import json
import pathlib
import struct
import sys

import pytest

from workers.vllm import install, process, tiny_model


def test_the_tiny_model_depends_on_its_seed_only(tmp_path: pathlib.Path) -> None:
    """Equal seeds give equal files, other seeds other weights; the file is well-formed safetensors."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tiny_model.write(tmp_path / name, seed)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    size = struct.unpack("<Q", weights[0][:8])[0]
    header = json.loads(weights[0][8 : 8 + size])
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    assert max(ends) == len(weights[0]) - 8 - size
    tokenizer = json.loads((tmp_path / "a" / "tokenizer.json").read_text())
    assert sorted(tokenizer["model"]["vocab"].values()) == list(range(256))


async def test_without_its_environment_the_start_says_how_to_make_it(tmp_path: pathlib.Path) -> None:
    """A missing installation is named, with the command that makes it."""
    engine = process.VllmProcess(process.VllmSettings(model_path=tmp_path, venv=tmp_path / "none"))
    with pytest.raises(process.VllmFailed, match=r"workers\.vllm\.install"):
        await engine.start()


async def test_an_engine_that_dies_while_starting_shows_its_last_lines(tmp_path: pathlib.Path) -> None:
    """What the child wrote last is in the error."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no such model')\n")
    program.chmod(0o755)
    engine = process.VllmProcess(process.VllmSettings(model_path=tmp_path, venv=tmp_path))
    with pytest.raises(process.VllmFailed, match="ended with 1 while starting:\nno such model"):
        await engine.start()
    assert engine.poll() == 1


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: pathlib.Path) -> None:
    """The deadline passes without health: the whole group is gone afterwards."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.pause()\n"
    )
    program.chmod(0o755)
    config = process.VllmSettings(model_path=tmp_path, venv=tmp_path, start_timeout_s=0.3)
    engine = process.VllmProcess(config)
    with pytest.raises(process.VllmFailed, match=r"not healthy within 0\.3 s"):
        await engine.start()
    assert engine.poll() == -9


def test_the_lock_names_no_host_and_pins_all_by_hash() -> None:
    """The lock holds versions and hashes only."""
    text = pathlib.Path(install.__file__).with_name("requirements.lock").read_text()
    assert "://" not in text and "--index-url" not in text
    pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(pins) > 100 and all("==" in line and line.endswith("\\") for line in pins)
