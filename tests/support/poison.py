"""Messages that no consumer can read, of every kind that was ever seen to stop one. Each holds `WORDS`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

#: What must be found in no log and no dead letter.
WORDS = "words-of-a-secret-prompt"
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
_BINARY = {"ce-specversion": "1.0", "ce-id": "poison", "ce-source": "/poison", "Content-Type": "application/json"}


@dataclass(frozen=True)
class Poison:
    """One message. `said` is a part of the reason that it must be refused with."""

    name: str
    said: str
    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def poisons(type_: str, ids: Mapping[str, str]) -> list[Poison]:
    """One of each kind, for the subject that `type_` belongs on; `ids` are the data's ids."""
    binary = {**_BINARY, "ce-type": type_}
    good = {**ids, "prompt": WORDS}
    body = json.dumps(good).encode()
    envelope = {"specversion": "1.0", "id": "poison", "source": "/poison", "type": type_}

    def structured(**more: object) -> bytes:
        return json.dumps({**envelope, "data": good, **more}).encode()

    cut = json.dumps({**good, "prompt": f"{WORDS} \U0001f600"}).encode().replace(b"\\ude00", b"")
    deep = f'{{"context": {"[" * 20_000}{"]" * 20_000}, "prompt": "{WORDS}"}}'.encode()
    objects = b'{"a":' * 5_000 + b'"' + WORDS.encode() + b'"' + b"}" * 5_000
    values = b'{"prompt": "' + WORDS.encode() + b'", "context": [' + b"0," * 300_000 + b"0]}"
    huge = structured(data={**good, "n": 0}).replace(b'"n": 0', b'"n": 1e999')
    batch = {"Content-Type": "application/cloudevents-batch+json"}
    return [
        Poison("surrogate, structured", "surrogate", structured().replace(body, cut), STRUCTURED),
        Poison("surrogate, binary", "surrogate", cut, binary),
        Poison("arrays", "nested deeper", deep, binary),
        Poison("objects", "nested deeper", objects, binary),
        Poison("values", "values", values, binary),
        Poison("no JSON", "not valid JSON", body[:-1], binary),
        Poison("no JSON, structured", "not valid JSON", structured()[:-1], STRUCTURED),
        Poison("no object", "not a JSON object", json.dumps([WORDS]).encode(), STRUCTURED),
        Poison("latin 1", "not UTF-8", body.replace(b"words", b"w\xf6rds"), binary),
        Poison("utf 16", "not UTF-8", body.decode().encode("utf-16"), binary),
        Poison("no id", "id: missing", body, {k: v for k, v in binary.items() if k != "ce-id"}),
        Poison("unknown type", "type: ", body, {**binary, "ce-type": f"{type_}.{WORDS} {WORDS}"}),
        Poison("text", "datacontenttype", body, {**binary, "Content-Type": "text/plain"}),
        Poison("no headers", "not a CloudEvent", f"please {WORDS}".encode(), {}),
        Poison("no attribute", "attribute", structured(source=[WORDS]), STRUCTURED),
        Poison("bad time", "time: ", structured(time=f"at {WORDS}"), STRUCTURED),
        Poison("time before time", "time: ", body, {**binary, "ce-time": "0001-01-01T00:00:00+14:00"}),
        Poison("odd name", "attribute", body, {**binary, "ce-o_d": WORDS}),
        Poison("odd percent", "UTF-8", body, {**binary, "ce-note": "%ED%A0%BD"}),
        Poison("huge number", "number", huge, STRUCTURED),
        Poison("long number", "number", body[:-1] + b', "n": ' + b"9" * 5_000 + b"}", binary),
        Poison("nan", "NaN", body[:-1] + b', "n": NaN}', binary),
        Poison("batch", "batches", json.dumps([envelope]).encode(), batch),
        Poison("base64", "base64", structured(data_base64=f"{WORDS}!"), STRUCTURED),
    ]
