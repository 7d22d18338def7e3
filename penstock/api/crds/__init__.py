"""The custom resources of group penstock.dev/v1alpha1, one module per kind.

`tools/crdgen.py` writes the CustomResourceDefinitions from them; nothing here does I/O.
"""

from __future__ import annotations

from penstock.api.crds import acceleratorprofile, base, kvcachetier, loraadapter, modeldeployment, powerdomain, tenant

KINDS: tuple[type[base.Resource], ...] = (
    modeldeployment.ModelDeployment,
    loraadapter.LoraAdapter,
    powerdomain.PowerDomain,
    kvcachetier.KVCacheTier,
    tenant.Tenant,
    acceleratorprofile.AcceleratorProfile,
)
