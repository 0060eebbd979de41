"""What a scripted server says: by default, JSON that has the schema the request asks for."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gplan_jax.chat.script import prompt_text
from gplan_jax.foundation import GplanError

Responder = Callable[[dict[str, Any]], str]


def load_responder(name: str) -> Responder:
    """The function ``module:function`` or ``file.py:function``.

    It takes a request's body and returns the text of the answer. It should be a function of the
    body alone, so that a run repeated has the same answers.

    Raises:
        GplanError: there is no such module, file or function.
    """
    source, colon, function = name.rpartition(":")
    if not colon:
        raise GplanError(f"Responder {name!r} is not of the form module:function.")
    try:
        found = getattr(_load_module(source), function)
    except (ImportError, OSError, AttributeError) as error:
        raise GplanError(f"Responder {name!r} can't be loaded: {error}.") from None
    if not callable(found):
        raise GplanError(f"Responder {name!r} is not a function.")
    responder: Responder = found
    return responder


def default_responder(body: dict[str, Any]) -> str:
    """JSON with the schema in the body's response_format; a function of the body.

    Without a schema: ``{"answer": TEXT}``. The texts are hashes of the prompt and the seed.
    """
    prompt = prompt_text(body) + str(body.get("seed", ""))
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    if schema is None:
        schema = {"type": "object", "required": ["answer"], "properties": {"answer": {}}}
    return json.dumps(example(schema, prompt), ensure_ascii=False)


def example(schema: Mapping[str, Any], seed: str) -> Any:
    """A value that ``schema`` admits, chosen by ``seed``.

    Knows enum, const, type, properties, items, minItems, minimum, maximum, anyOf, oneOf and local
    references; patterns and formats are not looked at.
    """
    return _example(schema, seed, schema)


def _example(schema: Mapping[str, Any], seed: str, root: Mapping[str, Any]) -> Any:
    digest = hashlib.sha256(seed.encode("utf-8", "replace")).digest()
    number = int.from_bytes(digest[:4], "big")
    if "$ref" in schema:
        target: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[part]
        return _example(target, seed, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][number % len(schema["enum"])]
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return _example(schema[choice][number % len(schema[choice])], seed, root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind if isinstance(kind, str) else kind[0]:
        case "object":
            names = schema.get("required", schema.get("properties", {}))
            fields = schema.get("properties", {})
            return {name: _example(fields.get(name, {}), f"{seed}/{name}", root) for name in names}
        case "array":
            count = max(1, int(schema.get("minItems", 1)))
            return [_example(schema.get("items", {}), f"{seed}/{i}", root) for i in range(count)]
        case "integer" | "number":
            low = schema.get("minimum", 0)
            return low + number % (schema.get("maximum", low + 9) - low + 1)
        case "boolean":
            return number % 2 == 0
        case "null":
            return None
    return digest.hex()[: max(8, int(schema.get("minLength", 0)))]


def _load_module(source: str) -> Any:
    if not source.endswith(".py"):
        return importlib.import_module(source)
    spec = importlib.util.spec_from_file_location(Path(source).stem, source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
