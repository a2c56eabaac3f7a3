"""One training step: a plain rendering of the authors' loop, and this package's.

    python benchmarks/training.py                   # under three minutes on one core of a Xeon
    python benchmarks/training.py --full            # batch 24 of the paper's network, compiled too
    python benchmarks/training.py --only R26-ViT-Ti_16 --threads 2
    python benchmarks/training.py --processes       # two that share every batch, against one
    THP_MEM_ALLOC_ENABLE=1 python benchmarks/training.py    # large pages, as `transunet train` does

Forward, loss, backward, the optimiser's update and the next learning rate, on images that are there
already, dropout and all. The plain form computes what the papers write as they write it: weights
standardised at every forward, attention with its probabilities, one-hot labels, SGD parameter by
parameter; channels first in memory. Both have the same weights, take turns, and the least seconds
of the processor's of a few steps count (with several threads those of a clock). The share is what
the step's multiplications and additions, counted by torch, would take at the rate of a large
product of matrices in fp32, measured in the same turns. Without `--full` the paper's network takes
batches of 4. At the end both forms train the smallest network for some steps from the same weights
on the same batches without dropout, and the losses are compared.
"""

import argparse
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from limits import matrix_product
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from transunet.models.families import build
from transunet.training.distributed import process_group, share_batches
from transunet.training.recipe import Recipe, load_recipe
from transunet.training.step import Arithmetic, autocast, train_step
from transunet.training.trainer import make_loss, make_optimizer, trained_network

CLASSES, STEPS = 9, 50


@dataclass(frozen=True)
class Size:
    """What is trained, and how much of it at once."""

    model: str
    side: int
    batch: int


