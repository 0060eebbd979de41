from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gplan_jax.chat.server_config import ChatConfig, is_loopback, read_api_key
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import load_config, parse_config


def config(**fields: Any) -> ChatConfig:
    return parse_config(
        ChatConfig, {"base_url": "https://host/v1", "model": "m", **fields}, source="teacher.yaml"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base_url": "host:8000/v1"}, "not a URL"),
        ({"base_url": "ftp://host/v1"}, "not a URL"),
        ({"base_url": "http://host:port/v1"}, "not a URL"),
        ({"base_url": "https://host/v1?key=x"}, "without [?] or #"),
        ({"extra": {"messages": [], "n": 2}}, "extra can't set messages, n"),
        ({"prompt_price": 1.0}, "go together"),
        ({"budget": 1.0}, "needs prompt_price"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout_s": float("inf")}, "timeout_s"),
        ({"tempereture": 0.5}, "did you mean temperature"),
        ({"base_url": "http://10.0.0.5:8000/v1", "api_key_env": "KEY"}, "unencrypted to 10.0.0.5"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(GplanError, match=message):
        config(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": "https://me:s3cret@host/v1"},
        {"base_url": "https://s3cret@host/v1"},
        {"base_url": "https://me:s3cret@host/v1", "budget": 1.0},
        {"base_url": "https://me:s3cret@host:port/v1"},
        {"api_key_env": "sk-s3cret"},
        {"api_key_env": "s3cret key"},
    ],
)
def test_a_refused_secret_is_not_repeated(fields: dict[str, Any]) -> None:
    with pytest.raises(GplanError) as caught:
        config(**fields)
    assert "s3cret" not in str(caught.value)


def test_keys_go_over_http_to_this_machine_or_where_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEY", " abc\n")
    for url in ("http://127.0.0.1:1/v1", "http://localhost:1/v1", "http://[::1]:1/v1"):
        key = read_api_key(config(base_url=url, api_key_env="KEY"))
        assert key is not None and key.get_secret_value() == "abc" and "abc" not in repr(key)
    trusted = config(base_url="http://10.0.0.5/v1", api_key_env="KEY", key_over_http=True)
    assert read_api_key(trusted) is not None
    assert read_api_key(config()) is None


def test_a_missing_or_odd_key_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(GplanError, match="variable NO_SUCH_KEY is not set"):
        read_api_key(config(api_key_env="NO_SUCH_KEY"))
    monkeypatch.setenv("ODD_KEY", "schlüssel")
    with pytest.raises(GplanError, match="ODD_KEY holds characters") as caught:
        read_api_key(config(api_key_env="ODD_KEY"))
    assert "schl" not in str(caught.value)


def test_loopback() -> None:
    assert all(is_loopback(host) for host in ("localhost", "LOCALHOST", "127.8.9.1", "::1"))
    assert not any(is_loopback(host) for host in ("10.0.0.1", "localhost.example.org", "", "::2"))


def test_every_config_in_the_documentation_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "chat.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in page.split("```yaml\n")[1:]]
    configs = [block for block in blocks if "base_url" in block]
    assert len(configs) >= 3
    for number, block in enumerate(configs):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        load_config(ChatConfig, path)
