"""Plain manifests as resources of pulumi-kubernetes: what ``provision.kubernetes`` renders, registered one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import pulumi

#: Objects of the namespace whose loss is the loss of data: they outlive their resource.
_KEPT = frozenset({"StatefulSet", "Cluster", "Database"})


#: A StatefulSet cannot change its templates of claims; its claims are patched instead.
_UNCHANGED = {"StatefulSet": ["spec.volumeClaimTemplates"]}


class KubernetesObject(pulumi.CustomResource):
    """One object of Kubernetes, of any kind: its type token is what pulumi-kubernetes calls it.

    With ``patch`` it owns the fields that it names and nothing else: no object is made or deleted with it.
    """

    def __init__(
        self,
        name: str,
        manifest: Mapping[str, Any],
        opts: pulumi.ResourceOptions | None = None,
        *,
        patch: bool = False,
    ) -> None:
        version = pulumi.ResourceOptions(version=metadata.version("pulumi-kubernetes"))
        options = pulumi.ResourceOptions.merge(opts, version)
        super().__init__(token(manifest) + ("Patch" if patch else ""), name, dict(manifest), options)


class Manifests(pulumi.ComponentResource):
    """The objects of the clusters under a plane, in an order in which nothing waits for another."""

    def __init__(
        self,
        name: str,
        manifests: Iterable[Mapping[str, Any]],
        *,
        claims: Iterable[Mapping[str, Any]] = (),
        protect: bool = False,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Register the manifests. StatefulSets, Clusters and Databases are retained when their resource goes.

        ``claims`` are volume claims that StatefulSets have made, with what must be true of them now.
        """
        super().__init__("holdfast:index:Manifests", name, None, opts)
        self.resources: list[KubernetesObject] = []
        for manifest in manifests:
            kind = manifest["kind"]
            options = pulumi.ResourceOptions(
                parent=self,
                ignore_changes=_UNCHANGED.get(kind),
                retain_on_delete=kind in _KEPT,
                protect=protect and kind in _KEPT,
            )
            self.resources.append(KubernetesObject(_called(name, manifest), manifest, options))
        sets = [r for r in self.resources if r.pulumi_resource_type.endswith(":StatefulSet")]
        for claim in claims:
            options = pulumi.ResourceOptions(parent=self, depends_on=sets)
            self.resources.append(KubernetesObject(_called(name, claim), claim, options, patch=True))
        self.register_outputs({})


def _called(name: str, manifest: Mapping[str, Any]) -> str:
    place = manifest["metadata"]
    return f"{name}/{place['namespace']}/{manifest['kind']}/{place['name']}"


def token(manifest: Mapping[str, Any]) -> str:
    """The type of a manifest's resource: ``kubernetes:apps/v1:StatefulSet``."""
    version = str(manifest["apiVersion"])
    return f"kubernetes:{version if '/' in version else f'core/{version}'}:{manifest['kind']}"
