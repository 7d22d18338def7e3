"""What goes into the images for real nodes, and how they are written."""

from __future__ import annotations

import json
import pathlib
import tarfile

from tests.cluster.node import image, layers


def packages(layer: layers.Layer) -> set[str]:
    """Top folders of the site-packages that a layer has."""
    below = (name.partition("/site-packages/")[2] for name in layer.files)
    return {name.partition("/")[0] for name in below if name}


def test_an_image_has_what_the_extras_need_and_no_more() -> None:
    """Dependencies of dependencies are there, the tools of developers are not; what a lower layer has is not repeated."""
    lower = layers.distributions(["router"])
    assert {"fastapi", "starlette", "pydantic"} <= packages(lower)
    assert packages(lower).isdisjoint({"pytest", "mypy", "ruff", "ray"})
    upper = layers.distributions(["router", "operators"], without=["router"])
    assert "httpx" in packages(upper)
    assert set(upper.files).isdisjoint(lower.files)


def test_an_image_is_written_as_docker_saves_it(tmp_path: pathlib.Path) -> None:
    """Manifest, configuration and a layer whose digest is that of its content; folders come before what is in them."""
    program = tmp_path / "run"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    with tarfile.open(image.program_image("localhost/run:1", program, tmp_path / "run.tar")) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert manifest["RepoTags"] == ["localhost/run:1"]
        config = json.load(archive.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        assert config["config"]["Entrypoint"] == ["/run"]
        assert config["config"]["User"] == str(layers.USER)
        (layer,) = manifest["Layers"]
        assert config["rootfs"]["diff_ids"] == [f"sha256:{layer.partition('/')[0]}"]


def test_layers_keep_what_an_interpreter_looks_at(tmp_path: pathlib.Path) -> None:
    """A source's time stays, or its compiled file would be made anew at every start; scripts can be run."""
    source = tmp_path / "module.py"
    source.write_text("")
    layer = layers.Layer(files={"a/b/module.py": source}, texts={"bin/tool": "#!/bin/sh\n"}, folders={"tmp": 0o1777})
    image.store(layer, tmp_path / "layer.tar")
    with tarfile.open(tmp_path / "layer.tar") as tar:
        assert tar.getnames() == ["a", "a/b", "a/b/module.py", "bin", "bin/tool", "tmp"]
        assert tar.getmember("a/b/module.py").mtime == int(source.stat().st_mtime)
        assert tar.getmember("bin/tool").mode == 0o755
        assert tar.getmember("tmp").mode == 0o1777
