"""Pretexts: the masked autoencoder against transformers, what every encoder can learn, and that weights flow on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from portability import Subject
from test_training import KILLED, ball
from torch import Tensor, nn

import composer
from composer.cli.main import run
from composer.pretexts import Pretext, pretext, turns
from composer.weights import convert, load_file, load_into

pytest.importorskip("lightning")
from composer.pretraining import Pretraining, Reconstruction, patches, turned
from composer.training import engine
from composer.training.recipe import Recipe
from composer.training.transfer import Source, take

TINY: dict[str, Any] = dict(channels=2, size=[32, 32], patch=8, dim=24, depth=2, heads=3, hidden=50, eps=1e-12)
OURS = TINY | dict(decoder_dim=16, decoder_depth=3, decoder_heads=2, decoder_hidden=20)
THEIRS: dict[str, Any] = dict(
    num_channels=2, image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
    intermediate_size=50, decoder_hidden_size=16, decoder_num_hidden_layers=3, decoder_num_attention_heads=2,
    decoder_intermediate_size=20,
)  # fmt: skip
SMALL: dict[str, Any] = dict(channels=1, size=[16, 16, 16], patch=4, dim=16, depth=1, heads=2, hidden=32)
NET = ["vit", "channels=1", "size=[16,16,16]", "patch=4", "dim=16", "depth=1", "heads=2", "hidden=32"]


# ---- the published network -------------------------------------------------------------------------------------------


def official(normalize: bool, **options: Any) -> Any:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(7)
    return ViTMAEForPreTraining(ViTMAEConfig(**options, norm_pix_loss=normalize, attn_implementation="eager")).eval()


def ours_of(model: Any, **options: Any) -> tuple[nn.Module, dict[str, str]]:
    """Our network with their weights, and for each of its parameters the name of theirs."""
    blueprint = composer.load("vit_mae", **options)
    network = blueprint.build().eval()
    found, plan = convert(model.state_dict(), blueprint.weights["transformers"], network.state_dict())
    assert plan.complete
    load_into(network, found)
    return network, {move.addresses[0]: key for key, move in plan.moves.items()}


def compare(ours: dict[str, Any], theirs: dict[str, Any], normalize: bool, tolerance: float, batch: int = 2) -> None:
    model = official(normalize, **theirs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    network, names = ours_of(model, **ours)
    side, patch = theirs.get("image_size", 224), theirs.get("patch_size", 16)
    x = torch.randn(batch, theirs.get("num_channels", 3), side, side)
    y, noise = x.clone().requires_grad_(), torch.rand(batch, (side // patch) ** 2)
    x.requires_grad_()
    a, b = network(x, noise=noise), model(y, noise=noise)
    loss = Reconstruction((patch, patch), normalize)(a, x)
    torch.testing.assert_close(a["pixels"].flatten(2).transpose(1, 2), b.logits, atol=tolerance, rtol=tolerance)
    assert torch.equal(a["mask"].flatten(1), b.mask)
    torch.testing.assert_close(loss, b.loss, atol=tolerance, rtol=tolerance)
    loss.backward()
    b.loss.backward()
    torch.testing.assert_close(x.grad, y.grad, atol=tolerance, rtol=tolerance)
    given = dict(model.named_parameters())
    for name, parameter in network.named_parameters():
        wanted = given[names[name]]
        assert parameter.requires_grad is wanted.requires_grad, name
        if parameter.requires_grad:
            assert parameter.grad is not None
            close = dict(atol=tolerance, rtol=tolerance)
            torch.testing.assert_close(parameter.grad, wanted.grad.view_as(parameter), **close, msg=name)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("ratio", [0.75, 0.3])
def test_equals_transformers(normalize: bool, ratio: float) -> None:
    compare(OURS | dict(ratio=ratio), THEIRS | dict(mask_ratio=ratio), normalize, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [False, True])
def test_equals_transformers_as_published(normalize: bool) -> None:
    compare(dict(eps=1e-12), {}, normalize, 1e-4, batch=1)


def test_positions_are_theirs() -> None:
    """By their function, with halves exchanged as they say the released weights have them; their model leaves a new
    table at zeros, since its children are marked as initialized before it looks."""
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    state = composer.load("vit_mae", **OURS).build().state_dict()
    for name, width in (("position", 24), ("reconstruct.position", 16)):
        theirs = build_2d_sinusoidal_position_embedding(4, 4, width, cls_token=True)
        wanted = torch.cat([theirs[:, width // 2 :], theirs[:, : width // 2]], 1)
        torch.testing.assert_close(state[f"{name}.table"], wanted, atol=1e-6, rtol=0)


def test_the_names_of_the_authors_map_completely() -> None:
    """Of the released checkpoints, whose queries, keys and values are one tensor."""
    blueprint = composer.load("vit_mae", **OURS)
    state = blueprint.build().state_dict()
    theirs = {"cls_token": state["cls.token"][None], "mask_token": state["reconstruct.unmask.token"][None]}
    theirs |= {
        "pos_embed": state["position.table"][None],
        "decoder_pos_embed": state["reconstruct.position.table"][None],
    }
    for kind in ("weight", "bias"):
        theirs[f"patch_embed.proj.{kind}"], theirs[f"norm.{kind}"] = state[f"patches.{kind}"], state[f"norm.{kind}"]
        for part, name in (("embed", "embed"), ("norm", "norm"), ("pixels", "pred")):
            theirs[f"decoder_{name}.{kind}"] = state[f"reconstruct.{part}.{kind}"]
        for ours, other, depth in (("blocks", "blocks", 2), ("reconstruct.blocks", "decoder_blocks", 3)):
            for i in range(depth):
                qkv = [state[f"{ours}.{i}.attention.{p}.{kind}"] for p in ("query", "key", "value")]
                theirs[f"{other}.{i}.attn.qkv.{kind}"] = torch.cat(qkv)
                theirs[f"{other}.{i}.attn.proj.{kind}"] = state[f"{ours}.{i}.attention.project.{kind}"]
                for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                    theirs[f"{other}.{i}.{part}.{kind}"] = state[f"{ours}.{i}.{part}.{kind}"]
    found, plan = convert(theirs, blueprint.weights["official"], state)
    assert plan.complete
    assert all(torch.equal(found[k], state[k]) for k in state)


def test_the_mask_is_drawn_in_training_and_spread_in_evaluation() -> None:
    network = composer.load("vit_mae", **OURS).build()
    image = torch.randn(1, 2, 32, 32).expand(8, -1, -1, -1)
    drawn, spread = network.train()(image)["mask"], network.eval()(image)["mask"]
    assert drawn.sum((1, 2, 3)).tolist() == spread.sum((1, 2, 3)).tolist() == [12] * 8
    assert len({tuple(m.flatten().tolist()) for m in drawn}) > 1
    assert len({tuple(m.flatten().tolist()) for m in spread}) == 1


# ---- pretexts of other networks --------------------------------------------------------------------------------------


def test_the_pretext_of_a_vit_is_the_published_network() -> None:
    task = pretext(composer.load("vit", **TINY | dict(eps=1e-6)), "mae", dim=16, depth=3, heads=2)
    network = task.blueprint.build().eval()
    other = composer.load("vit_mae", **OURS | dict(eps=1e-6, decoder_hidden=64)).build().eval()
    other.load_state_dict(network.state_dict())
    x = torch.randn(2, 2, 32, 32)
    assert torch.equal(network(x)["pixels"], other(x)["pixels"])
    assert (task.patch, task.encoder) == ((8, 8), ("patches", "cls", "position", "blocks", "norm"))
    of_itself = pretext(composer.load("vit_mae", **OURS), "mae")
    assert (of_itself.patch, of_itself.encoder) == (task.patch, task.encoder)


def test_the_decoder_of_a_base_is_as_published() -> None:
    program = pretext(composer.load("vit"), "mae").blueprint.check()
    assert program.types["reconstruct.unmask"].channels == 512
    assert "reconstruct.blocks.7" in program.types
    assert "reconstruct.blocks.8" not in program.types


@pytest.mark.parametrize("name", ["setr", "setr_mla", "unetr", "vit_vnet"])
def test_hidden_patches_do_not_show(name: str) -> None:
    """What stands in hidden patches changes nothing that is predicted."""
    torch.manual_seed(0)
    task = pretext(Subject(name).blueprint, "mae")
    network = task.blueprint.build().eval()
    image = torch.randn(1, network.inputs[0].type.channels, *Subject(name).blueprint.values["size"])
    found = network(image)
    hidden = found["mask"]
    for axis, side in enumerate(task.patch):
        hidden = hidden.repeat_interleave(side, axis + 2)
    again = network(image + hidden * torch.randn_like(image))
    assert torch.equal(found["pixels"], again["pixels"])
    assert not torch.equal(found["pixels"], network(image + (1 - hidden))["pixels"])
    state = Subject(name).blueprint.build(device="meta").state_dict()
    names = [k for k in network.state_dict() if k.partition(".")[0] in task.encoder]
    assert names == [k for k in state if k in set(names)]
    assert any(".attention." in k for k in names)


REFUSED = {
    "unet": "has no attention",
    "swin_unet": "adds no code of positions to the tokens that `encoder` reads",
    "cotr": "`context` adds one within",
    "transunet": "see more than their patch of 16 × 16: 32 × 32 voxels",
    "transformer": "takes no image of a known size",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_masked_is_refused_with_a_reason(name: str) -> None:
    with pytest.raises(composer.BlueprintError, match="BP843") as caught:
        pretext(Subject(name).blueprint, "mae")
    assert REFUSED[name] in str(caught.value)


def test_windows_need_all_tokens() -> None:
    swin = composer.load("swin", size=[32, 32], position=True, dim=8, depths=[1, 1], heads=[1, 2], window=4)
    with pytest.raises(composer.BlueprintError, match=r"BP843.*cannot go without some of its tokens"):
        pretext(swin, "mae")


def test_what_there_is_not() -> None:
    vit = composer.load("vit", **TINY)
    for kind, options, said in (
        ("may", {}, "did you mean `mae`"),
        ("mae", dict(ration=0.5), "did you mean `ratio`"),
        ("mae", dict(ratio=1), "a share between 0 and 1"),
        ("mae", dict(ratio=0.99), "none of them"),
        ("rotation", dict(rotations=10), "`rotations` of an image of 2 axes are 4, not 10"),
    ):
        with pytest.raises(composer.BlueprintError, match="BP845") as caught:
            pretext(vit, kind, **options)
        assert said in str(caught.value)
    with pytest.raises(composer.BlueprintError, match="give `ratio` as its parameter"):
        pretext(composer.load("vit_mae", **OURS), "mae", ratio=0.5)


@pytest.mark.parametrize(
    "name", ["unet3d", "swin_unet", "segformer", "nnformer", "fine", "transunet", "mt_transunet", "detr", "vit_vnet"]
)
def test_every_encoder_can_tell_rotations(name: str) -> None:
    task = pretext(Subject(name).blueprint, "rotation")
    network = task.blueprint.build()
    first = network.inputs[0]
    shape = (2, first.type.channels, *(network.blueprint.check().built[a] for a in first.axes))
    said = Pretraining(network, task).rotation({"image": torch.randn(shape), **_position(network)})
    assert said["loss"].isfinite()
    whole = Subject(name).blueprint.build(device="meta").state_dict()
    assert all(k in whole for k in network.state_dict() if k.partition(".")[0] in task.encoder)


def _position(network: Any) -> dict[str, Tensor]:
    return {i.name: torch.zeros(2, i.type.channels) for i in network.inputs if i.name == "position"}


def test_rotations() -> None:
    """Of a cube 24, of which 10 are about one axis; those that keep the shape of a patch."""
    assert [len(turns(s)) for s in ([4, 4], [4, 6], [4, 4, 4], [2, 4, 4], [2, 3, 4])] == [4, 2, 10, 6, 4]
    cube = torch.arange(27).view(1, 3, 3, 3)
    seen = {tuple(turned(cube, t).flatten().tolist()) for t in turns([3, 3, 3], whole=True)}
    made = {tuple(cube.flatten().tolist())}
    for _ in range(6):  # quarter turns about two axes make all
        made |= {
            tuple(torch.rot90(torch.tensor(m).view(1, 3, 3, 3), 1, plane).flatten().tolist())
            for m in made for plane in ((1, 2), (2, 3))
        }  # fmt: skip
    assert seen == made
    assert len(seen) == 24
    about = {tuple(torch.rot90(cube, k, p).flatten().tolist()) for k in range(4) for p in ((1, 2), (1, 3), (2, 3))}
    assert {tuple(turned(cube, t).flatten().tolist()) for t in turns([3, 3, 3])} == about
    assert torch.equal(turned(cube, turns([3, 3, 3])[0]), cube)


def test_patches_are_cut_voxel_by_voxel() -> None:
    image = torch.randn(2, 3, 4, 6, 4)
    found = patches(image, (2, 3, 2))
    cells = [(z, y, x) for z in range(2) for y in range(2) for x in range(2)]
    for n, (z, y, x) in enumerate(cells):
        cut = image[:, :, 2 * z : 2 * z + 2, 3 * y : 3 * y + 3, 2 * x : 2 * x + 2]
        assert torch.equal(found[:, n], cut.permute(0, 2, 3, 4, 1).flatten(1))


@pytest.mark.parametrize("kind", ["mae", "rotation"])
def test_it_learns(kind: str) -> None:
    """An image that is different along each axis: where a patch lies tells what is in it, and all how it is turned."""
    torch.manual_seed(0)
    task = pretext(
        composer.load("vit", **SMALL | dict(dim=32, depth=2)), kind, **({"depth": 1} if kind == "mae" else {})
    )
    module = Pretraining(task.blueprint.build(), task, Recipe(lr=5e-3, warmup=0, schedule="constant"))
    optimizer = module.configure_optimizers()["optimizer"]
    across = torch.arange(16.0)
    wave = (across * 0.7).sin() + 0.3 * across[:, None] + 0.1 * across[:, None, None] ** 2
    wave = (wave - wave.mean()) / wave.std()
    losses = []
    for _ in range(20 if kind == "mae" else 40):
        image = (1 + torch.rand(8, 1, 1, 1, 1)) * wave
        loss = module.masked({"image": image}) if kind == "mae" else module.rotation({"image": image})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


# ---- weights flow ----------------------------------------------------------------------------------------------------


def learned(task: Pretext) -> Source:
    network = task.blueprint.build()
    mine = {k: v for k, v in network.state_dict().items() if k.partition(".")[0] in task.encoder}
    return Source("there", mine, network.blueprint.check())


def test_a_table_of_positions_is_fitted_as_the_block_would() -> None:
    """To other grids, with a class token and without one; in 3-D too."""
    for params, other, has in ((TINY, [48, 32], True), (TINY, [64, 32], False), (SMALL, [24, 16, 20], True)):
        torch.manual_seed(0)
        source = learned(pretext(composer.load("vit", **params), "mae"))
        vit = composer.load("vit", **{**params, "position.resize": True}).build().eval()
        vit.load_state_dict(dict(source.tensors), strict=False)
        if has:
            target = composer.load("vit", **{**params, "size": other}).build()
        else:
            small = dict(size=other, patch=8, taps=[0, 1], dim=24, depth=2, heads=3, hidden=50, channels=2, width=4)
            target = composer.load("unetr", **small).build()
        said = take(target, source)
        assert said.resized == ("position.table",)
        grid = [n // params["patch"] for n in other]
        wanted = vit.get_submodule("position").resized(torch.Size(grid))
        assert torch.equal(target.state_dict()["position.table"], wanted if has else wanted[1:])


def test_weights_that_do_not_fit_are_refused_by_name_and_nothing_changes() -> None:
    source = learned(pretext(composer.load("vit", **TINY), "mae"))
    target = composer.load("vit", **{**TINY, "channels": 3, "hidden": 60}).build()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(composer.BlueprintError, match="BP844") as caught:
        take(target, source)
    assert "`patches.weight` (24, 2, 8, 8), this network has (24, 3, 8, 8)" in str(caught.value)
    assert "--leave patches --leave blocks" in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    said = take(target, source, ["patches", "blocks.*.mlp"])
    assert torch.equal(
        target.state_dict()["blocks.1.attention.key.weight"], source.tensors["blocks.1.attention.key.weight"]
    )
    assert "patches.weight" in said.left
    assert "not taken, 10 tensors: `patches` (2), `blocks` (8)" in str(said)
    with pytest.raises(composer.BlueprintError, match="no tensor of `there` is at `patch`"):
        take(target, source, ["patch"])
    with pytest.raises(composer.BlueprintError, match="no tensor of `there` has an address of `unet`"):
        take(composer.load("unet", size=[16, 16], widths=[4, 8]).build(), source)


def listed(folder: Path, count: int = 3) -> tuple[Path, Path]:
    """A list of images alone, and one with labels."""
    pairs = [ball(folder, f"b{k}", k) for k in range(count)]
    alone, both = folder / "images.yaml", folder / "list.yaml"
    alone.write_text(json.dumps({"cases": [{"image": i.name} for i, _ in pairs]}))
    cases = [{"image": i.name, "label": m.name} for i, m in pairs]
    both.write_text(json.dumps({"labels": ["background", "ball"], "cases": cases}))
    return alone, both


def test_images_alone_in_the_folders_of_nnunet(tmp_path: Path) -> None:
    from composer.training import cases

    (tmp_path / "imagesTr").mkdir()
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz"):
        (tmp_path / "imagesTr" / name).touch()
    document = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0}, "numTraining": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({**document, "file_ending": ".nii.gz"}))
    found = cases.read(tmp_path, labelled=False).unlabelled().parts["training"]
    assert [(c.name, len(c.images), c.label) for c in found] == [("a", 2, None), ("b", 2, None)]
    with pytest.raises(composer.BlueprintError, match="no label map"):
        cases.read(tmp_path)


def test_ct_without_labels_is_scaled_by_the_body(tmp_path: Path) -> None:
    import nibabel

    from composer.training import cases, store

    voxels = np.full((8, 8, 8), -1000, np.float32)
    voxels[2:6] = np.random.default_rng(0).normal(40, 10, (4, 8, 8))
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    (tmp_path / "ct.yaml").write_text("channels: [CT]\ncases: [{image: a.nii.gz}]\n")
    data = cases.read(tmp_path / "ct.yaml", labelled=False).unlabelled()
    (scaling,) = store.scalings(data, 1)
    assert (scaling.how, round(scaling.mean / 10), round(scaling.deviation / 10)) == ("fixed", 4, 1)


def asked(data: Path, out: Path, *more: str, epochs: int = 2) -> list[str]:
    words = ["--data", str(data), "--out", str(out), "--epochs", str(epochs), "--steps", "2", "--device", "cpu"]
    return ["pretrain", *NET, *words, *more]


def test_what_was_learned_without_labels_begins_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, both = listed(tmp_path)
    assert run(asked(alone, tmp_path / "mae", epochs=1)) == 0
    said = capsys.readouterr().out
    assert "vit_mae on" in said
    assert "3 training; patches of 16 × 16 × 16" in said
    assert "mae (0.75 of the patches hidden); the encoder is `patches`, `cls`, `position`, `blocks`, `norm`" in said
    begun: dict[str, Tensor] = {}
    monkeypatch.setattr(engine, "learn", lambda module, *_: begun.update(module.network.state_dict()) or [{}])
    unetr = ["unetr", "size=[16,16,16]", "patch=4", "taps=[0]", "dim=16", "depth=1", "heads=2", "hidden=32", "width=4"]
    words = ["--data", str(both), "--out", str(tmp_path / "seg"), "--from", str(tmp_path / "mae")]
    assert run(["train", *unetr, *words, "--epochs", "1", "--steps", "1"]) == 0
    said = capsys.readouterr().out
    assert "tensors taken: `blocks` (" in said
    assert "fitted to this network's grid: `position.table`" in said
    assert "begin anew, " in said
    kept = load_file(tmp_path / "mae" / "last.safetensors")
    taken = [k for k in begun if k in kept and k.startswith(("patches", "blocks", "norm"))]
    assert len(taken) > 12
    assert all(torch.equal(begun[k], kept[k]) for k in taken)
    assert torch.equal(begun["position.table"], kept["position.table"][1:])
    recorded = json.loads((tmp_path / "seg" / "run.json").read_text())
    assert recorded["from"] == str(tmp_path / "mae")
    assert run(["predict", "--run", str(tmp_path / "mae"), str(tmp_path / "b0.nii.gz"), "-o", "x.nii.gz"]) == 1
    assert "whose network segments nothing" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masks drawn after the interruption are those that would have been drawn."""
    alone, _ = listed(tmp_path, 2)
    assert run(asked(alone, tmp_path / "whole")) == 0
    kept = engine.Keeper.on_train_batch_start

    def stops(self: Any, trainer: Any, *rest: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("stopped")
        kept(self, trainer, *rest)

    monkeypatch.setattr(engine.Keeper, "on_train_batch_start", stops)
    assert run(asked(alone, tmp_path / "cut")) == 1
    monkeypatch.setattr(engine.Keeper, "on_train_batch_start", kept)
    capsys.readouterr()
    assert run(asked(alone, tmp_path / "cut")) == 0
    assert "going on with epoch 2" in capsys.readouterr().out
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert run(asked(alone, tmp_path / "cut", "--option", "ratio=0.5")) == 1
    assert "pretext.options.ratio: it has 0.75, asked for is 0.5" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    alone, _ = listed(tmp_path, 2)
    whole, cut = (asked(alone, tmp_path / n, "--pretext", "rotation", epochs=3) for n in ("whole", "cut"))
    assert run(whole) == 0
    died = subprocess.run(
        [sys.executable, "-c", KILLED, *cut], capture_output=True, text=True, timeout=120, env=os.environ
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert run(cut) == 0
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[k], other[k]) for k in one)
