"""The pipeline's figure: drawn in both formats, the same each time, nothing clipped."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import image

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import draw_pipeline

    return draw_pipeline


def test_the_svg_is_well_formed_and_the_same_each_time(script: ModuleType, tmp_path: Path) -> None:
    first = script.draw_pipeline(tmp_path / "first.svg").read_bytes()
    assert first == script.draw_pipeline(tmp_path / "second.svg").read_bytes()
    root = ElementTree.fromstring(first)
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    assert round(width / height, 3) == round(script.WIDTH / script.HEIGHT, 3)
    assert b"http-equiv" not in first and b"<image" not in first


def test_the_png_holds_the_latent_and_plan_colours_inside_a_clear_margin(
    script: ModuleType, tmp_path: Path
) -> None:
    pixels = np.rint(image.imread(script.draw_pipeline(tmp_path / "figure.png"))[..., :3] * 255)
    assert pixels.shape[:2] == (2 * script.HEIGHT, 2 * script.WIDTH)
    for colour in ((0, 114, 178), (230, 159, 0), (213, 94, 0)):
        assert (np.abs(pixels - colour).max(axis=-1) <= 2).sum() > 500
    margin = np.ones(pixels.shape[:2], dtype=bool)
    margin[28:-28, 28:-28] = False
    assert (pixels[margin] == 255).all()
