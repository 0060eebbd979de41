"""The reference pages are what the code says."""

from __future__ import annotations

import pytest
import write_reference


@pytest.mark.parametrize("name", write_reference.PAGES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    written = (write_reference.DOCS / name).read_text("utf-8")
    assert written == write_reference.PAGES[name](), "run python scripts/write_reference.py"


def test_keys_have_their_defaults_and_the_words_beside_them() -> None:
    found = {key: (field, words) for key, field, words in write_reference.keys_of(
        write_reference.TrainConfig
    )}  # fmt: skip
    field, words = found["optimizer.learning_rate"]
    assert field.default == 5e-6
    assert words == "structure rate of CALR, peak rate of the others"  # behind the field
    assert found["data.prompt_length"][1].startswith("tokens that every prompt is cut to")  # above
    assert found["preference.beta"][0].default == 0.2  # of the class it inherits from
    assert "preference.reference_cache" in found
