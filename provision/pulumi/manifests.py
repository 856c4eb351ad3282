"""Plain manifests as resources of pulumi-kubernetes: what ``provision.kubernetes`` renders, registered one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import pulumi

#: Objects of the namespace whose loss is the loss of data: they outlive their resource.
_KEPT = frozenset({"StatefulSet", "Cluster", "Database"})


class KubernetesObject(pulumi.CustomResource):
    """One object of Kubernetes, of any kind: its type token is what pulumi-kubernetes calls it."""

    def __init__(self, name: str, manifest: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        version = pulumi.ResourceOptions(version=metadata.version("pulumi-kubernetes"))
        properties = {"apiVersion": manifest["apiVersion"], **manifest}
        super().__init__(token(manifest), name, properties, pulumi.ResourceOptions.merge(opts, version))


class Manifests(pulumi.ComponentResource):
    """The objects of the clusters under a plane, in an order in which nothing waits for another."""

    def __init__(
        self,
        name: str,
        manifests: Iterable[Mapping[str, Any]],
        *,
        protect: bool = False,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Register the manifests. StatefulSets, Clusters and Databases are retained when their resource goes."""
        super().__init__("holdfast:index:Manifests", name, None, opts)
        self.resources: list[KubernetesObject] = []
        for manifest in manifests:
            place, kind = manifest["metadata"], manifest["kind"]
            options = pulumi.ResourceOptions(
                parent=self, retain_on_delete=kind in _KEPT, protect=protect and kind in _KEPT
            )
            called = f"{name}/{place['namespace']}/{kind}/{place['name']}"
            self.resources.append(KubernetesObject(called, manifest, options))
        self.register_outputs({})


def token(manifest: Mapping[str, Any]) -> str:
    """The type of a manifest's resource: ``kubernetes:apps/v1:StatefulSet``."""
    version = str(manifest["apiVersion"])
    return f"kubernetes:{version if '/' in version else f'core/{version}'}:{manifest['kind']}"
