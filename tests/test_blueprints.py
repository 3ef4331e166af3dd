"""Every shipped blueprint and preset: no mistakes, the published number of parameters, short enough to be read."""

from __future__ import annotations

from functools import cache

import pytest

import composer
from composer.blueprint import shipped

PARAMETERS = {
    "vit:tiny": 5717416, "vit:small": 22050664, "vit": 86567656, "vit:large": 304326632, "vit:huge": 632045800,
    "vit_mae": 111907840, "vit_mae:large": 329541888, "vit_mae:huge": 657074508,
    "swin": 28288354, "swin:small": 49606258, "swin:base": 87768224, "swin:base384": 87903584, "swin:large": 196532476,
    "segformer": 3752694, "segformer:b1": 13715798, "segformer:b2": 27461974, "segformer:b3": 47337814,
    "segformer:b4": 64108374, "segformer:b5": 84708694,
    "detr": 41524768, "deformable_detr": 40069665, "deformable_detr:refine": 40732725,
    "deformable_detr:two_stage": 41181529,
    "transunet": 105277081, "transunet:vit_b16": 91674201, "mt_transunet": 48590904,
    "swin_unet": 27168900,
    "nnformer": 150054210, "nnformer:tumor": 37606726, "nnformer:acdc": 37160200,
    "cotr": 41871088, "cotr:dagger": 36893296, "cotr:star": 27933424, "cotr:no_detrans": 32554096,
    "cotr:no_cnn": 21934960, "cotr:nonlocal": 32849968, "cotr:aspp": 45534832, "cotr:pp": 33885040,
    "cotr:transunet": 43532656, "cotr:setr": 100526128,
    "glam_swin_unet": 124340676, "glam_swin_unet:g5": 71515332, "glam_swin_unet:g1": 54646212,
    "glam_nnformer": 190950402,
    "unet:original": 31030658, "attention_unet": 6473322, "attention_unet:single": 6214151,
    "attention_unet_monai": 5909334, "vnet": 45597898, "nnunet": 31205254, "nnunet:resenc": 102359430,
    "nonlocal_unet": 2471532, "setr": 306576536, "setr:pup": 319113662, "setr_mla": 310805618, "unetr": 92802478,
    "swin_unetr": 62187296, "transformer:torch": 44140544, "transformer:torch_big": 176361472,
}  # fmt: skip
"""Published, official or measured; FINE's 222,350,491 include 25 counters, which are a buffer here."""


@cache
def networks() -> tuple[str, ...]:
    """Every shipped network and preset; fragments, whose inputs have no size, are parts of others."""
    names = []
    for name in shipped():
        try:
            blueprint = composer.load(name)
        except composer.BlueprintError:
            continue  # a fragment with parameters of its user's
        if any(isinstance(i, dict) for i in blueprint.inputs.values()):
            names += [name, *(f"{name}:{preset}" for preset in blueprint.presets)]
    return tuple(names)


@pytest.mark.parametrize("name", networks())
def test_it_checks(name: str) -> None:
    program = composer.load(name).check()
    assert program.outputs


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_has_the_published_number_of_parameters(name: str) -> None:
    network = composer.load(name).build(device="meta")
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]


def test_fine_counts_its_counters() -> None:
    network = composer.load("fine").build(device="meta")
    assert sum(p.numel() for p in network.parameters()) + network.state_dict()["cell.visits"].numel() == 222350491


LINES = {"vit": 30, "unet": 45, "swin_unet": 50, "fine": 20, "glam_swin_unet": 30, "deformable_detr": 67, "cotr": 91}
"""The most lines of a blueprint; CoTr's are those of ten published rows, Deformable DETR has two published refinements."""


@pytest.mark.parametrize("name", shipped())
def test_it_is_short(name: str) -> None:
    """Without its `weights:` and comments, a blueprint is something one reads."""
    text = shipped()[name].read_text().partition("\nweights:")[0]
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= LINES.get(name, 60)


def test_every_blueprint_says_what_it_is_and_where_it_comes_from() -> None:
    for name in {n.partition(":")[0] for n in networks()}:
        blueprint = composer.load(name)
        assert blueprint.summary, name
        assert blueprint.source.get("paper") or blueprint.source.get("code"), name
