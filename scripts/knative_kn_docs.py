"""The generated parts of docs/how-to/install-with-kn.md: `kn` commands, and execute as a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from scripts.generated_sections import replaced

REGISTRY, VERSION = "registry.example.com", "0.2.0"
#: kn has no flag for the two timeouts that cut a silent request: this one needs them.
BY_MANIFEST = "execute"
_EVERY = (
    "--user 65532 --security-context strict --probe-readiness http::8080:/ready --probe-liveness http::8080:/health"
)

Manifest = dict[str, Any]


def service(manifest: Manifest) -> str:
    """`kn service create` of a Knative Service."""
    spec, metadata = manifest["spec"]["template"], manifest["metadata"]
    [container] = spec["spec"]["containers"]
    local = "networking.knative.dev/visibility" in metadata["labels"]
    scale = {key.rpartition("/")[2]: value for key, value in spec["metadata"]["annotations"].items()}
    concurrency = spec["spec"]["containerConcurrency"]
    sources = [
        f"--env-from {'cm' if kind == 'configMapRef' else 'secret'}:{source['name']}"
        for each in container["envFrom"]
        for kind, source in each.items()
    ]
    given = {
        flag: ",".join(f"{name}={value}" for name, value in container["resources"][of].items())
        for flag, of in (("--request", "requests"), ("--limit", "limits"))
    }
    return " ".join(
        [
            f"kn service create {metadata['name']} --namespace ocf",
            *(["--cluster-local"] if local else []),
            *(f"--label {name}={value}" for name, value in spec["metadata"]["labels"].items()),
            f"--image {REGISTRY}/{container['image']}:{VERSION} --port 8080",
            *(f"--env {each['name']}={each['value']}" for each in container["env"]),
            *sources,
            "--mount /etc/ocf/nats=secret:ocf-nats --mount /tmp=ed:tmp --mount /state=ed:state",
            *(f"{flag} {value}" for flag, value in given.items()),
            _EVERY,
            *([f"--concurrency-limit {concurrency}"] if concurrency else []),
            f"--scale {scale['min-scale']}..{scale['max-scale']}",
            f"--scale-utilization {scale['target-utilization-percentage']}",
            f"--timeout {spec['spec']['timeoutSeconds']}",
        ]
    )


def text(page: Path, services: list[Manifest]) -> str:
    """The page with its generated parts."""
    by_hand = [one for one in services if one["metadata"]["name"] == BY_MANIFEST]
    commands = [service(one) for one in services if one not in by_hand]
    manifest = yaml.safe_dump(by_hand[0], sort_keys=False, width=120)
    image = by_hand[0]["spec"]["template"]["spec"]["containers"][0]["image"]
    manifest = manifest.replace(f"image: {image}\n", f"image: {REGISTRY}/{image}:{VERSION}\n")
    parts = {
        "kn services": "```sh\n" + "\n\n".join(commands) + "\n```",
        "kn execute": f"```yaml\n{manifest}```",
    }
    found = page.read_text()
    for name, part in parts.items():
        found = replaced(found, name, part, page.name)
    return found