QUICK = (
    Size("R26-ViT-Ti_16", 64, 12),
    Size("R26-ViT-S_16", 128, 12),
    Size("UNet3D-S", 32, 2),
    Size("R50-ViT-B_16", 224, 4),
)
SHARED = Size("R26-ViT-S_16", 64, 24)
FULL = (
    Size("R26-ViT-Ti_16", 64, 24),
    Size("R26-ViT-Ti_16", 128, 24),
    Size("R26-ViT-S_16", 64, 24),
    Size("R26-ViT-S_16", 128, 24),
    Size("UNet3D-S", 64, 2),
    Size("TransUNet3D-S", 64, 2),
    Size("R50-ViT-B_16", 224, 24),
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--full", action="store_true")
    options.add_argument("--only", nargs="+", help="variants, such as R26-ViT-Ti_16")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--turns", type=int, default=2, help="timed, after one that is not")
    options.add_argument("--steps", type=int, default=STEPS, help="whose losses are compared")
    options.add_argument("--processes", action="store_true")
    options.add_argument("--row", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.row:
        images_a_second(SHARED, chosen.row)
        return
    if chosen.processes:
        compare_processes(chosen.turns)
        return
    torch.set_num_threads(chosen.threads)
    clock = time.process_time if chosen.threads == 1 else time.perf_counter
    print(f"{platform.processor() or platform.machine()}, {chosen.threads} threads, ", end="")
    print(f"torch {torch.__version__}; a step in seconds, times the plain loop's, of the ceiling")
    forms = ["plain fp32", "plain bf16", "package fp32", "package bf16"]
    forms += ["package fp32 compiled", "package bf16 compiled"] if chosen.full else []
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        forms = [form for form in forms if "bf16" not in form]
    for size in FULL if chosen.full else QUICK:
        if not chosen.only or size.model in chosen.only:
            compare(size, forms, chosen.turns, clock)
    if chosen.steps and not chosen.only:
        compare_losses(QUICK[0], chosen.steps, ["package fp32", *["package bf16"] * chosen.full])


def recipe_of(size: Size, **changes: Any) -> Recipe:
    """The paper's optimiser and loss; a 3D network's own loss."""
    source = "paper3d" if "3D" in size.model else "paper"
    paper = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "nesterov": False, "clip_norm": None}
    return load_recipe(
        source,
        {"model": size.model, "image_size": size.side, "mistakes": [], "weights": "none"}
        | (paper | changes),
    )


def compare(size: Size, forms: list[str], turns: int, clock: Callable[[], float]) -> None:
    torch.manual_seed(0)
    recipe = recipe_of(size)
    model = build(recipe.network(CLASSES)).train()
    if model.config.num_queries:  # of queries there is no plain training
        forms = [form for form in forms if not form.startswith("plain")]
    steps: dict[str, Callable[[], Any]] = {}
    for form in forms:
        step = (plain_step if form.startswith("plain") else package_step)(
            recipe, deepcopy(model), form
        )
        images, labels = batch_of(model, size.batch, 0)
        steps[form] = lambda step=step, images=images, labels=labels: step(images, labels)
    product = matrix_product()
    with FlopCounterMode(display=False) as counter:
        steps[forms[0]]()
    for step in list(steps.values())[1:]:
        step()
    seconds: dict[str, list[float]] = {form: [] for form in ("product", *steps)}
    for _ in range(turns):
        for form, run in (("product", product), *steps.items()):
            for _ in range(3 if form == "product" else 1):
                start = clock()
                run()
                seconds[form].append(clock() - start)
    rate = product.operations / min(seconds["product"])  # type: ignore[attr-defined]
    floor = counter.get_total_flops() / rate
    print(
        f"{size.model}, {size.side}, batch {size.batch}: {counter.get_total_flops() / 1e9:.0f} "
        f"GFLOP, at {rate / 1e9:.0f} GFLOP/s {floor:.3f} s"
    )
    for form in forms:
        best = min(seconds[form])
        times = min(seconds[forms[0]]) / best
        print(f"  {form:22s} {best:8.3f} s  {times:5.2f}  {floor / best:5.0%}", flush=True)


def compare_losses(size: Size, steps: int, forms: list[str]) -> None:
    """The plain form and others from the same weights on the same batches."""
    torch.manual_seed(0)
    recipe = recipe_of(size, dropout=0.0)
    model = build(recipe.network(CLASSES)).train()
    plain = plain_step(recipe, deepcopy(model), "plain fp32")
    others = {form: package_step(recipe, deepcopy(model), form) for form in forms}
    # Rounding grows from step to step, and this is how far it leads the plain form from itself.
    rounded = deepcopy(model)
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.mul_(1 + 6e-8 * torch.randn_like(parameter).sign())
    others["plain, rounded once"] = plain_step(recipe, rounded, "plain fp32")
    furthest = dict.fromkeys(others, 0.0)
    for number in range(steps):
        batch = batch_of(model, size.batch, number)
        expected = plain(*batch)
        for form, step in others.items():
            furthest[form] = max(furthest[form], abs(step(*batch) / expected - 1))
    print(f"losses of {steps} steps of {size.model} without dropout, the last {expected:.4f}:")
    for form, share in furthest.items():
        print(f"  {form:22s} at most {share:.1e} of it apart")


def compare_processes(turns: int) -> None:
    """One process of one and of two threads, and two processes of one thread each."""
    forms = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes": (2, 1)}
    rates: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(turns):
        for form, (processes, threads) in forms.items():
            with socket.socket() as free:
                free.bind(("localhost", 0))
                port = free.getsockname()[1]
            where = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": processes}
            running = [
                subprocess.Popen(
                    [sys.executable, __file__, "--row", str(threads)],
                    env=os.environ | {k: str(v) for k, v in (where | {"RANK": rank}).items()},
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for rank in range(processes)
            ]
            first, *_ = [process.communicate()[0] for process in running]
            rates[form].append(float(first))
    print(f"{SHARED.model}, {SHARED.side}, batch {SHARED.batch} over all processes, fp32")
    alone = max(rates["1 process, 1 thread"])
    for form, found in rates.items():
        print(f"  {form:22s} {max(found):6.1f} images/s  {max(found) / alone:5.2f}")


def images_a_second(size: Size, threads: int, steps: int = 5) -> None:
    """Print how many images a second all processes that torchrun started train on together."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    recipe, device = recipe_of(size), torch.device("cpu")
    with process_group("cpu") as world:
        model = build(recipe.network(CLASSES)).train()
        network, loss = share_batches(model, world, device), make_loss(recipe, config=model.config)
        optimizer = make_optimizer(recipe, model)
        images, labels = batch_of(model, size.batch // world.size, world.rank)
        seconds = []
        for _ in range(1 + steps):
            world.wait()
            start = time.perf_counter()
            train_step(network, loss, optimizer, images, labels)
            seconds.append(time.perf_counter() - start)
        if world.first:
            print(size.batch / min(seconds[1:]))


def batch_of(model: Any, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with brighter boxes, which the labels tell: something to learn."""
    generator = torch.Generator().manual_seed(seed)
    sides = model.config.image_size
    images = torch.rand(batch, model.config.in_channels, *sides, generator=generator)
    labels = torch.zeros(batch, *sides, dtype=torch.int64)
    for sample, label in zip(images, labels, strict=True):
        for index in range(1, CLASSES):
            corner = [
                int(torch.randint(side - side // 4, (), generator=generator)) for side in sides
            ]
            box = tuple(slice(at, at + side // 4) for at, side in zip(corner, sides, strict=True))
            sample[(slice(None), *box)] += index / 4
            label[box] = index
    return images, labels


def package_step(recipe: Recipe, model: Any, form: str) -> Callable[[Tensor, Tensor], float]:
    """What `transunet train` does with a batch."""
    network = trained_network(model, recipe)
    loss = make_loss(recipe, config=model.config)
    optimizer = make_optimizer(recipe, network)
    arithmetic = Arithmetic("bf16" if "bf16" in form else "fp32")
    if form.endswith("compiled"):
        network.compile(dynamic=False)
    return scheduled(
        optimizer,
        recipe,
        lambda images, labels: train_step(network, loss, optimizer, images, labels, arithmetic),
    )


def plain_step(recipe: Recipe, model: Any, form: str) -> Callable[[Tensor, Tensor], float]:
    """The authors' loop in a few lines."""
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    own_loss = make_loss(recipe, config=model.config)

    def step(images: Tensor, labels: Tensor) -> float:
        with autocast(images.device, "bf16" if "bf16" in form else "fp32"):
            if model.config.axes == 3:
                loss = own_loss(plain_maps(model, images), labels)
            else:
                loss = plain_loss(plain_logits(model, images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return scheduled(optimizer, recipe, step)


def scheduled(
    optimizer: torch.optim.Optimizer, recipe: Recipe, step: Callable[[Tensor, Tensor], float]
) -> Callable[[Tensor, Tensor], float]:
    """The step, and the learning rate of the next one."""
    done = 0

    def once(images: Tensor, labels: Tensor) -> float:
        nonlocal done
        value = step(images, labels)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * (1 - done / 10_000) ** 0.9
        done += 1
        return value

    return once


# The plain forms, with the parameters and the names of the package's networks


def plain_logits(model: Any, images: Tensor) -> Tensor:
    """2D TransUNet (Chen et al. 2021) as it is written."""
    embeddings, cup = model.transformer.embeddings, model.decoder
    net = embeddings.hybrid_model
    half = F.relu(plain_norm(net.root.gn, plain_std(net.root.conv, images.expand(-1, 3, -1, -1))))
    skips, x = [half], F.max_pool2d(half, 3, 2)
    for block in net.body:
        for unit in block:
            residual = x
            if unit.projects:
                residual = plain_norm(unit.gn_proj, plain_std(unit.downsample, x))
            y = F.relu(plain_norm(unit.gn1, plain_std(unit.conv1, x)))
            y = F.relu(plain_norm(unit.gn2, plain_std(unit.conv2, y)))
            x = F.relu(residual + plain_norm(unit.gn3, plain_std(unit.conv3, y)))
        skips.append(x)
    x = embeddings.patch_embeddings(x)
    rows, columns = x.shape[2:]
    dropout = model.config.dropout
    x = x.flatten(2).transpose(1, 2) + embeddings.position_embeddings
    x = F.dropout(x, dropout)
    for layer in model.transformer.encoder.layer:
        x = x + plain_attention(layer.attn, layer.attention_norm(x))
        y = F.dropout(F.gelu(layer.ffn.fc1(layer.ffn_norm(x))), dropout)
        x = x + F.dropout(layer.ffn.fc2(y), dropout)
    x = model.transformer.encoder.encoder_norm(x)
    x = cup.conv_more(x.transpose(1, 2).contiguous().view(len(x), -1, rows, columns))
    for number, block in enumerate(cup.blocks):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        if number < cup.n_skip:
            skip = skips[2 - number]
            missing = x.shape[2] - skip.shape[2]
            x = torch.cat([x, F.pad(skip, (0, missing, 0, missing))], 1)
        x = block.conv2(block.conv1(x))
    return model.segmentation_head(x)


def plain_std(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of standardised weights."""
    var, mean = torch.var_mean(conv.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
    weight = (conv.weight - mean) / torch.sqrt(var + 1e-5)
    return F.conv2d(x, weight, None, conv.stride, conv.padding)


def plain_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """PyTorch's GroupNorm."""
    return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def plain_attention(attention: Any, x: Tensor) -> Tensor:
    """Softmax(q k^T / sqrt(d)) v, with its probabilities."""
    q, k, v = (
        layer(x).view(*x.shape[:2], attention.num_heads, -1).permute(0, 2, 1, 3)
        for layer in (attention.query, attention.key, attention.value)
    )
    scores = torch.matmul(q, k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    y = torch.matmul(torch.softmax(scores, -1), v).permute(0, 2, 1, 3).contiguous()
    return attention.out(y.view(x.shape))


def plain_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Half cross-entropy, half Dice of one-hot labels, class by class."""
    probabilities = torch.softmax(logits, 1)
    one_hot = torch.cat([(labels == index)[:, None] for index in range(CLASSES)], 1).float()
    dice = logits.new_zeros(())
    for index in range(CLASSES):
        p, t = probabilities[:, index], one_hot[:, index]
        both = 2 * torch.sum(p * t) + 1e-5
        dice = dice + 1 - both / (torch.sum(p * p) + torch.sum(t * t) + 1e-5)
    return 0.5 * F.cross_entropy(logits, labels) + 0.5 * dice / CLASSES


def plain_maps(model: Any, x: Tensor) -> list[Tensor]:
    """The supervised maps of a 3D U-Net (Isensee et al. 2021), the finest first."""

    def plain_units(stage: nn.Module, x: Tensor) -> Tensor:
        for unit in (module for module in stage.modules() if hasattr(module, "instnorm")):
            x = F.leaky_relu(unit.instnorm(unit.conv(x)), 0.01)
        return x

    skips = []
    for stage in model.conv_blocks_context:
        x = plain_units(stage, x)
        skips.append(x)
    x, features = skips.pop(), []
    for up, stage in zip(model.tu, model.conv_blocks_localization, strict=True):
        x = plain_units(stage, torch.cat([up(x), skips.pop()], 1))
        features.append(x)
    return [model.seg_outputs[str(u)](features[u]) for u in reversed(model.config.supervised)]


if __name__ == "__main__":
    main()
