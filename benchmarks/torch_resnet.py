"""The same residual network, step and scoring in PyTorch, to be compared with."""

import os
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from dpet_jax.models.resnet import ResidualNetwork


class Block(nn.Module):
    def __init__(self, incoming: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(incoming, channels, 3, stride)
        self.second = convolution(channels, channels, 3, 1)
        same = stride == 1 and incoming == channels
        self.shortcut = (
            nn.Identity() if same else convolution(incoming, channels, 1, stride)
        )

    def forward(self, x):
        y = self.second(torch.relu(self.first(x)))
        return torch.relu(y + self.shortcut(x))


def convolution(incoming: int, channels: int, side: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(incoming, channels, side, stride, side // 2, bias=False),
        nn.BatchNorm2d(channels),
    )


def network(spec: ResidualNetwork) -> nn.Module:
    layers = [convolution(spec.in_channels, spec.stem, 3, 1), nn.ReLU()]
    incoming = spec.stem
    for stage, (channels, blocks) in enumerate(
        zip(spec.channels, spec.blocks, strict=True)
    ):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(Block(incoming, channels, stride))
            incoming = channels
    head = nn.Linear(incoming, spec.num_classes)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def num_parameters(spec: ResidualNetwork) -> int:
    return sum(parameter.numel() for parameter in network(spec).parameters())


def runs(
    spec: ResidualNetwork,
    images: np.ndarray,
    labels: np.ndarray,
    batch: int,
    dtype: str,
    *,
    compiled: bool,
) -> dict[str, Callable[[], None]]:
    """Return functions that train on, and score, all images once, batch by batch.

    As in `train_steps`, the images lie on the device as uint8; a batch is gathered,
    normalised, and goes through SGD with Nesterov momentum and decay. Each function
    waits for the device at its end, never in between.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = network(spec).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    pixels = torch.as_tensor(images).permute(0, 3, 1, 2)
    pixels = pixels.contiguous(memory_format=torch.channels_last).to(device)
    classes = torch.as_tensor(labels, dtype=torch.int64, device=device)
    rows = torch.arange(len(labels), device=device).split(batch)
    cast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")

    def logits_of(chosen):
        x = (pixels[chosen].float() / 255 - 0.5) / 0.25
        with cast:
            return model(x.contiguous(memory_format=torch.channels_last)).float()

    def loss_of(chosen):
        return nn.functional.cross_entropy(logits_of(chosen), classes[chosen])

    if compiled:
        loss_of, logits_of = torch.compile(loss_of), torch.compile(logits_of)

    def train():
        model.train()
        for chosen in rows:
            optimizer.zero_grad(set_to_none=True)
            loss_of(chosen).backward()
            optimizer.step()
        wait(device)

    def score():
        model.eval()
        with torch.inference_mode():
            for chosen in rows:
                logits_of(chosen)
        wait(device)

    return {"train": train, "forward": score}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
