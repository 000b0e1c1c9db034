"""The 60 networks of timm that are lifted in tests, and how they were found (timm 1.0.31).

Of each of ``timm.list_modules()``, in alphabetical order, the smallest model by parameters, if it has fewer than 50
million parameters and 10 · 10⁹ multiply-accumulates at its own image size; the first 60 of these.
``python -m tests.lifting.timm_names`` finds them, which takes half an hour.
"""

from __future__ import annotations

TIMM = (
    "halonet_h1",
    "test_byobnet",
    "cait_xxs24_224",
    "coat_tiny",
    "convit_tiny",
    "test_convnext",
    "cpubone_nano",
    "crossvit_tiny_240",
    "csatv2",
    "cs3darknet_focus_s",
    "cspnext_tiny",
    "davit_tiny",
    "deit_tiny_patch16_224",
    "densenet121",
    "dla46x_c",
    "dpn48b",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "test_efficientnet",
    "efficientvim_m1",
    "efficientvit_b0",
    "efficientvit_m0",
    "vit_tiny_patch16_dinov3_qkvb",
    "fasternet_t0",
    "fastvit_t8",
    "focalnet_tiny_srf",
    "gcvit_xxtiny",
    "ghostnet_050",
    "hardcorenas_b",
    "hgnetv2_b0",
    "hiera_tiny_224",
    "hrnet_w18_small",
    "iformer_t",
    "inception_next_atto",
    "inception_v3",
    "lcnetv2_small",
    "levit_128s",
    "lowformer_b0",
    "test_mambaout",
    "test_coatnet",
    "poolformerv2_s12",
    "gmlp_ti16_224",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "mvitv2_tiny",
    "nest_tiny",
    "nextvit_small",
    "test_nfnet",
    "pit_ti_224",
    "pvt_v2_b0",
    "rdnet_tiny",
    "regnetx_002",
    "repghostnet_050",
    "repvit_m1",
    "res2next50",
    "resnest14d",
    "test_resnet",
    "resnetv2_18",
    "rexnet_100",
)

MOST_PARAMS, MOST_MACS, COUNT = 50_000_000, 10_000_000_000, 60


def find() -> list[str]:
    """Find the networks in the installed timm."""
    import timm
    import torch
    from torch import nn

    from topolearn.tracing.builders import outline_of
    from topolearn.tracing.record import META, CountMacs, meta_copy

    def params(name: str) -> int:
        return sum(parameter.numel() for parameter in outline_of(lambda: timm.create_model(name)).parameters())

    def macs(name: str) -> int:
        model: nn.Module = meta_copy(timm.create_model(name), torch.float32)[0].eval()
        with torch.no_grad(), CountMacs() as counter:
            model(torch.empty(1, *timm.get_pretrained_cfg(name).input_size, device=META))
        return counter.total

    found: list[str] = []
    for module in sorted(timm.list_modules()):
        count, name = min((params(name), name) for name in timm.list_models(module=module))
        if count < MOST_PARAMS and macs(name) < MOST_MACS:
            found.append(name)
    return found[:COUNT]


if __name__ == "__main__":
    print("\n".join(find()))
